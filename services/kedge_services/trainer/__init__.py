"""retrain-requests, examples -> candidates, artefact store.

Reads      retrain-requests (by model); examples, outside its group, in the
           subprocess that trains; the tables monitors and model-versions.
Writes     candidates, key ``request_id``, one for every request whose executor
           is ``local``; the model file under its hash, before its candidate.
State      trainer-changelog, key ``plan``: the open request with everything its
           training depends on, and the number of attempts.
Guarantee  The plan is committed before its subprocess starts, candidate and
           offset are committed together.  So each request has one candidate,
           whatever dies when; training itself may be repeated, and the same
           plan gives the same bytes.  Three failed attempts are a candidate
           that says why.

This package's service imports neither scikit-learn nor River: what trains is a
child process with bounds on time and memory (:mod:`kedge_services.trainer.job`).
"""
