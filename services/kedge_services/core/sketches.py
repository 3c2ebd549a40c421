"""Sketches: what is kept of the values of a pane, in fixed memory, as integers that add.

:class:`FeatureCounts` describes a column, :class:`ScoreCounts` the scores of the rows
with one answer, :class:`LabelledScores` the scores of rows whose label is known,
:class:`LatencyCounts` how long answers took.  Adding is commutative and associative;
``min`` and ``max`` merge by themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.integers import pack_integers, unpack_integers, unpack_narrow

__all__ = [
    "FIXED_POINT",
    "SCORE_BINS",
    "FeatureCounts",
    "LabelledScores",
    "LatencyCounts",
    "ScoreCounts",
    "score_bins",
]

#: One in fixed point: sums of reals are kept as integers of 2**-30.
FIXED_POINT: Final = 1 << 30
#: Bins of equal width on [0, 1]; bin i is [i/100, (i+1)/100), the last one closed.
SCORE_BINS: Final = 100
#: So many scores in :data:`FIXED_POINT` add exactly as floats.
_EXACT_SCORES: Final = 1 << 20
_LABELLED: Final = ("positive", "negative", "total")

#: From below 1 us to an hour and more.
_LATENCY_BINS: Final = (-40, 87)

_Ints = NDArray[np.int64]
_COUNTERS: Final = (
    "null", "nan", "inf", "type_error", "below", "above", "unseen", "total_z", "squares_z",
    "clipped",
)  # fmt: skip


@dataclass(slots=True)
class FeatureCounts:
    """Counts of one feature on the bins of its reference.

    Attributes
    ----------
    bins
        int64, shape (K + 1,) on K cuts, or (categories + 1,) where the last bin
        is every other *known* category.
    null, nan, inf, type_error
        Values that are in no bin.
    below, above
        Values in the outer bins beyond the reference's minimum and maximum.
    unseen
        Categories the reference never saw; in no bin.
    total_z, squares_z, clipped
        Sums of z and z**2, where z is a finite value in steps of the reference's
        ``step`` from its ``centre``, rounded and clipped at 2**20; and how many were
        clipped.  For display only.
    min, max
        Of the finite values of a numeric feature; None when there is none.
    """

    bins: _Ints
    null: int = 0
    nan: int = 0
    inf: int = 0
    type_error: int = 0
    below: int = 0
    above: int = 0
    unseen: int = 0
    total_z: int = 0
    squares_z: int = 0
    clipped: int = 0
    min: float | None = None
    max: float | None = None

    @classmethod
    def zero(cls, bins: int) -> Self:
        """Give the identity of :meth:`add`."""
        return cls(np.zeros(bins, dtype=np.int64))

    @property
    def valid(self) -> int:
        """Number of values that could be judged: those in bins and the unseen."""
        return int(self.bins.sum()) + self.unseen

    @property
    def total(self) -> int:
        """Number of values of any kind."""
        return self.valid + self.null + self.nan + self.inf + self.type_error

    def add(self, other: FeatureCounts) -> None:
        """Add the other's counts to these.

        Raises
        ------
        ValueError
            The two have a different number of bins: their references differ.
        """
        if self.bins.shape != other.bins.shape:
            raise ValueError(
                f"counts on {other.bins.size} bins do not add to counts on {self.bins.size}"
            )
        self.bins += other.bins
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.min is not None:
            self.min = other.min if self.min is None else min(self.min, other.min)
        if other.max is not None:
            self.max = other.max if self.max is None else max(self.max, other.max)

    def encode(self) -> dict[str, Any]:
        """Give JSON data; counters that are zero are left out."""
        rest = {name: value for name in _COUNTERS if (value := getattr(self, name))}
        rest |= {
            name: value for name in ("min", "max") if (value := getattr(self, name)) is not None
        }
        return {"bins": self.bins.tolist(), **rest}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(
            np.asarray(data["bins"], dtype=np.int64),
            **{name: data[name] for name in (*_COUNTERS, "min", "max") if name in data},
        )


def _zeros() -> _Ints:
    return np.zeros(SCORE_BINS, dtype=np.int64)


@dataclass(slots=True)
class ScoreCounts:
    """Calibrated scores of the rows that got one answer.

    Attributes
    ----------
    n
        int64 or narrower, shape (100,): rows by bin of their score.
    total
        Likewise, sums of their scores in :data:`FIXED_POINT`.
    """

    n: NDArray[Any] = field(default_factory=_zeros)
    total: NDArray[Any] = field(default_factory=_zeros)

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> Self:
        """Count a column of finite scores."""
        return cls.of_groups(scores, np.zeros(scores.size, dtype=np.int64), 1)[0]

    @classmethod
    def of_groups(cls, scores: NDArray[np.float64], groups: _Ints, number: int) -> list[Self]:
        """Count finite scores in so many groups; ``groups`` says to which each belongs."""
        n = np.zeros((number, SCORE_BINS), dtype=np.int64)
        total = np.zeros((number, SCORE_BINS), dtype=np.int64)
        for at in range(0, scores.size, _EXACT_SCORES):
            inside = np.clip(scores[at : at + _EXACT_SCORES], 0.0, 1.0)
            bins = groups[at : at + _EXACT_SCORES] * SCORE_BINS + _bins_of(inside)
            n += np.bincount(bins, minlength=n.size).reshape(n.shape)
            fixed = np.bincount(bins, weights=np.rint(inside * FIXED_POINT), minlength=n.size)
            total += fixed.astype(np.int64).reshape(n.shape)
        return [cls(n[group], total[group]) for group in range(number)]

    def add(self, other: ScoreCounts) -> None:
        """Add the other's counts to these."""
        self.n += other.n
        self.total += other.total

    def plus(self, other: ScoreCounts) -> ScoreCounts:
        """Give the sum of both."""
        return ScoreCounts(
            np.add(self.n, other.n, dtype=np.int64), np.add(self.total, other.total, dtype=np.int64)
        )

    def encode(self) -> dict[str, Any]:
        """Give JSON data: all bins, which is read sooner than the bins in use."""
        return {"n": pack_integers(self.n), "total": pack_integers(self.total)}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(unpack_integers(data["n"]), unpack_integers(data["total"]))

    @classmethod
    def narrow(cls, data: Mapping[str, Any]) -> Self:
        """Read it in as little memory as it takes: to be added, not to be added to."""
        return cls(unpack_narrow(data["n"]), unpack_narrow(data["total"]))


