"""predictions, outcomes -> panes, examples, dead-letters."""
