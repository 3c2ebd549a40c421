"""Rank scores and the sums of their products: how pairs of features go together.

A *rank score* is an integer that says how far up the reference's distribution the bin of
a value lies.  A pane keeps the sums of the scores' products, pair by pair; with the
features' own counts they give the rank correlation of every pair in any window of panes.

Products are integers of at most 2**10, and of a batch of :data:`EXACT_ROWS` floats add
them exactly in any order: the sums do not depend on batches, partitions or the machine.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar, label_text
from kedge.panes import FeatureReference
from kedge_services.core.columns import FLOATS, SCALARS, Values, aligned

__all__ = [
    "CRUMBS",
    "EXACT_ROWS",
    "MOST_PAIRS",
    "Projector",
    "correlations",
    "margins",
    "order_of",
    "pair_sums",
    "pairs_of",
    "rank_scores",
]

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
#: All pairs of up to 51 features; of more each feature is paired with some others.
MOST_PAIRS: Final = 1_275
#: Rank scores lie within -32..32.
_HALF: Final = 32
#: So many products of two scores (2**10 each) add exactly as 32-bit floats.
EXACT_ROWS: Final = 1 << 13
#: Up to so many rows loops are quicker than arrays.
_FEW: Final = 24
_LARGEST: Final = sys.float_info.max
#: A variance below this is that of a constant.
CRUMBS: Final = 1e-9


def rank_scores(name: str, feature: FeatureReference) -> _Ints:
    """Give the rank score of every bin of a feature.

    Parameters
    ----------
    name
        Of the feature.
    feature
        Counted.

    Returns
    -------
    ndarray
        int64, shape (bins + 2,): the bins', that of the unseen, and 0 for what is no
        value (null, not finite, a wrong type).

    Notes
    -----
    The score is 64 times the bin's mid-rank minus a half, rounded, so that its mean over
    the reference is about zero.  Categories have no order, so they get a pseudo-random
    one from their names; the same for all others and for the unseen.
    """
    counts = np.array([*feature.counts, 0], dtype=np.int64)
    order = np.arange(counts.size)
    if feature.kind == "categorical":
        names = [f"={category}" for category in feature.categories] + ["others", "unseen"]
        order = np.array(sorted(order.tolist(), key=lambda i: _digest(name, names[i])))
    total = int(counts.sum())
    scores = np.zeros(counts.size + 1, dtype=np.int64)
    if total:
        placed = counts[order]
        # Twice the mid-rank is an integer, so this rounds the same everywhere.
        doubled = 2 * np.cumsum(placed) - placed
        scores[order] = np.rint((doubled - total) * _HALF / total).astype(np.int64)
    return scores


def order_of(features: Sequence[str]) -> list[str]:
    """Put features in the order their pairs are made of; of many a pseudo-random one."""
    names = list(features)
    if math.comb(len(names), 2) <= MOST_PAIRS:
        return names
    return sorted(names, key=_digest)


@cache
def pairs_of(features: int) -> tuple[_Ints, _Ints]:
    """Give the pairs of so many features, as two arrays of positions; not to be changed.

    All of them up to :data:`MOST_PAIRS`; of more features each is paired with the next
    few on a ring, so that the number of pairs grows no faster than the features.
    """
    partners = _partners(features)
    if partners is None:
        first, second = np.triu_indices(features, 1)
        return first.astype(np.int64), second.astype(np.int64)
    around = np.arange(features, dtype=np.int64)
    ahead = np.repeat(np.arange(1, partners + 1), features)
    first = np.tile(around, partners)
    return first, (first + ahead) % features


def margins(bins: Sequence[int], scores: _Ints) -> tuple[int, int]:
    """Give the sums of a feature's scores and of their squares over rows in these bins."""
    counts, used = np.array(bins, dtype=np.int64), scores[: len(bins)]
    return int(counts @ used), int(counts @ (used**2))


def correlations(rows: Any, products: _Floats, totals: _Floats, squares: _Floats) -> _Floats:
    """Give the correlation of every pair; NaN where a feature has one score only.

    Parameters
    ----------
    rows
        Their number, or of windows side by side, shape (windows, 1).
    products
        Sums of the products, shape (..., pairs).
    totals, squares
        Sums of the features' scores and of their squares, shape (..., features), in the
        order of :func:`order_of`.
    """
    first, second = pairs_of(totals.shape[-1])
    mean = totals / rows
    variance = squares / rows - mean * mean
    covariance = products / rows - mean[..., first] * mean[..., second]
    # Rounding leaves crumbs of a constant; scores are integers, so nothing is as small.
    variance[variance < CRUMBS] = np.nan
    found: _Floats = covariance / np.sqrt(variance[..., first] * variance[..., second])
    return found


