"""The tests of many features at once against scipy's of one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kedge_services.core.shifts import (
    categorical_shift,
    categorical_shifts,
    distances,
    numeric_shifts,
)

COUNTS = st.integers(2, 6).flatmap(
    lambda k: st.lists(
        st.tuples(*[st.lists(st.integers(60, 400), min_size=k, max_size=k)] * 2),
        min_size=1,
        max_size=4,
    )
)


@given(COUNTS, st.floats(1, 5), st.floats(1, 3))
def test_chi_square_is_scipys_with_rows_divided_by_phi(
    pairs: list[tuple[list[int], list[int]]], phi: float, r: float
) -> None:
    before = np.array([[0, *p[0]] for p in pairs], dtype=np.int64)
    now = np.array([[0, *p[1]] for p in pairs], dtype=np.int64)
    found = categorical_shifts(before, now, np.full(len(pairs), phi), r).rows()
    for shift, (a, b) in zip(found, pairs, strict=True):
        statistic, _, df, _ = stats.chi2_contingency(np.array([a, b]), correction=False)
        r_here = min(r, df)
        expected = stats.chi2(df / r_here).logsf(statistic / phi / r_here)
        assert shift.ln_p == pytest.approx(max(-690.0, float(expected)), rel=1e-7, abs=1e-9)
        assert 0 <= shift.low <= shift.effect + 1e-12


@given(COUNTS, st.floats(1, 5))
def test_what_makes_rows_count_for_less_weakens_evidence_and_bound(
    pairs: list[tuple[list[int], list[int]]], phi: float
) -> None:
    before, now = (np.array([p[i] for p in pairs], dtype=np.int64) for i in (0, 1))
    for test in (numeric_shifts, categorical_shifts):
        plain = test(before, now, np.ones(len(pairs)))
        fewer = test(before, now, np.full(len(pairs), phi))
        for a, b in zip(plain.rows(), fewer.rows(), strict=True):
            assert a.effect == b.effect
            assert a.ln_p <= b.ln_p
            assert a.low >= b.low - 1e-12


def test_kolmogorov_smirnov_is_scipys_distance_with_the_asymptotic_bound() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 30, 2_000), rng.integers(2, 30, 700)
    before, now = (np.bincount(x, minlength=30)[None, :] for x in (a, b))
    [shift] = numeric_shifts(before, now, np.array([2.0])).rows()
    d = float(stats.ks_2samp(a, b, method="asymp").statistic)
    assert shift.effect == pytest.approx(d, abs=1e-12)
    m = 2_000 * 700 / 2_700 / 2.0
    assert shift.ln_p == pytest.approx(math.log(2) - 2 * m * d * d, rel=1e-8)


def test_rare_categories_are_one_and_join_the_smallest_when_they_are_too_few() -> None:
    # n = 100, N = 1,000: a cell needs 5 x 1,100 / 100 = 55 rows of both samples.
    r, c = [600, 340, 30, 20, 10], [50, 40, 6, 3, 1]
    merged = categorical_shift(np.array(r), np.array(c))
    by_hand = categorical_shift(np.array([600, 340, 60]), np.array([50, 40, 10]))
    assert merged == by_hand
    few = categorical_shift(np.array([600, 390, 10]), np.array([50, 48, 2]))
    assert few == categorical_shift(np.array([600, 400, 0]), np.array([50, 50, 0]))


def test_one_category_is_no_test() -> None:
    assert categorical_shift(np.array([1_000, 0]), np.array([100, 0])) == (0.0, 0.0, 0.0)


@given(COUNTS)
def test_padding_changes_nothing(pairs: list[tuple[list[int], list[int]]]) -> None:
    before, now = (np.array([p[i] for p in pairs], dtype=np.int64) for i in (0, 1))
    wide, wider = (np.pad(counts, ((0, 0), (0, 5))) for counts in (before, now))
    one = np.ones(len(pairs))
    for test in (numeric_shifts, categorical_shifts):
        assert test(wide, wider, one).rows() == test(before, now, one).rows()
    for a, b in zip(distances(before, now), distances(wide, wider), strict=True):
        assert a == pytest.approx(b)


@given(st.lists(COUNTS, min_size=1, max_size=3))
def test_windows_side_by_side_are_tested_like_each_alone(
    many: list[list[tuple[list[int], list[int]]]],
) -> None:
    rows = [pair for pairs in many for pair in pairs]
    before = np.zeros((len(rows), 8), dtype=np.int64)
    now = np.zeros((4, len(rows), 8), dtype=np.int64)
    for i, (a, b) in enumerate(rows):
        before[i, : len(a)] = a
        for scale in range(4):
            now[scale, i, : len(b)] = np.array(b) * (scale + 1) // 2
    phi = np.linspace(1, 3, len(rows))
    for test in (numeric_shifts, categorical_shifts):
        together = test(before, now, phi).rows()
        alone = [shift for window in now for shift in test(before, window, phi).rows()]
        assert together == alone
    psi, js = distances(before, now)
    for scale, window in enumerate(now):
        assert [column.tolist() for column in distances(before, window)] == [
            psi[scale].tolist(), js[scale].tolist()
        ]  # fmt: skip
