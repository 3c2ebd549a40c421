from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from kedge_services.serving.lifetime import Lifetime, beside

WAIT_S = 10.0


@dataclass
class World:
    """A lifetime in the test's hands."""

    is_able: bool = True
    was_asked: bool = True
    stop: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def lifetime(self, drain_s: float) -> Lifetime:
        return Lifetime(
            is_able=lambda: self.is_able,
            open_port=self.opened.set,
            was_asked=lambda: self.was_asked,
            drain_s=drain_s,
        )


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.stop.set()


def test_the_port_opens_when_the_server_is_able_and_then_stays_ready(world: World) -> None:
    world.is_able = False
    lifetime = world.lifetime(0)
    with beside(lambda done: lifetime.run(world.stop, done)):
        assert not world.opened.wait(0.2)
        assert not lifetime.is_ready
        world.is_able = True
        assert world.opened.wait(WAIT_S)
        world.is_able = False  # a new version is being loaded, or the group rebalances
        assert not lifetime.ended.wait(0.2)
        assert lifetime.is_ready


def test_it_is_not_ready_before_it_ends(world: World) -> None:
    lifetime = world.lifetime(0.5)
    with beside(lambda done: lifetime.run(world.stop, done)):
        assert world.opened.wait(WAIT_S)
        world.stop.set()
        assert not lifetime.ended.wait(0.3)
        assert lifetime.is_draining
        assert not lifetime.is_ready
        assert lifetime.ended.wait(WAIT_S)


def test_nobody_waits_for_a_port_that_nobody_used(world: World) -> None:
    world.was_asked = False
    lifetime = world.lifetime(WAIT_S * 10)
    with beside(lambda done: lifetime.run(world.stop, done)):
        world.stop.set()
        assert lifetime.ended.wait(WAIT_S)


def test_a_server_that_fails_does_not_drain(world: World) -> None:
    lifetime = world.lifetime(WAIT_S * 10)
    with beside(lambda done: lifetime.run(world.stop, done)):
        assert world.opened.wait(WAIT_S)
    assert lifetime.ended.is_set()
