"""Distances between a reference and a window, from counts on the same bins.

Every function takes ``reference`` (R, summing to N) and ``current`` (C, summing
to n): integer arrays of equal length.  It gives None when either is empty: no
data is no distance, never 0.  Bins that are empty on both sides are left out;
B is the number of the others.

What to expect without drift, to read a distance by, is given by the function
``expected_...`` of the same name.  They hold for independent rows and bins with
a few counts each; of a distance that is a root they give the root of the mean
square (or, for ``kolmogorov_smirnov``, a bound), which is not below the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "ChiSquare",
    "KolmogorovSmirnov",
    "chi_square",
    "cramers_v",
    "effect_w",
    "expected_chi_square",
    "expected_cramers_v",
    "expected_effect_w",
    "expected_hellinger",
    "expected_jensen_shannon",
    "expected_kolmogorov_smirnov",
    "expected_psi",
    "expected_total_variation",
    "expected_wasserstein",
    "hellinger",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "psi",
    "total_variation",
    "wasserstein",
]

Counts = Sequence[int] | NDArray[np.int64]
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class KolmogorovSmirnov:
    """The largest difference of the cumulative shares and where it lies.

    ``numerator / denominator`` is the distance exactly; ``p`` bounds the
    probability of a distance at least as large without drift.
    """

    numerator: int
    denominator: int
    cut: int
    p: float

    @property
    def distance(self) -> float:
        """D, between 0 and 1."""
        return self.numerator / self.denominator


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """The two-sample statistic with its degrees of freedom and tail probability."""

    statistic: float
    df: int
    p: float


def psi(reference: Counts, current: Counts) -> float | None:
    """Give the population stability index, with half a count added to every bin.

    >>> psi([50, 50], [50, 50])
    0.0
    """
    pair = _pair(reference, current)
    if pair is None:
        return None
    r, c = pair
    p = (r + 0.5) / (r.sum() + r.size / 2)
    q = (c + 0.5) / (c.sum() + c.size / 2)
    return math.fsum((p - q) * np.log(p / q))


def jensen_shannon(reference: Counts, current: Counts, *, base: float = math.e) -> float | None:
    """Square root of the Jensen-Shannon divergence; at most sqrt(ln 2) in base e, 1 in base 2."""
    shares = _shares(reference, current)
    if shares is None:
        return None
    p, q = shares
    m = (p + q) / 2
    divergence = math.fsum((special.rel_entr(p, m) + special.rel_entr(q, m)) / 2)
    return math.sqrt(max(0.0, divergence) / math.log(base))


def hellinger(reference: Counts, current: Counts) -> float | None:
    """Hellinger distance, between 0 and 1."""
    shares = _shares(reference, current)
    if shares is None:
        return None
    p, q = shares
    return math.sqrt(max(0.0, 1.0 - math.fsum(np.sqrt(p * q))))


def total_variation(reference: Counts, current: Counts) -> float | None:
    """Share of the rows that would have to move to make both alike."""
    shares = _shares(reference, current)
    if shares is None:
        return None
    p, q = shares
    return math.fsum(np.abs(p - q)) / 2


def kolmogorov_smirnov(reference: Counts, current: Counts) -> KolmogorovSmirnov | None:
    """Two-sample Kolmogorov-Smirnov on bins; the numerator is an exact integer.

    ``p`` is the asymptotic bound 2 exp(-2 D^2 nN/(n+N)), conservative on bins.
    """
    r, c = _integers(reference), _integers(current)
    total_r, total_c = int(r.sum()), int(c.sum())
    if not total_r or not total_c:
        return None
    if r.size == 1:
        return KolmogorovSmirnov(0, total_r * total_c, 0, 1.0)
    differences = np.abs(np.cumsum(c)[:-1] * total_r - np.cumsum(r)[:-1] * total_c)
    cut = int(differences.argmax())
    numerator, denominator = int(differences[cut]), total_r * total_c
    distance = numerator / denominator
    effective = total_r * total_c / (total_r + total_c)
    p = min(1.0, 2 * math.exp(-2 * distance * distance * effective))
    return KolmogorovSmirnov(numerator, denominator, cut, p)


def wasserstein(
    reference: Counts,
    current: Counts,
    *,
    cuts: Sequence[float],
    low: float,
    high: float,
    below: int = 0,
    above: int = 0,
) -> float | None:
    """Area between the two distribution functions, taken as linear between cuts.

    Parameters
    ----------
    cuts, low, high
        The reference's cuts, minimum and maximum, in the feature's unit, which
        is the unit of the result.
    below, above
        Values of the current window beyond the reference's range; how far
        beyond is not known, so that the result is then a lower bound.
    """
    r, c = _integers(reference), _integers(current)
    total_r, total_c = int(r.sum()), int(c.sum())
    if not total_r or not total_c:
        return None
    knots, f = _knots(r, cuts, low=low, high=high)
    _, g = _knots(c, cuts, low=low, high=high)
    g[0], g[-1] = below / total_c, 1 - above / total_c
    return math.fsum(_area(np.diff(knots), (f - g)[:-1], (f - g)[1:]))


def chi_square(reference: Counts, current: Counts) -> ChiSquare | None:
    """Two-sample chi-square without correction; p is the tail beyond the statistic."""
    pair = _pair(reference, current)
    if pair is None:
        return None
    r, c = pair
    statistic = _chi_square_statistic(r, c)
    df = r.size - 1
    return ChiSquare(statistic, df, float(special.chdtrc(df, statistic)) if df else 1.0)


def effect_w(reference: Counts, current: Counts) -> float | None:
    """Cohen's w: the size of a change of shares, whatever the sizes of the samples."""
    pair = _pair(reference, current)
    if pair is None:
        return None
    r, c = (part.sum() for part in pair)
    return math.sqrt(_chi_square_statistic(*pair) * (r + c) / (r * c))


