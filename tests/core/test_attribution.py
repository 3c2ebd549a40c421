"""Attribution: shares of a drift, and parts of a change of the error rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Detection, Reference
from kedge_services.core.alert_text import detections_text
from kedge_services.core.attribution import (
    MOST_NAMED,
    Losses,
    attribution,
    attribution_text,
    parts_of_change,
)
from kedge_services.core.binning import Binner
from kedge_services.core.budget import Budget
from kedge_services.core.detectors import DriftJudge, Verdict
from kedge_services.core.references import build_reference

BUDGET = Budget(per_pane=1e-3, per_week=2.0)


def reference() -> Reference:
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=5_000) for i in range(6)}
    columns["x5"] += columns["x4"]
    group = [f"g{i}" for i in rng.integers(0, 4, 5_000)]
    return build_reference(
        model="m",
        version="1",
        columns={**columns, "group": group},
        kinds={**dict.fromkeys(columns, "numeric"), "group": "categorical"},
    )


REFERENCE = reference()


def judged(
    *, shift: Sequence[float] = (0,) * 6, odd_group: float = 0, apart: bool = False
) -> Verdict:
    """Judge 2,000 rows: means that moved, rows of the first group more often, x4 and x5 apart."""
    rng = np.random.default_rng(1)
    columns = {f"x{i}": rng.normal(size=2_000) for i in range(6)}
    columns["x5"] += rng.normal(size=2_000) if apart else columns["x4"]
    moved = {name: values + by for (name, values), by in zip(columns.items(), shift, strict=True)}
    group = np.where(rng.random(2_000) < odd_group, 0, rng.integers(0, 4, 2_000))
    names = [f"g{i}" for i in group]
    window = Binner(REFERENCE).count({**moved, "group": names}, rows=2_000)
    return DriftJudge(REFERENCE).judge(window, budget=BUDGET)


def shares(verdict: Verdict) -> dict[str | None, float | None]:
    return {m.feature: m.value for m in verdict.measures if m.name == "attribution"}


def test_without_drift_nothing_is_attributed() -> None:
    verdict = judged()
    assert verdict.detections == []
    assert shares(verdict) == {}


def test_the_feature_that_moved_most_comes_first_and_the_shares_are_whole() -> None:
    found = shares(judged(shift=[0.2, 0, 1.0, 0, 0, 0], odd_group=0.2))
    assert list(found) == ["x2", "group", "x0"]
    values = [value for value in found.values() if value is not None]
    assert math.fsum(values) == pytest.approx(1)
    assert values[0] > 0.7


def test_a_lone_feature_is_all_of_it() -> None:
    assert shares(judged(shift=[0, 0, 0, 0.5, 0, 0])) == {"x3": 1.0}


def test_features_that_no_longer_go_together_share_it_equally() -> None:
    verdict = judged(apart=True)
    assert [d.detector for d in verdict.detections] == ["multivariate_drift"]
    assert shares(verdict) == {"x4": 0.5, "x5": 0.5}
    drifted = next(m for m in verdict.measures if m.name == "drifted_features")
    assert drifted.value == 0
    assert detections_text(verdict.detections, measures=verdict.measures).startswith(
        "its inputs have drifted, mostly x4 (50 %), x5 (50 %); "
        "other relations between x4 and x5 (rank correlation "
    )


def test_the_relation_is_one_more_test_in_the_budget() -> None:
    alone = REFERENCE.model_copy(update={"projection": None})
    assert DriftJudge(REFERENCE).distributions == DriftJudge(alone).distributions + 1 == 8


def test_the_summary_names_shares_where_there_are_several() -> None:
    verdict = judged(shift=[0.2, 0, 1.0, 0, 0, 0])
    text = detections_text(verdict.detections, measures=verdict.measures)
    assert text.startswith("its inputs have drifted, mostly x2 (9")
    lone = judged(shift=[0, 0, 0, 0.5, 0, 0])
    text = detections_text(lone.detections, measures=lone.measures)
    assert text.startswith("its inputs have drifted (x3); x3 moved: ")


def test_of_drifted_predictions_the_features_drifted_at_the_same_time() -> None:
    drifted = Detection(kind="prediction-drift", detector="prediction_effect_w", value=0.5)
    measures = attribution({"a": 3.0, "b": 1.0}, rows=500)
    assert detections_text([drifted], measures=measures) == (
        "its predictions have drifted, at the same time as mostly a (75 %), b (25 %); "
        "prediction_effect_w is 0.5"
    )


def test_many_features_are_cut_off() -> None:
    found = attribution({f"x{i}": 1.0 for i in range(30)}, rows=500)
    assert [m.feature for m in found] == [f"x{i}" for i in range(MOST_NAMED)]
    assert attribution_text(found) == "x0 (3 %), x1 (3 %), x2 (3 %) and 7 more"
    assert attribution({}, rows=500) == []
    assert attribution_text([]) is None


# --------------------------------------------------------------- parts of a change

LOSSES = st.integers(0, 1_000).flatmap(
    lambda n: st.integers(0, n).map(lambda total: Losses(n, total))
)
SIDES = st.dictionaries(st.sampled_from("abcd"), LOSSES).filter(
    lambda side: any(losses.n for losses in side.values())
)


def mean(side: dict[str, Losses]) -> Fraction:
    return Fraction(sum(x.total for x in side.values()), sum(x.n for x in side.values()))


@given(SIDES, SIDES)
def test_the_parts_add_up_to_the_change_exactly(
    before: dict[str, Losses], now: dict[str, Losses]
) -> None:
    assert sum(parts_of_change(before, now).values()) == mean(now) - mean(before)


def test_a_group_that_errs_more_has_all_of_it() -> None:
    before = {"NO": Losses(300, 30), "SE": Losses(700, 70)}
    now = {"NO": Losses(300, 90), "SE": Losses(700, 70)}
    assert parts_of_change(before, now) == {"NO": Fraction(6, 100), "SE": 0}


def test_a_hard_group_that_grows_and_an_easy_one_that_shrinks_share_it() -> None:
    before = {"NO": Losses(200, 80), "SE": Losses(800, 80)}
    now = {"NO": Losses(600, 240), "SE": Losses(400, 40)}
    parts = parts_of_change(before, now)
    assert sum(parts.values()) == Fraction(12, 100)
    assert all(part > 0 for part in parts.values())


def test_a_new_group_counts_by_how_much_worse_it_is() -> None:
    before = {"SE": Losses(1_000, 100)}
    now = {"SE": Losses(500, 50), "NO": Losses(500, 250)}
    parts = parts_of_change(before, now)
    assert sum(parts.values()) == Fraction(2, 10)
    assert parts["NO"] > parts["SE"] > 0
