"""The shell: the transactional loop, brokers, stores, settings, metrics."""
