"""A drift pane as it is added up: everything of a :class:`DriftDelta`, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.deltas import DriftDelta
from kedge_services.core.integers import narrow, pack_integers, unpack_narrow
from kedge_services.core.packed import PREDICTION, SCORE, Counts
from kedge_services.core.sketches import LatencyCounts, ScoreCounts

__all__ = ["PaneCounts", "PaneHead"]


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
    """

    rows: int = 0
    features: Counts | None = None
    outside: int = 0
    scores: dict[str, ScoreCounts] = field(default_factory=dict)
    latency: LatencyCounts = field(default_factory=LatencyCounts)
    projection: NDArray[Any] | None = None
    _scored: int | None = None

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
        self._scored = None
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
        """Give JSON data, as :meth:`DriftDelta.encode`."""
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
