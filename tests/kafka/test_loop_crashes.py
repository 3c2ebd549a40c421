"""The loop with a service that counts: whatever happens, it counts each record once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.ports import (
    Batch,
    Commit,
    Position,
    Produce,
    Service,
    TaskContext,
    TransactionAborted,
)
from kedge_services.runtime.settings import Settings

STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
KEYS = (b"a", b"b", b"c")


@dataclass
class Counting:
    """Counts records by key and sends the running count of every record."""

    counts: dict[bytes, int] = field(default_factory=dict)
    pending: Commit = field(default_factory=Commit)

    def restore(self, batch: Batch) -> None:
        for key, value in zip(batch.keys, batch.values, strict=True):
            self.counts[key or b""] = int(value or 0)

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:  # noqa: ARG002
        return {}

    def replay(self, batch: Batch) -> None:
        raise AssertionError(f"nothing was asked to be replayed, but {batch}")

    def process(self, batch: Batch) -> None:
        for record in batch.records():
            key = record.key or b""
            self.counts[key] = self.counts.get(key, 0) + 1
            value = str(self.counts[key]).encode()
            self.pending.outputs.append(Produce("counts", key, value, batch.partition))
            self.pending.changelog.append((key, value))

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:
        pass

    def paused(self) -> frozenset[str]:
        return frozenset()

    def commit(self) -> Commit:
        commit, self.pending = self.pending, Commit()
        return commit

    def committed(self) -> None:
        pass

    def close(self) -> None:
        pass


def make_counting(_: TaskContext) -> Counting:
    return Counting()


COUNTING = Service("counting", ("numbers",), (), make_counting)


class World:
    """A broker in memory, and a loop that is started anew when it dies."""

    def __init__(self, partitions: int = 2) -> None:
        self.clock = ManualClock()
        topics = ("numbers", "counts", "counting-changelog")
        self.broker = MemoryBroker(self.clock, dict.fromkeys(topics, partitions))
        self.loop = self.make()

    def make(self) -> Loop:
        return Loop(COUNTING, self.broker, Settings(), self.clock)

    def send(self, count: int) -> None:
        for index in range(count):
            self.broker.append("numbers", KEYS[index % 3], b"x")

    def drain(self) -> None:
        """Go on until there is nothing left to commit, over any number of deaths."""
        for _ in range(100):
            try:
                self.loop.step()
                self.clock.advance(200)
            except Crash:
                self.loop = self.make()  # nothing of the dead one is closed
        self.loop.commit()

    def outcome(self) -> tuple[list[tuple[bytes | None, bytes | None]], dict[bytes, bytes]]:
        counts = [(r.key, r.value) for r in self.broker.records("counts")]
        state = {r.key or b"": r.value or b"" for r in self.broker.records("counting-changelog")}
        return counts, state


def undisturbed(*sizes: int) -> object:
    world = World()
    for size in sizes:
        world.send(size)
        world.drain()
    return world.outcome()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [Crash("power cut"), TransactionAborted("scripted")], ids=repr)
@pytest.mark.parametrize("after", [0, 1])
def test_a_failure_at_any_step_of_a_commit_leaves_no_trace(
    step: Step, error: Exception, after: int
) -> None:
    world = World()
    world.broker.inject(step, error, after=after)
    world.send(7)
    world.drain()
    world.send(5)
    world.drain()
    assert world.outcome() == undisturbed(7, 5)


@given(
    script=st.lists(
        st.tuples(
            st.sampled_from([*STEPS, "abort"]),
            st.sampled_from([Crash("death"), TransactionAborted("scripted")]),
            st.integers(0, 6),
        ),
        max_size=5,
    ),
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
)
def test_no_series_of_failures_changes_the_output(
    script: list[tuple[Step, Exception, int]], sizes: list[int]
) -> None:
    world = World()
    for step, error, after in script:
        if step != "abort" or isinstance(error, Crash):
            world.broker.inject(step, error, after=after)
    for size in sizes:
        world.send(size)
        world.drain()
    assert world.outcome() == undisturbed(*sizes)
