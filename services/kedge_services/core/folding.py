"""Folds what was read between two commits into deltas.

Rows are only collected while they are read and counted in columns when the
deltas are taken, so that every feature of a pane is sorted and binned once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nsmallest
from typing import NamedTuple

import msgspec

from kedge.base import PaneKind, Scalar, label_text
from kedge.panes import Reference
from kedge_services.core.binning import Binner
from kedge_services.core.decoding import ModelColumns, OutputRow, PredictionRow
from kedge_services.core.deltas import (
    LOSS_STEPS,
    SAMPLE_ROWS,
    Delta,
    LabelsDelta,
    LearningDelta,
    PairDelta,
    PerformanceDelta,
)
from kedge_services.core.entries import Held, Labelled, Pair
from kedge_services.core.intake import answer, score_of
from kedge_services.core.plans import Plan
from kedge_services.core.sketches import FIXED_POINT, LabelledScores, score_bins

__all__ = ["Fold", "PaneDelta", "PaneKey", "Series", "id_hash", "loss_steps"]

#: Errors are clipped here: their squares and sums stay finite.
_MAX_ERROR = 1e100
#: Binners kept; references that came after so many were replaced long ago.
_MAX_BINNERS = 1_000

References = Callable[[str], Reference | None]
"""Gives a reference by its id."""


class Series(NamedTuple):
    """What is followed over time."""

    model: str
    version: str
    segment: str
    reference_id: str


class PaneKey(NamedTuple):
    """Which pane of which series."""

    model: str
    version: str
    segment: str
    reference_id: str
    start_ms: int

    @property
    def series(self) -> Series:
        """The series it belongs to."""
        return Series(*self[:4])


class PaneDelta(NamedTuple):
    """A delta and the pane it belongs to: ``[start_ms, end_ms)`` of a series."""

    kind: PaneKind
    series: Series
    start_ms: int
    end_ms: int
    delta: Delta


#: Model, version, segment, reference id, start and end of a pane; for pairs also the champion.
#: Plain tuples: one is made for every record.
_Slot = tuple[str, str, str, str, int, int]
_PairSlot = tuple[str, str, str, str, int, int, str]
#: Plan, columns, version, reference id, start; plan and columns are compared by identity.
_RowSlot = tuple[Plan, ModelColumns, str, str, int]


@dataclass(slots=True)
class _Performance:
    """A performance pane that is being filled; scores are only collected, and counted at once."""

    delta: PerformanceDelta = field(default_factory=PerformanceDelta)
    scored: list[tuple[float, bool, int]] = field(default_factory=list)
    offered: list[float] = field(default_factory=list)

    def take(self) -> PerformanceDelta:
        self.delta.scores = LabelledScores.of(self.scored)
        self.delta.offered = score_bins(self.offered)
        return self.delta


@dataclass(slots=True)
class Fold:
    """What this source partition adds to its panes, since the last :meth:`take`.

    Attributes
    ----------
    references
        Gives a reference by its id; rows are counted on its bins.
    after_cell
        Number of first labels left out since the last :meth:`take`, because
        their cell was closed.
    """

    references: References
    after_cell: int = 0
    _rows: dict[_RowSlot, list[PredictionRow]] = field(default_factory=dict)
    _performance: dict[_Slot, _Performance] = field(default_factory=dict)
    _labels: dict[_Slot, LabelsDelta] = field(default_factory=dict)
    _pairs: dict[_PairSlot, PairDelta] = field(default_factory=dict)
    _binners: dict[tuple[int, int], tuple[Reference, Plan, Binner]] = field(default_factory=dict)

    def row(self, plan: Plan, columns: ModelColumns, row: PredictionRow, reference_id: str) -> None:
        """Take a prediction into its drift pane; without reference into its learning sample."""
        start_ms = row.event_time_ms - row.event_time_ms % plan.pane_ms
        slot = (plan, columns, row.version, reference_id, start_ms)
        rows = self._rows.get(slot)
        if rows is None:
            self._rows[slot] = [row]
        else:
            rows.append(row)

    def predicted(self, held: Held) -> None:
        """Count a prediction of a labelled model in its performance pane and segments."""
        answered = held.predicted
        for pane in self._performance_of(held):
            delta = pane.delta
            delta.predicted += 1
            if held.score is not None:
                pane.offered.append(held.score)
            if isinstance(answered, str):
                delta.answers[answered] = delta.answers.get(answered, 0) + 1

    def labelled(self, held: Held, labelled: Labelled, sign: int) -> None:
        """Put a label into its prediction's performance pane, or take it out (sign -1)."""
        answered, text = held.predicted, labelled.text
        for pane in self._performance_of(held):
            delta = pane.delta
            delta.labelled += sign
            if held.champion:
                delta.served += sign
            if isinstance(answered, float):
                error = absolute_error(answered, labelled)
                delta.absolute_error += sign * _fixed(error)
                delta.squared_error += sign * _fixed(error * error)
            elif answered is not None:
                _tally(delta.confusion, text, answered, sign)
                if held.score is not None:
                    is_positive = text == (held.positive or answered)
                    pane.scored.append((held.score, is_positive, sign))

    def first_label(self, held: Held, labelled: Labelled, closed_ms: int) -> None:
        """Put a prediction's first label into its cell, if that is not behind ``closed_ms``."""
        if held.predicted is None:
            return
        time_ms = max(held.time_ms, labelled.time_ms)
        start_ms = time_ms - time_ms % held.cell_ms
        end_ms = start_ms + held.cell_ms
        if end_ms <= closed_ms:
            self.after_cell += 1
            return
        slot = (held.model, held.version, "", held.reference_id, start_ms, end_ms)
        delta = self._labels.get(slot)
        if delta is None:
            delta = self._labels[slot] = LabelsDelta()
        delta.labelled += 1
        if isinstance(held.predicted, float):
            error = absolute_error(held.predicted, labelled)
            delta.loss += _fixed(error)
            reference = self.references(held.reference_id)
            if reference is not None and reference.loss_cuts:
                rank = bisect_left(reference.loss_cuts, error)
                delta.ranks[rank] = delta.ranks.get(rank, 0) + 1
        else:
            _tally(delta.confusion, labelled.text, held.predicted, 1)
            if held.predicted != labelled.text:
                delta.loss += FIXED_POINT

    def pair(self, pair: Pair, champion_label: Labelled, shadow_label: Labelled, sign: int) -> None:
        """Put a pair's loss difference into its histogram, or take it out (sign -1)."""
        champion, shadow = pair
        scale = _loss_scale(self.references(champion.reference_id))
        mine, theirs = (
            loss_steps(champion, champion_label, scale),
            loss_steps(shadow, shadow_label, scale),
        )
        if mine is None or theirs is None:
            return
        start_ms = champion.time_ms - champion.time_ms % champion.pane_ms
        end_ms = start_ms + champion.pane_ms
        slot = (
            shadow.model, shadow.version, "", shadow.reference_id, start_ms, end_ms,
            champion.version,
        )  # fmt: skip
        delta = self._pairs.get(slot)
        if delta is None:
            delta = self._pairs[slot] = PairDelta(champion.version)
        delta.differences[mine - theirs] = delta.differences.get(mine - theirs, 0) + sign

    def take(self) -> list[PaneDelta]:
        """Give the deltas and begin anew."""
        deltas = [self._count(slot, rows) for slot, rows in self._rows.items()]
        found: list[tuple[PaneKind, _Slot, Delta]] = []
        found += [("performance", slot, pane.take()) for slot, pane in self._performance.items()]
        found += [("labels", slot, delta) for slot, delta in self._labels.items()]
        for pair, histogram in self._pairs.items():
            if any(histogram.differences.values()):
                found.append(("pair", pair[:6], histogram))
        for kind, (*series, start_ms, end_ms), delta in found:
            deltas.append(PaneDelta(kind, Series(*series), start_ms, end_ms, delta))
        self.after_cell = 0
        for pending in (self._rows, self._performance, self._labels, self._pairs):
            pending.clear()
        return deltas

    def _performance_of(self, held: Held) -> Sequence[_Performance]:
        start_ms = held.time_ms - held.time_ms % held.pane_ms
        slot = (
            held.model, held.version, "", held.reference_id, start_ms, start_ms + held.pane_ms,
        )  # fmt: skip
        pane = self._performance.get(slot)
        if pane is None:
            pane = self._performance[slot] = _Performance()
        if not held.segments:
            return (pane,)
        found = [pane]
        for name, value in held.segments.items():
            segment = (*slot[:2], f"{name}={label_text(value)}", *slot[3:])
            pane = self._performance.get(segment)
            if pane is None:
                pane = self._performance[segment] = _Performance()
            found.append(pane)
        return found

    def _count(self, slot: _RowSlot, rows: Sequence[PredictionRow]) -> PaneDelta:
        plan, columns, version, reference_id, start_ms = slot
        end_ms = start_ms + plan.pane_ms
        reference = self.references(reference_id) if reference_id else None
        if reference is None:
            series = Series(plan.model, version, "", "")
            return PaneDelta("learning", series, start_ms, end_ms, _learn(plan, columns, rows))
        series = Series(plan.model, version, "", reference_id)
        outputs = [row.output for row in rows]
        latencies = [row.latency_ms for row in rows]
        drift = self._bins(reference, plan).count(
            columns.columns([row.features for row in rows]),
            rows=len(rows),
            predictions=list(map(_answer, outputs)),
            scores=None if reference.score is None else list(map(_score, outputs)),
            answers=None
            if reference.score is None or plan.regression
            else [answer(plan, output) for output in outputs],
            answer_scores=_compared(plan, outputs),
            latencies=latencies if any(latencies) else None,
        )
        return PaneDelta("drift", series, start_ms, end_ms, drift)

    def _bins(self, reference: Reference, plan: Plan) -> Binner:
        key = (id(reference), id(plan))
        known = self._binners.get(key)
        if known is None:
            if len(self._binners) >= _MAX_BINNERS:
                self._binners.clear()
            # Both are kept beside the binner, so that their ids stay taken.
            binner = Binner(reference, plan.features, multivariate=plan.multivariate)
            known = self._binners[key] = (reference, plan, binner)
        return known[2]


