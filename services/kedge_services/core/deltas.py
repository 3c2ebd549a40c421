"""Deltas: what one source partition adds to a pane, as integers that add.

Each kind is a dataclass with ``add`` (in place; a sum does not depend on
order), ``encode`` (JSON data for ``Pane.counts``) and ``decode``:

=========== =================================================================
kind        counts
=========== =================================================================
drift       rows and, per feature, :class:`FeatureCounts` on the reference's
            bins; the same for the prediction and its score; calibrated scores by
            answer, latencies, a projection of whole rows
performance rows predicted and labelled; confusion matrix and scores, or for
            regression sums of errors.  Negative where a corrected label takes
            the old contribution out
labels      rows labelled and their losses, in a cell of label time
pair        histogram of the loss difference of two versions on the same ids
learning    rows, and of those the ones with the smallest hashes
=========== =================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.integers import pack_integers, unpack_integers
from kedge_services.core.packed import PREDICTION, SCORE, Counts
from kedge_services.core.sketches import (
    FeatureCounts,
    LabelledScores,
    LatencyCounts,
    ScoreCounts,
)

__all__ = [
    "LOSS_STEPS",
    "SAMPLE_ROWS",
    "Delta",
    "DriftDelta",
    "LabelsDelta",
    "LearningDelta",
    "PairDelta",
    "PerformanceDelta",
    "decode_delta",
]

K = TypeVar("K", int, str)

#: Loss differences of pairs are quantised to 1/32.
LOSS_STEPS = 32
#: Rows of a learning sample.
SAMPLE_ROWS = 2_048


@dataclass(slots=True)
class DriftDelta:
    """Features, prediction and score of the rows of a pane of prediction time.

    Attributes
    ----------
    outside
        Rows with at least one feature beyond the reference's range or unseen in it.
    scores
        Calibrated scores by the text of the answer.
    latency
        How long the answers took, where the events say so.
    projection
        int64 sums over the rows of what :mod:`kedge_services.core.multivariate`
        makes of a whole row; None where the reference has no projection.
    """

    rows: int = 0
    features: dict[str, FeatureCounts] = field(default_factory=dict)
    prediction: FeatureCounts | None = None
    score: FeatureCounts | None = None
    outside: int = 0
    scores: dict[str, ScoreCounts] = field(default_factory=dict)
    latency: LatencyCounts = field(default_factory=LatencyCounts)
    projection: NDArray[np.int64] | None = None

    def add(self, other: DriftDelta) -> None:
        """Add the other's counts to these."""
        self.rows += other.rows
        self.outside += other.outside
        for name, counts in other.features.items():
            mine = self.features.get(name)
            if mine is None:
                self.features[name] = _copy(counts)
            else:
                mine.add(counts)
        self.prediction = _sum(self.prediction, other.prediction)
        self.score = _sum(self.score, other.score)
        for answer, scores in other.scores.items():
            self.scores.setdefault(answer, ScoreCounts()).add(scores)
        self.latency.add(other.latency)
        if other.projection is not None:
            mine_of_rows = 0 if self.projection is None else self.projection
            self.projection = np.add(other.projection, mine_of_rows, dtype=np.int64)

    def encode(self) -> dict[str, Any]:
        """Give JSON data; see :mod:`kedge_services.core.packed`."""
        data: dict[str, Any] = {
            "rows": self.rows,
            "outside": self.outside,
            "features": Counts.of(self._named()).encode(),
            "scores": {answer: scores.encode() for answer, scores in self.scores.items()},
            "latency": self.latency.encode(),
        }
        if self.projection is not None:
            data["projection"] = pack_integers(self.projection)
        return data

    def _named(self) -> dict[str, FeatureCounts]:
        beside = {PREDICTION: self.prediction, SCORE: self.score}
        named = dict(self.features)
        named |= {name: counts for name, counts in beside.items() if counts is not None}
        return named

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        projection = data.get("projection")
        named = Counts.decode(data["features"]).named()
        return cls(
            rows=data["rows"],
            prediction=named.pop(PREDICTION, None),
            score=named.pop(SCORE, None),
            features=named,
            outside=data["outside"],
            scores={answer: ScoreCounts.decode(c) for answer, c in data["scores"].items()},
            latency=LatencyCounts.decode(data["latency"]),
            projection=None if projection is None else unpack_integers(projection),
        )


