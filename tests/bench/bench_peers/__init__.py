"""Kedge beside stream frameworks and drift libraries: how fast is the same work."""