def id_hash(prediction_id: str) -> int:
    """Give the 64-bit hash by which a learning sample is drawn."""
    return int.from_bytes(blake2b(prediction_id.encode(), digest_size=8).digest())


def absolute_error(predicted: float, labelled: Labelled) -> float:
    """Give |error|, clipped so that its square is finite; a label that is no number errs most."""
    try:
        return min(_MAX_ERROR, abs(predicted - float(labelled.label)))
    except (ValueError, OverflowError):
        return _MAX_ERROR


def loss_steps(held: Held, labelled: Labelled, scale: float) -> int | None:
    """Give a prediction's loss in 1/32: 0 or 32, for regression |error| / scale, clipped."""
    if held.predicted is None:
        return None
    if isinstance(held.predicted, float):
        error = absolute_error(held.predicted, labelled)
        return round(LOSS_STEPS * min(1.0, error / scale))
    return 0 if held.predicted == labelled.text else LOSS_STEPS


def _loss_scale(reference: Reference | None) -> float:
    """Give the error that counts as a loss of 1: mean + 3 sd of the reference's errors.

    That stands for their 99th percentile, which sums alone cannot give; 1
    when the reference has no labelled rows.
    """
    loss = None if reference is None else reference.loss
    if not loss or "sum_of_squares" not in loss or not loss["n"]:
        return 1.0
    mean = loss["sum"] / loss["n"]
    variance = max(0.0, loss["sum_of_squares"] / loss["n"] - mean * mean)
    return (mean + 3.0 * variance**0.5) or 1.0


