"""How references are made: cuts, counts, identity, and learning from live rows."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.panes import Reference
from kedge_services.core.binning import Binner, bin_values
from kedge_services.core.deltas import LearningDelta
from kedge_services.core.references import (
    SCORE_CUTS,
    build_reference,
    describe,
    learn_counts,
    learn_cuts,
    numeric_cuts,
)

numbers = st.one_of(st.integers(-50, 50), st.floats(allow_nan=False, allow_infinity=False))


def cuts_by_definition(values: list[float]) -> list[float]:
    x = sorted(float(v) for v in values)
    rows = len(x)
    distinct = sorted(set(x))
    few = len(distinct) <= 32
    candidates = distinct if few else [x[math.ceil(rows * k / 32) - 1] for k in range(1, 32)]
    cuts = set(candidates)
    for candidate in candidates:
        if few or x.count(candidate) >= rows / 64:
            cuts.add(math.nextafter(candidate, -math.inf))
    return sorted(cut for cut in cuts if math.isfinite(cut))


@given(st.lists(numbers, max_size=200))
def test_cuts_are_quantiles_and_both_sides_of_atoms(values: list[float]) -> None:
    array = np.sort(np.array(values, dtype=np.float64))
    assert numeric_cuts(array) == cuts_by_definition(values)


def test_many_distinct_values_give_31_cuts() -> None:
    values = [((i * 7919) % 1000) / 100 for i in range(500)]
    assert len(numeric_cuts(np.sort(np.array(values)))) == 31


def test_a_constant_gets_bins_below_equal_and_above() -> None:
    feature = describe("numeric", [7] * 20)
    assert feature.counts == [0, 20, 0]
    assert bin_values(feature, [6.999, 7, 7.001]).bins.tolist() == [1, 1, 1]


def test_an_off_grid_value_falls_into_a_gap_the_reference_never_used() -> None:
    feature = describe("numeric", [1, 2, 3, 2])
    assert feature.counts == [0, 1, 0, 2, 0, 1, 0]
    assert bin_values(feature, [1.5]).bins.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert feature.f1 == 2


@given(st.lists(st.one_of(st.none(), numbers, st.sampled_from(["x", math.nan])), max_size=120))
def test_blocks_are_contiguous_and_sum_to_the_counts(values: list[Any]) -> None:
    feature = describe("numeric", values)
    assert np.sum(feature.blocks, axis=0).tolist() == feature.counts
    assert len(feature.blocks) == 10
    first = values[: len(values) // 10]
    assert feature.blocks[0] == bin_values(feature, first).bins.tolist()
    counters = feature.null + feature.nan + feature.inf + feature.type_error
    assert feature.total == len(values) == sum(feature.counts) + counters
    for value in values:
        if isinstance(value, float) and math.isfinite(value):
            assert feature.counts[bisect_left(feature.cuts, value)] > 0


def test_top_categories_are_the_most_frequent_ties_by_bytes() -> None:
    values = [f"c{i:03d}" for i in range(70)] + ["zz"] * 3 + [True, 1]
    feature = describe("categorical", values)
    assert feature.categories[0] == "zz"
    assert feature.categories[1] == "1"
    assert len(feature.categories) == 64
    assert len(feature.others) == 9
    assert feature.counts[-1] == 9
    assert feature.f1 == 72


def sample_reference(**changes: Any) -> Reference:
    arguments: dict[str, Any] = {
        "model": "m",
        "version": "1",
        "columns": {"x": [0.5 * i for i in range(40)], "c": ["a", "b"] * 20},
        "kinds": {"x": "numeric", "c": "categorical"},
        "predictions": ["UP", "DOWN"] * 20,
        "scores": [i / 39 for i in range(40)],
        "labels": ["UP"] * 40,
        "losses": [0.0, 1.0] * 20,
    }
    return build_reference(**{**arguments, **changes})


def test_a_reference_holds_every_distribution_and_the_loss() -> None:
    reference = sample_reference()
    assert reference.rows == 40
    assert reference.prediction is not None
    assert reference.prediction.categories == ["DOWN", "UP"]
    assert reference.score is not None
    assert reference.score.cuts == SCORE_CUTS
    assert reference.label is not None
    assert reference.label.counts == [40, 0]
    assert reference.loss == {"n": 40.0, "errors": 20.0}


def test_regression_is_known_by_its_floats() -> None:
    values = [1.5 * i for i in range(40)]
    reference = sample_reference(predictions=values, scores=None, labels=values, losses=[0.5] * 40)
    assert reference.prediction is not None
    assert reference.prediction.kind == "numeric"
    assert reference.loss == {"n": 40.0, "sum": 20.0, "sum_of_squares": 10.0}


def test_the_id_depends_on_what_is_counted_and_on_nothing_else() -> None:
    reference = sample_reference()
    assert sample_reference(effective_ms=9, lineage={"file": "x"}).reference_id == (
        reference.reference_id
    )
    for change in ({"version": "2"}, {"labels": ["DOWN"] * 40}, {"losses": [0.0] * 40}):
        assert sample_reference(**change).reference_id != reference.reference_id
    again = Reference.model_validate_json(reference.model_dump_json())
    assert again == reference


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[20, 40\]"):
        sample_reference(columns={"x": [1.0] * 20, "c": ["a"] * 40})


def test_a_learnt_reference_keeps_its_id_when_it_gets_its_counts() -> None:
    rows = [({"x": float(i), "c": "ab"[i % 2]}, {"label": "UP", "score": 0.5}) for i in range(100)]
    sample = LearningDelta(100, {i * 7919: list(row) for i, row in enumerate(rows)})
    cuts = learn_cuts(
        sample,
        model="m",
        version="f",
        kinds={"x": "numeric", "c": "categorical"},
        regression=False,
        effective_ms=5,
    )
    assert cuts.rows == 0
    assert sum(cuts.features["x"].counts) == 0
    columns: dict[str, Any] = {"x": [-1.0, 50.0, 200.0, None], "c": ["a", "a", "b", "new"]}
    counted = Binner(cuts).count(columns, rows=4, predictions=["UP"] * 4, scores=[0.1] * 4)
    filled = learn_counts(cuts, counted)
    assert filled.reference_id == cuts.reference_id
    assert filled.rows == 4
    assert (filled.features["x"].below, filled.features["x"].above) == (1, 1)
    assert filled.features["x"].null == 1
    assert filled.features["c"].counts == [2, 1, 0]
    assert filled.features["c"].f1 == 1
    assert filled.prediction is not None
    assert filled.prediction.counts == [4, 0]