@dataclass(slots=True)
class PerformanceDelta:
    """Labelled rows of a pane of prediction time.

    ``served`` are those of the labelled that the champion answered: summed over
    versions they are the model's labels, shadows or not.  ``answers`` counts all
    predictions, labelled or not, by the text of their class.
    ``confusion[label][predicted]`` counts by the labels' text, ``scores`` the labelled
    by score, ``offered`` all predictions by the bin of that score; for regression
    ``absolute_error`` and ``squared_error`` are sums in :data:`FIXED_POINT`.
    """

    predicted: int = 0
    labelled: int = 0
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    absolute_error: int = 0
    squared_error: int = 0
    served: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    scores: LabelledScores = field(default_factory=LabelledScores)
    offered: dict[int, int] = field(default_factory=dict)

    def add(self, other: PerformanceDelta) -> None:
        """Add the other's counts to these."""
        self.predicted += other.predicted
        self.labelled += other.labelled
        self.absolute_error += other.absolute_error
        self.squared_error += other.squared_error
        self.served += other.served
        _count_up(self.answers, other.answers)
        for label, row in other.confusion.items():
            _count_up(self.confusion.setdefault(label, {}), row)
        self.scores.add(other.scores)
        _count_up(self.offered, other.offered)

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        return {
            "predicted": self.predicted,
            "labelled": self.labelled,
            "confusion": {label: dict(row) for label, row in self.confusion.items()},
            "absolute_error": self.absolute_error,
            "squared_error": self.squared_error,
            "served": self.served,
            "answers": dict(self.answers),
            "scores": self.scores.encode(),
            "offered": sorted(self.offered.items()),
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(
            predicted=data["predicted"],
            labelled=data["labelled"],
            confusion={label: dict(row) for label, row in data["confusion"].items()},
            absolute_error=data["absolute_error"],
            squared_error=data["squared_error"],
            served=data["served"],
            answers=dict(data["answers"]),
            scores=LabelledScores.decode(data["scores"]),
            offered=dict(data["offered"]),
        )


@dataclass(slots=True)
class LabelsDelta:
    """First labels of a cell of max(label time, prediction time).

    ``labelled`` and ``loss`` (fixed point) are of all of them.  For classification
    ``confusion[label][predicted]`` counts them; for regression ``ranks[b]`` counts
    the errors that lie in bin b of the reference's ``loss_cuts``.
    """

    labelled: int = 0
    loss: int = 0
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)

    def add(self, other: LabelsDelta) -> None:
        """Add the other's counts to these."""
        self.labelled += other.labelled
        self.loss += other.loss
        for label, row in other.confusion.items():
            _count_up(self.confusion.setdefault(label, {}), row)
        _count_up(self.ranks, other.ranks)

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        return {
            "labelled": self.labelled,
            "loss": self.loss,
            "confusion": {label: dict(row) for label, row in self.confusion.items()},
            "ranks": [[rank, count] for rank, count in sorted(self.ranks.items())],
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(
            data["labelled"],
            data["loss"],
            {label: dict(row) for label, row in data["confusion"].items()},
            dict(data["ranks"]),
        )


@dataclass(slots=True)
class PairDelta:
    """Loss of the champion minus loss of the challenger, on the same prediction ids.

    ``differences[d]`` counts differences of d / :data:`LOSS_STEPS`, -32 <= d <= 32.
    """

    champion: str
    differences: dict[int, int] = field(default_factory=dict)

    def add(self, other: PairDelta) -> None:
        """Add the other's counts to these.

        Raises
        ------
        ValueError
            The other was counted against another champion.
        """
        if self.champion != other.champion:
            raise ValueError(f"pairs against {other.champion} do not add to {self.champion}'s")
        _count_up(self.differences, other.differences)

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        return {
            "champion": self.champion,
            "differences": {str(d): c for d, c in sorted(self.differences.items()) if c},
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(data["champion"], {int(d): c for d, c in data["differences"].items()})


@dataclass(slots=True)
class LearningDelta:
    """Rows of a version without reference, and a sample of them that does not depend on order.

    ``sample`` maps the 64-bit hash of the prediction id to
    ``[features, output]``; only the :data:`SAMPLE_ROWS` smallest hashes stay.
    """

    rows: int = 0
    sample: dict[int, list[Any]] = field(default_factory=dict)

    def add(self, other: LearningDelta) -> None:
        """Add the other's rows to these."""
        self.rows += other.rows
        self.sample.update(other.sample)
        if len(self.sample) > SAMPLE_ROWS:
            self.sample = {key: self.sample[key] for key in sorted(self.sample)[:SAMPLE_ROWS]}

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        return {
            "rows": self.rows,
            "sample": [[key, *self.sample[key]] for key in sorted(self.sample)],
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(data["rows"], {key: rest for key, *rest in data["sample"]})


Delta = DriftDelta | PerformanceDelta | LabelsDelta | PairDelta | LearningDelta

_KINDS: dict[str, type[Delta]] = {
    "drift": DriftDelta,
    "performance": PerformanceDelta,
    "labels": LabelsDelta,
    "pair": PairDelta,
    "learning": LearningDelta,
}


def decode_delta(kind: str, counts: Mapping[str, Any]) -> Delta:
    """Read the counts of a pane of this kind."""
    return _KINDS[kind].decode(counts)


def _count_up(mine: dict[K, int], theirs: Mapping[K, int]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count


def _copy(counts: FeatureCounts) -> FeatureCounts:
    copy = FeatureCounts.zero(counts.bins.size)
    copy.add(counts)
    return copy


def _sum(mine: FeatureCounts | None, other: FeatureCounts | None) -> FeatureCounts | None:
    if other is None:
        return mine
    if mine is None:
        return _copy(other)
    mine.add(other)
    return mine
