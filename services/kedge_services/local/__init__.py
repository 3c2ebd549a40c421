"""Kedge on one machine: broker, supervisor, demo."""
