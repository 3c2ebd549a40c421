"""Drives panes without a broker: a log of inputs, commits, crashes, and what became durable."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from kedge import Example, Monitor, Pane, Progress, Reference
from kedge.codec import decode, encode
from kedge.topics import request_id, request_partition
from kedge_services.core.book import JoinStore
from kedge_services.core.deltas import Delta, decode_delta
from kedge_services.panes.task import PanesTask
from kedge_services.runtime.ports import Batch, Position, Produce, Record, TaskContext
from kedge_services.runtime.settings import TimeSettings
from kedge_services.runtime.stores import MemoryStore
from kedge_services.runtime.tables import MonitorTable, ReferenceTable

TOPICS = ("predictions", "outcomes")
PANES_PARTITIONS = 3
Crash = Literal["before", "durable"]
Key = tuple[str, str, str, str, str, int, int, str]


@dataclass
class Input:
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class Driver:
    """Partitions of panes over logs of inputs."""

    partitions: int = 1
    make_store: Callable[[int], JoinStore] = lambda _: MemoryStore()
    clock_ms: int = 0
    at_end: bool = True
    writes_examples: bool = True
    lingering: int = 0
    logs: dict[tuple[str, int], list[Input]] = field(default_factory=dict)
    outputs: list[Produce] = field(default_factory=list)
    changelogs: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    positions: dict[int, dict[str, Position]] = field(default_factory=dict)
    tasks: dict[int, PanesTask] = field(default_factory=dict)
    stores: dict[int, JoinStore] = field(default_factory=dict)
    read: dict[tuple[str, int], int] = field(default_factory=dict)
    monitors: MonitorTable = field(default_factory=MonitorTable)
    references: ReferenceTable = field(default_factory=ReferenceTable)
    refreshed: list[int] = field(default_factory=list)
    on_refresh: Callable[[], object] = lambda: None

    # ------------------------------------------------------------------ input

    def monitor(self, **fields: Any) -> Monitor:
        monitor = Monitor.model_validate(fields)
        self.monitors.apply(Record("monitors", 0, 0, 0, b"k", encode(monitor), ()))
        return monitor

    def reference(self, reference: Reference) -> None:
        self.references.apply(Record("references", 0, 0, 0, b"k", encode(reference), ()))

    def send(self, topic: str, fields: Mapping[str, Any], *, at_ms: int | None = None) -> None:
        """Append an event as a good client would, at its event time unless told otherwise."""
        name = fields["prediction_id"]
        partition = request_partition(name, self.partitions)
        time_ms = fields["event_time_ms"] if at_ms is None else at_ms
        record = Input(request_id(name).encode(), json.dumps(fields).encode(), time_ms)
        self.append(topic, partition, record)

    def append(self, topic: str, partition: int, record: Input) -> None:
        self.logs.setdefault((topic, partition), []).append(record)

    # ---------------------------------------------------------------- driving

    def task(self, partition: int) -> PanesTask:
        if partition not in self.tasks:
            self.start(partition)
        return self.tasks[partition]

    def start(self, partition: int, *, seed: int = 0) -> None:
        """Make a task, restore it from what is durable and let it read again what it asks for."""
        if partition not in self.stores:
            self.stores[partition] = self.make_store(partition)
        context = TaskContext(
            partition,
            lambda: self.clock_ms,
            self._refresh,
            lambda topic: PANES_PARTITIONS if topic == "panes" else self.partitions,
        )
        task = PanesTask(
            context,
            monitors=self.monitors,
            references=self.references,
            store=self.stores[partition],
            times=TimeSettings(),
            examples=self.writes_examples,
            lingering=self.lingering,
        )
        kept = self.changelogs.get(partition, {})
        n = len(kept)
        task.restore(
            Batch("panes-changelog", partition, range(n), [0] * n, list(kept),
                  list(kept.values()), [()] * n)
        )  # fmt: skip
        positions = self.positions.get(partition, {})
        again = dict(task.start(dict(positions)))
        chance = random.Random(seed)
        while again:
            topic = chance.choice(sorted(again))
            end = min(again[topic] + chance.randint(1, 7), positions[topic].offset)
            if again[topic] < end:
                task.replay(self._batch(topic, partition, again[topic], end))
            again[topic] = end
            if end >= positions[topic].offset:
                del again[topic]
        for topic in TOPICS:
            self.read[topic, partition] = positions[topic].offset if topic in positions else 0
        self.tasks[partition] = task

    def step(self, topic: str, partition: int, n: int) -> int:
        """Hand the next ``n`` records over; give how many there were."""
        task, first = self.task(partition), self.read[topic, partition]
        end = min(first + n, len(self.logs.get((topic, partition), ())))
        if end > first:
            task.process(self._batch(topic, partition, first, end))
            self.read[topic, partition] = end
        task.tick(self.clock_ms, {t: self.at_end and self._is_read(t, partition) for t in TOPICS})
        return end - first

    def commit(self, partition: int, crash: Crash | None = None) -> None:
        """Commit; a crash may come before it is durable or before the task learns that it is."""
        task = self.task(partition)
        commit = task.commit()
        if crash == "before":
            del self.tasks[partition]
            return
        self.outputs += commit.outputs
        kept = self.changelogs.setdefault(partition, {})
        for key, value in commit.changelog:
            if value is None:
                kept.pop(key, None)
            else:
                kept[key] = value
        former = self.positions.get(partition, {})
        self.positions[partition] = {
            topic: Position(
                self.read[topic, partition],
                commit.metadata.get(topic, former[topic].metadata if topic in former else ""),
            )
            for topic in TOPICS
        }
        if crash == "durable":
            del self.tasks[partition]
        else:
            task.committed()

    def run(self, *, batch: int = 1_000_000, topics: Sequence[str] = TOPICS) -> Driver:
        """Read everything, in batches that take turns, and commit at the end."""
        for partition in range(self.partitions):
            while any([self.step(topic, partition, batch) for topic in topics]):  # noqa: C419
                pass
            self.commit(partition)
        return self

    def _batch(self, topic: str, partition: int, first: int, end: int) -> Batch:
        records = self.logs[topic, partition][first:end]
        return Batch(
            topic,
            partition,
            range(first, end),
            [r.timestamp_ms for r in records],
            [r.key for r in records],
            [r.value for r in records],
            [r.headers for r in records],
        )

    def _is_read(self, topic: str, partition: int) -> bool:
        return self.read[topic, partition] == len(self.logs.get((topic, partition), ()))

    def _refresh(self) -> None:
        self.refreshed.append(self.clock_ms)
        self.on_refresh()

    # ----------------------------------------------------------------- output

    def panes(self) -> list[Pane]:
        return [
            decode(Pane, o.value or b"")
            for o in self.outputs
            if o.topic == "panes" and b'"type":"pane"' in (o.value or b"")
        ]

    def sums(self) -> dict[Key, Any]:
        """Give the sum of all deltas by kind, series, pane and, for pairs, champion."""
        sums: dict[Key, Delta] = {}
        for pane in self.panes():
            delta = decode_delta(pane.kind, pane.counts)
            key = (
                pane.kind, pane.model, pane.version, pane.segment, pane.reference_id,
                pane.start_ms, pane.end_ms, str(pane.counts.get("champion", "")),
            )  # fmt: skip
            if key in sums:
                sums[key].add(delta)  # type: ignore[arg-type]
            else:
                sums[key] = delta
        plain = {key: _without_zeros(delta.encode()) for key, delta in sums.items()}
        return {key: data for key, data in plain.items() if data}

    def examples(self) -> dict[tuple[str, str], Example]:
        """Give every example at its highest revision; of equals the last."""
        found: dict[tuple[str, str], Example] = {}
        for output in self.outputs:
            if output.topic == "examples":
                example = decode(Example, output.value or b"")
                key = (example.model, example.prediction_id)
                if key not in found or found[key].revision <= example.revision:
                    found[key] = example
        return found

    def dead_letters(self) -> Counter[tuple[bytes | None, str]]:
        """Give value and reason of what was put aside."""
        return Counter(
            (o.value, dict(o.headers)["kedge-reason"].decode())
            for o in self.outputs
            if o.topic == "dead-letters"
        )

    def reasons(self) -> Counter[str]:
        return Counter(reason for _, reason in self.dead_letters().elements())

    def progress(self) -> dict[int, Progress]:
        """Give the last Progress of every partition."""
        found: dict[int, Progress] = {}
        for output in self.outputs:
            if output.topic == "panes" and b'"type":"progress"' in (output.value or b""):
                progress = decode(Progress, output.value or b"")
                found[progress.partition] = progress
        return found

    def fates(self, topic: str) -> dict[str, int]:
        """Give the sum of all partitions' fates that are not zero."""
        total: Counter[str] = Counter()
        for progress in self.progress().values():
            total.update(progress.fates[topic])
        return {fate: count for fate, count in total.items() if count}


def _without_zeros(data: Any) -> Any:
    """Drop counts of zero and what is empty without them, so that sums can be compared."""
    if isinstance(data, dict):
        kept = {k: v for k, x in data.items() if (v := _without_zeros(x)) and k != "champion"}
        return kept and (kept | {k: data[k] for k in ("champion",) if k in data})
    return data


@pytest.fixture(scope="session")
def driver() -> type[Driver]:
    return Driver
