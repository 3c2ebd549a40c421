"""requests, HTTP, model-versions -> predictions.

The champion answers; every version in shadow predicts too, never in the way of
an answer.

========== ====================================================================
reads      requests; HTTP (Open Inference Protocol v2); model-versions and
           monitors, whole; artefacts, each checked against its sha256
writes     predictions, on the partition of the request, key = request id; a
           single row is ``<request id>``, row k of several ``<request id>#<k>``.
           dead-letters: requests it cannot read or nobody can answer
state      none
guarantee  requests: exactly once.  HTTP: the answer is given even when Kafka
           takes no more; predictions are sent at least once and what was not
           delivered is counted.  Every answer names the version that gave it,
           whole, also while another takes over
========== ====================================================================
"""