def cramers_v(reference: Counts, current: Counts) -> float | None:
    """Cramer's V of the table (sample x category); depends on the balance of the samples."""
    pair = _pair(reference, current)
    if pair is None:
        return None
    return math.sqrt(_chi_square_statistic(*pair) / (pair[0].sum() + pair[1].sum()))


def expected_psi(bins: int, n: int, big_n: int) -> float:
    """Give E of :func:`psi` without drift: (B-1)(1/n+1/N).

    Parameters
    ----------
    bins
        B, the bins that are not empty on both sides.
    n, big_n
        Rows of the window and of the reference, at least 1.

    Examples
    --------
    >>> expected_psi(11, n=500, big_n=500)
    0.04
    """
    return (bins - 1) * _both(n, big_n)


def expected_jensen_shannon(bins: int, n: int, big_n: int, *, base: float = math.e) -> float:
    """Give sqrt(E) of the square of :func:`jensen_shannon`: an eighth of the index's E."""
    return math.sqrt(expected_psi(bins, n, big_n) / (8 * math.log(base)))


def expected_hellinger(bins: int, n: int, big_n: int) -> float:
    """Give sqrt(E) of the square of :func:`hellinger`; as for Jensen-Shannon in base e."""
    return math.sqrt(expected_psi(bins, n, big_n) / 8)


def expected_kolmogorov_smirnov(n: int, big_n: int) -> float:
    """Bound E of the distance: .87 sqrt(1/n+1/N) is the mean for continuous values."""
    return 0.87 * math.sqrt(_both(n, big_n))


def expected_chi_square(bins: int) -> float:
    """Give E of the statistic of :func:`chi_square`: B-1, its degrees of freedom."""
    return float(bins - 1)


def expected_effect_w(bins: int, n: int, big_n: int) -> float:
    """Give sqrt(E) of the square of :func:`effect_w`."""
    return math.sqrt(expected_psi(bins, n, big_n))


def expected_cramers_v(bins: int, n: int, big_n: int) -> float:
    """Give sqrt(E) of the square of :func:`cramers_v`: (B-1)/(n+N)."""
    return math.sqrt((bins - 1) / (n + big_n))


def expected_total_variation(reference: Counts, n: int) -> float | None:
    """Give E of :func:`total_variation`: half the sum of sqrt(2p(1-p)(1/n+1/N)/pi).

    Parameters
    ----------
    reference
        Counts of the reference, whose shares p are taken for the truth.
    n
        Rows of the window.
    """
    r = _integers(reference)
    big_n = int(r.sum())
    if not big_n or not n:
        return None
    p = r / big_n
    return math.fsum(np.sqrt(2 * p * (1 - p) * _both(n, big_n) / math.pi)) / 2


def expected_wasserstein(
    reference: Counts, n: int, *, cuts: Sequence[float], low: float, high: float
) -> float | None:
    """Give E of :func:`wasserstein`: the area of sqrt(2F(1-F)(1/n+1/N)/pi) between the cuts.

    Parameters
    ----------
    reference
        Counts of the reference, whose distribution function F is taken for the truth.
    n
        Rows of the window.
    cuts, low, high
        As for :func:`wasserstein`.
    """
    r = _integers(reference)
    big_n = int(r.sum())
    if not big_n or not n:
        return None
    knots, f = _knots(r, cuts, low=low, high=high)
    height = np.sqrt(2 * f * (1 - f) * _both(n, big_n) / math.pi)
    return math.fsum(np.diff(knots) * (height[:-1] + height[1:]) / 2)


def _both(n: int, big_n: int) -> float:
    return 1 / n + 1 / big_n


def _knots(r: _Ints, cuts: Sequence[float], *, low: float, high: float) -> tuple[_Floats, _Floats]:
    """Give the places where the reference's distribution function is known, and its values."""
    at = np.asarray(cuts, dtype=np.float64)
    inside = (at > low) & (at < high)
    f = (np.cumsum(r)[:-1] / r.sum())[inside]
    return np.concatenate([[low], at[inside], [high]]), np.concatenate([[0.0], f, [1.0]])


def _chi_square_statistic(r: _Floats, c: _Floats) -> float:
    total_r, total_c = r.sum(), c.sum()
    pooled = (r + c) / (total_r + total_c)
    squares = (r / total_r - c / total_c) ** 2 / pooled
    return float(total_r * total_c / (total_r + total_c) * math.fsum(squares))


def _area(width: _Floats, a: _Floats, b: _Floats) -> _Floats:
    """Integrate |linear from a to b| over each step."""
    size = np.abs(a) + np.abs(b)
    crossing = (a * b < 0) & (size > 0)
    flat = width * size / 2
    crossed = width * (a * a + b * b) / (2 * np.where(size > 0, size, 1.0))
    area: _Floats = np.where(crossing, crossed, flat)
    return area


def _integers(counts: Counts) -> _Ints:
    return np.asarray(counts, dtype=np.int64)


def _pair(reference: Counts, current: Counts) -> tuple[_Floats, _Floats] | None:
    r, c = _integers(reference), _integers(current)
    if not r.sum() or not c.sum():
        return None
    used = (r + c) > 0
    return r[used].astype(np.float64), c[used].astype(np.float64)


def _shares(reference: Counts, current: Counts) -> tuple[_Floats, _Floats] | None:
    pair = _pair(reference, current)
    if pair is None:
        return None
    r, c = pair
    return r / r.sum(), c / c.sum()