class Projector:
    """Sums the products of the rank scores of rows.

    Parameters
    ----------
    names
        Features, in the order of :func:`order_of`.
    features
        The reference's.
    """

    __slots__ = ("_scorers", "names")

    def __init__(self, names: Sequence[str], features: Mapping[str, FeatureReference]) -> None:
        self.names = list(names)
        self._scorers = {name: _Scorer(name, features[name]) for name in names}

    @property
    def ranks(self) -> dict[str, NDArray[np.float32]]:
        """The rank scores of every feature's bins, as :func:`rank_scores` gives them."""
        return {name: scorer.ranks for name, scorer in self._scorers.items()}

    def zero(self, rows: int) -> _Ints:
        """Give what :meth:`count` gives of so many rows without values."""
        sums = np.zeros(1 + pairs_of(len(self._scorers))[0].size, dtype=np.int64)
        sums[0] = rows
        return sums

    def sums(self, ranks: NDArray[np.float32]) -> _Ints:
        """Give the sums of the products of all pairs.

        Parameters
        ----------
        ranks
            Rank scores, shape (features, rows), of at most 8,192 rows.
        """
        found: _Ints = pair_sums(ranks, ranks).astype(np.int64)
        return found

    def scores_of(self, name: str, values: Values) -> NDArray[np.float32]:
        """Give the rank scores of a column."""
        return self._scorers[name].scores(values)

    def count(self, columns: Mapping[str, Values], *, rows: int) -> _Ints:
        """Give the number of rows followed by the sums of products.

        Parameters
        ----------
        columns
            Of ``rows`` values each; a feature without a column counts as null.

        Returns
        -------
        ndarray
            int64, shape (1 + pairs,).
        """
        sums = self.zero(rows)
        if rows <= _FEW:
            first, second = pairs_of(len(self._scorers))
            few = np.array([
                scorer.few(columns[name]) if name in columns else [0.0] * rows
                for name, scorer in self._scorers.items()
            ])  # fmt: skip
            sums[1:] = np.einsum("ij,ij->i", few.take(first, 0), few.take(second, 0))
            return sums
        for at in range(0, rows, EXACT_ROWS):
            sums[1:] += self.sums(self.scores(columns, at, min(rows, at + EXACT_ROWS)))
        return sums

    def scores(self, columns: Mapping[str, Values], start: int, end: int) -> NDArray[np.float32]:
        """Give the rank scores of the rows from ``start`` to ``end``, shape (features, rows)."""
        scores = np.zeros((len(self._scorers), end - start), dtype=np.float32)
        for row, (name, scorer) in zip(scores, self._scorers.items(), strict=True):
            column = columns.get(name)
            if column is not None:
                is_whole = end - start == len(column)
                row[:] = scorer.scores(column if is_whole else column[start:end])
        return scores


class _Scorer:
    """Gives the rank scores of the values of one feature."""

    __slots__ = ("_cuts", "_edges", "_known", "_table", "_unseen", "ranks")

    def __init__(self, name: str, feature: FeatureReference) -> None:
        scores = rank_scores(name, feature)
        self.ranks = scores.astype(np.float32)
        self._table: list[float] = scores.astype(np.float64).tolist()
        self._unseen: float = self._table[-2]
        self._edges: list[float] = [float(cut) for cut in feature.cuts]
        self._cuts: _Floats | None = None
        self._known: dict[str, float] = {}
        if feature.kind == "numeric":
            self._cuts = np.asarray(feature.cuts, dtype=np.float64)
        else:
            self._known = dict.fromkeys(feature.others, self._table[-3])
            self._known.update(zip(feature.categories, self._table, strict=False))

    def few(self, values: Values) -> list[float]:
        """Give the same as :meth:`scores`; quicker for few values."""
        if self._cuts is None:
            return [self._of(value) for value in values]
        table, edges, slow = self._table, self._edges, self._of_number
        return [
            table[bisect_left(edges, value)]
            if type(value) is float and -_LARGEST <= value <= _LARGEST
            else slow(value)
            for value in values
        ]

    def _of_number(self, value: Scalar | None) -> float:
        if value is None or type(value) not in FLOATS:
            return 0.0
        try:
            number = float(value)
        except OverflowError:
            return 0.0
        return self._table[bisect_left(self._edges, number)] if math.isfinite(number) else 0.0

    def scores(self, values: Values) -> NDArray[np.float32]:
        if self._cuts is None:
            return self._of_categories(values)
        array = aligned(values)
        bins = self._cuts.searchsorted(array)
        finite = np.isfinite(array)
        if not finite.all():
            bins[~finite] = -1
        return self.ranks[bins]

    def _of_categories(self, values: Values) -> NDArray[np.float32]:
        found = values.tolist() if isinstance(values, np.ndarray) else values
        if bool in (kinds := set(map(type, found))) and kinds & {int, float}:
            # True and 1 are one key to a dictionary.
            return np.array([self._of(value) for value in found], dtype=np.float32)
        known = {value: self._of(value) for value in set(found)}
        return np.fromiter(map(known.__getitem__, found), dtype=np.float32, count=len(found))

    def _of(self, value: Scalar | None) -> float:
        if value is None or type(value) not in SCALARS:
            return 0.0
        if isinstance(value, float) and not math.isfinite(value):
            return 0.0
        return self._known.get(label_text(value), self._unseen)


def pair_sums(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Give the sums of left[i] * right[j] over the rows for all pairs (i, j)."""
    count = left.shape[0]
    partners = _partners(count)
    if partners is None:
        sums: NDArray[Any] = (left @ right.T)[pairs_of(count)]
        return sums
    ring = np.concatenate([right, right[:partners]])
    return np.concatenate([
        np.einsum("ij,ij->i", left, ring[ahead : ahead + count])
        for ahead in range(1, partners + 1)
    ])  # fmt: skip


def _partners(features: int) -> int | None:
    """Give with how many others each feature is paired; None for all."""
    if math.comb(features, 2) <= MOST_PAIRS:
        return None
    return max(1, MOST_PAIRS // features)


def _digest(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(), digest_size=8).digest()
