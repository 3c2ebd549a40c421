"""windows -> alerts."""
