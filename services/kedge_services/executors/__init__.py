"""retrain-requests -> pipelines elsewhere -> candidates.

Reads      retrain-requests (by model, committed records only, by Faust); the
           tables monitors and model-versions; the status of the runs it has
           started, and the model files they leave, over HTTP or from a store.
Writes     candidates, key ``request_id``, one for every request whose executor
           is not ``local``; the model file under its hash, before its
           candidate; HTTP requests that start runs.
State      executors-changelog: ``taken``, the offset of the last request taken
           over, and ``run/<offset>`` for each that is not answered yet.
Guarantee  What is sent is saved before it is sent, with an idempotency key, and
           sent again after a kill: at least once.  The candidate and the end of
           its run are one Kafka transaction: so each request has one candidate,
           whatever dies when.

Why the state is no Faust table
    A request is acknowledged as soon as it is saved, since a run may take an hour
    and must not hold up the requests behind it.  What has not been acknowledged
    when the process dies comes again, so saving and answering have to be exact.
    Faust writes a table's changelog after the fact and outside any transaction,
    and a process that has lost its partition without noticing goes on writing.
    So each partition has a transactional producer of its own
    (:mod:`~kedge_services.executors.ledger`): whoever gets the partition fences
    the one before.

A request that cannot be read is left to the trainer, which reads all of them and
puts it aside; twice would be once too often.
"""
