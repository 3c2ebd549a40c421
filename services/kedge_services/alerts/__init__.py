"""windows -> alerts.

========== ====================================================================
reads      windows; the tables monitors and model-versions
writes     alerts, key ``alert_id/status``, partitioned by model; dead-letters
           for windows it cannot read
state      per model: which windows were decided, the instances of its rules, the
           version that is followed, the incident.  In ``alerts-changelog`` under
           ``model/<model>``, ``series/<window_id without start>`` and
           ``alert/<fingerprint>``
guarantee  exactly once; the same windows give the same alerts wherever the
           commits fall, and only a window's first decided revision counts.  With
           which window a promotion takes effect depends on when it is read
========== ====================================================================
"""
