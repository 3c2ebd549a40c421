"""Counts side by side: what a pane has of all its distributions, in one array.

So adding a delta is one addition, and windows of several lengths are sums of rows::

    counts   bins of x | bins of y | ... | bins of the score | counters | 0
    sums     total_z of each | squares_z, high part of each | low part of each
    extremes minimum of each | maximum of each, negated

A :class:`Layout` says what lies where.  :class:`~kedge_services.core.deltas.DriftDelta`
is the same with a name for everything, for whoever looks at single features; both are
written as they lie here.
"""

from __future__ import annotations

import math
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.integers import (
    as_text,
    narrow,
    pack_integers,
    unpack_integers,
    unpack_narrow,
)
from kedge_services.core.sketches import FeatureCounts

__all__ = [
    "BAD",
    "COUNTERS",
    "PREDICTION",
    "SCORE",
    "Counts",
    "Layout",
    "aligned",
]

#: What is counted of a distribution beside its bins, in this order.
COUNTERS: Final = (
    "null", "nan", "inf", "type_error", "below", "above", "unseen", "clipped",
)  # fmt: skip
#: So many of them, the first, are of values that could not be judged.
BAD: Final = 4
#: Distributions beside the features.  No feature's name: those are not empty.
PREDICTION: Final = ""
SCORE: Final = "\0"
#: Squares are sums of two parts, because sums of them may need more than 64 bits.
_LOW: Final = (1 << 32) - 1

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class Layout:
    """Where the counts of every distribution lie; equal ones are the same object.

    Parameters
    ----------
    names, sizes
        Of the distributions: the features', then :data:`PREDICTION` and :data:`SCORE` if
        there are any; and their numbers of bins.

    Attributes
    ----------
    places
        By name, the distribution's number.
    starts
        Where the bins of each begin; at its last place, where those of all end.
    width
        Of the counts, with the zero at their end.
    """

    __slots__ = ("__weakref__", "names", "places", "sizes", "starts", "width")
    _known: ClassVar[WeakValueDictionary[tuple[Any, Any], Layout]] = WeakValueDictionary()

    def __init__(self, names: tuple[str, ...], sizes: tuple[int, ...]) -> None:
        self.names, self.sizes = names, sizes
        self.places = {name: i for i, name in enumerate(names)}
        self.starts = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
        self.width = self.starts[-1] + len(COUNTERS) * len(names) + 1

    @classmethod
    def of(cls, names: tuple[str, ...], sizes: tuple[int, ...]) -> Layout:
        """Give the layout of these distributions."""
        known = cls._known.get((names, sizes))
        if known is None:
            known = cls._known[names, sizes] = Layout(names, sizes)
        return known

    def span(self, place: int) -> slice:
        """Give where the bins of a distribution lie."""
        return slice(self.starts[place], self.starts[place + 1])

    def counter(self, name: str) -> slice:
        """Give where a counter lies, of one distribution after the other."""
        start = self.starts[-1] + COUNTERS.index(name) * len(self.names)
        return slice(start, start + len(self.names))


