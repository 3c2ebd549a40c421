"""What counting and testing cost: one by one, batched, and at the close of a wide pane."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from bench_stats import data
from bench_stats.data import Table
from bench_stats.figures import Figure, Result, Target
from bench_stats.kedge_side import Panes, monitor_of
from bench_stats.scale import Scale
from kedge import Reference
from kedge_services.core.binning import Binner
from kedge_services.core.budget import Budget
from kedge_services.core.decoding import ModelColumns, PredictionRow
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.detectors import DriftJudge
from kedge_services.core.folding import Fold
from kedge_services.core.groups import Slot
from kedge_services.core.plans import Plan
from kedge_services.core.references import build_reference

__all__ = ["run"]

ONE_BY_ONE = "one by one, us per event and feature"
BATCHED = "batched, million feature values/s"
TESTS = "all tests at the close of a pane of 500 features, four scales, ms"
CLOSE = "the whole close: decode, merge, test, make the windows, ms"
DELTA = "its delta as an event, kB"
KEDGE = "Kedge, one core"
#: Predictions between two commits, and tens of features of a wide model.
COMMIT, WIDE = 500, 10


def run(scale: Scale) -> Result:
    """Measure in turns and give the medians."""
    rows = scale.of(20_000, 10_000, 1_000)
    table = data.made(np.random.default_rng(0), rows)
    numeric = Table(table.names[:40], table.rows[:, :40], table.categorical[:40])
    reference = _reference(numeric.part(0, min(rows, 5_000)))
    binner = Binner(reference)
    columns = numeric.columns()
    one_by_one = _OneByOne.of(numeric, reference)
    parts = {
        ONE_BY_ONE: one_by_one.fold,
        BATCHED: lambda: binner.count(columns, rows=rows),
    }
    times = _in_turns(parts, rounds=scale.of(9, 5, 2))
    values = rows * len(numeric.names)
    figures = [
        _figure(ONE_BY_ONE, [t / values * 1e6 for t in times[ONE_BY_ONE]], digits=2),
        _figure(BATCHED, [values / t / 1e6 for t in times[BATCHED]], digits=2),
        *_wide(scale),
    ]
    return Result(
        "COST",
        "Cost of counting and testing",
        figures,
        [
            Target(ONE_BY_ONE, KEDGE, 2.0),
            Target(BATCHED, KEDGE, 1.0, at_least=True),
            Target(TESTS, KEDGE, 50.0),
        ],
        notes=[
            (
                "CPU time, median of rounds that take turns; the interval is their range. One by "
                f"one: decoded predictions are folded one after the other and taken every {COMMIT},"
                " as between two commits of `panes`. Batched: 40 numeric columns at once. A pane "
                "closes with 8 panes there; the tests are those of all four scales."
            ),
        ],
    )


@dataclass(frozen=True, slots=True)
class _OneByOne:
    """Decoded predictions, folded as they come and counted as between two commits."""

    plan: Plan
    columns: ModelColumns
    rows: list[PredictionRow]
    reference: Reference

    @classmethod
    def of(cls, table: Table, reference: Reference) -> Self:
        columns = ModelColumns("bench", table.names)
        rows = [
            columns.odd(
                prediction_id=str(number),
                version="1",
                event_time_ms=number,
                features=columns.values(*values),
            )
            for number, values in enumerate(table.rows.tolist())
        ]
        return cls(Plan.of(monitor_of(table)), columns, rows, reference)

    def fold(self) -> None:
        fold = Fold(lambda _: self.reference)
        for number, row in enumerate(self.rows, 1):
            start_ms = row.event_time_ms - row.event_time_ms % self.plan.pane_ms
            slot = Slot(self.plan, row.version, self.reference.reference_id, start_ms)
            fold.drift.rows(slot, self.columns, [row])
            if number % COMMIT == 0:
                fold.take()


def _wide(scale: Scale) -> Iterator[Figure]:
    """Time the close of panes of 500 features."""
    rng = np.random.default_rng(1)
    wide = scale.of(WIDE, WIDE, 1)

    def made(rows: int) -> Table:
        parts = [data.made(rng, rows) for _ in range(wide)]
        names = [f"{name}_{i}" for i, part in enumerate(parts) for name in part.names]
        kinds = [kind for part in parts for kind in part.categorical]
        return Table(names, np.hstack([part.rows for part in parts]), kinds)

    before = made(2_000)
    reference = _reference(before)
    panes = Panes(monitor_of(before), reference)
    binner = Binner(reference)
    judge, scales = DriftJudge(reference), panes.monitor.windows.scales
    held: list[DriftDelta] = []
    closes, tests, sizes = [], [], []
    for number in range(scale.of(20, 12, 3)):
        table = made(500)
        delta = binner.count(table.columns(), rows=500)
        sizes.append(len(panes.encoded(delta)) / 1e3)
        held.append(delta)
        started = time.process_time()
        panes.add(delta)
        closed = time.process_time()
        if number < max(scales) and scale.name != "tiny":
            continue
        closes.append((closed - started) * 1e3)
        merged = {s: _merged(held[-s:]) for s in scales if s <= len(held)}
        started = time.process_time()
        trials = {s: judge.test(window) for s, window in merged.items()}
        judge.decide(trials, budget=Budget.of(panes.monitor), scales=len(scales))
        tests.append((time.process_time() - started) * 1e3)
    yield _figure(TESTS, tests, digits=0)
    yield _figure(CLOSE, closes, digits=0)
    yield _figure(DELTA, sizes, digits=0)


def _merged(deltas: list[DriftDelta]) -> DriftDelta:
    whole = DriftDelta()
    for delta in deltas:
        whole.add(delta)
    return whole


def _reference(table: Table) -> Reference:
    return build_reference(model="bench", version="1", columns=table.columns(), kinds=table.kinds)


def _in_turns(parts: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            started = time.process_time()
            part()
            times[name].append(time.process_time() - started)
    return times


def _figure(row: str, values: list[float], *, digits: int) -> Figure:
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return Figure(row, KEDGE, middle, ordered[0], ordered[-1], len(ordered), digits=digits)
