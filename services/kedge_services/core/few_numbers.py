"""Counting a handful of numbers one by one, where arrays would cost more than they save."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from kedge.base import Scalar
from kedge.panes import FeatureReference
from kedge_services.core.columns import FLOATS
from kedge_services.core.sketches import FeatureCounts

__all__ = ["MOST_STEPS", "FewNumbers"]

#: Moments clip values that lie further from the centre, in steps.
MOST_STEPS = 1 << 20
_INFINITE = (math.inf, -math.inf)


class FewNumbers:
    """Counts values of one numeric feature; what comes out is what arrays would give."""

    __slots__ = ("_centre", "_edges", "_max", "_min", "_step")

    def __init__(self, reference: FeatureReference) -> None:
        self._edges = [float(cut) for cut in reference.cuts]
        self._min, self._max = reference.min, reference.max
        self._centre, self._step = reference.centre, reference.step

    def count(self, values: Sequence[Scalar | None]) -> FeatureCounts:
        """Count a column; see :meth:`kedge_services.core.binning.FeatureBinner.count`."""
        bins, numbers = [0] * (len(self._edges) + 1), []
        null = nan = inf = type_error = total_z = squares_z = clipped = 0
        edges, centre, step = self._edges, self._centre, self._step
        for value in values:
            if value is None:
                null += 1
            elif type(value) not in FLOATS:
                type_error += 1
            elif value != value:  # noqa: PLR0124 -- only NaN differs from itself
                nan += 1
            elif (number := _float(value)) in _INFINITE:
                inf += 1
            else:
                numbers.append(number)
                bins[bisect_left(edges, number)] += 1
                z = (number - centre) / step
                if not -MOST_STEPS <= z <= MOST_STEPS:
                    clipped += 1
                    z = MOST_STEPS if z > 0 else -MOST_STEPS
                steps = round(z)
                total_z += steps
                squares_z += steps * steps
        counts = FeatureCounts(
            np.array(bins, dtype=np.int64), null=null, nan=nan, inf=inf, type_error=type_error,
            total_z=total_z, squares_z=squares_z, clipped=clipped,
        )  # fmt: skip
        if numbers:
            self._add_range(counts, numbers)
        return counts

    def _add_range(self, counts: FeatureCounts, numbers: Sequence[float]) -> None:
        low, high = min(numbers), max(numbers)
        # Adding 0.0 gives zero one spelling, whichever sign came first.
        counts.min, counts.max = low + 0.0, high + 0.0
        least, most = self._min, self._max
        if least is not None and low < least:
            counts.below = sum(number < least for number in numbers)
        if most is not None and high > most:
            counts.above = sum(number > most for number in numbers)


def _float(value: Any) -> float:
    """Give a number as float; an integer that is none becomes infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
