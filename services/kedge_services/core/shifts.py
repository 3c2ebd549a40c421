"""Shifts: how far counts are from the reference's, and how sure one can be of it.

All functions take many features at once, one a row, as integers; ``dispersion`` is the
overdispersion phi of each row, by which numbers of rows are divided.  There may be more
dimensions, as far as they broadcast: several windows are then tested at once.  A row
without a count on either side gives numbers that mean nothing.

References
----------
Kolmogorov-Smirnov p by the asymptotic bound of Smirnov 1939; Cohen 1988 for the effect w.
Rao, Scott 1984 (Annals of Statistics 12): chi-square when shares vary unevenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from kedge_services.core.integrity import LEAST_LN_P, Z80, rounded

__all__ = [
    "Shift",
    "Shifts",
    "categorical_shift",
    "categorical_shifts",
    "distances",
    "numeric_shifts",
]

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
#: Rows a category must be expected to have in either sample to be tested by itself.
_LEAST_EXPECTED = 5


class Shift(NamedTuple):
    """The outcome of one test: the effect with its lower bound, and the evidence."""

    effect: float
    low: float
    ln_p: float


@dataclass(frozen=True, slots=True)
class Shifts:
    """Many :class:`Shift`; float64, the shape of ``current`` without the bins."""

    effect: _Floats
    low: _Floats
    ln_p: _Floats

    def rows(self) -> list[Shift]:
        """Give one after the other."""
        columns = (found.ravel().tolist() for found in (self.effect, self.low, self.ln_p))
        return list(map(Shift, *columns))


def numeric_shifts(reference: _Ints, current: _Ints, dispersion: _Floats) -> Shifts:
    """Kolmogorov-Smirnov row by row.

    Parameters
    ----------
    reference, current
        Shape (..., features, bins).
    dispersion
        Shape (..., features).
    """
    big_n, n = _rows(reference), _rows(current)
    big_f, f = np.cumsum(reference, axis=-1), np.cumsum(current, axis=-1)
    # Integers: the place of the maximum must not depend on rounding.
    differences = np.abs(f * big_n[..., None] - big_f * n[..., None])
    at = _places(differences.argmax(axis=-1), differences.shape[-1])
    d = differences.reshape(-1)[at] / (n * big_n)
    q = (f + big_f).reshape(-1)[at] / (n + big_n)
    m = n * big_n / (n + big_n) / dispersion
    low = np.maximum(0.0, d - Z80 * np.sqrt(np.maximum(0.0, q * (1 - q)) / m))
    ln_p = np.minimum(0.0, math.log(2) - 2 * m * d * d)
    return Shifts(d, low, _all_rounded(ln_p))


def categorical_shifts(
    reference: _Ints, current: _Ints, dispersion: _Floats, unevenness: float | _Floats = 1.0
) -> Shifts:
    """Test shares row by row by the two-sample chi-square; the effect is Cohen's w.

    Parameters
    ----------
    reference, current
        Shape (..., features, categories): first what is in no category of its own (other
        and unseen), then the categories.
    dispersion
        Shape (..., features).
    unevenness
        r: how unevenly the overdispersion lies on the contrasts between categories.

    Notes
    -----
    In autocorrelated rows some contrasts between categories vary far more than phi says and
    others less, so the tail of the statistic X2 is longer than chi-square's: X2 / r is taken
    for chi-square with df / r degrees of freedom (the second-order correction of Rao and
    Scott).

    Categories with fewer than 5 expected in either sample join the first one;
    if that is still too few, it joins the smallest of the others, because the
    tail of chi-square is wrong for rare cells.
    """
    big_n, n = _rows(reference), _rows(current)
    before, now = _joined(reference, current, big_n, n)
    pooled = before + now
    used = pooled > 0
    share = np.where(used, pooled, 1) / (n + big_n)[..., None]
    terms = (before / big_n[..., None] - now / n[..., None]) ** 2 / share
    # Exactly rounded sums, so that neither order nor padding matters.
    rows = terms.reshape(-1, terms.shape[-1]).tolist()
    w2 = np.array([math.fsum(row) for row in rows]).reshape(n.shape)
    df = used.sum(axis=-1) - 1
    m = n * big_n / (n + big_n) / dispersion
    statistic = m * w2
    # One contrast alone cannot be uneven.
    r = np.minimum(unevenness, np.maximum(df, 1))
    tail = special.chdtrc(np.maximum(df, 1) / r, statistic / r)
    d = statistic - df
    bound = d - Z80 * np.sqrt(2 * r * (df + 2 * np.maximum(d, 0.0)))
    low = np.sqrt(np.maximum(0.0, bound) / m)
    ln_p = np.array([_ln(p) for p in tail.ravel().tolist()]).reshape(n.shape)
    has_shares = df > 0
    return Shifts(*(np.where(has_shares, found, 0.0) for found in (np.sqrt(w2), low, ln_p)))


def categorical_shift(
    reference: _Ints, current: _Ints, dispersion: float = 1.0, unevenness: float = 1.0
) -> Shift:
    """Test the shares of one feature.

    Parameters
    ----------
    reference, current
        Counts by category; the last one is everything else (other and unseen).
    dispersion, unevenness
        See :func:`categorical_shifts`.
    """
    # `categorical_shifts` has everything else first.
    before, now = (np.roll(counts, 1)[None, :] for counts in (reference, current))
    return categorical_shifts(before, now, np.array([dispersion]), unevenness).rows()[0]


def distances(reference: _Ints, current: _Ints) -> tuple[_Floats, _Floats]:
    """PSI and Jensen-Shannon row by row, as in :mod:`kedge_services.core.distances`."""
    used = (reference + current) > 0
    bins = used.sum(axis=-1, keepdims=True)
    big_n, n = _rows(reference)[..., None], _rows(current)[..., None]
    p, q = (reference + 0.5) / (big_n + bins / 2), (current + 0.5) / (n + bins / 2)
    psi = np.where(used, (p - q) * np.log(p / q), 0.0).sum(axis=-1)
    p, q = reference / big_n, current / n
    middle = (p + q) / 2
    divergence = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(axis=-1) / 2
    return psi, np.sqrt(np.maximum(0.0, divergence))


def _rows(counts: _Ints) -> _Ints:
    """Give the number of rows; 1 where there is none, to divide by."""
    rows: _Ints = np.maximum(1, counts.sum(axis=-1))
    return rows


def _joined(reference: _Ints, current: _Ints, big_n: _Ints, n: _Ints) -> tuple[_Ints, _Ints]:
    """Give the cells that are tested; what joined another has zeros in both samples."""
    pooled = reference + current
    least = _LEAST_EXPECTED * (n + big_n) / np.minimum(n, big_n)
    kept = pooled >= least[..., None]
    kept[..., 0] = False
    r, c = np.where(kept, reference, 0), np.where(kept, current, 0)
    rest_r, rest_c = big_n - r.sum(axis=-1), n - c.sum(axis=-1)
    smallest = np.where(kept, pooled, np.iinfo(np.int64).max).argmin(axis=-1)
    is_enough = (rest_r + rest_c >= least) | ~kept.any(axis=-1)
    at = _places(np.where(is_enough, 0, smallest), pooled.shape[-1])
    r.reshape(-1)[at] += rest_r
    c.reshape(-1)[at] += rest_c
    return r, c


def _places(columns: _Ints, width: int) -> _Ints:
    """Give where in the flat array a column of every row lies."""
    starts: _Ints = np.arange(0, columns.size * width, width).reshape(columns.shape)
    return starts + columns


def _all_rounded(values: _Floats) -> _Floats:
    """Round each as :func:`~kedge_services.core.integrity.rounded` does."""
    flat = values.ravel().tolist()
    text = ("%.9g " * len(flat)) % tuple(flat)
    return np.array([float(part) for part in text.split()]).reshape(values.shape)


def _ln(p: float) -> float:
    return rounded(math.log(p) if p > 0 else LEAST_LN_P)
