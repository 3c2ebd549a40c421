"""Parity with Evidently 0.7.23 and NannyML 0.13.1: golden values, taken from their own output."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kedge_services.core.parity import (
    Parity,
    column_drift,
    dataset_drift,
    kind_of,
    nannyml_threshold,
    statistic,
    z_of_proportions,
)

SMALL, LARGE = (500, 300), (2_000, 700)


def numbers(rows: int) -> list[float]:
    return [((i * 7919) % 1000) / 100 for i in range(rows)]


def moved(rows: int) -> list[float]:
    return [((j * 104729) % 1000) / 100 * 1.1 + 0.3 for j in range(rows)]


def letters(rows: int, first: int, second: int, third: int = 10) -> list[str]:
    def one(i: int) -> str:
        digit = i % 10
        return "A" if digit < first else "B" if digit < second else "C" if digit < third else "D"

    return [one(i) for i in range(rows)]


def bits(rows: int, zeros: int) -> list[int]:
    return [0 if i % 10 < zeros else 1 for i in range(rows)]


@pytest.mark.parametrize(
    ("sizes", "parity", "method", "value"),
    [
        (SMALL, "evidently", "ks", 0.006949156630),
        (SMALL, "evidently", "wasserstein", 0.2705451026544),
        (SMALL, "evidently", "jensenshannon", 0.191190164776),
        (SMALL, "evidently", "psi", 0.688293250268),
        (SMALL, "evidently", "kl_div", 0.108620038897),
        (LARGE, "evidently", "ks", 5.794654548e-07),
        (LARGE, "evidently", "wasserstein", 0.2780437808027),
        (LARGE, "evidently", "jensenshannon", 0.182064187559),
        (LARGE, "evidently", "psi", 0.571000202980),
        (LARGE, "evidently", "kl_div", 0.101538287654),
        (SMALL, "nannyml", "jensenshannon", 0.253956353972),
        (SMALL, "nannyml", "hellinger", 0.251243315592),
        (SMALL, "nannyml", "wasserstein", 0.782166666667),
        (SMALL, "nannyml", "kolmogorov_smirnov", 0.122),
        (LARGE, "nannyml", "jensenshannon", 0.254920457068),
        (LARGE, "nannyml", "hellinger", 0.251932574560),
        (LARGE, "nannyml", "wasserstein", 0.802642857143),
        (LARGE, "nannyml", "kolmogorov_smirnov", 0.12),
    ],
)
def test_golden_numeric(sizes: tuple[int, int], parity: Parity, method: str, value: float) -> None:
    found = statistic(numbers(sizes[0]), moved(sizes[1]), parity=parity, method=method)
    assert found == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("sizes", "third", "parity", "method", "value"),
    [
        (SMALL, 10, "evidently", "chisquare", 2.753644935e-05),
        (LARGE, 10, "evidently", "chisquare", 2.289734846e-11),
        (SMALL, 9, "evidently", "chisquare", 0.0),
        (LARGE, 9, "evidently", "chisquare", 0.0),
        *[
            (sizes, third, "evidently", method, value)
            for sizes in (SMALL, LARGE)
            for third, method, value in (
                (10, "jensenshannon", 0.0884160628554),
                (10, "psi", 0.0628608659422),
                (10, "kl_div", 0.0304787540355),
                (9, "jensenshannon", 0.193496462012),
                (9, "psi", 0.712399107502),
                (9, "kl_div", 0.110769918138),
            )
        ],
        *[
            (sizes, third, "nannyml", method, value)
            for sizes in (SMALL, LARGE)
            for third, method, value in (
                (10, "jensenshannon", 0.106198514392),
                (10, "hellinger", 0.088529261952),
                (10, "l_infinity", 0.1),
                (9, "jensenshannon", 0.232412936544),
                (9, "hellinger", 0.229752920547),
                (9, "l_infinity", 0.1),
            )
        ],
        (SMALL, 10, "nannyml", "chi2", 0.00254303902),
        (LARGE, 10, "nannyml", "chi2", 4.37768877e-08),
        (SMALL, 9, "nannyml", "chi2", 1.09266745e-11),
        (LARGE, 9, "nannyml", "chi2", 1.82627113e-45),
    ],
)
def test_golden_categorical(
    sizes: tuple[int, int], third: int, parity: Parity, method: str, value: float
) -> None:
    old, new = letters(sizes[0], 5, 8), letters(sizes[1], 4, 7, third)
    found = statistic(old, new, parity=parity, method=method)
    assert found == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize(
    ("sizes", "z", "p"),
    [(SMALL, -2.746347783344, 0.006026284326), (LARGE, -4.560334958046, 5.10720892e-06)],
)
def test_golden_binary(sizes: tuple[int, int], z: float, p: float) -> None:
    old, new = bits(sizes[0], 5), bits(sizes[1], 4)
    assert z_of_proportions(old, new) == pytest.approx(z, rel=1e-11)
    assert statistic(old, new, parity="evidently", method="z") == pytest.approx(p, rel=1e-8)


@pytest.mark.parametrize(
    ("rows", "method", "threshold"),
    [
        (500, "jensenshannon", 0.0910934551),
        (500, "hellinger", 0.0758929323),
        (500, "kolmogorov_smirnov", 0.0533156655),
        (500, "wasserstein", 0.279735457),
        (2_000, "jensenshannon", 0.0257860607),
        (2_000, "hellinger", 0.0214694931),
        (2_000, "kolmogorov_smirnov", 0.0210172158),
        (2_000, "wasserstein", 0.0764151739),
    ],
)
def test_golden_thresholds_of_nannyml(rows: int, method: str, threshold: float) -> None:
    assert nannyml_threshold(numbers(rows), method) == pytest.approx(threshold, rel=1e-8)


def test_parts_of_a_named_size_give_another_threshold() -> None:
    whole = nannyml_threshold(numbers(500), "jensenshannon")
    assert nannyml_threshold(numbers(500), "jensenshannon", rows=50) == whole
    assert nannyml_threshold(numbers(500), "jensenshannon", rows=500) == 0
    assert nannyml_threshold(numbers(500), "jensenshannon", rows=100) < whole


# What is chosen depends on the kind, the reference's rows and the distinct values.
@pytest.mark.parametrize(
    ("old", "new", "method", "threshold", "drifts"),
    [
        (numbers(500), moved(300), "ks", 0.05, True),
        (numbers(1_000), moved(300), "ks", 0.05, True),
        (numbers(1_001), moved(300), "wasserstein", 0.1, True),
        (letters(500, 5, 8), letters(300, 4, 7), "chisquare", 0.05, True),
        (letters(2_000, 5, 8), letters(700, 4, 7), "jensenshannon", 0.1, False),
        (letters(2_000, 5, 8), letters(700, 4, 7, 9), "jensenshannon", 0.1, True),
        (bits(500, 5), bits(300, 4), "z", 0.05, True),
        (bits(2_000, 5), bits(700, 4), "jensenshannon", 0.1, False),
        ([0.0, 0.5, 1.0] * 100, [0.0, 0.5, 1.0] * 50, "chisquare", 0.05, False),
        ([0.0, 0.5] * 100, [0.0, 0.5] * 50, "z", 0.05, False),
        ([1.0] * 100, [1.0] * 50, "z", 0.05, False),
        ([0.0, 0.5, 1.0] * 500, [0.0, 0.5, 1.0] * 50, "jensenshannon", 0.1, False),
    ],
)
def test_evidently_chooses_by_kind_rows_and_distinct_values(
    old: list[Any], new: list[Any], method: str, threshold: float, *, drifts: bool
) -> None:
    found = column_drift(old, new, parity="evidently")
    assert (found.method, found.threshold, found.is_drift) == (method, threshold, drifts)


def test_nannyml_compares_by_jensen_shannon_with_a_threshold_of_its_reference() -> None:
    found = column_drift(numbers(500), moved(300), parity="nannyml")
    assert (found.kind, found.method, found.is_drift) == ("numeric", "jensenshannon", True)
    assert found.threshold == nannyml_threshold(numbers(500), "jensenshannon")
    again = column_drift(numbers(500), numbers(500), parity="nannyml")
    assert (again.value, again.is_drift) == (0.0, False)


def test_a_method_and_a_threshold_may_be_named() -> None:
    found = column_drift(
        letters(500, 5, 8), letters(300, 4, 7), parity="nannyml", method="l_infinity", threshold=0.2
    )
    assert (found.method, found.is_drift) == ("l_infinity", False)
    assert found.value == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no 'ks' for categorical columns"):
        column_drift(letters(9, 5, 8), letters(9, 5, 8), parity="evidently", method="ks")


@pytest.mark.parametrize(
    ("values", "evidently", "nannyml"),
    [
        ([1, 2, 3] * 9, "categorical", "numeric"),
        (list(range(10)), "categorical", "numeric"),
        (list(range(11)), "numeric", "numeric"),
        ([1.0, 2.0], "numeric", "numeric"),
        (["a", "b", "a", "a"], "categorical", "categorical"),
        (["a", "b", "c", "a"], "text", "categorical"),
        ([True, False], "categorical", "categorical"),
        (np.arange(4.0), "numeric", "numeric"),
    ],
)
def test_a_kind_is_told_by_the_values(values: Any, evidently: str, nannyml: str) -> None:
    assert (kind_of(values, "evidently"), kind_of(values, "nannyml")) == (evidently, nannyml)


def test_missing_values_are_left_out() -> None:
    old, new = numbers(500), moved(300)
    gaps = [None, math.nan, math.inf]
    for parity in ("evidently", "nannyml"):
        with_gaps = column_drift([*gaps, *old], [*new, *gaps], parity=parity)
        assert with_gaps == column_drift(old, new, parity=parity)


def test_a_column_without_values_has_no_verdict() -> None:
    for old, new in ([], [1.0]), ([1.0], []), ([None], [None]):
        found = column_drift(old, new, parity="evidently")
        assert (found.value, found.is_drift, found.note) == (None, False, "no values")
        assert statistic(old, new, parity="nannyml", method="hellinger") is None
    text = column_drift(["a", "b"], ["c"], parity="evidently")
    assert (text.value, text.is_drift, text.note) == (None, False, "text is not compared")


def test_a_dataset_drifts_when_half_of_its_columns_do() -> None:
    drifting = column_drift(numbers(500), moved(300), parity="evidently")
    steady = column_drift(numbers(500), numbers(300), parity="evidently")
    assert dataset_drift([drifting, steady])
    assert not dataset_drift([drifting, steady, steady])
    assert not dataset_drift([])


columns = st.lists(st.sampled_from("ABC"), min_size=1, max_size=60)


@given(columns, columns)
def test_scipy_agrees_on_categories(old: list[str], new: list[str]) -> None:
    keys = sorted(set(old) | set(new))
    r, c = ([sum(x == key for x in column) for key in keys] for column in (old, new))
    two_sample = statistic(old, new, parity="nannyml", method="chi2")
    one_sample = statistic(old, new, parity="evidently", method="chisquare")
    if len(keys) == 1:
        assert (two_sample, one_sample) == (1.0, 1.0)
        return
    assert two_sample == pytest.approx(stats.chi2_contingency([r, c]).pvalue, abs=1e-12)
    if all(r):
        expected = [count * len(new) / len(old) for count in r]
        assert one_sample == pytest.approx(stats.chisquare(c, expected).pvalue, abs=1e-12)
    else:
        assert one_sample == 0.0
