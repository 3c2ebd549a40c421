"""Counting rows on all the bins of a reference: how columns become a :class:`DriftDelta`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.panes import Calibrator, FeatureReference, Reference
from kedge_services.core.columns import Coded, Values, aligned, coded
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.feature_binning import FEW, FeatureBinner, bin_values, finite_numbers
from kedge_services.core.grid import BLOCK_ROWS, Grid, GridCounts
from kedge_services.core.rank_pairs import Projector
from kedge_services.core.sketches import FeatureCounts, LatencyCounts, ScoreCounts

__all__ = [
    "PREDICTION",
    "SCORE",
    "Binner",
    "FeatureBinner",
    "Values",
    "bin_values",
    "calibrated",
    "finite_numbers",
    "output_label",
    "output_score",
]

#: Values of a block: as many as stay near the processor.
_BLOCK_VALUES: Final = 1 << 17
_LEAST_BLOCK: Final = 128
#: Columns beside the features; no name can be one of these.
SCORE: Final = 0
PREDICTION: Final = 1
_Name = str | Literal[0, 1]


class _Arrays(NamedTuple):
    """What was counted of those columns that are arrays."""

    counts: GridCounts
    at: Mapping[_Name, int]
    outside: NDArray[np.bool_] | None
    projection: NDArray[np.int64] | None


class Binner:
    """Counts rows on all the bins of a reference.

    Parameters
    ----------
    reference
        Its features, prediction and score.
    declared
        The features to count, in this order; None: all of the reference.
    multivariate
        Whether to count how pairs of features go together too.
    """

    __slots__ = ("_calibrator", "_grid", "_numeric", "_projector", "features", "prediction",
                 "score")  # fmt: skip

    def __init__(
        self,
        reference: Reference,
        declared: Sequence[str] | None = None,
        *,
        multivariate: bool = True,
    ) -> None:
        names = reference.features if declared is None else declared
        self.features = {
            name: FeatureBinner(reference.features[name])
            for name in names
            if name in reference.features
        }
        self.prediction = _optional(reference.prediction)
        self.score = _optional(reference.score)
        self._calibrator = reference.calibrator
        self._projector: Projector | None = None
        if multivariate and reference.projection is not None:
            self._projector = Projector(reference.projection.features, reference.features)
        self._numeric = self._numeric_columns(reference)
        self._grid: Grid | None = None

    def _numeric_columns(self, reference: Reference) -> dict[_Name, FeatureReference]:
        """Give all numeric columns, those first that are paired, in the order of their pairs."""
        paired = [] if self._projector is None else self._projector.names
        features: list[str] = [name for name in paired if name in self.features]
        found: dict[_Name, FeatureReference] = {
            name: reference.features[name]
            for name in dict.fromkeys([*features, *self.features])
            if self.features[name].is_numeric
        }
        beside: list[tuple[_Name, FeatureReference | None]] = [
            (SCORE, reference.score),
            (PREDICTION, reference.prediction),
        ]
        numeric = {n: held for n, held in beside if held is not None and held.kind == "numeric"}
        return found | numeric

    def count(
        self,
        columns: Mapping[str, Values],
        *,
        rows: int,
        predictions: Values | Coded | None = None,
        scores: Values | None = None,
        answers: Sequence[str | float | None] | Coded | None = None,
        answer_scores: Values | None = None,
        latencies: Sequence[float | None] | NDArray[np.float64] | None = None,
        nulls: Mapping[_Name, int] = MappingProxyType({}),
    ) -> DriftDelta:
        """Count ``rows`` rows given as columns; a feature without a column is all null.

        Parameters
        ----------
        answers
            By which scores are told apart: the classes' texts, as performance
            compares them with labels.
        answer_scores
            The scores that are told apart by them; None: ``scores``.
        latencies
            In ms, where they are known.
        nulls
            Of the columns that are arrays, how many of the NaN are nulls; by name,
            :data:`SCORE` or :data:`PREDICTION`.
        """
        delta = DriftDelta(rows=rows)
        present: dict[_Name, Values] = {
            name: binner.prepared(columns[name])
            for name, binner in self.features.items()
            if name in columns
        }
        if self.score is not None and scores is not None:
            present[SCORE] = self.score.prepared(scores)
        if self.prediction is not None and predictions is not None:
            if isinstance(predictions, Coded):
                delta.prediction = self.prediction.count(predictions)
            else:
                present[PREDICTION] = self.prediction.prepared(predictions)
        arrays = self._count_arrays(present, rows)
        self._count_features(delta, present, arrays, nulls)
        if self._projector is not None:
            delta.projection = self._pairs(present, arrays, rows)
        if self.prediction is not None and PREDICTION in present:
            column = present[PREDICTION]
            delta.prediction = _counted(self.prediction, PREDICTION, column, arrays, nulls)
        if self.score is not None and SCORE in present:
            delta.score = _counted(self.score, SCORE, present[SCORE], arrays, nulls)
            if answers is not None:
                told = present[SCORE] if answer_scores is None else answer_scores
                delta.scores = self._by_answer(answers, aligned(told))
        if latencies is not None:
            delta.latency = LatencyCounts.of(latencies)
        return delta

    def _count_features(
        self,
        delta: DriftDelta,
        present: Mapping[_Name, Values],
        arrays: _Arrays | None,
        nulls: Mapping[_Name, int],
    ) -> None:
        outside = None if arrays is None else arrays.outside
        for name, binner in self.features.items():
            column = present.get(name)
            if column is None:
                delta.features[name] = binner.zero()
                delta.features[name].null = delta.rows
                continue
            counts = delta.features[name] = _counted(binner, name, column, arrays, nulls)
            is_known = arrays is not None and name in arrays.at
            if not is_known and (counts.below or counts.above or counts.unseen):
                mine = binner.is_outside(column)
                outside = mine if outside is None else outside | mine
        delta.outside = 0 if outside is None else int(np.count_nonzero(outside))

    def _pairs(
        self, present: Mapping[_Name, Values], arrays: _Arrays | None, rows: int
    ) -> NDArray[np.int64] | None:
        if self._projector is None or (arrays is not None and arrays.projection is not None):
            return None if arrays is None else arrays.projection
        named = {
            # A loop over a few values knows Python's floats alone.
            name: values.tolist() if isinstance(values, np.ndarray) and rows <= FEW else values
            for name, values in present.items()
            if isinstance(name, str)
        }
        return self._projector.count(named, rows=rows)

    def _count_arrays(self, present: Mapping[_Name, Values], rows: int) -> _Arrays | None:
        """Count the numeric columns that are arrays, a block of rows at a time."""
        arrays = {
            name: values
            for name in self._numeric
            if isinstance(values := present.get(name), np.ndarray)
        }
        if rows <= FEW or not arrays:
            return None
        grid = self._grid
        if grid is None:
            ranks = {} if self._projector is None else self._projector.ranks
            grid = self._grid = Grid(
                list(self._numeric.values()),
                {i: ranks[name] for i, name in enumerate(self._numeric) if name in ranks},
                beside=sum(name in (SCORE, PREDICTION) for name in self._numeric),
            )
        at = {name: i for i, name in enumerate(self._numeric)}
        counts, beyond = grid.counts(), []
        sums = None if self._projector is None else self._projector.zero(rows)
        others = self._other_ranks(present, arrays)
        step = min(BLOCK_ROWS, max(_LEAST_BLOCK, _BLOCK_VALUES // grid.features))
        for start in range(0, rows, step):
            end = min(rows, start + step)
            block = np.empty((grid.features, end - start))
            for name, i in at.items():
                block[i] = arrays[name][start:end] if name in arrays else np.nan
            places, outside = counts.add(block)
            if outside is not None:
                beyond.append((start, outside))
            if sums is not None and self._projector is not None:
                paired = min(len(self._projector.names), grid.features)
                found = grid.ranks(places[:paired])
                if others is not None:
                    found = self._all_ranks(self._projector.names, found, others, start, end)
                sums[1:] += self._projector.sums(found)
        whole: NDArray[np.bool_] | None = None
        if beyond:
            whole = np.zeros(rows, dtype=np.bool_)
            for start, outside in beyond:
                whole[start : start + outside.size] = outside
        return _Arrays(counts, {name: at[name] for name in arrays}, whole, sums)

    def _other_ranks(
        self, present: Mapping[_Name, Values], arrays: Mapping[_Name, Values]
    ) -> dict[str, NDArray[np.float32]] | None:
        """Give the rank scores of paired features that are no arrays; None for no such."""
        if self._projector is None or all(name in arrays for name in self._projector.names):
            return None
        return {
            name: self._projector.scores_of(name, present[name])
            for name in self._projector.names
            if name in present and name not in arrays
        }

    def _all_ranks(
        self,
        names: Sequence[str],
        ranks: NDArray[np.float32],
        others: Mapping[str, NDArray[np.float32]],
        start: int,
        end: int,
    ) -> NDArray[np.float32]:
        """Put the rank scores of a block into the order of the pairs."""
        found = np.zeros((len(names), end - start), dtype=np.float32)
        position = {name: i for i, name in enumerate(self._numeric)}
        for row, name in zip(found, names, strict=True):
            if name in others:
                row[:] = others[name][start:end]
            elif name in position:
                row[:] = ranks[position[name]]
        return found

    def _by_answer(
        self, answers: Sequence[str | float | None] | Coded, scores: NDArray[np.float64]
    ) -> dict[str, ScoreCounts]:
        """Count the finite scores of every answer that is a text."""
        if not isinstance(answers, Coded):
            answers = coded(answers)
        names = sorted({name for name in answers.names if isinstance(name, str)})
        place = {name: i for i, name in enumerate(names)}
        groups = np.array([*(place.get(name, -1) for name in answers.names), -1])[answers.codes]
        kept = (groups >= 0) & np.isfinite(scores)
        if not kept.all():
            groups, scores = groups[kept], scores[kept]
        shares = calibrated(self._calibrator, scores)
        counts = ScoreCounts.of_groups(shares, groups, len(names))
        return {name: found for name, found in zip(names, counts, strict=True) if found.n.any()}


def _counted(
    binner: FeatureBinner,
    name: _Name,
    column: Values,
    arrays: _Arrays | None,
    nulls: Mapping[_Name, int],
) -> FeatureCounts:
    """Count a column, or find its counts among those of the arrays."""
    null = nulls.get(name, 0)
    if arrays is not None and name in arrays.at:
        return arrays.counts.feature(arrays.at[name], null=null)
    counts = binner.count(column)
    if null:
        counts.nan -= null
        counts.null += null
    return counts


def calibrated(calibrator: Calibrator | None, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the shares of positives that scores stand for; without a map the scores."""
    if calibrator is None or not calibrator.x:
        return scores
    shares: NDArray[np.float64] = np.interp(scores, calibrator.x, calibrator.y)
    return shares


def output_label(output: Mapping[str, Any] | None) -> Scalar | None:
    """Give what a model answered, as the prediction that is counted: its label or value."""
    if output is None:
        return None
    label: Scalar | None = output.get("label")
    return label if label is not None else output.get("value")


def output_score(output: Mapping[str, Any] | None) -> float | None:
    """Give the score that is counted: of the positive class, or of the top class."""
    if output is None:
        return None
    score: float | None = output.get("score")
    if score is None and (scores := output.get("scores")):
        return float(max(scores.values()))
    return score


def _optional(reference: FeatureReference | None) -> FeatureBinner | None:
    return None if reference is None else FeatureBinner(reference)
