"""A drift pane as it is added up: everything of a :class:`DriftDelta`, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.deltas import DriftDelta
from kedge_services.core.integers import narrow, pack_integers, unpack_narrow
from kedge_services.core.packed import PREDICTION, SCORE, Counts, Layout
from kedge_services.core.sketches import SCORE_BINS, LatencyCounts, ScoreCounts

__all__ = ["Folded", "PaneCounts", "PaneHead"]


class PaneHead(Protocol):
    """Of which pane of which series a delta is; see :class:`kedge.Pane`."""

    @property
    def model(self) -> str:
        """The model."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def segment(self) -> str:
        """Empty for all rows."""

    @property
    def reference_id(self) -> str:
        """Empty while the version learns its reference."""

    @property
    def start_ms(self) -> int:
        """Start of the pane, or of a cell."""

    @property
    def end_ms(self) -> int:
        """Its end."""


@dataclass(slots=True)
class PaneCounts:
    """What :class:`~kedge_services.core.deltas.DriftDelta` holds, and written like it.

    Attributes
    ----------
    features
        Of features, prediction and score; None before there is any.
    read
        JSON data of the same, where it came in one piece and is to be written once.
    """

    rows: int = 0
    features: Counts | None = None
    outside: int = 0
    scores: dict[str, ScoreCounts] = field(default_factory=dict)
    latency: LatencyCounts = field(default_factory=LatencyCounts)
    projection: NDArray[Any] | None = None
    _scored: int | None = None
    read: Mapping[str, Any] | None = None

    @property
    def scored(self) -> int:
        """Number of rows with a score that was calibrated."""
        if self._scored is None:
            self._scored = sum(int(scores.n.sum()) for scores in self.scores.values())
        return self._scored

    @classmethod
    def of(cls, delta: DriftDelta) -> Self:
        """Put the counts of a delta side by side."""
        return cls.decode(delta.encode())

    def add(self, other: PaneCounts) -> None:
        """Add the other's counts to these; the other is not to be changed any more."""
        self._scored = self.read = None
        self.rows += other.rows
        self.outside += other.outside
        if other.features is not None:
            mine = self.features
            self.features = other.features if mine is None else mine.plus(other.features)
        for answer, scores in other.scores.items():
            known = self.scores.get(answer)
            self.scores[answer] = scores if known is None else known.plus(scores)
        if other.latency.bins:
            self.latency.add(other.latency)
        if other.projection is not None:
            known_sums = self.projection
            self.projection = np.add(
                other.projection, 0 if known_sums is None else known_sums, dtype=np.int64
            )

    def rest(self) -> None:
        """Take less memory: nothing more is expected, though it may come."""
        # What came in one piece is as it was written, which is narrow.
        if self.features is not None and self.features.counts.dtype == np.int64:
            self.features = self.features.narrowed()
        for answer, scores in self.scores.items():
            if scores.n.dtype == np.int64:
                self.scores[answer] = ScoreCounts(narrow(scores.n), scores.total)
        if self.projection is not None and self.projection.dtype == np.int64:
            self.projection = narrow(self.projection)

    def named(self) -> DriftDelta:
        """Give the same counts with a name for everything."""
        features = {} if self.features is None else self.features.named()
        return DriftDelta(
            rows=self.rows,
            prediction=features.pop(PREDICTION, None),
            score=features.pop(SCORE, None),
            features=features,
            outside=self.outside,
            scores=self.scores,
            latency=self.latency,
            projection=self.projection,
        )

    def encode(self) -> dict[str, Any]:
        """Give JSON data, as :meth:`DriftDelta.encode`.

        What came in one piece is given as it came, but once: it is not kept for longer.
        """
        if self.read is not None:
            read, self.read = self.read, None
            return dict(read)
        features = Counts.of({}) if self.features is None else self.features
        data: dict[str, Any] = {
            "rows": self.rows,
            "outside": self.outside,
            "features": features.encode(),
            "scores": {answer: scores.encode() for answer, scores in self.scores.items()},
            "latency": self.latency.encode(),
        }
        if self.projection is not None:
            data["projection"] = pack_integers(self.projection)
        return data

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        projection = data.get("projection")
        return cls(
            data["rows"],
            Counts.decode(data["features"]),
            data["outside"],
            {answer: ScoreCounts.narrow(counts) for answer, counts in data["scores"].items()},
            LatencyCounts.decode(data["latency"]),
            None if projection is None else unpack_narrow(projection),
        )

    @classmethod
    def received(cls, data: Mapping[str, Any]) -> Self:
        """Read it, to be written again soon."""
        made = cls.decode(data)
        made.read = data
        return made


class Folded(NamedTuple):
    """A pane that is hardly ever looked at again: all of its arrays in one piece.

    ``kinds`` are the types of the arrays, as numpy has a letter for each.
    """

    rows: int
    outside: int
    layout: Layout | None
    answers: tuple[str, ...]
    latencies: int
    kinds: str
    data: bytes

    @classmethod
    def of(cls, pane: PaneCounts) -> Self:
        """Fold a pane."""
        latency = pane.latency.bins
        arrays: list[NDArray[Any]] = [np.array([*latency, *latency.values()], dtype=np.int64)]
        features = pane.features
        if features is not None:
            arrays += [features.counts, features.sums, features.extremes]
        for scores in pane.scores.values():
            arrays += [scores.n, scores.total]
        if pane.projection is not None:
            arrays.append(pane.projection)
        return cls(
            pane.rows,
            pane.outside,
            None if features is None else features.layout,
            tuple(map(intern, pane.scores)),
            len(latency),
            intern("".join([array.dtype.char for array in arrays])),
            b"".join([array.tobytes() for array in arrays]),
        )

    def unfolded(self) -> PaneCounts:
        """Give the pane again."""
        data, kinds, at = self.data, iter(self.kinds), 0

        def following(size: int) -> NDArray[Any]:
            nonlocal at
            kind = next(kinds)
            found = np.frombuffer(data, kind, size, at) if size else np.empty(0, kind)
            at += found.nbytes
            return found

        bins = following(2 * self.latencies).reshape(2, -1).tolist()
        features = None
        if self.layout is not None:
            number = len(self.layout.names)
            features = Counts(
                self.layout,
                following(self.layout.width),
                following(3 * number).reshape(3, -1),
                following(2 * number).reshape(2, -1),
            )
        scores = {
            answer: ScoreCounts(following(SCORE_BINS), following(SCORE_BINS))
            for answer in self.answers
        }
        return PaneCounts(
            self.rows,
            features,
            self.outside,
            scores,
            LatencyCounts(dict(zip(*bins, strict=True))),
            following(-1) if at < len(data) else None,
        )
