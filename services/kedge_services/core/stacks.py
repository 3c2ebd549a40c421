"""Windows that end with the same pane, side by side: what is done to one is done to all.

::

    panes      1 . 2 . 3 . 4 . 5 . 6 . 7 . 8
    scale 1                               |-|
    scale 2                           |-----|
    scale 4                   |-------------|

Their counts are running sums over the panes, the newest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.packed import BAD, Counts, aligned
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.sketches import ScoreCounts

__all__ = ["Stack"]

_Ints = NDArray[np.int64]


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

    __slots__ = ("_panes", "_sizes", "bad", "counts", "layout", "outside", "rows", "valid")

    def __init__(self, panes: Sequence[PaneCounts], sizes: Sequence[int]) -> None:
        self._panes, self._sizes = panes, sizes
        parts = aligned([pane.features or Counts.of({}) for pane in panes])
        self.layout = parts[0].layout
        last = [size - 1 for size in sizes]
        sums = np.array([part.counts for part in parts]).cumsum(axis=0, dtype=np.int64)
        self.counts: _Ints = sums[last]
        self.valid, self.bad = self._values()
        running, total, beyond = [], 0, 0
        for pane in panes:
            total, beyond = total + pane.rows, beyond + pane.outside
            running.append((total, beyond))
        self.rows = [running[at][0] for at in last]
        self.outside = [running[at][1] for at in last]

    def __len__(self) -> int:
        """Give the number of windows."""
        return len(self._sizes)

    def _values(self) -> tuple[_Ints, _Ints]:
        layout, windows = self.layout, len(self._sizes)
        number, bins = len(layout.names), layout.starts[-1]
        valid = np.zeros((windows, number + 1), dtype=np.int64)
        bad = np.zeros((windows, number + 1), dtype=np.int64)
        if bins:
            # Nothing to add up is no sum of nothing for `reduceat`.
            full = [i for i, size in enumerate(layout.sizes) if size]
            starts = [layout.starts[i] for i in full]
            valid[:, full] = np.add.reduceat(self.counts[:, :bins], starts, axis=1)
        valid[:, :number] += self.counts[:, layout.counter("unseen")]
        first = self.counts[:, bins : bins + BAD * number]
        bad[:, :number] = first.reshape(windows, BAD, number).sum(axis=1)
        return valid, bad

    @property
    def newest(self) -> PaneCounts:
        """The pane that all of them end with."""
        return self._panes[0]

    def projections(self) -> list[_Ints | None]:
        """Give by window the sums over whole rows, None where there are none."""
        known = [pane.projection for pane in self._panes if pane.projection is not None]
        if not known:
            return [None] * len(self._sizes)
        sums = np.array(known).cumsum(axis=0)
        if len(known) == len(self._panes):
            return [sums[size - 1] for size in self._sizes]
        numbers = [
            sum(pane.projection is not None for pane in self._panes[:size]) for size in self._sizes
        ]
        return [sums[number - 1] if number else None for number in numbers]

    def scored(self, window: int) -> int:
        """Give the number of rows of a window with a score that was calibrated."""
        return sum(pane.scored for pane in self._panes[: self._sizes[window]])

    def scores(self, window: int) -> dict[str, ScoreCounts]:
        """Give the calibrated scores of a window, by answer."""
        found: dict[str, ScoreCounts] = {}
        for pane in self._panes[: self._sizes[window]]:
            for answer, scores in pane.scores.items():
                found.setdefault(answer, ScoreCounts()).add(scores)
        return found
