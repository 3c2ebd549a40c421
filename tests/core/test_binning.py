"""Binning against a scalar oracle, and its algebra."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.base import Scalar, label_text
from kedge.panes import FeatureReference, Reference
from kedge_services.core.binning import (
    Binner,
    FeatureBinner,
    bin_values,
    output_label,
    output_score,
)
from kedge_services.core.few_numbers import MOST_STEPS
from kedge_services.core.sketches import FeatureCounts

NUMERIC = FeatureReference(
    kind="numeric",
    cuts=[-1.5, 0.0, 2.0, 2.5],
    counts=[1, 1, 1, 1, 1],
    total=5,
    min=-2.0,
    max=3.0,
    centre=0.5,
    step=0.25,
)
CATEGORICAL = FeatureReference(
    kind="categorical",
    categories=["a", "1", "true"],
    others=["b", "0.5"],
    counts=[3, 2, 1, 2],
    total=8,
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 4),
    st.sampled_from([10**400, -(10**400), "a", "b", "1", "zz", 0.5, 1.0, -0.0, 2.0, 2.5, 3.0]),
    st.floats(allow_nan=True, allow_infinity=True),
)


def oracle(reference: FeatureReference, values: Sequence[Scalar | None]) -> FeatureCounts:
    counts = FeatureCounts.zero(len(reference.counts))
    for value in values:
        if value is None:
            counts.null += 1
        elif isinstance(value, float) and math.isnan(value):
            counts.nan += 1
        elif isinstance(value, float) and math.isinf(value):
            counts.inf += 1
        elif reference.kind == "categorical":
            text = label_text(value)
            if text in reference.categories:
                counts.bins[reference.categories.index(text)] += 1
            elif text in reference.others:
                counts.bins[-1] += 1
            else:
                counts.unseen += 1
        elif isinstance(value, str):
            counts.type_error += 1
        elif isinstance(value, int) and abs(value) > 10**308:
            counts.inf += 1
        else:
            number = float(value)
            assert reference.min is not None
            assert reference.max is not None
            counts.bins[bisect_left(reference.cuts, number)] += 1
            counts.below += number < reference.min
            counts.above += number > reference.max
            counts.min = number if counts.min is None else min(counts.min, number)
            counts.max = number if counts.max is None else max(counts.max, number)
            z = (Fraction(number) - Fraction(reference.centre)) / Fraction(reference.step)
            counts.clipped += abs(z) > MOST_STEPS
            steps = round(max(Fraction(-MOST_STEPS), min(Fraction(MOST_STEPS), z)))
            counts.total_z += steps
            counts.squares_z += steps * steps
    return counts


@given(st.sampled_from([NUMERIC, CATEGORICAL]), st.lists(scalars))
def test_every_value_is_counted_where_a_scalar_loop_would(
    reference: FeatureReference, values: list[Scalar | None]
) -> None:
    counts = bin_values(reference, values)
    assert counts.encode() == oracle(reference, values).encode()
    assert counts.total == len(values)


@given(st.sampled_from([NUMERIC, CATEGORICAL]), st.lists(scalars), st.lists(scalars))
def test_adding_equals_counting_the_concatenation(
    reference: FeatureReference, left: list[Scalar | None], right: list[Scalar | None]
) -> None:
    counts = bin_values(reference, left)
    counts.add(bin_values(reference, right))
    assert counts.encode() == bin_values(reference, left + right).encode()


@given(st.sampled_from([NUMERIC, CATEGORICAL]), st.lists(scalars))
def test_what_is_outside_is_what_is_counted_below_above_or_unseen(
    reference: FeatureReference, values: list[Scalar | None]
) -> None:
    outside = FeatureBinner(reference).is_outside(values)
    alone = [bin_values(reference, [value]) for value in values]
    assert outside.tolist() == [bool(c.below or c.above or c.unseen) for c in alone]


@given(st.lists(scalars, max_size=8))
def test_few_values_are_counted_as_many_are(values: list[Scalar | None]) -> None:
    # Beyond 40 values arrays take over from the loop.
    many = bin_values(NUMERIC, values * 50)
    few = FeatureCounts.zero(len(NUMERIC.counts))
    for _ in range(50):
        few.add(bin_values(NUMERIC, values))
    assert few.encode() == many.encode()


def test_an_array_of_floats_counts_like_the_list() -> None:
    values = [-9.0, 0.0, 2.0, math.nan, math.inf, 8.0]
    for reference in (NUMERIC, CATEGORICAL):
        array = bin_values(reference, np.array(values))
        assert array.encode() == bin_values(reference, values).encode()


def test_booleans_are_categories_of_their_own_beside_the_numbers_they_equal() -> None:
    counts = bin_values(CATEGORICAL, [True, 1, 1.0, "1", "true", False])
    assert counts.bins.tolist() == [0, 3, 2, 0]
    assert counts.unseen == 1


def test_a_feature_that_is_missing_from_the_rows_is_null_in_all_of_them() -> None:
    reference = Reference(
        reference_id="r",
        model="m",
        version="1",
        effective_ms=0,
        origin="training",
        rows=5,
        features={"x": NUMERIC, "c": CATEGORICAL},
        prediction=CATEGORICAL,
    )
    delta = Binner(reference).count({"x": [1.0, 2.0]}, rows=2, predictions=["a", "a"], scores=[0.5])
    assert delta.rows == 2
    assert delta.features["c"].null == 2
    assert delta.features["x"].valid == 2
    assert delta.prediction is not None
    assert delta.prediction.bins[0] == 2
    assert delta.score is None


@pytest.mark.parametrize(
    ("output", "label", "score"),
    [
        (None, None, None),
        ({"label": "UP", "score": 0.25}, "UP", 0.25),
        ({"label": False}, False, None),
        ({"label": "a", "scores": {"a": 0.7, "b": 0.3}}, "a", 0.7),
        ({"value": 3.5}, 3.5, None),
    ],
)
def test_what_is_counted_of_an_output(
    output: dict[str, object] | None, label: object, score: float | None
) -> None:
    assert output_label(output) == label
    assert output_score(output) == score
