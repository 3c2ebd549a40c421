"""requests, HTTP, predictions made elsewhere, model-versions -> predictions.

The champion answers; every version in shadow predicts too, never in the way of
an answer.  A model may also be served elsewhere: then its answers come in as
predictions, and versions in shadow follow those.

========== ====================================================================
reads      requests and predictions, co-partitioned, one task for both;
           HTTP (Open Inference Protocol v2, also by the name of a version);
           model-versions and monitors, whole; artefacts, each checked against
           its sha256
writes     predictions, on the partition of the request, key = request id; a
           single row is ``<request id>``, row k of several ``<request id>#<k>``.
           Each carries the header ``kedge-origin: serving``.
           dead-letters: requests it cannot read or nobody can answer.  What is
           wrong with a prediction made elsewhere is for `panes` to say
state      none
guarantee  requests: exactly once.  A version's answers follow the order of
           model-versions: within a partition they do not go back to a former
           champion, whoever owns the partition.
           HTTP: the answer is given even when Kafka takes no more; predictions
           are sent at least once, what was not delivered is counted, and what
           a killed process had answered in its last moments may be missing.
           Every answer names the version that gave it, whole, also while another
           takes over
elsewhere  a champion's prediction without that header was answered by somebody
           else's server.  Every version loaded here but the one that answered
           adds its own (role shadow, same id, event time, features): exactly once
           from the first commit of the group on, which begins at the topic's end.
           Where it would be late by the model's watermark none is made
           (counted): after a stand-still the task reads on before it follows
stand-in   when the champion has no artefact, or one that cannot be loaded, whoever
           was champion before it answers on, also after a restart.  A model that
           was never served here has nobody: its requests are dead letters, 503
           by HTTP
waiting    by HTTP requests for the same version that find no thread free are scored
           in one call, each with its own fate, and answered before the shadows
           begin; beyond ``serving.max_pending`` there is 503 with Retry-After
promotion  of a version while another answers elsewhere: the champion predicts in
           that one's shadow until the answers name it, so its windows and rules
           go on, and the registry goes on comparing the two.  A warning and
           ``kedge_answers_elsewhere_total`` name the version that really answers
life       the HTTP port opens when all champions are loaded.  Told to stop, it is
           no longer ready, answers for ``serving.drain_ms`` more, closing each
           connection, then commits, finishes what it took and ends
========== ====================================================================
"""
