"""What a plan is made from: the monitor, the champion, the examples there are."""

from __future__ import annotations

import threading

from kedge_services.executors.desk import Now
from kedge_services.executors.runs import Sources
from kedge_services.runtime.ports import Backend, TopicPartition
from kedge_services.runtime.reading import TableReader
from kedge_services.runtime.tables import MonitorTable, VersionTable

__all__ = ["Surroundings"]


class Surroundings:
    """Looks, from any thread, at what is committed by then; ``prefix`` is that of the topics."""

    def __init__(self, backend: Backend, *, prefix: str) -> None:
        self._backend = backend
        self._topic = f"{prefix}examples"
        self._monitors, self._versions = MonitorTable(), VersionTable()
        self._tables = TableReader(backend, [self._monitors, self._versions])
        self._one_at_a_time = threading.Lock()

    def now(self, model: str) -> Now:
        """Read on, and look.

        Raises
        ------
        BrokerUnavailable
            The tables could not be read to their end.
        """
        with self._one_at_a_time:
            self._tables.refresh()
            champion = self._versions.champion(model)
            return Now(
                self._monitors.get(model),
                None if champion is None else champion.version,
                Sources(self._topic, self._examples()),
            )

    def close(self) -> None:
        """Release the consumer."""
        with self._one_at_a_time:
            self._tables.close()

    def _examples(self) -> dict[int, tuple[int, int]]:
        consumer = self._backend.consumer(group=None)
        try:
            return {
                partition: consumer.bounds(TopicPartition("examples", partition))
                for partition in range(self._backend.partitions("examples"))
            }
        finally:
            consumer.close()
