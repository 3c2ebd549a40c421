"""alerts -> HTTP."""
