"""Which features are named."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from kedge_services.core.naming import FALSE_DISCOVERIES, e_value, mean_e_value, named


def test_the_calibrator_is_that_of_the_literature() -> None:
    assert e_value(math.log(5e-6)) == pytest.approx(1342.30, abs=0.005)
    # At p = 1 the limit is one half.
    assert e_value(0.0) == pytest.approx(0.5)
    # Beyond 1e-300 p-values are not told apart.
    assert e_value(-5_000.0) == e_value(math.log(1e-300))


def test_without_drift_an_e_value_is_one_on_average() -> None:
    # Over p from 1e-300 up, with p = e^-x; what is left out below is 1 / ln(1e300).
    mean, _ = integrate.quad(lambda x: e_value(-x) * math.exp(-x), 0, 690, limit=500)
    assert mean == pytest.approx(1 - 1 / 690, abs=2e-3)


def test_the_series_near_one_meets_the_formula() -> None:
    assert e_value(-0.000_999_9) == pytest.approx(e_value(-0.001_000_1), rel=1e-6)


@given(st.lists(st.floats(-600, 0), min_size=2, max_size=6))
def test_e_values_fall_with_p_and_means_do_not_depend_on_order(ln_ps: list[float]) -> None:
    ordered = sorted(ln_ps)
    values = [e_value(ln_p) for ln_p in ordered]
    assert all(a >= b * (1 - 1e-9) for a, b in pairwise(values))
    assert mean_e_value(ln_ps) == mean_e_value(ordered)


@given(
    st.dictionaries(st.integers(), st.floats(0, 1e4), max_size=12),
    st.integers(1, 30),
)
def test_the_named_are_the_largest_set_that_e_bh_allows(
    values: dict[int, float], tested: int
) -> None:
    found = named(values, tested=tested)

    def is_allowed(k: int) -> bool:
        enough = [v for v in values.values() if v >= tested / (FALSE_DISCOVERIES * k)]
        return len(enough) >= k

    largest = max((k for k in range(1, len(values) + 1) if is_allowed(k)), default=0)
    assert len(found) >= largest
    assert all(values[key] >= tested / (FALSE_DISCOVERIES * largest) for key in found)
    assert bool(found) == bool(largest)


def test_many_are_named_where_one_alone_would_not_be() -> None:
    # F = 20: alone a feature needs an e-value of 400, ten together 40 each.
    assert named({"a": 100.0}, tested=20) == set()
    assert named({str(i): 100.0 for i in range(10)}, tested=20) == {str(i) for i in range(10)}
