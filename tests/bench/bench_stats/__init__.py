"""Benchmarks of the statistics: Kedge beside its peers, on the same data and seeds."""
