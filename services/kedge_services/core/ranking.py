"""Ranking: the area under the ROC curve, from scores counted in bins.

References
----------
DeLong, DeLong, Clarke-Pearson 1988: the variance of the area from placements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

__all__ = ["Area", "area_under_curve"]

_Z95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Area:
    """An area under the ROC curve.

    Attributes
    ----------
    value
        The chance that a positive scores above a negative, ties counted half.
    error
        Standard error; None with one row on a side, or when no two rows differ in
        their placement, where it would say that nothing is uncertain.
    bound
        The area of the scores themselves differs by at most this.
    """

    value: float
    error: float | None
    bound: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """Give the 95 % interval, for rows in whole bins."""
        if self.error is None:
            return None
        half = _Z95 * self.error
        return max(0.0, self.value - half), min(1.0, self.value + half)


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> Area | None:
    """Compute the area from the counts of positives and negatives by ascending score.

    Parameters
    ----------
    positive, negative
        Rows by bin, or expected rows; what is below zero counts as none.  Of
        integers all sums are exact.

    Returns
    -------
    Area or None
        None where one of the two classes has no row.

    >>> area = area_under_curve([0, 1, 1], [1, 1, 0])
    >>> area.value, round(area.error, 6), area.bound
    (0.875, 0.176777, 0.125)
    """
    up, down = [max(0, x) for x in positive], [max(0, x) for x in negative]
    all_up, all_down = math.fsum(up), math.fsum(down)
    if not (all_up > 0 and all_down > 0):
        return None
    # Placements: the share of the other class that a row of this bin beats, or is beaten by.
    under = [
        (below - mine / 2) / all_down for below, mine in zip(accumulate(down), down, strict=True)
    ]
    over = [1 - (below - mine / 2) / all_up for below, mine in zip(accumulate(up), up, strict=True)]
    value = math.fsum(n * v for n, v in zip(up, under, strict=True)) / all_up
    ties = math.fsum(p * n for p, n in zip(up, down, strict=True))
    variance = _variance(up, under, value) + _variance(down, over, value)
    known = all_up > 1 and all_down > 1 and variance > 0
    return Area(value, math.sqrt(variance) if known else None, ties / (2 * all_up * all_down))


def _variance(rows: Sequence[float], placements: Sequence[float], mean: float) -> float:
    """Give the variance of the mean placement of these rows."""
    n = math.fsum(rows)
    if n <= 1:
        return 0.0
    squares = math.fsum(r * (v - mean) ** 2 for r, v in zip(rows, placements, strict=True))
    return squares / (n - 1) / n
