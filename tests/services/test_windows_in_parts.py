"""More windows at once than a transaction should hold: sent part by part, and whole in the end."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from kedge import Monitor, Pane, Progress, Reference
from kedge.codec import encode
from kedge.panes import ModelClock, PaneSource
from kedge_services.core.binning import Binner
from kedge_services.core.references import build_reference
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.settings import Settings
from kedge_services.windows.service import make

T0 = 1_700_000_000_000
PANE = 1_000
PANES = 4
MODELS = [f"m{number:03}" for number in range(150)]
SETTINGS = Settings(request_partitions=1, model_partitions=1)
STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
TOPICS = ("panes", "windows", "references", "windows-changelog", "monitors", "dead-letters")


@cache
def reference() -> Reference:
    x = np.random.default_rng(2).normal(size=2_000)
    return build_reference(model="m", version="1", columns={"x": x}, kinds={"x": "numeric"})


def monitor(model: str) -> Monitor:
    features = {"x": "numeric"}
    windows = {"pane": "1s", "scales": [1, 2], "grace": "0s"}
    return Monitor.model_validate(
        {"model": model, "task": "regression", "features": features, "windows": windows}
    )


@cache
def panes() -> list[list[bytes]]:
    """What panes sends of all models, transaction by transaction; every third model drifts."""
    binner, rng = Binner(reference()), np.random.default_rng(3)
    source = PaneSource(topic="predictions", partition=0, from_offset=0, to_offset=0)
    sent = []
    for pane in range(PANES + 1):
        start_ms, records = T0 + pane * PANE, []
        for number, model in enumerate(MODELS):
            shift = 3.0 if pane == PANES - 1 and number % 3 == 0 else 0.0
            counted = binner.count({"x": rng.normal(shift, 1, 200)}, rows=200)
            made = Pane(
                model=model, version="1", reference_id=reference().reference_id, kind="drift",
                start_ms=start_ms, end_ms=start_ms + PANE, counts=counted.encode(), source=source,
            )  # fmt: skip
            records.append(encode(made))
        clock = ModelClock(max_ms=start_ms + 500, seen_ms=start_ms + 500)
        clock_ms = {"predictions": start_ms + 500, "outcomes": 0}
        progress = Progress(
            partition=0, partitions=1, sequence=pane, offsets={}, clock_ms=clock_ms,
            since_ms={"predictions": T0, "outcomes": 0}, fates={},
            predictions=dict.fromkeys(MODELS, clock), outcomes={},
        )  # fmt: skip
        sent.append([*records, encode(progress)])
    return sent


class World:
    """windows on a broker; when it dies it is started anew."""

    def __init__(self, held_bytes: int) -> None:
        self.clock, self.held_bytes, self.deaths = ManualClock(T0), held_bytes, 0
        self.broker = MemoryBroker(self.clock, dict.fromkeys(TOPICS, 1))
        for model in MODELS:
            self.broker.append("monitors", model.encode(), encode(monitor(model)))
        key = f"m/{reference().reference_id}".encode()
        self.broker.append("references", key, encode(reference()))
        self.loop = self.make()

    def make(self) -> Loop:
        service = make(SETTINGS, held_bytes=self.held_bytes)
        return Loop(service, self.broker, SETTINGS, self.clock)

    def step(self) -> None:
        """Make a step in which nothing is committed because time has passed."""
        try:
            self.loop.step()
        except Crash:
            self.deaths += 1
            self.loop = self.make()

    def play(self) -> None:
        """Send all at once, and go on until nothing more is written."""
        for records in panes():
            for value in records:
                self.broker.append("panes", b"", value)
        for _ in range(60):
            self.step()
        self.clock.advance(2_000)
        self.step()

    def windows(self) -> list[tuple[bytes | None, bytes | None]]:
        return [(record.key, record.value) for record in self.broker.records("windows")]

    def committed(self) -> int:
        offsets = self.broker.committed("windows")
        return sum(at.offset for place, at in offsets.items() if place.topic == "panes")


@cache
def whole() -> list[tuple[bytes | None, bytes | None]]:
    world = World(1 << 30)
    world.play()
    found = world.windows()
    # Four panes of every model, and three windows of two.
    assert len(found) == len(MODELS) * (PANES + PANES - 1)
    assert any(b"data-drift" in (value or b"") for _, value in found)
    return found


def test_in_parts_every_window_is_the_same_in_the_same_order() -> None:
    world = World(1)
    world.play()
    assert world.windows() == whole()


def test_a_part_is_committed_at_once_and_lag_shows_that_there_are_more() -> None:
    world, counts, offsets = World(1), [], []
    for records in panes()[:2]:
        for value in records:
            world.broker.append("panes", b"", value)
    for _ in range(20):
        world.step()
        counts.append(len(world.windows()))
        offsets.append(world.committed())
    parts = [count for count in dict.fromkeys(counts) if count]
    assert parts == [64, 128, 150]
    # The last progress is given back until all that it allows is done.
    end = 2 * len(panes()[0])
    at = counts.index(64)
    assert offsets[at : at + 3] == [end - 1, end - 1, end]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_kill_between_parts_loses_nothing_and_sends_nothing_twice(step: Step, after: int) -> None:
    world = World(1)
    world.broker.inject(step, Crash("kill"), after=after * (90 if step == "produce" else 1))
    world.play()
    assert world.deaths == 1
    assert world.windows() == whole()
