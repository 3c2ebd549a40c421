"""alerts, windows, commands -> retrain-requests.

========== ====================================================================
reads      alerts, windows (their time and ``labelled_total``), commands (retrain,
           pause, resume, silence; others are not for it); the tables monitors and
           model-versions
writes     retrain-requests, key ``request_id``, partitioned by model; dead-letters
           for what it cannot read or obey
state      per model: event time and labels, alerts that fire, what was asked and
           when, schedule, pauses.  In ``triggers-changelog`` under
           ``model/<model>``
guarantee  exactly once; a request's id follows from its cause, so the same cause
           never asks twice; a schedule that was missed asks once
========== ====================================================================
"""
