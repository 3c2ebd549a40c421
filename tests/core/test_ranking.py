"""Area under the curve, Brier score and calibration from counts: against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from kedge_services.core.calibration_error import brier, calibration_error, merged_bins
from kedge_services.core.ranking import area_under_curve
from kedge_services.core.sketches import LabelledScores

rows = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=200)


def counted(data: Sequence[tuple[float, bool]]) -> LabelledScores:
    return LabelledScores.of([(score, positive, 1) for score, positive in data])


def drawn(seed: int, n: int, lift: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores that are the true chances, and labels; ``lift`` > 1 makes them too sure."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1.5, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-logit))
    return 1 / (1 + np.exp(-lift * logit)), labels


@given(rows)
def test_the_area_is_scikit_learns_up_to_the_binning_bound(
    data: list[tuple[float, bool]],
) -> None:
    scores = counted(data)
    area = area_under_curve(scores.positive.tolist(), scores.negative.tolist())
    labels = [positive for _, positive in data]
    if len(set(labels)) < 2:
        assert area is None
        return
    assert area is not None
    oracle = metrics.roc_auc_score(labels, [score for score, _ in data])
    assert abs(area.value - oracle) <= area.bound + 1e-12
    middle = [min(99, math.floor(score * 100)) for score, _ in data]
    assert area.value == pytest.approx(metrics.roc_auc_score(labels, middle))


def test_the_interval_of_the_area_covers_the_truth_as_often_as_it_says() -> None:
    truth_scores, truth_labels = drawn(0, 400_000)
    truth = metrics.roc_auc_score(truth_labels, truth_scores)
    covered = 0
    for seed in range(300):
        scores, labels = drawn(seed + 1, 400)
        found = counted(list(zip(scores, labels, strict=True)))
        area = area_under_curve(found.positive.tolist(), found.negative.tolist())
        assert area is not None
        assert area.interval is not None
        covered += area.interval[0] <= truth <= area.interval[1]
    assert 0.91 <= covered / 300 <= 0.985


def test_an_area_without_spread_has_no_interval() -> None:
    one_sided = area_under_curve([0, 50], [50, 0])
    assert one_sided is not None
    assert (one_sided.value, one_sided.interval) == (1.0, None)
    equal = area_under_curve([0, 30], [0, 70])
    assert equal is not None
    assert (equal.value, equal.interval, equal.bound) == (0.5, None, 0.5)
    single = area_under_curve([0, 1], [1, 5])
    assert single is not None
    assert single.interval is None


def test_expected_rows_are_taken_as_counts_are() -> None:
    whole, halves = area_under_curve([0, 2, 4], [4, 2, 0]), area_under_curve([0, 1, 2], [2.0, 1, 0])
    assert whole is not None
    assert halves is not None
    assert whole.value == halves.value


@given(rows)
def test_the_brier_score_is_scikit_learns(data: list[tuple[float, bool]]) -> None:
    found = brier(counted(data))
    assert found is not None
    labels, scores = [positive for _, positive in data], [score for score, _ in data]
    oracle = np.mean((np.array(scores) - np.array(labels)) ** 2)
    assert found.value == pytest.approx(oracle, abs=1e-8)
    if len(set(labels)) == 2:
        assert found.value == pytest.approx(metrics.brier_score_loss(labels, scores), abs=1e-8)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_calibration_error_of_true_chances_is_nearly_zero_and_of_others_is_not() -> None:
    found = {}
    for n in (500, 5_000, 20_000):
        for lift in (1.0, 3.0):
            errors = [
                calibration_error(counted(list(zip(*drawn(seed, n, lift), strict=True))))
                for seed in range(6)
            ]
            found[n, lift] = float(np.mean([error or 0.0 for error in errors]))
    assert max(found[n, 1.0] for n in (500, 5_000, 20_000)) < 0.012
    # Of a model that is far off the noise is taken off too, though it adds none.
    assert 0.08 < found[500, 3.0] < found[5_000, 3.0] < found[20_000, 3.0] < 0.16


def test_calibration_error_by_hand() -> None:
    # Two groups of 50: scores .2 with 20 positives, scores .9 with 45.
    data = [(0.2, i < 20) for i in range(50)] + [(0.9, i < 45) for i in range(50)]
    noise = math.sqrt(2 * 0.4 * 0.6 / (math.pi * 50)) + math.sqrt(2 * 0.9 * 0.1 / (math.pi * 50))
    assert calibration_error(counted(data)) == pytest.approx((0.2 - noise) / 2, abs=1e-9)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=100))
def test_merged_bins_are_all_bins_in_groups_of_a_tenth_or_more(counts: list[int]) -> None:
    groups = list(merged_bins(counts))
    if not sum(counts):
        assert groups == []
        return
    assert (groups[0][0], groups[-1][1]) == (0, len(counts))
    assert all(a[1] == b[0] for a, b in pairwise(groups))
    assert all(sum(counts[a:b]) >= 0.1 * sum(counts) for a, b in groups)


@pytest.mark.parametrize(
    "data",
    [
        [],
        [(0.5, True)],
        [(0.5, True)] * 40,
        [(0.5, True), (0.5, False)] * 20,
        [(-3.0, False), (17.0, True), (0.2, True)],
    ],
)
def test_odd_scores_give_defined_results(data: list[tuple[float, bool]]) -> None:
    scores = counted(data)
    loss, error = brier(scores), calibration_error(scores)
    assert (loss is None) == (error is None) == (not data)
    if error is not None:
        assert 0 <= error <= 1


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from([1, -1])), min_size=1, max_size=50
    )
)
def test_counts_below_zero_never_raise(data: list[tuple[float, bool, int]]) -> None:
    scores = LabelledScores.of(data)
    area = area_under_curve(scores.positive.tolist(), scores.negative.tolist())
    assert area is None or 0 <= area.value <= 1
    loss, error = brier(scores), calibration_error(scores)
    assert loss is None or 0 <= loss.low <= loss.value <= loss.high <= 1
    assert error is None or 0 <= error <= 1
