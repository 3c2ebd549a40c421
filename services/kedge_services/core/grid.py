"""Counting many numeric features at once, a block of rows at a time.

A value's bin is looked up: every feature's cuts lie in cells of equal width, a table says
how many cuts lie in the cells below, and the few cuts of the value's own cell are
compared with it.  As the cell of a number never falls when the number grows, that is exact,
however the arithmetic rounds.  A feature whose cuts lie too close together for cells is
searched instead.  The place of a value, once found, serves its count and its rank score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.panes import FeatureReference
from kedge_services.core.few_numbers import MOST_STEPS
from kedge_services.core.sketches import FeatureCounts

__all__ = ["BLOCK_ROWS", "Grid", "GridCounts"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
#: So many squares of clipped steps (2**40 each) add exactly as floats.
BLOCK_ROWS: Final = 1 << 12
#: Cells of a feature at first; twice as many are tried while too many cuts share one.
_CELLS: Final = 64
#: Cuts of a cell, and for these the most cells.  Every cut more is another pass over all
#: values, but the two sides of a value that is frequent lie as close as can be.
_CUTS_A_CELL: Final = ((1, 512), (2, 4_096))


class _Cells(NamedTuple):
    """The cells of one feature; the tables hold a value for each of them."""

    low: float
    per_unit: float
    below: _Ints
    cuts: _Floats

    def of(self, values: _Floats) -> _Ints:
        """Give the cells of finite numbers."""
        last = self.below.size - 1
        found: _Ints = np.clip((values - self.low) * self.per_unit, 0, last).astype(np.int64)
        return found


#: Of a feature without cuts.
_ONE_CELL: Final = _Cells(0.0, 0.0, np.zeros(1, dtype=np.int64), np.empty((0, 1)))


class Grid:
    """The numeric features that are counted together.

    Parameters
    ----------
    features
        Their references, in the order of the rows of a block.
    ranks
        By position of a feature, the rank scores of its bins.
    beside
        How many of the last are no features of a row: what is beyond their range puts no
        row outside.
    """

    __slots__ = (
        "_below", "_centre", "_cuts", "_first", "_last", "_low", "_max", "_min", "_offset",
        "_per_unit", "_ranks", "_searched", "_size", "_step", "features", "watched",
    )  # fmt: skip

    def __init__(
        self,
        features: Sequence[FeatureReference],
        ranks: Mapping[int, NDArray[Any]] = MappingProxyType({}),
        *,
        beside: int = 0,
    ) -> None:
        self.features = len(features)
        self.watched = len(features) - beside
        sizes = [len(feature.cuts) + 1 for feature in features]
        self._offset = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        #: Behind all bins comes a place for what is no number.
        self._size = int(self._offset[-1]) + 1
        self._searched: dict[int, _Floats] = {}
        found = []
        for i, feature in enumerate(features):
            cuts = np.asarray(feature.cuts, dtype=np.float64)
            cells = _cells(cuts)
            if cells is None:
                self._searched[i] = cuts
            found.append(cells or _ONE_CELL)
        firsts = np.concatenate([[0], np.cumsum([c.below.size for c in found], dtype=np.int64)])
        self._first = _column(firsts[:-1])
        self._last = _column([c.below.size - 1 for c in found])
        self._low = _column([c.low for c in found])
        self._per_unit = _column([c.per_unit for c in found])
        offsets = self._offset[:-1].tolist()
        self._below = _joined([c.below + at for c, at in zip(found, offsets, strict=True)])
        most = max((c.cuts.shape[0] for c in found), default=0)
        self._cuts = [_joined([_level(cells, level) for cells in found]) for level in range(most)]
        self._centre = _column([feature.centre for feature in features])
        self._step = _column([feature.step for feature in features])
        self._min = np.array([-np.inf if f.min is None else f.min for f in features])
        self._max = np.array([np.inf if f.max is None else f.max for f in features])
        self._ranks = np.zeros(self._size, dtype=np.float32)
        for i, scores in ranks.items():
            self._ranks[self._offset[i] : self._offset[i + 1]] = scores[: sizes[i]]

    def counts(self) -> GridCounts:
        """Begin to count."""
        return GridCounts(self, self.features, self._size - 1)

    def places(self, block: _Floats) -> _Ints:
        """Give the bin of every finite number, counted from the first feature's first.

        Parameters
        ----------
        block
            Finite, shape (features, rows).
        """
        with np.errstate(over="ignore"):
            scaled = block - self._low
            scaled *= self._per_unit
        np.maximum(scaled, 0.0, out=scaled)
        np.minimum(scaled, self._last, out=scaled)
        cells = scaled.astype(np.int64)
        cells += self._first
        found: _Ints = self._below.take(cells)
        for cuts in self._cuts:
            # A mode that raises would be written elsewhere first, and copied.
            found += block > cuts.take(cells, out=scaled, mode="clip")
        for i, cuts in self._searched.items():
            found[i] = cuts.searchsorted(block[i]) + self._offset[i]
        return found

    def ranks(self, places: _Ints) -> NDArray[np.float32]:
        """Give the rank scores of places."""
        found: NDArray[np.float32] = self._ranks.take(places)
        return found

    def steps(self, block: _Floats) -> _Floats:
        """Give how many of its feature's steps a number lies from the centre, not rounded."""
        with np.errstate(over="ignore"):
            found: _Floats = block - self._centre
            found /= self._step
        return found

    def fill(self, block: _Floats, finite: NDArray[np.bool_]) -> _Floats:
        """Put the centre where there is no finite number: it is no step away from itself."""
        return np.where(finite, block, self._centre)

    def bins(self, counted: _Ints, i: int) -> _Ints:
        """Give the counts of one feature's bins among those of all places."""
        return counted[self._offset[i] : self._offset[i + 1]]

    def beyond(self, low: _Floats, high: _Floats) -> tuple[list[int], list[int]]:
        """Give the features whose least or largest value is beyond their range."""
        below = np.flatnonzero(low < self._min).tolist()
        return below, np.flatnonzero(high > self._max).tolist()

    def is_below(self, block: _Floats, i: int) -> NDArray[np.bool_]:
        """Say of a feature's values whether they are below its range."""
        found: NDArray[np.bool_] = block[i] < self._min[i]
        return found

    def is_above(self, block: _Floats, i: int) -> NDArray[np.bool_]:
        """Say of a feature's values whether they are above its range."""
        found: NDArray[np.bool_] = block[i] > self._max[i]
        return found


