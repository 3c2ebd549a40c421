"""alerts, windows, commands -> retrain-requests."""