def score_bins(scores: Sequence[float] | NDArray[np.float64]) -> dict[int, int]:
    """Count finite scores by bin; those beyond 0 and 1 are in the outer ones.

    >>> score_bins([0.5, 0.501, 1.0, -3.0])
    {0: 1, 50: 2, 99: 1}
    """
    if not len(scores):
        return {}
    bins = _bins_of(np.clip(np.asarray(scores, dtype=np.float64), 0.0, 1.0))
    used, counts = np.unique(bins, return_counts=True)
    return dict(zip(used.tolist(), counts.tolist(), strict=True))


def _bins_of(scores: NDArray[np.float64]) -> _Ints:
    """Give the bin of every score: min(99, floor(100 s))."""
    return np.minimum(SCORE_BINS - 1, np.floor(scores * SCORE_BINS)).astype(np.int64)


def _fixed(values: NDArray[np.float64]) -> _Ints:
    return np.rint(values * FIXED_POINT).astype(np.int64)


@dataclass(slots=True)
class LabelledScores:
    """Scores, as the model gave them, of rows whose label is known.

    A row is positive when its label is the positive class or, of several
    classes, when the top class is right.  Counts may be negative: a corrected label
    takes its old contribution out.

    Attributes
    ----------
    positive, negative
        int64, shape (100,): rows by bin of their score.
    total
        int64, shape (100,): sums of scores by bin, in :data:`FIXED_POINT`.
    squares
        Sum of (score - is positive)**2, in :data:`FIXED_POINT`: n times the Brier score.
    fourths
        Sum of the squares of those, in :data:`FIXED_POINT`: for the interval.
    """

    positive: _Ints = field(default_factory=_zeros)
    negative: _Ints = field(default_factory=_zeros)
    total: _Ints = field(default_factory=_zeros)
    squares: int = 0
    fourths: int = 0

    @classmethod
    def of(cls, rows: Sequence[tuple[float, bool, int]]) -> Self:
        """Count rows: finite score, whether positive, and +1 or, taken out again, -1."""
        counts = cls()
        if not rows:
            return counts
        score, positive, sign = (np.array(column) for column in zip(*rows, strict=True))
        score, sign = np.clip(score.astype(np.float64), 0.0, 1.0), sign.astype(np.int64)
        bins, positive = _bins_of(score), positive.astype(np.bool_)
        np.add.at(counts.positive, bins[positive], sign[positive])
        np.add.at(counts.negative, bins[~positive], sign[~positive])
        np.add.at(counts.total, bins, sign * _fixed(score))
        square = (score - positive) ** 2
        counts.squares = int((sign * _fixed(square)).sum())
        counts.fourths = int((sign * _fixed(square * square)).sum())
        return counts

    @classmethod
    def of_one(cls, scores: NDArray[np.float64], is_positive: bool) -> Self:  # noqa: FBT001
        """Count rows that all are positive, or all negative: their finite scores."""
        inside = np.clip(scores, 0.0, 1.0)
        square = (inside - is_positive) ** 2
        counts = cls(squares=int(_fixed(square).sum()), fourths=int(_fixed(square * square).sum()))
        bins, side = _bins_of(inside), counts.positive if is_positive else counts.negative
        side += np.bincount(bins, minlength=SCORE_BINS)
        np.add.at(counts.total, bins, _fixed(inside))
        return counts

    def add(self, other: LabelledScores) -> None:
        """Add the other's counts to these."""
        self.positive += other.positive
        self.negative += other.negative
        self.total += other.total
        self.squares += other.squares
        self.fourths += other.fourths

    def encode(self) -> dict[str, Any]:
        """Give JSON data: the bins in use."""
        used = np.flatnonzero((self.positive != 0) | (self.negative != 0) | (self.total != 0))
        columns = {name: getattr(self, name)[used].tolist() for name in _LABELLED}
        return {"bins": used.tolist(), **columns, "squares": self.squares, "fourths": self.fourths}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        counts = cls(squares=data["squares"], fourths=data["fourths"])
        for name in _LABELLED:
            getattr(counts, name)[data["bins"]] = data[name]
        return counts


