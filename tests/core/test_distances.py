"""Distances: golden values, oracles from scipy, and the edges."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from kedge_services.core import distances
from kedge_services.core.binning import bin_values
from kedge_services.core.references import describe

pairs = st.integers(1, 12).flatmap(
    lambda bins: st.tuples(
        st.lists(st.integers(0, 60), min_size=bins, max_size=bins),
        st.lists(st.integers(0, 60), min_size=bins, max_size=bins),
    )
)
SIMPLE = (
    distances.psi,
    distances.jensen_shannon,
    distances.hellinger,
    distances.total_variation,
    distances.effect_w,
    distances.cramers_v,
)


def reference_values(rows: int) -> list[float]:
    return [((i * 7919) % 1000) / 100 for i in range(rows)]


def current_values(rows: int) -> list[float]:
    return [((j * 104729) % 1000) / 100 * 1.1 + 0.3 for j in range(rows)]


def categories(rows: int, first: int, second: int, third: int = 10) -> list[str]:
    def one(i: int) -> str:
        digit = i % 10
        return "A" if digit < first else "B" if digit < second else "C" if digit < third else "D"

    return [one(i) for i in range(rows)]


@pytest.mark.parametrize(
    ("sizes", "exact", "p", "psi", "js", "hellinger", "tv", "w1"),
    [
        (
            (500, 300),
            (17700, 150000),
            0.010798448426,
            0.242404339873,
            0.174340335335,
            0.178961624031,
            0.13,
            0.713386666667,
        ),
        (
            (2000, 700),
            (160600, 1400000),
            2.367670158e-06,
            0.262415978038,
            0.173401712888,
            0.179781906350,
            0.115142857143,
            0.729947142857,
        ),
    ],
)
def test_golden_numeric(
    sizes: tuple[int, int],
    exact: tuple[int, int],
    p: float,
    psi: float,
    js: float,
    hellinger: float,
    tv: float,
    w1: float,
) -> None:
    feature = describe("numeric", reference_values(sizes[0]))
    current = bin_values(feature, current_values(sizes[1]))
    r, c = feature.counts, current.bins
    ks = distances.kolmogorov_smirnov(r, c)
    assert ks is not None
    assert (ks.numerator, ks.denominator) == exact
    assert ks.p == pytest.approx(p, rel=1e-9)
    assert distances.psi(r, c) == pytest.approx(psi, abs=1e-12)
    assert distances.jensen_shannon(r, c) == pytest.approx(js, abs=1e-12)
    assert distances.hellinger(r, c) == pytest.approx(hellinger, abs=1e-12)
    assert distances.total_variation(r, c) == pytest.approx(tv, abs=1e-12)
    assert feature.min is not None
    assert feature.max is not None
    moved = distances.wasserstein(
        r,
        c,
        cuts=feature.cuts,
        low=feature.min,
        high=feature.max,
        below=current.below,
        above=current.above,
    )
    assert moved == pytest.approx(w1, abs=1e-12)


@pytest.mark.parametrize(
    ("sizes", "third", "statistic", "w"),
    [
        ((500, 300), 10, 11.948790896, 0.252441844),
        ((500, 300), 9, 54.054054054, 0.536924844),
        ((2000, 700), 10, 33.888319672, 0.255648284),
        ((2000, 700), 9, 210.9375, 0.637815048),
    ],
)
def test_golden_categorical(sizes: tuple[int, int], third: int, statistic: float, w: float) -> None:
    reference = Counter(categories(sizes[0], 5, 8))
    current = Counter(categories(sizes[1], 4, 7, third))
    r, c = [reference[x] for x in "ABCD"], [current[x] for x in "ABCD"]
    chi = distances.chi_square(r, c)
    assert chi is not None
    assert chi.statistic == pytest.approx(statistic, abs=1e-9)
    assert chi.df == (3 if third == 9 else 2)
    assert distances.effect_w(r, c) == pytest.approx(w, abs=1e-9)


@given(pairs)
def test_scipy_agrees(pair: tuple[list[int], list[int]]) -> None:
    r, c = (np.array(part) for part in pair)
    assume(r.sum() and c.sum())
    used = (r + c) > 0
    js = distances.jensen_shannon(r, c, base=2)
    assert js == pytest.approx(float(jensenshannon(r / r.sum(), c / c.sum(), base=2)), abs=1e-7)
    chi = distances.chi_square(r, c)
    assert chi is not None
    if used.sum() > 1:
        expected = stats.chi2_contingency(np.array([r[used], c[used]]), correction=False)
        assert chi.statistic == pytest.approx(expected.statistic, abs=1e-9)
        assert chi.p == pytest.approx(expected.pvalue, abs=1e-12)
        v = stats.contingency.association(np.array([r[used], c[used]]))
        assert distances.cramers_v(r, c) == pytest.approx(v, abs=1e-12)
    assume(min(r.sum(), c.sum()) > 1)
    ks = distances.kolmogorov_smirnov(r, c)
    assert ks is not None
    places = np.arange(r.size)
    oracle = stats.ks_2samp(np.repeat(places, r), np.repeat(places, c), method="asymp")
    assert ks.distance == pytest.approx(oracle.statistic, abs=1e-12)


@given(pairs)
def test_distances_are_symmetric_in_their_samples_except_psi_fill(
    pair: tuple[list[int], list[int]],
) -> None:
    r, c = pair
    for distance in SIMPLE:
        assert distance(r, c) == pytest.approx(distance(c, r), abs=1e-12)


@given(pairs)
def test_empty_bins_change_nothing(pair: tuple[list[int], list[int]]) -> None:
    r, c = pair
    for distance in SIMPLE:
        assert distance([*r, 0], [*c, 0]) == distance(r, c)


@given(st.lists(st.integers(0, 60), min_size=1).filter(sum), st.integers(1, 5))
def test_equal_shares_have_no_distance(r: list[int], times: int) -> None:
    c = [times * count for count in r]
    for distance in SIMPLE[1:]:
        assert distance(r, c) == pytest.approx(0, abs=3e-8)
    ks = distances.kolmogorov_smirnov(r, c)
    assert ks is not None
    assert (ks.numerator, ks.p) == (0, 1.0)


@pytest.mark.parametrize("distance", SIMPLE)
def test_no_data_is_no_distance(distance: distances.psi) -> None:  # type: ignore[valid-type]
    assert distance([1, 2], [0, 0]) is None  # type: ignore[misc]
    assert distance([0, 0], [1, 2]) is None  # type: ignore[misc]


def test_no_data_has_no_test_either() -> None:
    assert distances.kolmogorov_smirnov([1, 2], [0, 0]) is None
    assert distances.chi_square([1, 2], [0, 0]) is None
    assert distances.wasserstein([1, 2], [0, 0], cuts=[0.5], low=0, high=1) is None


def test_two_equal_constants_have_no_distance_and_p_1() -> None:
    feature = describe("numeric", [3] * 30)
    current = bin_values(feature, [3] * 9).bins
    chi = distances.chi_square(feature.counts, current)
    assert chi == distances.ChiSquare(0.0, 0, 1.0)
    assert distances.psi(feature.counts, current) == 0


def test_an_unseen_category_has_a_finite_distance() -> None:
    value = distances.psi([100, 0], [0, 50])
    assert value is not None
    assert math.isfinite(value)
    assert distances.jensen_shannon([100, 0], [0, 50]) == pytest.approx(math.sqrt(math.log(2)))
    assert distances.total_variation([100, 0], [0, 50]) == 1


@given(
    st.lists(st.floats(-5, 5), min_size=40, max_size=120),
    st.lists(st.floats(-4, 4), min_size=40, max_size=120),
)
def test_wasserstein_is_near_that_of_the_values(left: list[float], right: list[float]) -> None:
    feature = describe("numeric", left)
    low, high = min(left), max(left)
    inside = [min(max(value, low), high) for value in right]
    current = bin_values(feature, inside)
    moved = distances.wasserstein(
        feature.counts, current.bins, cuts=feature.cuts, low=low, high=high
    )
    assert moved is not None
    # Within a bin the mass may lie anywhere: the error is bounded by what moves inside bins.
    knots = np.unique([low, *feature.cuts, high])
    error = stats.wasserstein_distance(left, inside) - moved
    assert abs(error) <= float(np.diff(knots).max()) + 1e-9
