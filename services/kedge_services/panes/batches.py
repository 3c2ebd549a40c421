"""Reads records that hold Arrow batches: one record, many predictions.

Records of one layout that follow one another are read together, so that what is done once
a column is done for thousands of rows.  A batch that is wrong as a whole is put aside as it
is and counts as one record; a row that is wrong is put aside alone, as the JSON event it
stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kedge.batch_layout import MAX_BATCH_BYTES
from kedge.batch_schema import FEATURES, SEGMENTS, Layout
from kedge.errors import DeadLetter
from kedge_services.panes.arrow import ArrowReader
from kedge_services.panes.arrow_rows import ArrowRows
from kedge_services.panes.batch_rows import RowTaker
from kedge_services.panes.intake import Intake
from kedge_services.runtime.ports import Batch

__all__ = ["BatchReader"]

_Ints = NDArray[np.int64]

#: So many rows are read together, at least if there are as many.
ROWS_TOGETHER = 1 << 16


@dataclass(slots=True)
class _Run:
    """Records of one layout that follow one another.

    Attributes
    ----------
    at
        Positions in the batch.
    """

    layout: Layout
    at: list[int] = field(default_factory=list)
    batches: list[pa.RecordBatch] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def takes(self, layout: Layout, batch: pa.RecordBatch, size: int) -> bool:
        """Say whether a batch of ``size`` bytes can be read together with those that are there."""
        return (
            layout is self.layout
            and self.rows + batch.num_rows <= ROWS_TOGETHER
            and self.size + size <= MAX_BATCH_BYTES
        )

    @property
    def firsts(self) -> _Ints:
        """Number of the first row of every batch, and of all rows."""
        return np.cumsum([0, *(batch.num_rows for batch in self.batches)])

    def add(self, i: int, batch: pa.RecordBatch, size: int) -> None:
        """Put a batch of ``size`` bytes behind the others."""
        self.at.append(i)
        self.batches.append(batch)
        self.rows += batch.num_rows
        self.size += size


@dataclass(slots=True)
class BatchReader:
    """Gives every row of a batch its fate.

    Attributes
    ----------
    intake
        The partition's place, state and join.
    rows
        Takes the rows of what is right as a whole.
    """

    intake: Intake
    rows: RowTaker
    _reader: ArrowReader = field(default_factory=ArrowReader)

    def read(self, batch: Batch) -> None:
        """Take records of batches."""
        run: _Run | None = None
        for i, value in enumerate(batch.values):
            try:
                layout, rows, size = self._reader.open(value)
            except DeadLetter as refused:
                self._end(batch, run)
                run = None
                self._put_aside(batch, i, refused)
                continue
            if run is None or not run.takes(layout, rows, size):
                self._end(batch, run)
                run = _Run(layout)
            run.add(i, rows, size)
        self._end(batch, run)

    def _put_aside(self, batch: Batch, i: int, refused: DeadLetter) -> None:
        self.intake.account.clocks["predictions"].tick(batch.timestamps_ms[i])
        self.intake.refuse(batch, i, refused)

    def _end(self, batch: Batch, run: _Run | None) -> None:
        """Read the records of a run; those that are wrong as a whole end it before them."""
        if run is None:
            return
        rows, firsts = ArrowRows.of(run.layout, run.batches), run.firsts
        refused = self._refused(batch, run, rows, firsts)
        if not refused:
            self.rows.take(batch, run.at, firsts, rows)
            return
        part = _Run(run.layout)
        for i, rows_of in zip(run.at, run.batches, strict=True):
            if i in refused:
                self._end_checked(batch, part)
                self._put_aside(batch, i, refused[i])
                part = _Run(run.layout)
            else:
                part.add(i, rows_of, 0)
        self._end_checked(batch, part)

    def _end_checked(self, batch: Batch, run: _Run) -> None:
        if run.at:
            rows = ArrowRows.of(run.layout, run.batches)
            self.rows.take(batch, run.at, run.firsts, rows)

    # ------------------------------------------------------------- whole batches

    def _refused(
        self, batch: Batch, run: _Run, rows: ArrowRows, firsts: _Ints
    ) -> dict[int, DeadLetter]:
        """Find the records that are wrong as a whole: their key, or a column's type."""
        refused = {}
        named = np.append(np.flatnonzero(rows.ids.ends > rows.ids.starts), rows.rows)
        first_named = named[np.searchsorted(named, firsts[:-1])]
        for i, row, first, end in zip(
            run.at, first_named.tolist(), firsts[:-1].tolist(), firsts[1:].tolist(), strict=True
        ):
            why = self._key_refusal(batch.keys[i], rows, row) if row < end else None
            if why is None and run.layout.unreadable:
                why = self._type_refusal(rows, first, end)
            if why is not None:
                refused[i] = why
        return refused

    def _key_refusal(self, key: bytes | None, rows: ArrowRows, named: int) -> DeadLetter | None:
        """Refuse a batch whose key is not the request id of its first row that has one."""
        if key == (wanted := rows.request_id(named)):
            return None
        shown = "none" if key is None else repr(key)
        detail = f"the key should be the first row's request id {wanted.decode()!r}, it is {shown}"
        return DeadLetter("bad-key", detail)

    def _type_refusal(self, rows: ArrowRows, first: int, end: int) -> DeadLetter | None:
        """Refuse a batch with a column that a monitor declares and nobody could read."""
        for code in np.unique(rows.models.codes[first:end]).tolist():
            known = None if code < 0 else self.intake.lookup.newest.get(rows.models.values[code])
            for name, kind in rows.layout.unreadable.items():
                prefix, declared = (FEATURES, known and known.features)
                if name.startswith(SEGMENTS):
                    prefix, declared = (SEGMENTS, known and known.segments)
                if declared and name.removeprefix(prefix) in declared:
                    detail = f"column {name} is {kind}; it should be numbers, strings or booleans"
                    return DeadLetter("schema-mismatch", detail)
        return None