class GridCounts:
    """What was counted of all features of a grid; blocks add up."""

    __slots__ = ("_above", "_below", "_bins", "_clipped", "_grid", "_high", "_inf", "_low",
                 "_nan", "_squares", "_total")  # fmt: skip

    def __init__(self, grid: Grid, features: int, places: int) -> None:
        self._grid = grid
        self._bins = np.zeros(places, dtype=np.int64)
        self._low, self._high = np.full(features, np.inf), np.full(features, -np.inf)
        self._nan, self._inf = np.zeros((2, features), dtype=np.int64)
        self._below, self._above = np.zeros((2, features), dtype=np.int64)
        self._total = np.zeros(features, dtype=np.int64)
        self._clipped = np.zeros(features, dtype=np.int64)
        #: Python's integers: of a million rows the squares may be beyond 64 bits.
        self._squares = [0] * features

    def add(self, block: _Floats) -> tuple[_Ints, NDArray[np.bool_] | None]:
        """Count a block.

        Parameters
        ----------
        block
            Shape (features, rows), of at most :data:`BLOCK_ROWS` rows.

        Returns
        -------
        tuple
            The places of the values, of the same shape, and which rows have a value
            beyond its feature's range, None for none.
        """
        grid, finite = self._grid, np.isfinite(block)
        is_whole = bool(finite.all())
        if is_whole:
            low, high = block.min(axis=1), block.max(axis=1)
        else:
            low = np.where(finite, block, np.inf).min(axis=1)
            high = np.where(finite, block, -np.inf).max(axis=1)
            not_numbers = np.isnan(block).sum(axis=1)
            self._nan += not_numbers
            self._inf += block.shape[1] - finite.sum(axis=1) - not_numbers
            block = grid.fill(block, finite)
        places = grid.places(block)
        if not is_whole:
            places[~finite] = self._bins.size
        self._bins += np.bincount(places.ravel(), minlength=self._bins.size + 1)[:-1]
        np.minimum(self._low, low, out=self._low)
        np.maximum(self._high, high, out=self._high)
        self._add_moments(block)
        return places, self._add_beyond(block, finite, low, high)

    def _add_moments(self, block: _Floats) -> None:
        z = self._grid.steps(block)
        if max(-z.min(initial=0.0), z.max(initial=0.0)) > MOST_STEPS:
            self._clipped += (np.abs(z) > MOST_STEPS).sum(axis=1)
            np.clip(z, -MOST_STEPS, MOST_STEPS, out=z)
        np.rint(z, out=z)
        # Integers below 2**53 add exactly in floats, in whatever order.
        self._total += z.sum(axis=1).astype(np.int64)
        for i, squares in enumerate(np.einsum("ij,ij->i", z, z).tolist()):
            self._squares[i] += int(squares)

    def _add_beyond(
        self, block: _Floats, finite: NDArray[np.bool_], low: _Floats, high: _Floats
    ) -> NDArray[np.bool_] | None:
        outside: NDArray[np.bool_] | None = None
        below, above = self._grid.beyond(low, high)
        for features, is_beyond, counted in (
            (below, self._grid.is_below, self._below),
            (above, self._grid.is_above, self._above),
        ):
            for i in features:
                # The centre, that stands for what is no number, may itself be beyond.
                mine = is_beyond(block, i) & finite[i]
                counted[i] += np.count_nonzero(mine)
                if i < self._grid.watched:
                    outside = mine if outside is None else outside | mine
        return outside

    def feature(self, i: int, *, null: int = 0) -> FeatureCounts:
        """Give the counts of one feature, of whose NaN so many are nulls."""
        counts = FeatureCounts(
            self._grid.bins(self._bins, i).copy(),
            null=null,
            nan=int(self._nan[i]) - null,
            inf=int(self._inf[i]),
            below=int(self._below[i]),
            above=int(self._above[i]),
            total_z=int(self._total[i]),
            squares_z=self._squares[i],
            clipped=int(self._clipped[i]),
        )
        if self._low[i] <= self._high[i]:
            # Adding 0.0 gives zero one spelling, whichever sign came first.
            counts.min, counts.max = float(self._low[i]) + 0.0, float(self._high[i]) + 0.0
        return counts


