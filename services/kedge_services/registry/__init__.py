"""candidates, commands, panes -> model-versions, references.

The one writer of model-versions, and of the reference that comes with an
accepted version.

========== ====================================================================
reads      candidates, commands (promote, rollback, pause, resume; others are
           not for it), panes: pairs, and Progress, at which it decides
writes     model-versions, key ``model/version``, partitioned by model, and
           references, key ``model/reference_id``, each before its version and
           in the same transaction; dead-letters for what it cannot read or
           obey
state      per model: who serves, who is compared with it, the pairs so far, all
           versions.  In ``registry-changelog`` under ``standing/<model>`` and
           ``version/<model>/<version>``
guarantee  exactly once; of two candidates with the same request and ordinal the
           second changes nothing; exactly one champion; ``sequence`` grows by
           one with every version written for a model
========== ====================================================================
"""
