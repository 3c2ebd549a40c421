"""``kedge replay``: what would have happened, had Kedge watched this stream.

A discrete-event simulation over the very services that run on Kafka, on the
broker in memory and on event time.  Records are released up to the next
boundary, everything is drained, the clock moves on: so a replay is a function
of its input, bit for bit.

=============  =============================================================
``stream``     the predictions and labels of a file, in the order of arrival
``topics``     the same from a range of the topics of a live cluster
``cluster``    the services on a broker in memory, drained step by step
``versions``   the version that is there at the beginning
``simulation`` boundaries, the run itself and its end
``scores``     accuracy as it went, beside a model that never changes
``results``    the files that are written
``report``     the page for people
=============  =============================================================
"""

from __future__ import annotations
