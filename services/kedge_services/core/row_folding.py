"""Folds the rows of drift panes into counts, and of versions that are learning into samples.

Rows are gathered by slot and counted as columns once they are many, or when the deltas
are taken: counts add up, so what comes out does not depend on when that was.  A handful of
rows is counted value by value, and so are *odd* rows, that only the contract could read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kedge.panes import Reference
from kedge_services.core.binning import Binner
from kedge_services.core.columns import Values, coded
from kedge_services.core.decoding import NO_OUTPUT, ModelColumns, PredictionRow
from kedge_services.core.deltas import DriftDelta, LearningDelta
from kedge_services.core.feature_binning import FEW
from kedge_services.core.given_answers import given_answers
from kedge_services.core.groups import Answers, Column, Features, Numbers, Slot, Table, joined
from kedge_services.core.label_folding import PaneDelta, References, Series
from kedge_services.core.plans import Plan
from kedge_services.core.sampling import sample_rows, sample_table

__all__ = ["RowFold"]

#: So many gathered rows are counted without waiting for the end.
_MANY: Final = 1 << 13
#: So many rows are made columns at once, as long as they are near the processor.
_ENOUGH: Final = 1 << 8
#: Binners kept; references that came after so many were replaced long ago.
_MAX_BINNERS: Final = 1_000


@dataclass(slots=True)
class _Gathered:
    """What has come for a slot and is not counted yet, and what is."""

    reference: Reference | None
    columns: ModelColumns | None = None
    rows: list[PredictionRow] = field(default_factory=list)
    odd: list[PredictionRow] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    in_tables: int = 0
    drift: DriftDelta | None = None
    learning: LearningDelta | None = None


@dataclass(slots=True)
class RowFold:
    """The rows of all slots since the last :meth:`take`.

    Attributes
    ----------
    references
        Gives a reference by its id; rows are counted on its bins.
    """

    references: References
    _slots: dict[Slot, _Gathered] = field(default_factory=dict)
    _binners: dict[tuple[int, int], tuple[Reference, Plan, Binner]] = field(default_factory=dict)

    def rows(
        self,
        slot: Slot,
        columns: ModelColumns,
        rows: Sequence[PredictionRow],
        answers: Answers | None = None,
        features: Features | None = None,
    ) -> None:
        """Take decoded rows of a slot; with their answers only those of the type ``columns.row``.

        With answers, and many, they become columns at once, or earlier where their
        features are columns already.
        """
        gathered = self._gathered(slot)
        enough = _ENOUGH if features is None else FEW
        if answers is not None and gathered.reference is not None and len(rows) >= enough:
            self.table(slot, _table_of(columns, rows, answers, features))
            return
        if gathered.columns is not columns:
            # The features have changed; rows before and after have different structs.
            self._count_rows(slot, gathered)
            self._count_odd(slot, gathered)
            gathered.columns = columns
        gathered.rows.extend(rows)
        if len(gathered.rows) >= _ENOUGH:
            self._count_rows(slot, gathered)
        if len(gathered.odd) >= _ENOUGH:
            self._count_odd(slot, gathered)

    def table(self, slot: Slot, table: Table) -> None:
        """Take rows of a slot that are columns from the start."""
        gathered = self._gathered(slot)
        gathered.tables.append(table)
        gathered.in_tables += table.rows
        if gathered.in_tables >= _MANY:
            self._count_tables(slot, gathered)

    def take(self) -> list[PaneDelta]:
        """Give what was counted and begin anew."""
        found = []
        for slot, gathered in self._slots.items():
            self._count_rows(slot, gathered)
            self._count_odd(slot, gathered)
            self._count_tables(slot, gathered)
            plan, version, reference_id, start_ms = slot
            end_ms = start_ms + plan.pane_ms
            if gathered.drift is not None:
                series = Series(plan.model, version, "", reference_id)
                found.append(PaneDelta("drift", series, start_ms, end_ms, gathered.drift))
            elif gathered.learning is not None:
                series = Series(plan.model, version, "", "")
                found.append(PaneDelta("learning", series, start_ms, end_ms, gathered.learning))
        self._slots.clear()
        return found

    def _gathered(self, slot: Slot) -> _Gathered:
        gathered = self._slots.get(slot)
        if gathered is None:
            reference = self.references(slot.reference_id) if slot.reference_id else None
            gathered = self._slots[slot] = _Gathered(reference)
        return gathered

    def _count_rows(self, slot: Slot, gathered: _Gathered) -> None:
        rows, columns = gathered.rows, gathered.columns
        if not rows or columns is None:
            return
        gathered.rows = []
        reference = gathered.reference
        if reference is None:
            _add_learning(gathered, sample_rows(slot.plan.features, columns, rows))
            return
        # What others have made columns of is counted as columns; a few rows more cost nothing.
        if len(rows) > FEW or gathered.tables:
            odd = [row for row in rows if type(row) is not columns.row]
            usual = [row for row in rows if type(row) is columns.row] if odd else rows
            if usual and (len(usual) > FEW or gathered.tables):
                self.table(slot, _table_of(columns, usual, _answers_of(usual)))
                # A few of them cost as much as many: they wait for more of their kind.
                gathered.odd += odd
                return
        self._count_table(slot.plan, reference, gathered, _scalars_of(columns, rows))

    def _count_odd(self, slot: Slot, gathered: _Gathered) -> None:
        odd, columns, reference = gathered.odd, gathered.columns, gathered.reference
        if odd and columns is not None and reference is not None:
            gathered.odd = []
            self._count_table(slot.plan, reference, gathered, _scalars_of(columns, odd))

    def _count_tables(self, slot: Slot, gathered: _Gathered) -> None:
        tables, gathered.tables, gathered.in_tables = gathered.tables, [], 0
        if not tables:
            return
        reference = gathered.reference
        if reference is None:
            for table in tables:
                _add_learning(gathered, sample_table(slot.plan.features, table))
            return
        # Those with outputs cannot be put together with those with columns of answers.
        for alike in ([t for t in tables if t.outputs is None],
                      [t for t in tables if t.outputs is not None]):  # fmt: skip
            if alike:
                self._count_table(slot.plan, reference, gathered, joined(alike))

    def _count_table(
        self, plan: Plan, reference: Reference, gathered: _Gathered, table: Table
    ) -> None:
        arrays: dict[str, Values] = {}
        nulls: dict[Any, int] = {}
        for name, column in table.features.items():
            if isinstance(column, Numbers):
                arrays[name], nulls[name] = column
            else:
                arrays[name] = column
        given = given_answers(plan, reference, table)
        nulls |= given.nulls
        drift = self._bins(reference, plan).count(
            arrays,
            rows=table.rows,
            predictions=given.predictions,
            scores=given.scores,
            answers=given.answers,
            answer_scores=given.answer_scores,
            latencies=table.latencies,
            nulls=nulls,
        )
        if gathered.drift is None:
            gathered.drift = drift
        else:
            gathered.drift.add(drift)

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


def _add_learning(gathered: _Gathered, delta: LearningDelta) -> None:
    if gathered.learning is None:
        gathered.learning = delta
    else:
        gathered.learning.add(delta)


def _answers_of(rows: Sequence[PredictionRow]) -> Answers:
    outputs = [row.output or NO_OUTPUT for row in rows]
    return Answers(outputs, coded([output.label for output in outputs]))


def _table_of(
    columns: ModelColumns,
    rows: Sequence[PredictionRow],
    answers: Answers,
    known: Features | None = None,
) -> Table:
    """Turn many usual rows into columns: there, what is no number is null."""
    numeric, others = known or columns.arrays([row.features for row in rows])
    # Row after row in memory is what features are counted from.
    transposed = np.ascontiguousarray(numeric.T)
    features: dict[str, Column] = dict(others)
    for name, values in zip(columns.numeric, transposed, strict=True):
        features[name] = _numbers(values)
    outputs, labels = answers
    latencies = [row.latency_ms for row in rows]
    waited = None if latencies.count(None) == len(rows) else _floats(latencies)
    if any([output.scores for output in outputs]):  # noqa: C419 -- half the time
        found = [row.output for row in rows]
        return Table(len(rows), (), features, outputs=found, latencies=waited)
    values_given = [output.value for output in outputs]
    return Table(
        len(rows),
        (),
        features,
        labels=None if labels.names == [None] else labels,
        scores=_numbers(_floats([output.score for output in outputs])),
        values=None if values_given.count(None) == len(rows) else _numbers(_floats(values_given)),
        latencies=waited,
    )


def _scalars_of(columns: ModelColumns, rows: Sequence[PredictionRow]) -> Table:
    """Turn a handful of rows, or odd ones, into columns of whatever was sent."""
    latencies = [row.latency_ms for row in rows]
    return Table(
        len(rows),
        (),
        columns.columns([row.features for row in rows]),
        outputs=[row.output for row in rows],
        latencies=None if latencies.count(None) == len(rows) else _floats(latencies),
    )


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)  # None becomes NaN.


def _numbers(values: NDArray[np.float64]) -> Numbers:
    return Numbers(values, int(np.count_nonzero(np.isnan(values))))
