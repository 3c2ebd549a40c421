"""The broker is killed and starts again on its data: the loop goes on, and nothing shows."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from kedge.errors import BrokerUnavailable, Fenced
from kedge_services.local.broker import LocalBroker
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import ManualClock
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
    from pathlib import Path

    from tests.kafka.conftest import Driver, Rig


class Phoenix:
    """A broker of one's own that comes back on the same port with the same data."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._broker = LocalBroker(data)
        self._broker.start()
        self.bootstrap_servers = self._broker.bootstrap_servers
        self.deaths = 0

    def die_and_return(self) -> None:
        self.deaths += 1
        os.kill(self._broker.pid, signal.SIGKILL)
        self._broker.stop()
        port = int(self.bootstrap_servers.rpartition(":")[2])
        self._broker = LocalBroker(self._data, port=port)
        self._broker.start()

    def stop(self) -> None:
        self._broker.stop()


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Phoenix]:
    """Replace the broker that all tests share, which must live."""
    broker = Phoenix(tmp_path)
    yield broker
    broker.stop()


@dataclass
class Interrupted:
    """A producer that does something once, before it commits."""

    producer: Producer
    script: list[Callable[[], None]]

    def begin(self) -> None:
        self.producer.begin()

    def produce(self, record: Produce) -> None:
        self.producer.produce(record)

    def send_offsets(self, offsets: Mapping[TopicPartition, Position], group: Any) -> None:
        self.producer.send_offsets(offsets, group)

    def commit(self) -> None:
        if self.script:
            self.script.pop()()
        self.producer.commit()

    def abort(self) -> None:
        self.producer.abort()

    def close(self) -> None:
        self.producer.close()


@dataclass
class Interrupting:
    """A backend that gives such producers."""

    backend: Backend
    script: list[Callable[[], None]]

    def consumer(self, *, group: str | None, instance: str | None = None) -> Consumer:
        return self.backend.consumer(group=group, instance=instance)

    def producer(self, transactional_id: str) -> Producer:
        return Interrupted(self.backend.producer(transactional_id), self.script)

    def partitions(self, topic: str) -> int:
        return self.backend.partitions(topic)


@pytest.mark.long
@pytest.mark.parametrize("rig", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_a_broker_that_is_killed_and_comes_back_leaves_no_trace(
    listing: Service, driver: Driver, rig: Rig, kafka: Phoenix
) -> None:
    rig.create({"values": 1, "listed": 1, "listing-changelog": 1})
    clock, script = ManualClock(), list[Callable[[], None]]()
    backend = Interrupting(driver.backend, script)
    loop = Loop(listing, backend, rig.settings, clock)

    def until_listed(count: int) -> None:
        def step() -> bool:
            nonlocal loop
            clock.advance(1_000)
            try:
                loop.step(0.02)
            except (BrokerUnavailable, Fenced):
                # It was away for longer than a transaction may take: the process ends
                # with a sentence, and its supervisor starts another.
                loop.close()
                loop = Loop(listing, backend, rig.settings, clock)
            return len(driver.values("listed")) >= count

        driver.until(step)

    driver.write("values", b"a", b"b")
    until_listed(2)

    script.append(kafka.die_and_return)  # in a transaction, before its decision
    driver.write("values", b"c")
    until_listed(3)
    driver.write("values", b"d")
    until_listed(4)

    loop.close()
    assert kafka.deaths == 1
    assert driver.values("listed") == [b"1:a", b"2:b", b"3:c", b"4:d"]
