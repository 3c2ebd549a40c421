"""panes and windows together on the broker in memory, killed at every step of a commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from kedge import Monitor, Outcome, Prediction, Reference, Window
from kedge.codec import decode, encode
from kedge.events import Output
from kedge.topics import request_partition
from kedge_services.core.references import build_reference
from kedge_services.panes.service import make as make_panes
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.stores import MemoryStore
from kedge_services.windows.service import make as make_windows

T0 = 1_700_000_000_000
PANE = 1_000
PANES = 12
PER_PANE = 60
DELAY = 1_500
SETTINGS = Settings(request_partitions=2, model_partitions=1)
STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")

MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": ["a", "b"],
        "features": {"x": "numeric", "c": "categorical"},
        "segments": [{"name": "s"}],
        "label_horizon": "3s",
        "outcome_wait": "1s",
        "windows": {"pane": "1s", "scales": [1, 4], "grace": "100ms"},
    }
)


@cache
def events() -> list[tuple[Prediction, Outcome]]:
    rng = np.random.default_rng(3)
    made = []
    for i in range(PANES * PER_PANE):
        time = T0 + i * PANE // PER_PANE
        label = "ab"[int(rng.integers(2))]
        predicted = label if rng.random() < 0.8 else "ab"[label == "a"]
        prediction = Prediction(
            prediction_id=f"r{i}",
            model="m",
            version="1",
            event_time_ms=time,
            features={"x": float(rng.normal()), "c": "pq"[i % 2]},
            output=Output(label=predicted, score=float(rng.random())),
            segments={"s": "n" if i % 3 else "k"},
        )
        outcome = Outcome(prediction_id=f"r{i}", label=label, event_time_ms=time + DELAY)
        made.append((prediction, outcome))
    return made


@cache
def reference() -> Reference:
    rng = np.random.default_rng(4)
    n = 2_000
    return build_reference(
        model="m",
        version="1",
        columns={"x": rng.normal(size=n), "c": ["p", "q"] * (n // 2)},
        kinds={"x": "numeric", "c": "categorical"},
        predictions=["a", "b"] * (n // 2),
        scores=rng.random(n).tolist(),
        labels=["a", "b"] * (n // 2),
        losses=[float(i % 5 == 0) for i in range(n)],
    )


class World:
    """Both services on one broker; whoever dies is started anew."""

    def __init__(self) -> None:
        self.clock = ManualClock(T0)
        by_request = dict.fromkeys(("predictions", "outcomes", "examples", "panes-changelog"), 2)
        by_model = dict.fromkeys(("panes", "windows", "references", "windows-changelog"), 1)
        tables = {"monitors": 1, "model-versions": 1, "dead-letters": 2}
        self.broker = MemoryBroker(self.clock, {**by_request, **by_model, **tables})
        self.broker.append("monitors", b"m", encode(MONITOR))
        key = f"m/{reference().reference_id}".encode()
        self.broker.append("references", key, encode(reference()))
        self.stores: dict[int, MemoryStore] = {}
        self.makers: dict[str, Callable[[], Loop]] = {
            "panes": lambda: self.loop(make_panes(SETTINGS, self.store)),
            "windows": lambda: self.loop(make_windows(SETTINGS)),
        }
        self.loops = {name: make() for name, make in self.makers.items()}
        self.deaths = 0

    def store(self, partition: int) -> MemoryStore:
        return self.stores.setdefault(partition, MemoryStore())

    def loop(self, service: Any) -> Loop:
        return Loop(service, self.broker, SETTINGS, self.clock)

    def send(self, topic: str, prediction_id: str, value: bytes) -> None:
        partition = request_partition(prediction_id, 2)
        self.broker.append(topic, prediction_id.encode(), value, partition=partition)

    def play(self) -> None:
        """Send everything at its time, both services running meanwhile."""
        queue = [(p.event_time_ms, "predictions", p.prediction_id, encode(p)) for p, _ in events()]
        queue += [(o.event_time_ms, "outcomes", o.prediction_id, encode(o)) for _, o in events()]
        for time, topic, prediction_id, value in sorted(queue):
            while self.clock.now_ms + 250 <= time:
                self.clock.advance(250)
                self.step()
            self.send(topic, prediction_id, value)
        for _ in range(12):
            self.clock.advance(500)
            self.step()

    def step(self) -> None:
        for name in self.loops:
            try:
                self.loops[name].step()
            except Crash:
                self.deaths += 1
                self.loops[name] = self.makers[name]()

    def windows(self) -> dict[str, Window]:
        newest: dict[str, Window] = {}
        for record in self.broker.records("windows"):
            window = decode(Window, record.value or b"")
            newest[window.window_id] = window
        return newest


def final(world: World) -> dict[str, Any]:
    return {
        name: window.model_dump(exclude={"revision", "labelled_total"})
        for name, window in world.windows().items()
        if window.is_final
    }


@cache
def undisturbed() -> dict[str, Any]:
    world = World()
    world.play()
    assert not world.broker.records("dead-letters")
    return final(world)


def test_windows_hold_what_a_count_of_all_events_gives() -> None:
    drift: Counter[int] = Counter()
    right: Counter[tuple[str, int]] = Counter()
    rows: Counter[tuple[str, int]] = Counter()
    for prediction, outcome in events():
        start = prediction.event_time_ms - prediction.event_time_ms % PANE
        drift[start] += 1
        assert prediction.output is not None
        for segment in ("", f"s={prediction.segments['s']}"):
            rows[segment, start] += 1
            right[segment, start] += prediction.output.label == outcome.label
    found: Counter[str] = Counter()
    for window in undisturbed().values():
        found[window["kind"]] += 1
        if window["scale"] > 1:
            continue
        start, segment = window["start_ms"], window["segment"]
        if window["kind"] == "drift":
            assert window["n"] == drift[start]
        elif window["kind"] == "performance":
            values = {m["name"]: m["value"] for m in window["measures"]}
            assert window["n"] == window["labelled"] == rows[segment, start]
            assert values["accuracy"] == right[segment, start] / rows[segment, start]
    # The last pane is open; windows of four panes begin with the first pane.
    assert found["drift"] == (PANES - 1) + (PANES - 4)
    # Cells are closed by data alone, and the last predictions are in the last pane.
    assert found["labels"] == PANES - 2
    assert found["performance"] >= 3 * (PANES - 3)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [3, 25])
def test_a_kill_at_any_step_changes_no_final_window(step: Step, after: int) -> None:
    world = World()
    world.broker.inject(step, Crash("kill"), after=after * (20 if step == "produce" else 1))
    world.play()
    assert world.deaths == 1
    assert final(world) == undisturbed()
