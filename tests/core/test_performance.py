"""Metrics of labelled windows: against scikit-learn, with golden intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from kedge import Measure
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.performance import coverage, label_drift, performance_measures, wilson
from kedge_services.core.references import describe
from kedge_services.core.sketches import FIXED_POINT


def counted(labels: Sequence[str], predicted: Sequence[str]) -> PerformanceDelta:
    delta = PerformanceDelta(predicted=len(labels), labelled=len(labels))
    for label, prediction in zip(labels, predicted, strict=True):
        row = delta.confusion.setdefault(label, {})
        row[prediction] = row.get(prediction, 0) + 1
    return delta


def by_name(measures: Sequence[Measure]) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


pairs = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1)


def test_golden_wilson_interval() -> None:
    interval = wilson(30, 100)
    assert interval is not None
    assert interval == pytest.approx((0.21895, 0.39585), abs=5e-6)
    assert wilson(0, 0) is None


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_in_the_unit_interval(case: tuple[int, int]) -> None:
    k, n = case
    interval = wilson(k, n)
    assert interval is not None
    assert -1e-12 <= interval[0] <= k / n + 1e-12
    assert k / n - 1e-12 <= interval[1] <= 1 + 1e-12


@given(pairs)
def test_binary_metrics_are_those_of_scikit_learn(rows: list[tuple[str, str]]) -> None:
    labels = ["b" if label == "c" else label for label, _ in rows]
    predicted = ["b" if answer == "c" else answer for _, answer in rows]
    found = by_name(
        performance_measures(counted(labels, predicted), classes=["a", "b"], positive="b")
    )
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(labels, predicted))
    arguments = {"pos_label": "b", "zero_division": 0.0}
    for name, oracle in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
    ):
        if name in found:
            assert found[name].value == pytest.approx(oracle(labels, predicted, **arguments))
        else:
            # No row that could be right: there is no number, not zero.
            assert ("b" not in predicted) if name == "precision" else ("b" not in labels)


@given(pairs)
def test_macro_averages_are_those_of_scikit_learn(rows: list[tuple[str, str]]) -> None:
    labels, predicted = [label for label, _ in rows], [answer for _, answer in rows]
    found = by_name(
        performance_measures(counted(labels, predicted), classes=["a", "b", "c"], positive=None)
    )
    oracle = metrics.f1_score(labels, predicted, average="macro", zero_division=np.nan)
    assert found["macro_f1"].value == pytest.approx(oracle)


def test_f1_has_the_interval_of_its_jaccard_index() -> None:
    labels = ["b"] * 60 + ["a"] * 40
    predicted = ["b"] * 45 + ["a"] * 15 + ["b"] * 10 + ["a"] * 30
    found = by_name(
        performance_measures(counted(labels, predicted), classes=["a", "b"], positive="b")
    )
    interval = wilson(45, 70)
    assert interval is not None
    assert found["f1"].low == pytest.approx(2 * interval[0] / (1 + interval[0]))
    assert found["f1"].high == pytest.approx(2 * interval[1] / (1 + interval[1]))


def test_regression_errors_come_from_fixed_point_sums() -> None:
    errors = [0.5, 1.5, 2.0, 0.0]
    delta = PerformanceDelta(
        predicted=5,
        labelled=4,
        absolute_error=sum(round(e * FIXED_POINT) for e in errors),
        squared_error=sum(round(e * e * FIXED_POINT) for e in errors),
    )
    found = by_name(performance_measures(delta, classes=[], positive=None))
    assert found["mae"].value == pytest.approx(1.0)
    assert found["rmse"].value == pytest.approx(math.sqrt(6.5 / 4))
    half = 1.959964 * math.sqrt(6.5 / 4 - 1) / 2
    assert found["mae"].low == pytest.approx(1 - half)


def test_nothing_labelled_gives_no_numbers() -> None:
    empty = PerformanceDelta(predicted=10)
    assert performance_measures(empty, classes=["a", "b"], positive="b") == []
    assert performance_measures(empty, classes=["a", "b", "c"], positive=None) == []
    assert performance_measures(empty, classes=[], positive=None) == []


@pytest.mark.parametrize(
    ("predicted", "labelled", "enough", "whole"),
    [
        (0, 0, False, False),
        (300, 149, False, False),
        (300, 150, True, False),
        (150, 99, False, False),
        (1_000, 949, True, False),
        (1_000, 950, True, True),
        (90, 90, False, True),
    ],
)
def test_coverage_gate(predicted: int, labelled: int, enough: bool, whole: bool) -> None:  # noqa: FBT001
    gate = coverage(PerformanceDelta(predicted=predicted, labelled=labelled))
    assert (gate.is_enough, gate.is_whole) == (enough, whole)


def test_label_drift_needs_evidence_and_size() -> None:
    reference = describe("categorical", ["a"] * 800 + ["b"] * 1_200)
    same = counted(["a"] * 200 + ["b"] * 300, ["a"] * 500)
    moved = counted(["a"] * 300 + ["b"] * 200, ["a"] * 500)
    measure, detection = label_drift(same, reference, alpha=1e-4)
    assert measure is not None
    assert measure.value == pytest.approx(0)
    assert detection is None
    _, detection = label_drift(moved, reference, alpha=1e-4)
    assert detection is not None
    assert detection.kind == "label-drift"
    few = counted(["a"] * 60 + ["b"] * 20, ["a"] * 80)
    assert label_drift(few, reference, alpha=1e-4) == (None, None)
