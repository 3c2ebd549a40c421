"""What to expect of a distance without drift, against simulated samples of one distribution."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from kedge_services.core import distances
from kedge_services.core.references import describe

BINS, N, M, RUNS = 32, 4_000, 1_000, 400
UNIFORM = [1 / BINS] * BINS
SKEWED = [(k + 4) / sum(range(4, BINS + 4)) for k in range(BINS)]


def pairs(shares: list[float], *, n: int = M) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    rng = np.random.default_rng(5)
    return [(rng.multinomial(N, shares), rng.multinomial(n, shares)) for _ in range(RUNS)]


def mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def chi_square(r: NDArray[np.int64], c: NDArray[np.int64]) -> float | None:
    found = distances.chi_square(r, c)
    return None if found is None else found.statistic


@pytest.mark.parametrize("n", [1_000, 3_000])
@pytest.mark.parametrize("shares", [UNIFORM, SKEWED], ids=["uniform", "skewed"])
@pytest.mark.parametrize(
    ("distance", "power", "expected"),
    [
        (distances.psi, 1, distances.expected_psi),
        (distances.jensen_shannon, 2, distances.expected_jensen_shannon),
        (distances.hellinger, 2, distances.expected_hellinger),
        (distances.effect_w, 2, distances.expected_effect_w),
        (distances.cramers_v, 2, distances.expected_cramers_v),
        (chi_square, 1, lambda bins, _n, _big_n: distances.expected_chi_square(bins)),
    ],
    ids=["psi", "jensen_shannon", "hellinger", "effect_w", "cramers_v", "chi_square"],
)
def test_the_mean_over_stationary_samples_is_the_one_expected(
    distance: Callable[..., float | None],
    power: int,
    expected: Callable[[int, int, int], float],
    shares: list[float],
    n: int,
) -> None:
    found = [distance(r, c) for r, c in pairs(shares, n=n)]
    power_mean = mean([None if value is None else value**power for value in found])
    assert power_mean ** (1 / power) == pytest.approx(expected(BINS, n, N), rel=0.05)


def test_total_variation_is_expected_from_the_shares() -> None:
    found = [distances.total_variation(r, c) for r, c in pairs(SKEWED)]
    told = [distances.expected_total_variation(r, M) for r, _ in pairs(SKEWED)]
    assert float(np.mean(np.array(found))) == pytest.approx(
        float(np.mean(np.array(told))), rel=0.03
    )


def test_kolmogorov_smirnov_stays_below_what_is_expected_and_near_it() -> None:
    shares = [1 / 1_000] * 1_000
    found = [distances.kolmogorov_smirnov(r, c) for r, c in pairs(shares)]
    bound = distances.expected_kolmogorov_smirnov(M, N)
    assert 0.93 * bound <= mean([ks.distance if ks else None for ks in found]) <= bound


def test_wasserstein_is_expected_from_the_reference() -> None:
    rng = np.random.default_rng(8)
    found, told = [], []
    for _ in range(200):
        feature = describe("numeric", rng.normal(size=N))
        assert feature.min is not None
        assert feature.max is not None
        low, high = feature.min, feature.max
        at = {"cuts": feature.cuts, "low": low, "high": high}
        other = describe("numeric", rng.normal(size=M), cuts=feature.cuts).counts
        found.append(distances.wasserstein(feature.counts, other, **at))  # type: ignore[arg-type]
        told.append(distances.expected_wasserstein(feature.counts, M, **at))  # type: ignore[arg-type]
    # Linear between quantiles: the wide outer bins make both a little larger.
    assert mean(found) == pytest.approx(mean(told), rel=0.1)


def test_jensen_shannon_in_base_2_is_expected_in_base_2() -> None:
    one, other = (distances.expected_jensen_shannon(8, 100, 900, base=b) for b in (math.e, 2.0))
    assert other == pytest.approx(one / math.sqrt(math.log(2)))


def test_without_rows_nothing_is_expected() -> None:
    assert distances.expected_total_variation([0, 0], 10) is None
    assert distances.expected_total_variation([1, 2], 0) is None
    assert distances.expected_wasserstein([0, 0], 10, cuts=[0.5], low=0, high=1) is None
