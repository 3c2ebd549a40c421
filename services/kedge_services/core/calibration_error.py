"""Calibration: how far scores are from the share of positives they promise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from kedge_services.core.sketches import FIXED_POINT, LabelledScores

__all__ = ["Brier", "brier", "calibration_error", "merged_bins"]

_Z95: Final = 1.959963984540054
#: Bins are merged until they hold this share of the rows.
_LEAST_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Brier:
    """The mean of (score - is positive)**2, with its 95 % interval."""

    value: float
    low: float
    high: float


def brier(scores: LabelledScores) -> Brier | None:
    """Compute the Brier score from exact sums; None without rows."""
    n = int(scores.positive.sum() + scores.negative.sum())
    if n <= 0:
        return None
    value = min(1.0, max(0.0, scores.squares / FIXED_POINT / n))
    spread = math.sqrt(max(0.0, scores.fourths / FIXED_POINT / n - value * value))
    half = _Z95 * spread / math.sqrt(n)
    return Brier(value, max(0.0, value - half), min(1.0, value + half))


def calibration_error(scores: LabelledScores) -> float | None:
    """Compute the expected calibration error; None without rows.

    The bins are merged from the left until each holds a tenth of the rows.  What
    noise alone would give, ``sum(n_b / n * sqrt(2 q (1 - q) / (pi n_b)))`` with q the
    share of positives, is subtracted, so that a calibrated model is near 0 whatever
    the number of rows; the value is never below 0.  Of a model that is far off, whose
    noise cancels, that is too much: with 500 rows up to about .05.
    """
    rows = [max(0, int(n)) for n in scores.positive + scores.negative]
    positives = [min(n, max(0, int(p))) for n, p in zip(rows, scores.positive, strict=True)]
    n = sum(rows)
    if not n:
        return None
    parts = []
    for first, last in merged_bins(rows):
        here, hits = sum(rows[first:last]), sum(positives[first:last])
        mean = sum(map(int, scores.total[first:last])) / FIXED_POINT / here
        share = hits / here
        noise = math.sqrt(2 * share * (1 - share) / (math.pi * here))
        parts.append(here / n * (abs(mean - share) - noise))
    return min(1.0, max(0.0, math.fsum(parts)))


def merged_bins(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Merge bins from the left into groups ``[first, last)`` of a tenth of the rows or more.

    What is left on the right joins the last group.

    >>> list(merged_bins([5, 5, 80, 0, 9, 1]))
    [(0, 2), (2, 3), (3, 6)]
    >>> list(merged_bins([5, 90, 0, 5]))
    [(0, 4)]
    """
    least = _LEAST_SHARE * sum(rows)
    edges, here = [0], 0
    for at, n in enumerate(rows):
        here += n
        if here >= least and here:
            edges.append(at + 1)
            here = 0
    if len(edges) == 1:
        return
    edges[-1] = len(rows)
    yield from pairwise(edges)
