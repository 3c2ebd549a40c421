"""predictions, outcomes -> panes, examples, dead-letters.

Folds what it reads between two commits into deltas of panes, and joins
predictions with outcomes to examples.

========== ====================================================================
reads      predictions and outcomes, partitioned by request; the tables monitors
           and references
writes     panes, partitioned by model: deltas, and after those of a commit one
           Progress to every partition; examples, key request id, on the
           partition of their prediction; dead-letters, the original bytes
state      clocks, fates and numbers under ``state`` and the outcomes that wait
           under ``waiting/<offset>`` in ``panes-changelog``; the predictions
           of the label horizon in a store on disk, whose backup is the input:
           what the store lacks is read again, from ``low`` on if it is lost
guarantee  exactly once; the sum of deltas, every example at its highest
           revision and every record's fate are the same whatever the batches,
           commits, crashes and the order between the two topics, as long as no
           record is late
========== ====================================================================

A record of predictions holds one JSON event, or many in an Arrow batch, whose rows are
then what is counted.  Every record has one fate, counted in Progress: of predictions ``counted``,
``late``, ``duplicate`` or the reason of its dead letter; of outcomes
``matched``, ``duplicate``, ``waiting``, ``unlabelled`` or such a reason.
Beside them ``labels`` counts ``after-cell``: first labels whose cell was closed.
"""
