"""Windows that end with the same pane, side by side: what is done to one is done to all.

::

    panes      1 . 2 . 3 . 4 . 5 . 6 . 7 . 8
    scale 1                               |-|
    scale 2                           |-----|
    scale 4                   |-------------|

Their counts are running sums over the panes, the newest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.packed import BAD, Counts, Layout, aligned
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.sketches import ScoreCounts

__all__ = ["Stack", "add_up"]

_Ints = NDArray[np.int64]


class Sums(NamedTuple):
    """The counts of a stack, see there."""

    counts: _Ints
    valid: _Ints
    bad: _Ints


class Stack:
    """Windows with rows that end with the same pane.

    Parameters
    ----------
    panes
        Those with rows, the newest first.
    sizes
        Of each window, how many of them it has: at least one, ascending.

    Attributes
    ----------
    rows, outside
        By window, see :class:`PaneCounts`.
    layout
        Of the counts.
    counts
        int64, shape (windows, layout.width).
    valid, bad
        Values that could be judged and others; int64, shape (windows, distributions + 1),
        the last column 0.
    """

    __slots__ = ("layout", "outside", "panes", "parts", "rows", "sizes", "sums")

    def __init__(self, panes: Sequence[PaneCounts], sizes: Sequence[int]) -> None:
        self.panes, self.sizes = panes, sizes
        self.parts = aligned([pane.features or Counts.of({}) for pane in panes])
        self.layout = self.parts[0].layout
        self.sums: Sums | None = None
        rows = list(accumulate([pane.rows for pane in panes]))
        outside = list(accumulate([pane.outside for pane in panes]))
        self.rows = [rows[size - 1] for size in sizes]
        self.outside = [outside[size - 1] for size in sizes]

    def __len__(self) -> int:
        """Give the number of windows."""
        return len(self.sizes)

    @property
    def counts(self) -> _Ints:
        """Of bins and counters, by window."""
        return self._added().counts

    @property
    def valid(self) -> _Ints:
        """By window and distribution; see the attributes."""
        return self._added().valid

    @property
    def bad(self) -> _Ints:
        """By window and distribution; see the attributes."""
        return self._added().bad

    def _added(self) -> Sums:
        if self.sums is None:
            [self.sums] = _sums([self])
        return self.sums

    @property
    def newest(self) -> PaneCounts:
        """The pane that all of them end with."""
        return self.panes[0]

    def projections(self) -> list[_Ints | None]:
        """Give by window the sums over whole rows, None where there are none."""
        known = [pane.projection for pane in self.panes if pane.projection is not None]
        if not known:
            return [None] * len(self.sizes)
        sums = np.array(known).cumsum(axis=0)
        if len(known) == len(self.panes):
            return [sums[size - 1] for size in self.sizes]
        numbers = [
            sum(pane.projection is not None for pane in self.panes[:size]) for size in self.sizes
        ]
        return [sums[number - 1] if number else None for number in numbers]

    def scored(self, window: int) -> int:
        """Give the number of rows of a window with a score that was calibrated."""
        return sum(pane.scored for pane in self.panes[: self.sizes[window]])

    def scores(self, window: int) -> dict[str, ScoreCounts]:
        """Give the calibrated scores of a window, by answer."""
        found: dict[str, ScoreCounts] = {}
        for pane in self.panes[: self.sizes[window]]:
            for answer, scores in pane.scores.items():
                found.setdefault(answer, ScoreCounts()).add(scores)
        return found


def add_up(stacks: Sequence[Stack]) -> None:
    """Have the counts of many stacks at once: those that are counted alike cost little more."""
    alike: dict[tuple[Layout, int, tuple[int, ...]], list[Stack]] = {}
    for stack in stacks:
        key = stack.layout, len(stack.parts), tuple(stack.sizes)
        alike.setdefault(key, []).append(stack)
    for mine in alike.values():
        for stack, sums in zip(mine, _sums(mine), strict=True):
            stack.sums = sums


def _sums(stacks: Sequence[Stack]) -> Iterator[Sums]:
    """Add up what is counted alike."""
    first = stacks[0]
    counts = [part.counts for stack in stacks for part in stack.parts]
    shape = (len(stacks), len(first.parts), first.layout.width)
    # Integers, and exact as floats: no window has 2**53 rows.
    matrix = _summing(len(first.parts), tuple(first.sizes))
    found = matrix @ np.array(counts, dtype=np.float64).reshape(shape)
    sums = found.astype(np.int64)
    return map(Sums, sums, *_values(first.layout, sums))


@lru_cache(maxsize=256)
def _summing(panes: int, sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """Give what panes are multiplied by to have the sums of the first so many."""
    return (np.arange(panes) < np.array(sizes)[:, None]).astype(np.float64)


def _values(layout: Layout, counts: _Ints) -> tuple[_Ints, _Ints]:
    """Give the valid and the bad values of windows, shape (..., distributions + 1)."""
    number, bins = len(layout.names), layout.starts[-1]
    shape = (*counts.shape[:-1], number + 1)
    valid, bad = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    if bins:
        # Nothing to add up is no sum of nothing for `reduceat`.
        full = [i for i, size in enumerate(layout.sizes) if size]
        starts = [layout.starts[i] for i in full]
        valid[..., full] = np.add.reduceat(counts[..., :bins], starts, axis=-1)
    valid[..., :number] += counts[..., layout.counter("unseen")]
    first = counts[..., bins : bins + BAD * number]
    bad[..., :number] = first.reshape(*counts.shape[:-1], BAD, number).sum(axis=-2)
    return valid, bad
