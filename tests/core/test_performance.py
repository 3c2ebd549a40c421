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
from kedge_services.core.performance import (
    coverage,
    label_drift,
    performance_measures,
    selection_measures,
    wilson,
)
from kedge_services.core.references import describe
from kedge_services.core.sketches import FIXED_POINT, LabelledScores, score_bins


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


def scored(scores: Sequence[float], labels: Sequence[bool]) -> PerformanceDelta:
    rows = [(score, label, 1) for score, label in zip(scores, labels, strict=True)]
    return PerformanceDelta(
        predicted=len(rows), labelled=len(rows), scores=LabelledScores.of(rows),
        offered=score_bins(scores),
    )  # fmt: skip


def test_scores_of_a_binary_model_give_ranking_and_calibration() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(2_000)
    labels = rng.random(2_000) < scores
    delta = scored(scores.tolist(), labels.tolist())
    found = by_name(performance_measures(delta, classes=["a", "b"], positive="b"))
    auc = found["auc"]
    oracle = metrics.roc_auc_score(labels, scores)
    assert auc.value == pytest.approx(oracle, abs=found["auc_binning_bound"].value or 0)
    assert (auc.low or 1) < oracle < (auc.high or 0)
    assert found["brier"].value == pytest.approx(metrics.brier_score_loss(labels, scores))
    assert found["ece"].n == 2_000
    delta.confusion = {"a": {"a": 1}}
    top = by_name(performance_measures(delta, classes=["a", "b", "c"], positive=None))
    assert {"ece"} <= set(top)
    assert not {"auc", "brier"} & set(top)


def test_labels_of_one_class_have_no_area_and_say_so() -> None:
    delta = scored([0.1, 0.7], [True, True])
    found = by_name(performance_measures(delta, classes=["a", "b"], positive="b"))
    assert (found["auc"].value, found["auc"].note) == (None, "the labels are all of one class")
    assert found["brier"].value == pytest.approx((0.81 + 0.09) / 2)


@given(
    st.dictionaries(
        st.sampled_from("ab"), st.dictionaries(st.sampled_from("ab"), st.integers(-9, 9))
    ),
    st.integers(-3, 3),
)
def test_counts_below_zero_of_a_correction_half_seen_never_raise(
    confusion: dict[str, dict[str, int]], labelled: int
) -> None:
    one = FIXED_POINT
    delta = PerformanceDelta(3, labelled, confusion, -one, one, scores=LabelledScores.of([]))
    for classes, positive in (["a", "b"], "b"), (["a", "b", "c"], None), ([], None):
        for measure in performance_measures(delta, classes=classes, positive=positive):
            assert measure.value is not None
            assert measure.value >= 0
    assert coverage(delta).is_enough is False
    assert selection_measures(delta) == []


def test_labels_of_high_scores_only_are_not_representative() -> None:
    rng = np.random.default_rng(6)
    scores = rng.random(3_000)
    chance = rng.random(3_000)

    def found(is_labelled: np.ndarray) -> list[Measure]:
        delta = scored(scores[is_labelled].tolist(), [True] * int(is_labelled.sum()))
        delta.offered = score_bins(scores.tolist())
        return selection_measures(delta)

    [measure] = found(chance < scores)
    assert measure.note == "labels not representative"
    assert measure.low is not None
    assert 0.1 < measure.low < (measure.value or 0)
    assert found(chance < 0.01) == []  # 30 labels say nothing
    assert found(chance < 2.0) == []  # all are labelled
    [measure] = found(chance < 0.6)
    assert measure.note is None


def test_labels_by_chance_are_seldom_called_not_representative() -> None:
    rng = np.random.default_rng(8)
    called = 0
    for _ in range(300):
        scores = rng.random(400)
        is_labelled = rng.random(400) < 0.5
        delta = scored(scores[is_labelled].tolist(), [True] * int(is_labelled.sum()))
        delta.offered = score_bins(scores.tolist())
        called += sum(m.note is not None for m in selection_measures(delta))
    assert called <= 15
