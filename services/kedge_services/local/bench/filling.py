"""Puts records into Kafka as fast as it takes them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Self

from confluent_kafka import Producer

from kedge.errors import Retry
from kedge_services.local.bench.workload import Keyed
from kedge_services.runtime.admin import client_properties
from kedge_services.runtime.settings import Settings

__all__ = ["Filler"]

_PATIENCE_S = 120.0
_PROPERTIES: dict[str, Any] = {
    "log_level": 2,
    # Where predictions and outcomes meet, and what the typed client uses.
    "partitioner": "murmur2_random",
    "compression.type": "zstd",
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "message.max.bytes": 8_000_000,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
}


class Filler:
    """Sends records to the topics of some settings; a context manager that flushes."""

    def __init__(self, settings: Settings, **properties: Any) -> None:
        self._prefix = settings.prefix
        self._refused: list[str] = []
        self._producer = Producer(
            {**client_properties(settings.kafka), **_PROPERTIES, **properties,
             "on_delivery": self._delivered, "delivery.report.only.error": True}
        )  # fmt: skip

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait until all is in Kafka."""
        if error[0] is None:
            self.flush()

    def send(
        self,
        topic: str,
        records: Iterable[Keyed],
        *,
        partition: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> int:
        """Send records, waiting while the queue is full; give their number."""
        produce, name = self._producer.produce, self._prefix + topic
        where: dict[str, Any] = {} if partition is None else {"partition": partition}
        if headers is not None:
            where["headers"] = headers
        number = 0
        for key, value in records:
            number += 1
            try:
                produce(name, value, key, **where)
            except BufferError:
                self._wait(lambda k=key, v=value: produce(name, v, k, **where))
        self._producer.poll(0)
        return number

    def flush(self) -> None:
        """Wait until all that was sent is in Kafka.

        Raises
        ------
        Retry
            Kafka did not take all of it.
        """
        left = self._producer.flush(_PATIENCE_S)
        if left or self._refused:
            why = self._refused[0] if self._refused else "no answer"
            raise Retry(f"the local Kafka did not take the workload: {why}")

    def _wait(self, again: Any) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            self._producer.poll(0.05)
            try:
                again()
            except BufferError:
                if time.monotonic() > deadline:
                    raise Retry("the local Kafka takes no more of the workload") from None
            else:
                return

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None:
            self._refused.append(error.str())
