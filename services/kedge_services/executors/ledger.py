"""What one partition of the service remembers, exactly, in its changelog."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from kedge.errors import BrokerUnavailable
from kedge_services.runtime.ports import Backend, Produce, Producer, TopicPartition
from kedge_services.runtime.reading import RangeReader

__all__ = ["CHANGELOG", "Ledger"]

CHANGELOG = "executors-changelog"
#: Polls without a record after which the broker is taken to be gone.
_PATIENCE = 300


class Ledger:
    """Reads and writes one partition of the changelog; its calls wait for Kafka.

    The transactional id is the partition's, not the process's: opening the
    ledger fences whoever had it before, so nobody writes who has lost it.
    """

    def __init__(self, backend: Backend, partition: int) -> None:
        self._backend = backend
        self._place = TopicPartition(CHANGELOG, partition)
        self._producer: Producer | None = None
        # A call goes on in its thread when the one who waits for it is cancelled.
        self._one_at_a_time = threading.Lock()

    def open(self) -> dict[bytes, bytes]:
        """Take the partition over and give what is remembered, by key.

        Raises
        ------
        BrokerUnavailable
            It could not be read to its end.
        """
        with self._one_at_a_time:
            # Only now nothing of a former owner can come any more: see runtime/restore.py.
            self._producer = self._backend.producer(f"executors-partition-{self._place.partition}")
            return self._read()

    def write(
        self, changes: Sequence[tuple[bytes, bytes | None]], outputs: Sequence[Produce] = ()
    ) -> None:
        """Commit changes, None forgets a key, together with records for other topics.

        Raises
        ------
        Fenced
            Somebody else has taken the partition over.
        TransactionAborted
            Nothing, or everything, was committed: open the ledger again.
        """
        with self._one_at_a_time:
            if self._producer is None:
                raise BrokerUnavailable("the ledger is closed")
            self._producer.begin()
            for key, value in changes:
                self._producer.produce(Produce(CHANGELOG, key, value, self._place.partition))
            for output in outputs:
                self._producer.produce(output)
            self._producer.commit()

    def close(self) -> None:
        """Give up the connection."""
        with self._one_at_a_time:
            if self._producer is not None:
                self._producer.close()
                self._producer = None

    def _read(self) -> dict[bytes, bytes]:
        probe = self._backend.consumer(group=None)
        bounds = probe.bounds(self._place)
        probe.close()
        reader = RangeReader(self._backend)
        reader.add(self._place, *bounds)
        found: dict[bytes, bytes] = {}
        idle = 0
        try:
            while not reader.is_done(self._place):
                batches = reader.poll(1_000, 0.1)
                idle = 0 if batches else idle + 1
                if idle > _PATIENCE:
                    raise BrokerUnavailable(f"{CHANGELOG} could not be read to its end")
                for record in (record for batch in batches for record in batch.records()):
                    if record.value is None:
                        found.pop(record.key or b"", None)
                    else:
                        found[record.key or b""] = record.value
        finally:
            reader.close()
        return found
