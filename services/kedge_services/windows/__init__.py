"""windows: adds up deltas, closes windows by watermark, judges them.

=========  ====================================================================
reads      panes (deltas and progress); tables monitors, references
writes     windows, references (learnt ones); dead-letters for what is no pane
key        window_id; a model's windows are all on the model's partition
state      open panes, the last closed ones, verdicts that were sent, watermarks,
           detectors, learning samples: in windows-changelog, piece by piece
guarantee  a final window is the same whatever the order of deltas, the number
           of partitions and the commits between them; its verdict is given
           once.  Revisions of windows that are not final are throttled
           by processing time and differ between runs, as does
           ``labelled_total``, which is the count when the window is sent.
=========  ====================================================================
"""
