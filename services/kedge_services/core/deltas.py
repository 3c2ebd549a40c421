"""Deltas: what one source partition adds to a pane, as integers that add.

Each kind is a dataclass with ``add`` (in place; a sum does not depend on
order), ``encode`` (JSON data for ``Pane.counts``) and ``decode``:

=========== =================================================================
kind        counts
=========== =================================================================
drift       rows and, per feature, :class:`FeatureCounts` on the reference's
            bins; the same for the prediction and its score
performance rows predicted and labelled; confusion matrix, or for regression
            sums of errors.  Negative where a corrected label takes the old
            contribution out
labels      rows labelled and their loss, in a cell of label time
pair        histogram of the loss difference of two versions on the same ids
learning    rows, and of those the ones with the smallest hashes
=========== =================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FIXED_POINT",
    "LOSS_STEPS",
    "SAMPLE_ROWS",
    "Delta",
    "DriftDelta",
    "FeatureCounts",
    "LabelsDelta",
    "LearningDelta",
    "PairDelta",
    "PerformanceDelta",
    "decode_delta",
]

#: One in fixed point: sums of reals are kept as integers of 2**-30.
FIXED_POINT = 1 << 30
#: Loss differences of pairs are quantised to 1/32.
LOSS_STEPS = 32
#: Rows of a learning sample.
SAMPLE_ROWS = 2_048

_COUNTERS = ("null", "nan", "inf", "type_error", "below", "above", "unseen")


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
    """

    bins: NDArray[np.int64]
    null: int = 0
    nan: int = 0
    inf: int = 0
    type_error: int = 0
    below: int = 0
    above: int = 0
    unseen: int = 0

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

    def encode(self) -> dict[str, Any]:
        """Give JSON data; counters that are zero are left out."""
        counters = {name: value for name in _COUNTERS if (value := getattr(self, name))}
        return {"bins": self.bins.tolist(), **counters}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(
            np.asarray(data["bins"], dtype=np.int64),
            **{name: data[name] for name in _COUNTERS if name in data},
        )


@dataclass(slots=True)
class DriftDelta:
    """Features, prediction and score of the rows of a pane of prediction time."""

    rows: int = 0
    features: dict[str, FeatureCounts] = field(default_factory=dict)
    prediction: FeatureCounts | None = None
    score: FeatureCounts | None = None

    def add(self, other: DriftDelta) -> None:
        """Add the other's counts to these."""
        self.rows += other.rows
        for name, counts in other.features.items():
            mine = self.features.get(name)
            if mine is None:
                self.features[name] = _copy(counts)
            else:
                mine.add(counts)
        self.prediction = _sum(self.prediction, other.prediction)
        self.score = _sum(self.score, other.score)

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        data: dict[str, Any] = {
            "rows": self.rows,
            "features": {name: counts.encode() for name, counts in self.features.items()},
        }
        for name, counts in (("prediction", self.prediction), ("score", self.score)):
            if counts is not None:
                data[name] = counts.encode()
        return data

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(
            rows=data["rows"],
            features={name: FeatureCounts.decode(c) for name, c in data["features"].items()},
            prediction=_decode_optional(data.get("prediction")),
            score=_decode_optional(data.get("score")),
        )


@dataclass(slots=True)
class PerformanceDelta:
    """Labelled rows of a pane of prediction time.

    ``served`` are those of the labelled that the champion answered: summed over
    versions they are the model's labels, shadows or not.
    ``confusion[label][predicted]`` counts by the labels' text; for regression
    ``absolute_error`` and ``squared_error`` are sums in :data:`FIXED_POINT`.
    """

    predicted: int = 0
    labelled: int = 0
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    absolute_error: int = 0
    squared_error: int = 0
    served: int = 0

    def add(self, other: PerformanceDelta) -> None:
        """Add the other's counts to these."""
        self.predicted += other.predicted
        self.labelled += other.labelled
        self.absolute_error += other.absolute_error
        self.squared_error += other.squared_error
        self.served += other.served
        for label, row in other.confusion.items():
            mine = self.confusion.setdefault(label, {})
            for predicted, count in row.items():
                mine[predicted] = mine.get(predicted, 0) + count

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        return {
            "predicted": self.predicted,
            "labelled": self.labelled,
            "confusion": {label: dict(row) for label, row in self.confusion.items()},
            "absolute_error": self.absolute_error,
            "squared_error": self.squared_error,
            "served": self.served,
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
        )


@dataclass(slots=True)
class LabelsDelta:
    """First labels of a cell of max(label time, prediction time); ``loss`` is fixed point."""

    labelled: int = 0
    loss: int = 0

    def add(self, other: LabelsDelta) -> None:
        """Add the other's counts to these."""
        self.labelled += other.labelled
        self.loss += other.loss

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        return {"labelled": self.labelled, "loss": self.loss}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(labelled=data["labelled"], loss=data["loss"])


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
        for difference, count in other.differences.items():
            self.differences[difference] = self.differences.get(difference, 0) + count

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


def _decode_optional(data: Mapping[str, Any] | None) -> FeatureCounts | None:
    return None if data is None else FeatureCounts.decode(data)
