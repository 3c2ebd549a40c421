"""A version that nobody registered learns what each hour of the week is like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kedge import Monitor
from kedge_services.core.binning import Binner
from kedge_services.core.deltas import DriftDelta, LearningDelta
from kedge_services.core.folding import Series
from kedge_services.core.learning import Learner
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.references import build_reference
from kedge_services.core.seasons import HOURS, slots, unpack
from kedge_services.core.strata import RowTimes

HOUR_MS = 3_600_000
#: A Wednesday, 5h UTC.
BEGIN_MS = 1_767_762_000_000
VERSION = ("m", "1")
NAMED: dict[str, Any] = {
    "model": "m", "task": "regression", "features": {"x": "numeric"},
    "windows": {"pane": "30m", "scales": [1]},
    "reference": {"from": "same-hour", "timezone": "Europe/Oslo"},
}  # fmt: skip
MONITOR = Monitor.model_validate(NAMED)
PER_PANE = 100


def rows(pane: int) -> list[float]:
    """The level goes up and down with the hour of the day."""
    chance = np.random.default_rng(pane)
    values: list[float] = (chance.normal(size=PER_PANE) + (pane // 2) % 24).tolist()
    return values


def learner_with_bins(monitor: Monitor = MONITOR) -> tuple[Learner, Series, int]:
    """Give a learner that has just made its bins, and the first pane that is counted."""
    learner, first = Learner(), Series("m", "1", "", "")
    for pane in range(20):
        sample = {pane * 1000 + i: [{"x": x}, {"value": x}] for i, x in enumerate(rows(pane))}
        start_ms = BEGIN_MS + pane * monitor.pane_ms
        learner.add(first, start_ms, LearningDelta(PER_PANE, sample))
        learner.close(first, start_ms, watermark_ms=start_ms + monitor.pane_ms, monitor=monitor)
    [reference] = learner.take()
    series = Series("m", "1", "", reference.reference_id)
    return learner, series, (reference.effective_ms - BEGIN_MS) // monitor.pane_ms


def counted(learner: Learner, pane: int) -> DriftDelta:
    known = learner.learnt[VERSION].reference
    assert known is not None
    return Binner(known).count({"x": rows(pane)}, rows=PER_PANE, predictions=rows(pane))


def feed(learner: Learner, series: Series, panes: range, monitor: Monitor = MONITOR) -> None:
    for pane in panes:
        end_ms = BEGIN_MS + (pane + 1) * monitor.pane_ms
        learner.count(series, end_ms, PaneCounts.of(counted(learner, pane)), monitor)


def restarted(learner: Learner) -> Learner:
    """Go on from what the changelog holds."""
    again = Learner()
    for shelf, other in zip(shelves(learner), shelves(again), strict=True):
        for key, value in shelf.changes():
            other.restore(tuple(json.loads(key)[1:]), value)
    return again


def shelves(learner: Learner) -> Iterator[Any]:
    yield from (learner.samples, learner.learnt, learner.hours.shelf, learner.blocks.shelf)


def test_learning_goes_on_for_three_weeks_and_then_gives_strata() -> None:
    # Wed 15h ........ Wed 15h ........ Wed 15h ........ Wed 15h
    #     |---- 504 hours of two panes -------------------|
    learner, series, first = learner_with_bins()
    last = first + 2 * 3 * HOURS
    feed(learner, series, range(first, last - 1))
    known = learner.find(series)
    assert known is not None
    assert known.valid_from_ms is None
    assert len(learner.hours.shelf) == 3 * HOURS
    learner = restarted(learner)
    feed(learner, series, range(last - 1, last))
    [made] = learner.take()
    assert made.reference_id == series.reference_id
    assert len(learner.hours.shelf) == 0
    known = learner.find(series)
    assert known is not None
    assert known.valid_from_ms == BEGIN_MS + last * MONITOR.pane_ms
    # As if a table of the same rows had been registered.
    times = [BEGIN_MS + pane * MONITOR.pane_ms for pane in range(first, last)]
    x = [value for pane in range(first, last) for value in rows(pane)]
    table = build_reference(
        model="m", version="1", columns={"x": x}, kinds={"x": "numeric"},
        times=RowTimes("Europe/Oslo", np.repeat(times, PER_PANE)),
    )  # fmt: skip
    assert made.seasons is not None
    assert table.seasons is not None
    assert made.seasons.hours == table.seasons.hours == list(range(HOURS))
    seasonal = made.features["x"].seasonal
    assert seasonal is not None
    counts = unpack(seasonal.counts).reshape(HOURS, -1)
    expected = Binner(made).features["x"]
    hour = slots(times, "Europe/Oslo") % HOURS
    for wanted in (0, 80, 167):
        mine = [v for pane, h in zip(range(first, last), hour, strict=True) if h == wanted
                for v in rows(pane)]  # fmt: skip
        bins = expected.count(mine).bins.tolist()
        assert counts[wanted][: len(bins)].tolist() == bins
    assert seasonal.dispersion == pytest.approx(1.0, abs=0.1)


def test_without_seasons_two_thousand_rows_in_eight_panes_are_enough() -> None:
    monitor = Monitor.model_validate({**NAMED, "reference": {"from": "first-events"}})
    learner, series, first = learner_with_bins(monitor)
    feed(learner, series, range(first, first + 30), monitor)
    [made] = learner.take()
    assert made.seasons is None
    assert made.rows == 2_000
    assert len(learner.hours.shelf) == 0