class Counts:
    """The counts of all distributions of a pane.

    Attributes
    ----------
    layout
        What lies where.
    counts
        int64, or as few bytes as they take; shape (layout.width,); the last one is 0.
    sums
        int64, shape (3, distributions): total_z, and squares_z by its high and low 32 bits.
    extremes
        float64, shape (2, distributions): minimum, and maximum negated; infinity is none.
    """

    __slots__ = ("counts", "extremes", "layout", "sums")

    def __init__(
        self, layout: Layout, counts: NDArray[Any], sums: _Ints, extremes: _Floats
    ) -> None:
        self.layout, self.counts, self.sums, self.extremes = layout, counts, sums, extremes

    @classmethod
    def of(cls, named: Mapping[str, FeatureCounts]) -> Counts:
        """Put the counts of named distributions side by side."""
        parts = list(named.values())
        layout = Layout.of(tuple(named), tuple(part.bins.size for part in parts))
        counts = np.zeros(layout.width, dtype=np.int64)
        if parts:
            np.concatenate([part.bins for part in parts], out=counts[: layout.starts[-1]])
            counts[layout.starts[-1] : -1] = [
                getattr(part, name) for name in COUNTERS for part in parts
            ]
        sums = np.array(
            [
                [part.total_z for part in parts],
                [part.squares_z >> 32 for part in parts],
                [part.squares_z & _LOW for part in parts],
            ],
            dtype=np.int64,
        )
        extremes = np.array(
            [
                [math.inf if part.min is None else part.min for part in parts],
                [math.inf if part.max is None else -part.max for part in parts],
            ],
            dtype=np.float64,
        )
        return cls(layout, counts, sums, extremes)

    def named(self) -> dict[str, FeatureCounts]:
        """Give the counts of every distribution by its name."""
        layout = self.layout
        rest = self.counts[layout.starts[-1] : -1].reshape(len(COUNTERS), -1).T.tolist()
        found = {}
        for i, name in enumerate(layout.names):
            lowest, highest = self.extremes[:, i].tolist()
            found[name] = FeatureCounts(
                self.counts[layout.span(i)].astype(np.int64),
                **dict(zip(COUNTERS, rest[i], strict=True)),
                total_z=int(self.sums[0, i]),
                squares_z=self.squares(i),
                min=None if lowest == math.inf else lowest,
                max=None if highest == math.inf else -highest,
            )
        return found

    @property
    def valid(self) -> _Ints:
        """Number of values in bins, by distribution."""
        layout = self.layout
        full = [i for i, size in enumerate(layout.sizes) if size]
        found = np.zeros(len(layout.names), dtype=np.int64)
        if full:
            # Nothing to add up is no sum of nothing for `reduceat`.
            starts = [layout.starts[i] for i in full]
            bins = self.counts[: layout.starts[-1]]
            found[full] = np.add.reduceat(bins, starts, dtype=np.int64)
        return found

    def squares(self, place: int) -> int:
        """Give squares_z of a distribution, of any size."""
        return (int(self.sums[1, place]) << 32) + int(self.sums[2, place])

    def narrowed(self) -> Counts:
        """Give the same in as little memory as it takes, for what is kept a while."""
        return Counts(self.layout, narrow(self.counts), self.sums, self.extremes)

    def plus(self, other: Counts) -> Counts:
        """Give the sum of both.

        Raises
        ------
        ValueError
            A distribution has a different number of bins in the two.
        """
        if self.layout is other.layout:
            return Counts(
                self.layout,
                np.add(self.counts, other.counts, dtype=np.int64),
                self.sums + other.sums,
                np.minimum(self.extremes, other.extremes),
            )
        named, more = self.named(), other.named()
        for name, counts in more.items():
            if name in named:
                named[name].add(counts)
            else:
                named[name] = counts
        order = sorted(named, key=lambda name: (name in {PREDICTION, SCORE}, name == SCORE))
        return Counts.of({name: named[name] for name in order})

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        return {
            "names": self.layout.names,
            "bins": self.layout.sizes,
            "counts": pack_integers(self.counts[:-1]),
            "sums": pack_integers(self.sums),
            "extremes": as_text(self.extremes.astype("<f8")),
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Counts:
        """Read what :meth:`encode` gave."""
        layout = Layout.of(tuple(data["names"]), tuple(data["bins"]))
        found = unpack_narrow(data["counts"])
        counts = np.zeros(layout.width, dtype=found.dtype)
        counts[:-1] = found
        sums = unpack_integers(data["sums"]).reshape(3, -1)
        extremes = np.frombuffer(a2b_base64(data["extremes"]), dtype="<f8")
        return cls(layout, counts, sums, extremes.astype(np.float64).reshape(2, -1))


def aligned(parts: Sequence[Counts]) -> Sequence[Counts]:
    """Give the same counts on one layout, which has the distributions of all of them."""
    if all(part.layout is parts[0].layout for part in parts):
        return parts
    everything: dict[str, FeatureCounts] = {}
    for name, counts in chain.from_iterable(part.named().items() for part in parts):
        everything.setdefault(name, FeatureCounts.zero(counts.bins.size))
    zero = Counts.of(everything)
    # A sum has the layout of both: put in order by the first, so all come out alike.
    return [zero.plus(part) for part in parts]