@dataclass(slots=True)
class LatencyCounts:
    """Answers by how long they took: bin k is [2**(k/4), 2**((k+1)/4)) ms.

    The first and the last bin (:data:`_LATENCY_BINS`) are open to their side.
    """

    bins: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, latencies_ms: Sequence[float | None] | NDArray[np.float64]) -> Self:
        """Count a column; what is no finite number is left out."""
        if isinstance(latencies_ms, np.ndarray):
            finite = latencies_ms[np.isfinite(latencies_ms)]
            counts = np.bincount(_latency_edges().searchsorted(finite, side="right"))
            low = _LATENCY_BINS[0]
            return cls({low + at: n for at, n in enumerate(counts.tolist()) if n})
        known = [ms for ms in latencies_ms if ms is not None and math.isfinite(ms)]
        return cls(dict(Counter(map(_latency_bin, known))))

    def add(self, other: LatencyCounts) -> None:
        """Add the other's counts to these."""
        for at, count in other.bins.items():
            self.bins[at] = self.bins.get(at, 0) + count

    @property
    def n(self) -> int:
        """Number of answers."""
        return sum(self.bins.values())

    def quantile_ms(self, share: float) -> float | None:
        """Give the upper end of the bin that holds this share of the answers; at most 19 % off."""
        rest = share * self.n
        for at, count in sorted(self.bins.items()):
            rest -= count
            if rest <= 0:
                return float(2 ** ((at + 1) / 4))
        return None

    def encode(self) -> list[tuple[int, int]]:
        """Give JSON data."""
        return sorted(self.bins.items())

    @classmethod
    def decode(cls, data: Iterable[tuple[int, int]]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(dict(data))


@cache
def _latency_edges() -> NDArray[np.float64]:
    """Give the least float of every bin but the first, as :func:`_latency_bin` has it."""
    low, high = _LATENCY_BINS
    edges = []
    for at in range(low + 1, high + 1):
        edge = 2.0 ** (at / 4)
        while _latency_bin(edge) >= at:
            edge = math.nextafter(edge, 0.0)
        while _latency_bin(edge) < at:
            edge = math.nextafter(edge, math.inf)
        edges.append(edge)
    return np.array(edges)


def _latency_bin(latency_ms: float) -> int:
    low, high = _LATENCY_BINS
    return low if latency_ms <= 0 else min(high, max(low, math.floor(4 * math.log2(latency_ms))))
