"""Looks at the whole set-up: what is well, what is not, and what to do about it."""
