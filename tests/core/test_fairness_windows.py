"""Fairness in performance windows: the values of a segment beside each other, by pane."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kedge import Monitor, Pane, Window
from kedge.codec import decode
from kedge.panes import PaneSource
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.lookup import Lookup
from kedge_services.core.performance_windows import PerformanceWindows
from kedge_services.core.publishing import Publisher

PANE = 1_000
SOURCE = PaneSource(topic="predictions", partition=0, from_offset=0, to_offset=0)
PARITY = "statistical_parity_difference"


def monitor(segments: list[dict[str, Any]] | None = None, **changes: Any) -> Monitor:
    return Monitor.model_validate(
        {
            "model": "m",
            "task": "binary",
            "classes": ["no", "yes"],
            "features": {"x": "numeric"},
            "windows": {"pane": "1s", "scales": [1, 2], "grace": "0s"},
            "label_horizon": "2s",
            "drift": {"false_alarms": "1 per 100 windows"},
            "segments": segments or [{"name": "region"}, {"name": "age"}],
            **changes,
        }
    )


class Task:
    """Performance windows with a publisher that sends revisions at once."""

    def __init__(self, watched: Monitor) -> None:
        self.publisher = Publisher(0)
        look = Lookup(lambda *_: watched, lambda _: None, lambda *_: None)
        self.windows = PerformanceWindows(look, self.publisher, lambda *_: [])
        self.sent: dict[str, Window] = {}

    def add(self, segment: str, pane: int, delta: PerformanceDelta) -> None:
        start = pane * PANE
        event = Pane(
            model="m", version="1", segment=segment, kind="performance", start_ms=start,
            end_ms=start + PANE, counts={}, source=SOURCE,
        )  # fmt: skip
        self.windows.add(event, delta)

    def advance(self, predictions: int, outcomes: int | None) -> None:
        self.windows.advance(
            "m",
            predictions_ms=predictions * PANE,
            outcomes_ms=None if outcomes is None else outcomes * PANE,
            now_ms=0,
        )
        for key in self.publisher.due(0):
            self.windows.revise(key, 0)
        self.sent |= {
            window_id: decode(Window, value) for window_id, value in self.publisher.take()
        }

    def window(self, segment: str, scale: int = 1, pane: int = 0) -> Window:
        found = [
            w
            for w in self.sent.values()
            if (w.segment, w.scale, w.start_ms) == (segment, scale, pane * PANE)
        ]
        return found[0]


def rows(yes: int, n: int, *, labelled: bool = True, found: float = 0.5) -> PerformanceDelta:
    """Of n rows so many are answered "yes"; 100 labels are "yes", ``found`` of them answered so."""
    hits = round(100 * found)
    table = {"yes": {"yes": hits, "no": 100 - hits}, "no": {"no": n - 100}}
    return PerformanceDelta(
        predicted=n, labelled=n if labelled else 0, answers={"yes": yes, "no": n - yes},
        confusion=table if labelled else {},
    )  # fmt: skip


def value(window: Window, name: str = PARITY) -> float | None:
    [measure] = [m for m in window.measures if m.name == name]
    return measure.value


def test_each_value_is_held_against_the_rest_of_its_own_segment() -> None:
    task = Task(monitor())
    for pane in (0, 1):
        for segment, yes in (("", 450), ("region=NO", 400), ("region=SE", 200), ("region=DK", 250)):
            task.add(segment, pane, rows(yes, 1_000))
        task.add("age=old", pane, rows(900, 1_000))
    task.advance(2, 10)
    norway = task.window("region=NO")
    assert value(norway) == pytest.approx(0.4 - 450 / 2_000)
    assert [d.detector for d in norway.detections] == [PARITY, "disparate_impact"]
    assert norway.status == "alarm"
    assert value(task.window("region=DK")) == pytest.approx(0.25 - 0.3)
    assert task.window("region=DK").detections == []
    [note] = {m.note for m in task.window("age=old").measures if m.name == PARITY}
    assert note == "no answered row of the rest"
    assert PARITY not in {m.name for m in task.window("").measures}
    assert value(task.window("region=NO", scale=2)) == value(norway)


def test_a_named_base_takes_the_place_of_the_rest() -> None:
    task = Task(monitor([{"name": "region", "base": "SE"}]))
    for segment, yes in (("region=NO", 400), ("region=SE", 200), ("region=DK", 700)):
        task.add(segment, 0, rows(yes, 1_000))
    task.advance(1, 10)
    assert value(task.window("region=NO")) == pytest.approx(0.2)
    assert "region=SE 20.0%" in task.window("region=NO").detections[0].summary
    assert PARITY not in {m.name for m in task.window("region=SE").measures}


def test_parity_needs_no_labels_and_opportunity_does() -> None:
    task = Task(monitor())
    task.add("region=NO", 0, rows(400, 1_000, labelled=False))
    task.add("region=SE", 0, rows(200, 1_000, labelled=False))
    task.advance(1, 10)
    window = task.window("region=NO")
    assert {d.detector for d in window.detections} == {PARITY, "disparate_impact"}
    assert value(window, "equal_opportunity_difference") is None
    task = Task(monitor())
    task.add("region=NO", 0, rows(300, 1_000, found=0.95))
    task.add("region=SE", 0, rows(300, 1_000, found=0.55))
    task.advance(1, 10)
    assert [d.detector for d in task.window("region=NO").detections] == [
        "equal_opportunity_difference"
    ]
    assert task.window("region=SE").detections[0].threshold == -0.1


def test_a_model_of_several_classes_has_no_fairness() -> None:
    task = Task(monitor(task="multiclass", classes=["no", "yes", "maybe"]))
    task.add("region=NO", 0, rows(400, 1_000))
    task.advance(1, 10)
    assert PARITY not in {m.name for m in task.window("region=NO").measures}


def test_a_late_row_of_another_value_revises_the_window() -> None:
    task = Task(monitor())
    task.add("region=NO", 0, rows(300, 1_000))
    task.add("region=SE", 0, rows(200, 1_000))
    task.advance(1, 10)
    before = task.window("region=NO")
    task.add("region=SE", 0, PerformanceDelta(predicted=100, answers={"yes": 100}))
    task.advance(1, 10)
    after = task.window("region=NO")
    assert after.revision == before.revision + 1
    assert value(after) == pytest.approx(0.3 - 300 / 1_100)
    # Again, after that revision.
    task.add("region=SE", 0, PerformanceDelta(predicted=100, answers={"yes": 100}))
    task.advance(1, 10)
    assert value(task.window("region=NO")) == pytest.approx(0.3 - 400 / 1_200)


def test_final_windows_do_not_depend_on_the_order_of_deltas() -> None:
    parts = [
        (segment, pane, rows(yes + 10 * pane, 120))
        for pane in range(3)
        for segment, yes in (("region=NO", 60), ("region=SE", 12), ("age=1", 9), ("age=2", 30))
    ] * 3
    finals = []
    for seed in range(5):
        rng, task = random.Random(seed), Task(monitor())
        order = parts.copy()
        rng.shuffle(order)
        for k, part in enumerate(order):
            task.add(*part)
            if rng.random() < 0.3 and k > 4:
                task.advance(rng.randrange(4), None)
        task.advance(3, 10)
        finals.append({w: found.model_dump(exclude={"revision"}) for w, found in task.sent.items()})
    assert all(final == finals[0] for final in finals)
    assert {w["is_final"] for w in finals[0].values()} == {True}
    assert any(w["detections"] for w in finals[0].values())
