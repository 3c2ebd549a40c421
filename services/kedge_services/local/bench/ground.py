"""Where cases are run: a local Kafka of the benchmark's own, and topics of each case's own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from kedge.base import Event
from kedge.codec import encode
from kedge.errors import Retry
from kedge.topics import CHANGELOGS, TOPICS, model_partition
from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.workload import Keyed
from kedge_services.runtime.admin import client_properties, create_topics
from kedge_services.runtime.settings import Settings

__all__ = ["Ground", "Site"]

_PATIENCE_S = 30.0
_READ_S = 300.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Ground:
    """The running Kafka and the directory everything of a run lies in."""

    settings: Settings
    work_dir: Path
    kafka_pid: int

    def site(self, name: str, **changes: Any) -> Site:
        """Give a case topics of its own; ``changes`` are those of the settings."""
        settings = self.settings.model_copy(
            update={
                "prefix": f"bench-{name}-{time.time_ns()}.",
                "state_dir": self.work_dir / name / "state",
                "artefacts": str(self.work_dir / name / "artefacts"),
                **changes,
            }
        )
        create_topics(settings)
        return Site(settings, self.work_dir / name)


class Site:
    """The topics, the state and the logs of one case; a context manager that leaves nothing."""

    def __init__(self, settings: Settings, work_dir: Path) -> None:
        self.settings, self.work_dir = settings, work_dir
        work_dir.mkdir(parents=True, exist_ok=True)
        self._admin = AdminClient({**client_properties(settings.kafka), "log_level": 2})
        self._readers: dict[str, Consumer] = {}

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the state; the topics go with their Kafka."""
        for reader in self._readers.values():
            reader.close()
        shutil.rmtree(self.work_dir, ignore_errors=True)

    # ------------------------------------------------------------------- filling

    def publish(self, topic: str, events: Iterable[tuple[str, str, Event]]) -> None:
        """Send events of models: the model, the key and the event."""
        by_partition: dict[int, list[Keyed]] = {}
        for model, key, event in events:
            where = model_partition(model, self.settings.model_partitions)
            by_partition.setdefault(where, []).append(Keyed(key.encode(), encode(event)))
        with Filler(self.settings) as filler:
            for where, records in by_partition.items():
                filler.send(topic, records, partition=where)

    def declare(self, monitors: Sequence[Any], references: Sequence[Any] = ()) -> None:
        """Publish monitors and references."""
        self.publish("monitors", ((m.model, m.model, m) for m in monitors))
        self.publish(
            "references", ((r.model, f"{r.model}/{r.reference_id}", r) for r in references)
        )

    # ------------------------------------------------------------------- reading

    def ends(self, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """Give the end offset of every partition of the topics."""
        reader = self._reader("ends")
        found = {}
        for topic in topics:
            for partition in self._partitions(topic):
                ask = partial(reader.get_watermark_offsets, partition, timeout=_PATIENCE_S)
                _, end = _patiently(ask)
                found[topic, partition.partition] = end
        return found

    def committed(self, service: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """Give the offsets a service's group has committed; 0 where there are none."""
        wanted = [partition for topic in topics for partition in self._partitions(topic)]
        try:
            found = self._reader(service).committed(wanted, timeout=_PATIENCE_S)
        except KafkaException:
            return {}  # in the middle of a transaction: the next look tells
        prefix = len(self.settings.prefix)
        return {(tp.topic[prefix:], tp.partition): max(0, tp.offset) for tp in found}

    def lag(self, service: str, ends: Mapping[tuple[str, int], int]) -> int:
        """Give the records that are not committed yet."""
        done = self.committed(service, sorted({topic for topic, _ in ends}))
        return sum(end - done.get(where, 0) for where, end in ends.items())

    def read(self, topic: str) -> Iterator[tuple[int, bytes, bytes]]:
        """Give partition, key and value of every committed record there is now."""
        for message in self._messages(topic):
            yield message.partition() or 0, message.key() or b"", message.value() or b""

    def read_headers(self, topic: str) -> Iterator[list[tuple[str, bytes]]]:
        """Give the headers of every committed record there is now."""
        for message in self._messages(topic):
            yield message.headers() or []

    def _messages(self, topic: str) -> Iterator[Any]:
        ends = {where: end for where, end in self.ends([topic]).items() if end}
        reader = Consumer(
            {
                **client_properties(self.settings.kafka),
                "log_level": 2,
                "group.id": self.settings.prefix + "read",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.queue.backoff.ms": 5,
            }
        )
        reader.assign(
            [TopicPartition(self.settings.prefix + name, p, OFFSET_BEGINNING) for name, p in ends]
        )
        open_partitions, deadline = len(ends), time.monotonic() + _READ_S
        try:
            while open_partitions:
                if time.monotonic() > deadline:
                    raise Retry(f"the topic {topic} cannot be read to its end")
                for message in reader.consume(10_000, timeout=1.0):
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                        open_partitions -= 1
                    else:
                        raise Retry(f"the topic {topic} cannot be read: {error.str()}")
        finally:
            reader.close()

    # ---------------------------------------------------------------- beginning anew

    def reset(self, services: Sequence[str], outputs: Sequence[str]) -> None:
        """Let services begin anew: forget their positions, state, changelogs and outputs.

        Raises
        ------
        Retry
            A group is still in use.
        """
        for service in services:
            self._forget_group(self.settings.prefix + service)
            shutil.rmtree(self.settings.state_dir, ignore_errors=True)
        names = [*outputs, *(f"{s}-changelog" for s in services if f"{s}-changelog" in _LOGS)]
        self._delete(names)
        deadline = time.monotonic() + _PATIENCE_S
        while not create_topics(self.settings, names) and names:
            # Kafka may still be deleting those of the same names.
            if time.monotonic() > deadline:
                raise Retry(f"the local Kafka does not delete {', '.join(names)}")
            time.sleep(_POLL_S)

    def _forget_group(self, group: str) -> None:
        """Delete a group; a static member that has left stays in it for a session's length."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            (future,) = self._admin.delete_consumer_groups([group]).values()
            try:
                future.result()
            except KafkaException as error:
                code = error.args[0].name()
                if code == "GROUP_ID_NOT_FOUND":
                    return
                if time.monotonic() > deadline:
                    raise Retry(f"the group {group} cannot be deleted: {code}") from error
                time.sleep(_POLL_S)
            else:
                return

    def _delete(self, names: Sequence[str]) -> None:
        existing = set(self._admin.list_topics(timeout=_PATIENCE_S).topics)
        full = [self.settings.prefix + name for name in names]
        gone = [name for name in full if name in existing]
        if not gone:
            return
        for future in self._admin.delete_topics(gone, operation_timeout=_PATIENCE_S).values():
            future.result()
        deadline = time.monotonic() + _PATIENCE_S
        while set(gone) & set(self._admin.list_topics(timeout=_PATIENCE_S).topics):
            if time.monotonic() > deadline:
                raise Retry(f"the local Kafka does not delete {', '.join(gone)}")
            time.sleep(_POLL_S)

    def _partitions(self, topic: str) -> list[TopicPartition]:
        number = TOPICS[topic].partitions(
            requests=self.settings.request_partitions, models=self.settings.model_partitions
        )
        return [TopicPartition(self.settings.prefix + topic, p) for p in range(number)]

    def _reader(self, group: str) -> Consumer:
        """Give a client that only asks: it never joins the group whose name it has."""
        if group not in self._readers:
            self._readers[group] = Consumer(
                {
                    **client_properties(self.settings.kafka),
                    "log_level": 2,
                    "group.id": self.settings.prefix + group,
                    "enable.auto.commit": False,
                    "isolation.level": "read_uncommitted",
                }
            )
        return self._readers[group]


_LOGS = {topic.name for topic in CHANGELOGS.values()}


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask until there is an answer: a busy broker, or a new topic, may have none at first."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise Retry(f"the local Kafka gives no answer: {error.args[0].str()}") from error
            time.sleep(_POLL_S)
