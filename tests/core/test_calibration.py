"""Calibrators: the isotonic map against scikit-learn's, and when a map is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from kedge_services.core.binning import calibrated
from kedge_services.core.calibration import LEAST_SCORED, fit_calibrator, isotonic_map
from kedge_services.core.references import build_reference

#: A grid: scikit-learn takes scores that are all but equal for one.
UNIT = st.integers(0, 10_000).map(lambda i: i / 10_000)


def rows(n: int, power: float) -> tuple[list[float], list[bool]]:
    """Give scores s and labels that are positive with the chance s**power, by formula."""
    i = np.arange(n)
    s = ((i * 7919) % 9973 + 0.5) / 9973
    return s.tolist(), (((i * 104729) % 99991) / 99991 < s**power).tolist()


@given(st.lists(st.tuples(UNIT, st.booleans()), min_size=1, max_size=60), st.lists(UNIT))
def test_the_map_is_that_of_scikit_learn(
    known: list[tuple[float, bool]], asked: list[float]
) -> None:
    scores, positives = np.array([s for s, _ in known]), np.array([p for _, p in known])
    x, y = isotonic_map(scores, positives)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores, positives)
    everywhere = np.array([*asked, *scores])
    assert np.interp(everywhere, x, y) == pytest.approx(oracle.predict(everywhere), abs=1e-9)


def test_flat_parts_of_the_map_keep_only_their_ends() -> None:
    x, y = isotonic_map(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0, 0, 0, 1, 1]) > 0)
    assert x.tolist() == [0.1, 0.3, 0.4, 0.5]
    assert y.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_map_that_lowers_the_error_is_fitted_on_all_rows() -> None:
    scores, positives = rows(10_000, 2.0)
    found = fit_calibrator(scores, positives)
    assert found is not None
    assert found.error < 0.01
    x, y = isotonic_map(np.array(scores), np.array(positives))
    assert (found.x, found.y) == (x.tolist(), y.tolist())
    assert calibrated(found, np.array([0.5]))[0] == pytest.approx(0.25, abs=0.05)


def test_scores_that_are_calibrated_already_stay_as_they_are() -> None:
    found = fit_calibrator(*rows(10_000, 1.0))
    assert found is not None
    assert (found.x, found.y, found.error) == ([], [], 0.0)


def test_what_the_earlier_half_learnt_must_hold_in_the_later_one() -> None:
    """A score whose meaning turns round in the middle cannot be mapped; the error says so."""
    i = np.arange(8_000)
    s = ((i * 7919) % 9973 + 0.5) / 9973
    u = ((i * 104729) % 99991) / 99991
    found = fit_calibrator(s.tolist(), (u < np.where(i < 4_000, 1 - s, s)).tolist())
    assert found is not None
    assert found.x == []
    assert found.error < 0.01  # of the later half, where the scores are right
    turned = fit_calibrator(s.tolist(), (u < np.where(i < 4_000, s, 1 - s)).tolist())
    assert turned is not None
    assert turned.error > 0.3


def test_rows_without_score_or_label_do_not_count() -> None:
    scores, positives = rows(2_000, 2.0)
    gaps: list[float | None] = [None, *scores, float("nan")]
    assert fit_calibrator(gaps, [True, *positives, True]) == fit_calibrator(scores, positives)
    assert fit_calibrator(scores, [None] * 2_000) is None


@pytest.mark.parametrize("n", [0, 1, LEAST_SCORED - 1])
def test_few_rows_give_no_calibrator(n: int) -> None:
    assert fit_calibrator(*rows(n, 2.0)) is None


@pytest.mark.parametrize("label", [True, False])
def test_one_class_alone_gives_no_calibrator(*, label: bool) -> None:
    scores, positives = rows(2_000, 2.0)
    assert fit_calibrator(scores, [label] * len(positives)) is None


def test_the_calibrator_is_part_of_the_reference_id() -> None:
    scores, positives = rows(2_000, 2.0)
    ids = {
        build_reference(
            model="m",
            version="1",
            columns={"x": scores},
            kinds={"x": "numeric"},
            scores=scores,
            calibrator=calibrator,
        ).reference_id
        for calibrator in (None, *[fit_calibrator(scores, positives) for _ in range(2)])
    }
    assert len(ids) == 2
