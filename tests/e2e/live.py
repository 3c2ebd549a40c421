"""Services on a real Kafka, each loop in a thread of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Producer

from kedge.topics import model_partition, request_partition
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.ports import Service, TopicPartition
from kedge_services.runtime.reading import RangeReader
from kedge_services.runtime.settings import Settings

__all__ = ["Live", "wait_until"]


def wait_until(is_done: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
    """Look again and again; fail with a sentence after the time."""
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.1)


class Live:
    """Processes of services, as ``(make, ordinal)``, and a way to send and read."""

    def __init__(
        self, settings: Settings, makers: Sequence[tuple[Callable[[Settings], Service], int]]
    ) -> None:
        self.settings = settings
        self.backend = KafkaBackend(settings)
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self.loops: list[Loop] = []
        self._threads = []
        for make, ordinal in makers:
            mine = settings.model_copy(update={"ordinal": ordinal})
            loop = Loop(make(mine), KafkaBackend(mine), mine, wall_clock)
            self.loops.append(loop)
            self._threads.append(threading.Thread(target=self._run, args=(loop,), daemon=True))
        address = settings.kafka.bootstrap_servers
        self._producer = Producer({"bootstrap.servers": address, "linger.ms": 20})

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.broken or all(loop.is_ready for loop in self.loops), "readiness")
        self.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        self.backend.close()

    def _run(self, loop: Loop) -> None:
        try:
            loop.run(self._stop)
        except BaseException as error:  # noqa: BLE001 -- shown by check()
            self.errors.append(error)

    @property
    def broken(self) -> bool:
        return bool(self.errors)

    def check(self) -> None:
        """Fail if a service has ended."""
        assert not self.errors, self.errors

    def send_by_request(self, topic: str, key: str, value: bytes) -> None:
        place = request_partition(key, self.settings.request_partitions)
        self._send(topic, key, value, place)

    def send_by_model(self, topic: str, model: str, key: str, value: bytes) -> None:
        self._send(topic, key, value, model_partition(model, self.settings.model_partitions))

    def flush(self) -> None:
        assert self._producer.flush(60) == 0

    def _send(self, topic: str, key: str, value: bytes, partition: int) -> None:
        name = f"{self.settings.prefix}{topic}"
        while True:
            try:
                self._producer.produce(name, value, key.encode(), partition)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def events(self, topic: str) -> list[dict[str, Any]]:
        """Give all committed events of a topic, by partition and offset."""
        reader = RangeReader(self.backend)
        places = [TopicPartition(topic, p) for p in range(self.backend.partitions(topic))]
        for place in places:
            reader.add(place, *self.backend.bounds(place))
        found: dict[int, list[bytes | None]] = {place.partition: [] for place in places}
        end = time.monotonic() + 60
        while not all(map(reader.is_done, places)):
            assert time.monotonic() < end, f"{topic} cannot be read to its end"
            for batch in reader.poll(5_000, 0.1):
                found[batch.partition] += batch.values
        reader.close()
        values: Iterable[bytes | None] = (value for p in sorted(found) for value in found[p])
        return [json.loads(value) for value in values if value is not None]

    def newest(self, topic: str, name: Callable[[Mapping[str, Any]], Any]) -> dict[Any, Any]:
        """Give the last event of every name."""
        return {name(event): event for event in self.events(topic)}
