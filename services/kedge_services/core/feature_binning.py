"""Counting the values of one feature on the bins of its reference.

A numeric bin is ``(cuts[i-1], cuts[i]]``; what is not finite is in no bin.  A
categorical bin belongs to one of the reference's top categories, the last one
to every other *known* category; unknown categories are ``unseen``.  Counting
is additive: counting a concatenation equals adding the counts of its parts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kedge.base import label_text
from kedge.panes import FeatureReference
from kedge_services.core.columns import SCALARS, Coded, Values, aligned, clean, numbers, tally
from kedge_services.core.few_numbers import MOST_STEPS, FewNumbers
from kedge_services.core.sketches import FeatureCounts

__all__ = ["FEW", "FeatureBinner", "bin_values", "finite_numbers"]

#: Up to so many values a loop over them is quicker than arrays.
FEW = 40
#: So many squares of clipped steps (2**40 each) add exactly as floats.
_EXACT_ROWS = 1 << 12


class FeatureBinner:
    """Counts columns of one feature; what can be prepared is prepared once.

    Parameters
    ----------
    reference
        The bins: cuts and range, or categories.
    """

    __slots__ = ("_centre", "_cuts", "_few", "_index", "_max", "_min", "_size", "_step")

    def __init__(self, reference: FeatureReference) -> None:
        self._cuts: NDArray[np.float64] | None = None
        self._index: dict[str, int] = {}
        self._min, self._max = reference.min, reference.max
        self._centre, self._step = reference.centre, reference.step
        if reference.kind == "numeric":
            self._cuts = np.asarray(reference.cuts, dtype=np.float64)
            self._few = FewNumbers(reference)
            self._size = self._cuts.size + 1
        else:
            top = len(reference.categories)
            self._size = top + 1
            self._index = dict.fromkeys(reference.others, top)
            self._index.update({name: i for i, name in enumerate(reference.categories)})

    def zero(self) -> FeatureCounts:
        """Give the counts of no values at all."""
        return FeatureCounts.zero(self._size)

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers."""
        return self._cuts is not None

    def prepared(self, values: Values) -> Values:
        """Give a column in the form that is quickest where it is needed more than once."""
        return values if self._cuts is None or len(values) <= FEW else clean(values)

    def count(self, values: Values | Coded) -> FeatureCounts:
        """Count a column.

        Parameters
        ----------
        values
            Numbers, strings, booleans and None, or a float64 array; of a categorical
            feature also what :func:`kedge_services.core.columns.coded` gives.  In a
            numeric feature a string is a ``type_error`` and a boolean counts
            as 0 or 1; in a categorical one a number or boolean is counted by
            its :func:`kedge.base.label_text`.
        """
        if self._cuts is None:
            return self._count_categories(values)
        if isinstance(values, Coded):
            values = values.values()
        if len(values) <= FEW and not isinstance(values, np.ndarray):
            return self._few.count(values)
        return self._count_numbers(values, self._cuts)

    def _count_numbers(self, values: Values, cuts: NDArray[np.float64]) -> FeatureCounts:
        array, null, type_error, too_large = numbers(values)
        finite = array[np.isfinite(array)]
        finite.sort()
        not_numbers = int(np.isnan(array).sum())
        # C_i = #{v <= c_i}: exact integers, whatever the order of the values.
        cumulative = finite.searchsorted(cuts, side="right")
        bins = np.diff(cumulative, prepend=0, append=finite.size).astype(np.int64)
        below = 0 if self._min is None else int(finite.searchsorted(self._min, side="left"))
        above = (
            0
            if self._max is None
            else finite.size - int(finite.searchsorted(self._max, side="right"))
        )
        counts = FeatureCounts(
            bins,
            null=null,
            nan=not_numbers,
            inf=array.size - finite.size - not_numbers + too_large,
            type_error=type_error,
            below=below,
            above=above,
        )
        if finite.size:
            # Adding 0.0 gives zero one spelling, whichever sign came first.
            counts.min, counts.max = float(finite[0]) + 0.0, float(finite[-1]) + 0.0
            self._add_moments(counts, finite)
        return counts

    def _add_moments(self, counts: FeatureCounts, finite: NDArray[np.float64]) -> None:
        with np.errstate(over="ignore"):
            z = (finite - self._centre) / self._step
        far = np.abs(z) > MOST_STEPS
        if far.any():
            counts.clipped = int(far.sum())
            z = np.clip(z, -MOST_STEPS, MOST_STEPS)
        # Integers below 2**53 add exactly in floats, in whatever order.
        z = np.rint(z)
        counts.total_z = int(z.sum())
        counts.squares_z = _exact_sum(z * z)

    def places(self, values: Values) -> NDArray[np.int64]:
        """Give the place of every value: its bin, or behind the bins null, nan, inf, ....

        Those are, in this order: null, nan, inf, type_error, unseen.
        """
        if self._cuts is None:
            return np.fromiter(
                (self._place(value) for value in values), dtype=np.int64, count=len(values)
            )
        array = aligned(values)
        found = self._cuts.searchsorted(array, side="left").astype(np.int64)
        strange = np.flatnonzero(~np.isfinite(array))
        found[strange] = [self._place(values[i]) for i in strange.tolist()]
        return found

    def _place(self, value: Any) -> int:
        """Give the place of a category, or of what is no value."""
        size = self._size
        if value is None:
            return size
        if isinstance(value, float) and not math.isfinite(value):
            return size + (1 if math.isnan(value) else 2)
        if self._cuts is not None:
            return size + (2 if isinstance(value, int) else 3)
        if type(value) not in SCALARS:
            return size + 3
        return self._index.get(label_text(value), size + 4)

    def is_outside(self, values: Values) -> NDArray[np.bool_]:
        """Say of every value whether it is beyond the reference's range, or unseen in it.

        What is no value of the feature at all (null, not finite, a wrong type) is not.
        """
        if self._cuts is None:
            index = self._index
            return np.fromiter(
                (
                    type(v) in SCALARS
                    and v is not None
                    and not (isinstance(v, float) and not math.isfinite(v))
                    and label_text(v) not in index
                    for v in values
                ),
                dtype=np.bool_,
                count=len(values),
            )
        low = -math.inf if self._min is None else self._min
        high = math.inf if self._max is None else self._max
        array = aligned(values)
        return np.isfinite(array) & ((array < low) | (array > high))

    def _count_categories(self, values: Values | Coded) -> FeatureCounts:
        counts = self.zero()
        for value, number in tally(values):
            if value is None:
                counts.null += number
            elif isinstance(value, float) and not math.isfinite(value):
                if math.isnan(value):
                    counts.nan += number
                else:
                    counts.inf += number
            elif type(value) not in SCALARS:
                counts.type_error += number
            elif (position := self._index.get(label_text(value))) is None:
                counts.unseen += number
            else:
                counts.bins[position] += number
        return counts


def bin_values(reference: FeatureReference, values: Values) -> FeatureCounts:
    """Count one column on the bins of its reference; see :meth:`FeatureBinner.count`.

    >>> few = FeatureReference(kind="numeric", cuts=[0.0, 1.0], counts=[1, 1, 1], total=3,
    ...                        min=-1.0, max=2.0)
    >>> counts = bin_values(few, [0.0, 0.5, 9, None, "x"])
    >>> counts.bins.tolist(), counts.above, counts.null, counts.type_error
    ([1, 1, 1], 1, 1, 1)
    """
    return FeatureBinner(reference).count(values)


def finite_numbers(values: Values) -> NDArray[np.float64]:
    """Give the numbers that have a bin, sorted."""
    array, *_ = numbers(values)
    finite = array[np.isfinite(array)]
    finite.sort()
    return finite


def _exact_sum(values: NDArray[np.float64]) -> int:
    return sum(
        int(values[at : at + _EXACT_ROWS].sum()) for at in range(0, values.size, _EXACT_ROWS)
    )
