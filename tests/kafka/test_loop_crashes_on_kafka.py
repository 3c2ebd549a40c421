"""The same on Kafka: the process dies at every step of a commit, and nothing shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock
from kedge_services.runtime.ports import (
    Backend,
    Consumer,
    Position,
    Produce,
    Producer,
    Service,
    TopicPartition,
)

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, Rig

STEPS = ("begin", "produce", "send_offsets", "commit", "committed")


@dataclass
class Mortal:
    """A producer that dies once, at a step of the script."""

    producer: Producer
    script: list[str]

    def _step(self, name: str) -> None:
        if self.script and self.script[0] == name:
            self.script.pop()
            raise Crash(name)

    def begin(self) -> None:
        self._step("begin")
        self.producer.begin()

    def produce(self, record: Produce) -> None:
        self.producer.produce(record)
        self._step("produce")

    def send_offsets(self, offsets: Mapping[TopicPartition, Position], group: Any) -> None:
        self.producer.send_offsets(offsets, group)
        self._step("send_offsets")

    def commit(self) -> None:
        self._step("commit")
        self.producer.commit()
        self._step("committed")

    def abort(self) -> None:
        self.producer.abort()

    def close(self) -> None:
        self.producer.close()


@dataclass
class MortalBackend:
    backend: Backend
    script: list[str]

    def consumer(self, *, group: str | None, instance: str | None = None) -> Consumer:
        return self.backend.consumer(group=group, instance=instance)

    def producer(self, transactional_id: str) -> Producer:
        return Mortal(self.backend.producer(transactional_id), self.script)

    def partitions(self, topic: str) -> int:
        return self.backend.partitions(topic)


@pytest.mark.parametrize("rig", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_step_of_a_commit_leaves_no_trace_on_kafka(
    listing: Service, driver: Driver, rig: Rig, step: str
) -> None:
    rig.create({"values": 1, "listed": 1, "listing-changelog": 1})
    clock, script = ManualClock(), list[str]()
    backend = MortalBackend(driver.backend, script)
    loop = Loop(listing, backend, rig.settings, clock)
    expected = 0

    def is_listed() -> bool:
        nonlocal loop
        clock.advance(1_000)
        try:
            loop.step(0.02)
        except Crash:
            loop = Loop(listing, backend, rig.settings, clock)
        return len(driver.values("listed")) >= expected

    driver.write("values", b"a", b"b")
    expected = 2
    driver.until(is_listed)
    script.append(step)
    driver.write("values", b"c")
    expected = 3
    driver.until(lambda: is_listed() and not script and loop.is_ready)
    driver.write("values", b"d")
    expected = 4
    driver.until(is_listed)
    loop.close()
    assert driver.values("listed") == [b"1:a", b"2:b", b"3:c", b"4:d"]
