"""Reads records that hold Arrow batches: one record, many predictions.

Records of one layout that follow one another are read together, so that what is done once
a column is done for thousands of rows.  A batch that is wrong as a whole is put aside as it
is and counts as one record; a row that is wrong is put aside alone, as the JSON event it
stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kedge.batch_layout import CONTENT_TYPE_HEADER, MAX_BATCH_BYTES
from kedge.batch_schema import FEATURES, SEGMENTS, Layout
from kedge.errors import DeadLetter
from kedge_services.core.decoding import PredictionRow
from kedge_services.core.plans import Plan
from kedge_services.panes.arrow import ArrowReader
from kedge_services.panes.arrow_rows import ArrowRows
from kedge_services.panes.intake import Intake
from kedge_services.runtime.dead_letters import ROW
from kedge_services.runtime.ports import Batch, Headers

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

    def takes(self, layout: Layout, batch: pa.RecordBatch) -> bool:
        """Say whether a batch can be read together with those that are there."""
        return (
            layout is self.layout
            and self.rows + batch.num_rows <= ROWS_TOGETHER
            and self.size + batch.nbytes <= MAX_BATCH_BYTES
        )

    def add(self, i: int, batch: pa.RecordBatch) -> None:
        """Put a batch behind the others."""
        self.at.append(i)
        self.batches.append(batch)
        self.rows += batch.num_rows
        self.size += batch.nbytes


@dataclass(slots=True)
class BatchReader:
    """Gives every row of a batch its fate.

    Attributes
    ----------
    intake
        The partition's place, state and join.
    take
        Takes rows as if each had come in a record of its own.
    """

    intake: Intake
    take: Callable[[Batch, list[PredictionRow | DeadLetter]], None]
    _reader: ArrowReader = field(default_factory=ArrowReader)

    def read(self, batch: Batch) -> None:
        """Take records of batches."""
        run: _Run | None = None
        for i, value in enumerate(batch.values):
            try:
                layout, rows = self._reader.open(value)
            except DeadLetter as refused:
                self._end(batch, run)
                run = None
                self._put_aside(batch, i, refused)
                continue
            if run is None or not run.takes(layout, rows):
                self._end(batch, run)
                run = _Run(layout)
            run.add(i, rows)
        self._end(batch, run)

    def _put_aside(self, batch: Batch, i: int, refused: DeadLetter) -> None:
        self.intake.account.clocks["predictions"].tick(batch.timestamps_ms[i])
        self.intake.refuse(batch, i, refused)

    def _end(self, batch: Batch, run: _Run | None) -> None:
        """Read the records of a run; those that are wrong as a whole end it before them."""
        if run is None:
            return
        rows = ArrowRows.of(run.layout, run.batches)
        firsts = np.cumsum([0, *(part.num_rows for part in run.batches)])
        refused = self._refused(batch, run, rows, firsts)
        if not refused:
            self._take(batch, np.repeat(run.at, np.diff(firsts)), firsts, rows)
            return
        part = _Run(run.layout)
        for i, rows_of in zip(run.at, run.batches, strict=True):
            if i in refused:
                self._end_checked(batch, part)
                self._put_aside(batch, i, refused[i])
                part = _Run(run.layout)
            else:
                part.add(i, rows_of)
        self._end_checked(batch, part)

    def _end_checked(self, batch: Batch, run: _Run) -> None:
        if run.at:
            firsts = np.cumsum([0, *(part.num_rows for part in run.batches)])
            rows = ArrowRows.of(run.layout, run.batches)
            self._take(batch, np.repeat(run.at, np.diff(firsts)), firsts, rows)

    # ------------------------------------------------------------- whole batches

    def _refused(
        self, batch: Batch, run: _Run, rows: ArrowRows, firsts: _Ints
    ) -> dict[int, DeadLetter]:
        """Find the records that are wrong as a whole: their key, or a column's type."""
        refused = {}
        for number, i in enumerate(run.at):
            why = self._key_refusal(
                batch.keys[i], rows, int(firsts[number]), int(firsts[number + 1])
            )
            if why is None and run.layout.unreadable:
                why = self._type_refusal(rows, int(firsts[number]), int(firsts[number + 1]))
            if why is not None:
                refused[i] = why
        return refused

    def _key_refusal(
        self, key: bytes | None, rows: ArrowRows, first: int, end: int
    ) -> DeadLetter | None:
        """Refuse a batch whose key is not the request id of its first row that has one."""
        named = next((row for row in range(first, end) if rows.names[row]), None)
        if named is None or key == (wanted := rows.request_id(named)):
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

    # ---------------------------------------------------------------------- rows

    def _take(self, batch: Batch, at: _Ints, firsts: _Ints, rows: ArrowRows) -> None:
        """Take the rows of records that are good as a whole; ``at``: each row's record."""
        decoded: list[PredictionRow | DeadLetter | None] = [None] * rows.rows
        for plan, mine in self._plans(rows):
            self._refuse_labels(plan, rows, mine)
            columns = self.intake.lookup.declared(plan)
            for row, made in zip(mine.tolist(), rows.decoded(columns, plan, mine), strict=True):
                decoded[row] = made
        for row, refused in rows.refused.items():
            decoded[row] = refused
        where = at.tolist()
        record = np.searchsorted(firsts, np.arange(rows.rows), side="right") - 1
        expanded = Batch(
            batch.topic,
            batch.partition,
            [batch.offsets[i] for i in where],
            [batch.timestamps_ms[i] for i in where],
            [
                rows.request_id(row) if 1 <= len(name or "") <= 255 else batch.keys[i]
                for row, (i, name) in enumerate(zip(where, rows.names, strict=True))
            ],
            _Lazily(rows.rows, rows.event),
            _Lazily(
                rows.rows,
                lambda row: _headers(batch.headers[where[row]], row - int(firsts[record[row]])),
            ),
        )
        self.take(expanded, decoded)  # type: ignore[arg-type]

    def _plans(self, rows: ArrowRows) -> Iterator[tuple[Plan, _Ints]]:
        """Give the good rows by the plan that holds for them; refuse those of no known model."""
        good = rows.good()
        codes = rows.models.codes[good]
        for code in np.unique(codes).tolist():
            mine, model = good[codes == code], rows.models.values[code]
            times = rows.times_ms[mine]
            lookup = self.intake.lookup
            if lookup.monitored(model, int(times[0])) is None:
                unknown = DeadLetter("unknown-model", f"model {model} has no monitor")
                rows.refuse(mine.tolist(), partial(_same, unknown))
            elif lookup.plans.at(model, 0) is lookup.newest.get(model):
                yield lookup.newest[model], mine
            else:
                by_plan: dict[Plan, list[int]] = {}
                for row, time_ms in zip(mine.tolist(), times.tolist(), strict=True):
                    by_plan.setdefault(lookup.plan(model, time_ms), []).append(row)
                yield from ((plan, np.array(chosen)) for plan, chosen in by_plan.items())

    def _refuse_labels(self, plan: Plan, rows: ArrowRows, mine: _Ints) -> None:
        """Refuse answers whose label is none of the declared classes."""
        labels = rows.labels
        if labels is None or plan.regression:
            return
        wrong = [value is not None and not plan.accepts(value) for value in labels.values]
        if any(wrong):
            codes = labels.codes[mine]
            rows.refuse(
                mine[np.array([*wrong, False])[codes]].tolist(),
                lambda row: DeadLetter(
                    "bad-value", "output." + plan.refusal(labels.values[labels.codes[row]])
                ),
            )


class _Lazily(Sequence[Any]):
    """What is made of a row only where it is asked for: when the row is put aside."""

    def __init__(self, rows: int, make: Callable[[int], Any]) -> None:
        self._rows = rows
        self._make = make

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, row: int) -> Any: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Any]: ...

    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self._make(each) for each in range(*row.indices(self._rows))]
        return self._make(row)


def _same(refused: DeadLetter, _: int) -> DeadLetter:
    return refused


def _headers(headers: Headers, row: int) -> Headers:
    """Give a row's headers: it is JSON now, and has a number in its batch."""
    kept = [(name, value) for name, value in headers if name.lower() != CONTENT_TYPE_HEADER]
    return [*kept, (ROW, str(row).encode())]
