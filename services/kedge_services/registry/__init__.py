"""candidates, commands, panes -> model-versions, references."""
