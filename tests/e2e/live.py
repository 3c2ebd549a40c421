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
from kedge_services.runtime.ports import Record, Service, TopicPartition
from kedge_services.runtime.reading import RangeReader
from kedge_services.runtime.settings import Settings

__all__ = ["Live", "Make", "Process", "Tail", "wait_until"]

Make = Callable[[Settings], Service]


def wait_until(
    is_done: Callable[[], bool],
    what: str,
    *,
    seconds: float = 60.0,
    instead: Callable[[], object] = lambda: "",
) -> None:
    """Look again and again; fail after the time with a sentence, and with what is there instead."""
    end = time.monotonic() + seconds
    while not is_done():
        late = time.monotonic() > end
        assert not late, f"{what} did not happen within {seconds:g} s; {instead()}"
        time.sleep(0.1)


class Process:
    """What would be a process: a loop with clients of its own, in a thread."""

    def __init__(self, make: Make, settings: Settings) -> None:
        self._backend = KafkaBackend(settings)
        self._loop = Loop(make(settings), self._backend, settings, wall_clock)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None

    @property
    def is_ready(self) -> bool:
        return self._loop.is_ready

    @property
    def running(self) -> list[int]:
        """The partitions it works on."""
        return self._loop.running

    def start(self) -> None:
        self._thread.start()

    def tell_to_stop(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        """End it as SIGTERM does: what is open is committed."""
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive(), "a service does not stop"

    def _run(self) -> None:
        try:
            self._loop.run(self._stop)
        except BaseException as error:  # noqa: BLE001 -- shown by check()
            self.error = error
        finally:
            self._backend.close()


class Tail:
    """All committed records of a topic so far; only what is new is read."""

    def __init__(self, backend: KafkaBackend, topic: str) -> None:
        self._consumer = backend.consumer(group=None)
        self._places = [TopicPartition(topic, p) for p in range(backend.partitions(topic))]
        self._consumer.assign(dict.fromkeys(self._places, 0))
        self.records: list[Record] = []
        self.events: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Read to the present end; give all events, those of a partition in their order."""
        end = time.monotonic() + 60
        while True:
            batches = self._consumer.poll(10_000, 0.05)
            for record in (record for batch in batches for record in batch.records()):
                if record.value is not None:
                    self.records.append(record)
                    self.events.append(json.loads(record.value))
            if not batches and all(map(self._consumer.at_end, self._places)):
                return self.events
            assert time.monotonic() < end, "a topic cannot be read to its end"

    def close(self) -> None:
        self._consumer.close()


class Live:
    """Processes of services, as ``(make, ordinal)``, and a way to send and read."""

    def __init__(self, settings: Settings, makers: Sequence[tuple[Make, int]]) -> None:
        self.settings = settings
        self.backend = KafkaBackend(settings)
        self._tails: dict[str, Tail] = {}
        self.processes = [self._process(make, ordinal) for make, ordinal in makers]
        address = settings.kafka.bootstrap_servers
        self._producer = Producer(
            {"bootstrap.servers": address, "linger.ms": 20, "enable.idempotence": True}
        )

    def __enter__(self) -> Self:
        for process in self.processes:
            process.start()
        try:
            wait_until(
                lambda: self.broken or all(process.is_ready for process in self.processes),
                "readiness",
            )
            self.check()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all that runs."""
        for process in self.processes:
            process.tell_to_stop()
        for process in self.processes:
            process.stop()
        for tail in self._tails.values():
            tail.close()
        self.backend.close()

    def tail(self, topic: str) -> Tail:
        """Give what follows a topic."""
        if topic not in self._tails:
            self._tails[topic] = Tail(self.backend, topic)
        return self._tails[topic]

    def start(self, make: Make, ordinal: int) -> Process:
        """Start one more process, which does not have to be ready yet."""
        process = self._process(make, ordinal)
        self.processes.append(process)
        process.start()
        return process

    def _process(self, make: Make, ordinal: int) -> Process:
        return Process(make, self.settings.model_copy(update={"ordinal": ordinal}))

    @property
    def errors(self) -> list[BaseException]:
        return [process.error for process in self.processes if process.error is not None]

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