def _learn(plan: Plan, columns: ModelColumns, rows: Sequence[PredictionRow]) -> LearningDelta:
    hashed = [(id_hash(row.prediction_id), i) for i, row in enumerate(rows)]
    sample = {}
    for key, i in nsmallest(SAMPLE_ROWS, hashed):
        output = rows[i].output
        sample[key] = [
            columns.dictionary(rows[i].features, plan.features),
            None if output is None else msgspec.to_builtins(output),
        ]
    return LearningDelta(len(rows), sample)


def _answer(output: OutputRow | None) -> Scalar | None:
    if output is None:
        return None
    return output.value if output.label is None else output.label


def _score(output: OutputRow | None) -> float | None:
    if output is None:
        return None
    if output.score is None and output.scores:
        return max(output.scores.values())
    return output.score


def _compared(plan: Plan, outputs: Sequence[OutputRow | None]) -> list[float | None] | None:
    """Give the scores that labels are compared with, where those are not the drift test's.

    Of two classes' scores that is the positive's, and not the higher one.
    """
    if plan.positive is None or not any(o is not None and o.scores for o in outputs):
        return None
    return [score_of(plan, output) for output in outputs]


def _tally(table: dict[str, dict[str, int]], label: str, answered: str, sign: int) -> None:
    row = table.get(label)
    if row is None:
        row = table[label] = {}
    row[answered] = row.get(answered, 0) + sign


def _fixed(value: float) -> int:
    return round(value * FIXED_POINT)
