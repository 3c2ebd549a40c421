"""alerts -> HTTP: tells people and other systems.

Reads ``alerts`` (committed records only, by Faust) and the table ``monitors``;
writes HTTP requests, and ``dead-letters`` for what cannot be delivered or read.

Guarantee: at least once, in order per destination.  Every alert that fires or
resolves is sent to each ``[[notify]]`` of its model whose severities include
it and whose ``url_env`` is set; every attempt carries the same
``Idempotency-Key`` (``alert_id/status``).  State: none but the group's offsets;
what was not delivered when the process stopped is sent again after its start.
"""
