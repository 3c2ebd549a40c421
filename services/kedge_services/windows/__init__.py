"""panes -> windows, references (learnt)."""
