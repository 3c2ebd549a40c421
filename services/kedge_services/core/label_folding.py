"""Folds predictions of labelled models and their labels into performance panes and cells.

What almost every record adds, a prediction or its first label, is counted for the rows
of one kind, pane and label at once; what a correction changes, record by record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import PaneKind, label_text
from kedge.panes import Reference
from kedge_services.core.deltas import (
    LOSS_STEPS,
    Delta,
    LabelsDelta,
    PairDelta,
    PerformanceDelta,
)
from kedge_services.core.entries import Held, Labelled, Pair
from kedge_services.core.kinds import Kind
from kedge_services.core.sketches import FIXED_POINT, LabelledScores, score_bins

__all__ = [
    "LabelFold",
    "PaneDelta",
    "PaneKey",
    "References",
    "Rows",
    "Series",
    "loss_steps",
]

#: Errors are clipped here: their squares and sums stay finite.
_MAX_ERROR = 1e100
#: Squares of errors below this, and sums of so many of them, are exact in int64.
_EXACT_ERROR, _EXACT_ROWS = 1 << 8, 1 << 16

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


class Rows(NamedTuple):
    """Rows of one kind that got the same label, or are not labelled yet.

    Attributes
    ----------
    numbers
        Scores or predicted values, shape (rows,); NaN where there is none.
    text
        The label as it is compared; for regression empty.
    labels
        For regression the labels, shape (rows,), finite or infinite; else empty.
    """

    kind: Kind
    numbers: NDArray[np.float64]
    text: str = ""
    labels: NDArray[np.float64] = np.empty(0)


@dataclass(slots=True)
class _Performance:
    """A performance pane that is being filled; scores are only collected, and counted at once."""

    delta: PerformanceDelta = field(default_factory=PerformanceDelta)
    scored: list[tuple[float, bool, int]] = field(default_factory=list)
    offered: list[float] = field(default_factory=list)
    positives: list[NDArray[np.float64]] = field(default_factory=list)
    negatives: list[NDArray[np.float64]] = field(default_factory=list)
    many_offered: list[NDArray[np.float64]] = field(default_factory=list)

    def take(self) -> PerformanceDelta:
        self.delta.scores = LabelledScores.of(self.scored)
        for parts, is_positive in ((self.positives, True), (self.negatives, False)):
            if parts:
                self.delta.scores.add(LabelledScores.of_one(np.concatenate(parts), is_positive))
        self.delta.offered = score_bins(np.concatenate([self.offered, *self.many_offered]))
        return self.delta


@dataclass(slots=True)
class LabelFold:
    """What labelled models add to their panes, since the last :meth:`take_labels`.

    Attributes
    ----------
    references
        Gives a reference by its id.
    after_cell
        Number of first labels left out since the last taking, because
        their cell was closed.
    """

    references: References
    after_cell: int = 0
    _performance: dict[_Slot, _Performance] = field(default_factory=dict)
    _labels: dict[_Slot, LabelsDelta] = field(default_factory=dict)
    _pairs: dict[_PairSlot, PairDelta] = field(default_factory=dict)

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

    def many_predicted(self, rows: Rows, segment: str, start_ms: int) -> None:
        """Count predictions of one performance pane, like :meth:`predicted` each of them.

        Parameters
        ----------
        rows
            The predictions.
        segment
            Of the series; empty for the whole.
        start_ms
            Of the pane.
        """
        pane, kind = self._pane(rows.kind, segment, start_ms), rows.kind
        pane.delta.predicted += len(rows.numbers)
        if kind.is_value:
            return
        if kind.has_number:
            pane.many_offered.append(rows.numbers)
        if kind.predicted is not None:
            answers = pane.delta.answers
            answers[kind.predicted] = answers.get(kind.predicted, 0) + len(rows.numbers)

    def many_labelled(self, rows: Rows, segment: str, start_ms: int) -> None:
        """Count first labels in one performance pane, like :meth:`labelled` each of them."""
        pane, kind = self._pane(rows.kind, segment, start_ms), rows.kind
        delta = pane.delta
        delta.labelled += len(rows.numbers)
        if kind.champion:
            delta.served += len(rows.numbers)
        if kind.is_value:
            if kind.has_number:
                errors = _errors(rows)
                delta.absolute_error += _fixed_sum(errors)
                delta.squared_error += _fixed_sum(errors, squared=True)
        elif kind.predicted is not None:
            _tally(delta.confusion, rows.text, kind.predicted, len(rows.numbers))
            if kind.has_number:
                is_positive = rows.text == (kind.positive or kind.predicted)
                (pane.positives if is_positive else pane.negatives).append(rows.numbers)

    def many_first(self, rows: Rows, start_ms: int) -> None:
        """Put first labels into one open cell, like :meth:`first_label` each of them."""
        kind = rows.kind
        slot = (
            kind.model, kind.version, "", kind.reference_id, start_ms, start_ms + kind.cell_ms,
        )  # fmt: skip
        delta = self._labels.get(slot)
        if delta is None:
            delta = self._labels[slot] = LabelsDelta()
        delta.labelled += len(rows.numbers)
        if kind.is_value:
            errors = _errors(rows)
            delta.loss += _fixed_sum(errors)
            reference = self.references(kind.reference_id)
            if reference is not None and reference.loss_cuts:
                ranks = np.searchsorted(reference.loss_cuts, errors, side="left")
                for rank, count in zip(*np.unique(ranks, return_counts=True), strict=True):
                    delta.ranks[int(rank)] = delta.ranks.get(int(rank), 0) + int(count)
        elif kind.predicted is not None:
            _tally(delta.confusion, rows.text, kind.predicted, len(rows.numbers))
            if kind.predicted != rows.text:
                delta.loss += FIXED_POINT * len(rows.numbers)

    def take_labels(self) -> list[PaneDelta]:
        """Give the deltas and begin anew."""
        found: list[tuple[PaneKind, _Slot, Delta]] = []
        found += [("performance", slot, pane.take()) for slot, pane in self._performance.items()]
        found += [("labels", slot, delta) for slot, delta in self._labels.items()]
        for pair, histogram in self._pairs.items():
            if any(histogram.differences.values()):
                found.append(("pair", pair[:6], histogram))
        deltas = [
            PaneDelta(kind, Series(*series), start_ms, end_ms, delta)
            for kind, (*series, start_ms, end_ms), delta in found
        ]
        self.after_cell = 0
        for pending in (self._performance, self._labels, self._pairs):
            pending.clear()
        return deltas

    def _pane(self, kind: Kind, segment: str, start_ms: int) -> _Performance:
        slot = (
            kind.model, kind.version, segment, kind.reference_id, start_ms,
            start_ms + kind.pane_ms,
        )  # fmt: skip
        return self._at(slot)

    def _at(self, slot: _Slot) -> _Performance:
        pane = self._performance.get(slot)
        if pane is None:
            pane = self._performance[slot] = _Performance()
        return pane

    def _performance_of(self, held: Held) -> Sequence[_Performance]:
        start_ms = held.time_ms - held.time_ms % held.pane_ms
        slot = (
            held.model, held.version, "", held.reference_id, start_ms, start_ms + held.pane_ms,
        )  # fmt: skip
        found = [self._at(slot)]
        for name, value in held.segments.items():
            found.append(self._at((*slot[:2], f"{name}={label_text(value)}", *slot[3:])))
        return found


def absolute_error(predicted: float, labelled: Labelled) -> float:
    """Give |error|, clipped so that its square is finite; a label that is no number errs most."""
    try:
        return min(_MAX_ERROR, abs(predicted - float(labelled.label)))
    except (ValueError, OverflowError):
        return _MAX_ERROR


def _errors(rows: Rows) -> NDArray[np.float64]:
    """Give |error| of every row, clipped like :func:`absolute_error`."""
    return np.minimum(_MAX_ERROR, np.abs(rows.numbers - rows.labels))


def _fixed_sum(errors: NDArray[np.float64], *, squared: bool = False) -> int:
    """Give the exact sum of errors, or of their squares, in :data:`FIXED_POINT`."""
    if errors.size < _EXACT_ROWS and errors.max(initial=0.0) < _EXACT_ERROR:
        values = errors * errors if squared else errors
        return int(np.rint(values * FIXED_POINT).astype(np.int64).sum())
    return sum(_fixed(error * error if squared else error) for error in errors.tolist())


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


def _tally(table: dict[str, dict[str, int]], label: str, answered: str, sign: int) -> None:
    row = table.get(label)
    if row is None:
        row = table[label] = {}
    row[answered] = row.get(answered, 0) + sign


def _fixed(value: float) -> int:
    return round(value * FIXED_POINT)
