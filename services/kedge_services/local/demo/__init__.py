"""The demo's scenario and monitors."""