def _cells(cuts: _Floats) -> _Cells | None:
    """Lay cells over the cuts of a feature; None when too many of them would share one."""
    if not cuts.size:
        return _ONE_CELL
    if cuts[0] == cuts[-1]:
        return _Cells(0.0, 0.0, np.zeros(1, dtype=np.int64), cuts[:, None])
    low = float(cuts[0])
    with np.errstate(over="ignore"):
        width = float(cuts[-1]) - low
    for levels, most in _CUTS_A_CELL:
        number = _CELLS
        while number <= most:
            with np.errstate(over="ignore"):
                per_unit = float(np.float64(number) / width)
            if not 0.0 < per_unit < np.inf:
                return None
            bare = _Cells(low, per_unit, np.zeros(number, dtype=np.int64), cuts[:0, None])
            cells = bare.of(cuts)
            shared = np.bincount(cells, minlength=number)
            if shared.max() <= levels:
                return _filled(bare, cuts, cells, shared)
            number *= 2
    return None


def _filled(bare: _Cells, cuts: _Floats, cells: _Ints, shared: _Ints) -> _Cells:
    """Put every cut into its cell, of which ``shared`` says how many have it."""
    below = np.cumsum(shared) - shared
    table = np.full((int(shared.max()), shared.size), np.inf)
    table[np.arange(cuts.size) - below[cells], cells] = cuts
    return bare._replace(below=below.astype(np.int64), cuts=table)


def _level(cells: _Cells, level: int) -> _Floats:
    """Give one cut of every cell; infinity where there is none, which nothing exceeds."""
    if level < cells.cuts.shape[0]:
        found: _Floats = cells.cuts[level]
        return found
    return np.full(cells.below.size, np.inf)


def _column(values: Any) -> NDArray[Any]:
    return np.array(values)[:, None]


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0)
