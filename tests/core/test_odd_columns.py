"""Columns nobody wishes for: as reference and as live rows each gives a defined result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kedge import Monitor, Reference
from kedge.codec import decode, encode
from kedge_services.core.binning import Binner
from kedge_services.core.budget import Budget
from kedge_services.core.describing import Describer
from kedge_services.core.detectors import DriftJudge
from kedge_services.core.measuring import measures_of
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.references import TOP_CATEGORIES, build_reference
from kedge_services.core.seasons import seasonal_reference
from kedge_services.core.strata import RowTimes

ROWS = 1_200
MONITOR = Monitor.model_validate({"model": "m", "task": "regression", "features": {"x": "numeric"}})
BUDGET = Budget.of(MONITOR)
chance = np.random.default_rng(8)
ODD: dict[str, list[Any]] = {
    "usual": chance.normal(size=ROWS).tolist(),
    "constant": [3.5] * ROWS,
    "two values": [0, 1] * (ROWS // 2),
    "integers": chance.integers(0, 10**6, ROWS).tolist(),
    "null": [None] * ROWS,
    "not a number": [math.nan] * ROWS,
    "infinite": [math.inf, -math.inf] * (ROWS // 2),
    "half infinite": [math.inf, 1.0] * (ROWS // 2),
    "one value": [None] * (ROWS - 1) + [2.0],
    "huge": [1e308, -1e308, 10**400, -(10**400)] * (ROWS // 4),
    "smallest": [5e-324, -5e-324, 0.0, -0.0] * (ROWS // 4),
    "texts": ["a", "b"] * (ROWS // 2),
    "all different texts": [f"row {i}" for i in range(ROWS)],
    "everything": [None, True, 1, 1.0, "1", "", math.nan, math.inf, "ü", -1] * (ROWS // 10),
    "lists": [[1], {"a": 2}] * (ROWS // 2),
}
SIZES = (0, 1, 99, ROWS)


def reference(values: list[Any], kind: Any) -> Reference:
    made = build_reference(
        model="m", version="1", columns={"x": values}, kinds={"x": kind},
        times=RowTimes("Europe/Oslo", [i * 1_800_000 for i in range(len(values))]),
    )  # fmt: skip
    return decode(Reference, encode(made))


def columns(kind: str) -> list[str]:
    """A list is a category to nobody: events with one never come so far."""
    return [name for name in ODD if name != "lists" or kind == "numeric"]


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_every_column_is_held_to_every_other(kind: str, rows: int) -> None:
    for name in columns(kind):
        held = reference(ODD[name][:rows], kind)
        judges = [DriftJudge(held)]
        if rows:
            judges.append(DriftJudge(seasonal_reference(held, {0: 1, 9: 2})))
        for other in columns(kind):
            for n in SIZES:
                live = ODD[other][:n]
                window = Binner(held).count({"x": live}, rows=n)
                assert window.features["x"].total == n
                described = measures_of(Describer(held).text(PaneCounts.of(window)))
                for judge in judges:
                    verdict = judge.judge(window, budget=BUDGET)
                    for measure in [*verdict.measures, *described]:
                        numbers = [measure.value, measure.low, measure.high, measure.evidence]
                        assert all(math.isfinite(v) for v in numbers if v is not None)
                    assert not verdict.tested or (rows >= 1_000 and n >= 100)
                    if other == name and n == rows:
                        assert verdict.detections == []


@pytest.mark.parametrize(
    ("name", "counted", "bins"),
    [
        ("constant", {}, 3),
        ("null", {"null": ROWS}, 1),
        ("not a number", {"nan": ROWS}, 1),
        ("infinite", {"inf": ROWS}, 1),
        ("half infinite", {"inf": ROWS // 2}, 3),
        ("huge", {"inf": ROWS // 2}, 5),
        ("texts", {"type_error": ROWS}, 1),
        ("lists", {"type_error": ROWS}, 1),
    ],
)
def test_what_is_no_number_is_counted_apart(name: str, counted: dict[str, int], bins: int) -> None:
    feature = reference(ODD[name], "numeric").features["x"]
    found = {key: getattr(feature, key) for key in ("null", "nan", "inf", "type_error")}
    assert {key: value for key, value in found.items() if value} == counted
    assert feature.total == ROWS
    assert len(feature.counts) == bins
    assert sum(feature.counts) == ROWS - sum(counted.values())


def test_a_hundred_thousand_categories_take_the_space_of_twenty_thousand() -> None:
    values = [f"id-{i}" for i in range(100_000)] + ["often"] * 50
    made = build_reference(
        model="m", version="1", columns={"x": values}, kinds={"x": "categorical"}
    )
    feature = made.features["x"]
    assert feature.categories[0] == "often"
    assert len(feature.categories) == TOP_CATEGORIES
    assert len(feature.others) == 20_000
    assert feature.f1 == 100_000
    assert feature.total == 100_050
    assert len(encode(made)) < 1_000_000
    # As many unseen as were seen once in the reference: nothing to alarm about.
    live = Binner(made).count({"x": [f"new-{i}" for i in range(500)]}, rows=500)
    assert live.features["x"].unseen == 500
    assert DriftJudge(made).judge(live, budget=BUDGET).detections == []


def test_integers_are_categories_by_their_text() -> None:
    made = build_reference(
        model="m", version="1", columns={"x": [1, 2, 2, 3] * 300}, kinds={"x": "categorical"}
    )
    window = Binner(made).count({"x": [1, 1.0, "1", True, 4]}, rows=5)
    assert made.features["x"].categories == ["2", "1", "3"]
    assert window.features["x"].bins.tolist() == [0, 3, 0, 0]
    assert window.features["x"].unseen == 2


def test_a_reference_smaller_than_the_window_is_too_small_to_judge_by() -> None:
    made = build_reference(
        model="m", version="1", columns={"x": [float(i) for i in range(50)]}, kinds={"x": "numeric"}
    )
    window = Binner(made).count({"x": [1e6] * 5_000}, rows=5_000)
    verdict = DriftJudge(made).judge(window, budget=BUDGET)
    assert verdict.tested == 0
    assert not [d for d in verdict.detections if d.kind == "data-drift"]
