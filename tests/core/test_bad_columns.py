"""Columns that nobody wishes for: a defined result or "not enough data", each for itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kedge import Measure, Reference
from kedge_services.core.binning import Binner
from kedge_services.core.budget import Budget
from kedge_services.core.detectors import DriftJudge, Verdict
from kedge_services.core.references import build_reference

BUDGET = Budget(per_pane=1 / 168, per_week=1.0)
ROWS, PANE = 5_000, 500


def good(n: int, seed: int = 0) -> list[float]:
    values: list[float] = np.random.default_rng(seed).normal(size=n).tolist()
    return values


def judged(
    before: list[Any], now: list[Any], kind: str = "numeric", **arguments: Any
) -> tuple[Verdict, Reference]:
    """Judge a column beside a good one, which has to stay undisturbed."""
    n, rows = len(before), len(now)
    reference = build_reference(
        model="m",
        version="1",
        columns={"x": before, "good": good(n)},
        kinds={"x": kind, "good": "numeric"},  # type: ignore[dict-item]
        **arguments,
    )
    window = Binner(reference).count({"x": now, "good": good(rows, 1)}, rows=rows)
    verdict = DriftJudge(reference).judge(window, budget=BUDGET)
    assert "good" not in {d.feature for d in verdict.detections}
    numbers = [x for m in verdict.measures for x in (m.value, m.low, m.high, m.evidence)]
    assert all(math.isfinite(x) for x in numbers if x is not None)
    return verdict, reference


def ks_or_w(verdict: Verdict, feature: str = "x") -> Measure:
    names = {"kolmogorov_smirnov", "effect_w"}
    [found] = [m for m in verdict.measures if m.feature == feature and m.name in names]
    return found


def alarms(verdict: Verdict) -> set[str]:
    return {d.detector for d in verdict.detections}


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_all_null_is_not_enough_data_and_an_alarm_of_the_nulls(kind: str) -> None:
    before = good(ROWS) if kind == "numeric" else list("ab") * (ROWS // 2)
    verdict, _ = judged(before, [None] * PANE, kind)
    measure = ks_or_w(verdict)
    assert (measure.value, measure.evidence, measure.n) == (None, None, 0)
    assert measure.note == "not enough data: 0 values in the window, a test takes 100"
    assert alarms(verdict) == {"null_share"}
    assert ks_or_w(verdict, "good").evidence is not None


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_a_reference_that_was_all_null_has_nothing_to_compare_with(kind: str) -> None:
    verdict, _ = judged([None] * ROWS, ["a"] * PANE if kind == "categorical" else good(PANE), kind)
    note = "not enough data: 0 values in the reference, a test takes 1000"
    assert (ks_or_w(verdict).value, ks_or_w(verdict).note) == (None, note)
    # That there are values now is an alarm of the nulls, on their other side.
    assert alarms(verdict) == {"null_share"}


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_a_constant_that_stays_has_moved_by_nothing(kind: str) -> None:
    value: Any = 7 if kind == "numeric" else "same"
    verdict, _ = judged([value] * ROWS, [value] * PANE, kind)
    assert (ks_or_w(verdict).value, ks_or_w(verdict).evidence) == (0.0, 0.0)
    assert not verdict.detections


def test_a_constant_that_changes_alarms_at_once() -> None:
    assert "kolmogorov_smirnov" in alarms(judged([7.0] * ROWS, [8.0] * PANE)[0])
    assert "effect_w" in alarms(judged(["a"] * ROWS, ["b"] * PANE, "categorical")[0])


def test_one_class_only_that_stays_is_no_drift_and_two_are() -> None:
    verdict, _ = judged(["a"] * ROWS, ["a"] * (PANE // 2) + ["b"] * (PANE // 2), "categorical")
    assert alarms(verdict) == {"effect_w", "unseen_share"}


def test_infinities_and_nan_are_in_no_bin_and_counted() -> None:
    wild = [math.inf, -math.inf, math.nan] * 20
    verdict, _ = judged(good(ROWS), good(PANE - 60, 2) + wild)
    assert ks_or_w(verdict).n == PANE - 60
    assert alarms(verdict) == {"not_finite_share"}


def test_a_hundred_thousand_categories_are_all_other_or_unseen() -> None:
    names = [f"user-{i}" for i in range(100_000)]
    rng = np.random.default_rng(3)
    verdict, reference = judged(names, rng.choice(names, PANE).tolist(), "categorical")
    assert reference.features["x"].f1 == 100_000
    assert not verdict.detections
    # Ever new ones are what that reference lets expect.
    assert not judged(names, [f"new-{i}" for i in range(PANE)], "categorical")[0].detections


def test_integers_may_be_categories_and_their_texts_are_the_same() -> None:
    verdict, _ = judged([1, 2] * (ROWS // 2), ["1", "2"] * (PANE // 2), "categorical")
    assert not verdict.detections


def test_unseen_categories_are_the_counters_while_chi_square_has_too_few_of_them() -> None:
    def mixed(unseen: int) -> list[str]:
        return ["a", "b"] * ((PANE - unseen) // 2) + ["z"] * unseen

    before = ["a", "b"] * (ROWS // 2)
    # 50 rows against none: fewer than 5 would be expected in the window.
    assert alarms(judged(before, mixed(50), "categorical")[0]) == {"unseen_share"}
    assert alarms(judged(before, mixed(60), "categorical")[0]) == {"unseen_share", "effect_w"}


@pytest.mark.parametrize("rows", [1, 99])
def test_a_small_window_is_measured_and_not_tested(rows: int) -> None:
    verdict, _ = judged(good(ROWS), good(rows, 4))
    assert verdict.tested == 0
    assert ks_or_w(verdict).value is not None
    assert ks_or_w(verdict).note == (
        f"not enough data: {rows} values in the window, a test takes 100"
    )


def test_a_reference_smaller_than_the_window_is_too_small() -> None:
    verdict, _ = judged(good(300), good(PANE, 5))
    assert verdict.tested == 0
    assert ks_or_w(verdict).note == (
        "not enough data: 300 values in the reference, a test takes 1000"
    )
    larger, _ = judged(good(1_000), good(4_000, 6))
    assert larger.tested == 2
    assert not larger.detections


def test_a_column_that_is_missing_is_one_of_nulls() -> None:
    reference = build_reference(
        model="m", version="1", columns={"x": good(ROWS)}, kinds={"x": "numeric"}
    )
    window = Binner(reference).count({}, rows=PANE)
    verdict = DriftJudge(reference).judge(window, budget=BUDGET)
    assert ks_or_w(verdict).value is None
