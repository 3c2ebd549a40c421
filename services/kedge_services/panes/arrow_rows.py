"""Rows of Arrow batches: which are good, as columns to be counted, and one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.batch_schema import FEATURES, SCORES, SEGMENTS, Layout, is_number
from kedge.batch_values import Texts, times_of
from kedge.errors import DeadLetter
from kedge_services.core.decoding import ModelColumns, OutputRow, PredictionRow
from kedge_services.core.groups import Column, Table
from kedge_services.core.id_texts import Hashes, hashes_of
from kedge_services.core.plans import Plan
from kedge_services.panes.arrow import flat_columns
from kedge_services.panes.arrow_columns import Codes, codes_of, numbers_of, scalars_of

__all__ = ["ArrowRows", "Rows", "chosen_of"]

_Ints = NDArray[np.int64]
Rows: TypeAlias = _Ints | slice
"""Numbers of rows, or a slice of all rows with its start."""

_LONGEST_NAME = 255
_ROLES = ("champion", "shadow")


@dataclass
class ArrowRows:
    """Rows of batches of one layout, one behind the other.

    Attributes
    ----------
    layout
        Of all of them.
    columns
        By name, structs taken apart.
    rows
        Their number.
    refused
        Rows that cannot be processed, with the first reason that was found.
    """

    layout: Layout
    columns: dict[str, pa.Array]
    rows: int
    refused: dict[int, DeadLetter] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, batches: Sequence[pa.RecordBatch]) -> ArrowRows:
        """Put batches together, and refuse the rows without valid names and times."""
        columns = flat_columns(batches)
        made = cls(layout, columns, sum(batch.num_rows for batch in batches))
        made._check()
        return made

    # -------------------------------------------------------- what every row has

    @cached_property
    def ids(self) -> Texts:
        """Prediction ids, as bytes."""
        return Texts.of(self.columns["prediction_id"])

    @cached_property
    def names(self) -> NDArray[np.object_]:
        """Prediction ids, as str; None where there is none."""
        return self.ids.strings()

    @cached_property
    def hashes(self) -> Hashes:
        """What stands for prediction ids where they are looked up."""
        return hashes_of(self.ids.data, self.ids.starts, self.ids.ends)

    @cached_property
    def request_ends(self) -> _Ints:
        """Where the request id of every row ends in the bytes of the ids."""
        return self.ids.request_ends()

    @cached_property
    def times_ms(self) -> _Ints:
        """Event times; 0 where there is none."""
        return self._times[0]

    @cached_property
    def _times(self) -> tuple[_Ints, NDArray[np.bool_]]:
        return times_of(self.columns["event_time_ms"])

    @cached_property
    def models(self) -> Codes:
        """Model of every row."""
        return self._named("model")

    @cached_property
    def versions(self) -> Codes:
        """Version of every row."""
        return self._named("version")

    @cached_property
    def roles(self) -> Codes:
        """Role of every row; null is champion."""
        if "role" not in self.columns and "role" not in self.layout.constants:
            return Codes.constant("champion", self.rows)
        return self._named("role")

    @cached_property
    def labels(self) -> Codes | None:
        """Label of the answer of every row; None when there is no such column."""
        column = self.columns.get("output.label")
        return None if column is None else codes_of(column)

    def request_id(self, row: int) -> bytes:
        """Give the request id of a row."""
        return self.ids.data[self.ids.starts[row] : self.request_ends[row]].tobytes()

    def refuse(self, rows: Iterable[int], why: Callable[[int], DeadLetter]) -> None:
        """Refuse rows, each for the first reason that was found."""
        for row in rows:
            if row not in self.refused:
                self.refused[row] = why(row)

    def good(self, rows: Rows) -> Rows:
        """Give those of these rows that are not refused, in order."""
        if not self.refused:
            return rows
        keep = np.ones(self.rows, dtype=np.bool_)
        keep[list(self.refused)] = False
        return chosen_of(rows, keep[rows])

    def numbers(self, rows: Rows) -> _Ints:
        """Give the numbers of rows, where they are wanted one by one."""
        return np.arange(self.rows)[rows] if isinstance(rows, slice) else rows

    # ------------------------------------------------------------------- columns

    def table(self, columns: ModelColumns, rows: Rows, *, with_ids: bool) -> Table:
        """Give rows of one model as columns to be counted; ids are for what is learning."""
        features: dict[str, Column] = {}
        for name in columns.features:
            column = self.columns.get(FEATURES + name)
            if column is not None:
                is_numeric = name in columns.numeric and _are_floats(column.type)
                features[name] = (numbers_of if is_numeric else scalars_of)(column, rows)
        latencies = self.columns.get("latency_ms")
        common: dict[str, Any] = {
            "rows": self.times_ms[rows].size,
            "ids": self.names[rows].tolist() if with_ids else (),
            "features": features,
            "latencies": None if latencies is None else numbers_of(latencies, rows).values,
        }
        # A sample tells a score that is no number from none.
        if self._has_scores or with_ids:
            return Table(**common, outputs=self._outputs(rows))
        return Table(
            **common,
            labels=None if self.labels is None else self.labels.answers(rows),
            scores=self._output_numbers("output.score", rows),
            values=self._output_numbers("output.value", rows),
        )

    def _output_numbers(self, name: str, rows: Rows) -> Any:
        column = self.columns.get(name)
        return None if column is None else numbers_of(column, rows)

    @property
    def _has_scores(self) -> bool:
        return any(name == "output.scores" or name.startswith(SCORES) for name in self.columns)

    # ---------------------------------------------------------------- one by one

    def decoded(self, columns: ModelColumns, plan: Plan, rows: _Ints) -> list[PredictionRow]:
        """Give rows of one model as the decoder of JSON would have read them."""
        cells, is_odd = self._cells(columns, rows)
        features: Iterator[Any] = map(columns.values, *cells) if cells else (
            columns.values() for _ in range(rows.size)
        )  # fmt: skip
        names = self.names[rows].tolist()
        versions, times = self.versions.scalars(rows), self.times_ms[rows].tolist()
        roles = [role or "champion" for role in self.roles.scalars(rows)]
        latencies = self._floats("latency_ms", rows)
        fields = (names, versions, times, features, self._outputs(rows), roles,
                  self._segments(plan, rows), latencies)  # fmt: skip
        if not is_odd.any():
            return list(map(columns.row, *fields))
        kinds = [columns.odd if odd else columns.row for odd in is_odd.tolist()]
        return [kind(*values) for kind, *values in zip(kinds, *fields, strict=True)]

    def event(self, row: int) -> bytes:
        """Give a row as the JSON event that it stands for, to be looked at and sent again."""
        (event,) = self._events(slice(row, row + 1))
        return event

    def events(self) -> list[bytes]:
        """Give the good rows as the JSON events that they stand for."""
        events = list(self._events(slice(0, self.rows)))
        return [event for row, event in enumerate(events) if row not in self.refused]

    def _events(self, rows: slice) -> Iterator[bytes]:
        found = {name: self._values(name, column[rows]) for name, column in self.columns.items()}
        paths = [_path(name) for name in found]
        are_features = [name.startswith(FEATURES) for name in found]
        for values in zip(*found.values(), strict=True):
            event: dict[str, Any] = dict(self.layout.constants)
            for (*path, last), is_feature, value in zip(paths, are_features, values, strict=True):
                if value is None and not is_feature:
                    continue
                at = event
                for part in path:
                    at = at.setdefault(part, {})
                at[last] = value
            event.setdefault("features", {})
            yield json.dumps(event, ensure_ascii=False).encode(errors="replace")

    def _values(self, name: str, column: pa.Array) -> list[Any]:
        """Give a column's values as JSON has them; what it does not know as a text."""
        if name == "event_time_ms" and pa.types.is_timestamp(column.type):
            times, valid = times_of(column)
            return [
                time_ms if is_valid else str(value)
                for time_ms, is_valid, value in zip(times.tolist(), valid, column, strict=True)
            ]
        found = scalars_of(column)
        if name == "output.scores":
            return [None if value is None else dict(value) for value in found]
        known = bool | int | float | str | None
        return [value if isinstance(value, known) else str(value) for value in found]

    def _cells(
        self, columns: ModelColumns, rows: _Ints
    ) -> tuple[list[list[Scalar | None]], NDArray[np.bool_]]:
        """Give the declared features, and the rows that a typed struct does not take."""
        cells: list[list[Scalar | None]] = []
        is_odd = np.zeros(rows.size, dtype=np.bool_)
        for name in columns.features:
            column = self.columns.get(FEATURES + name)
            if column is None:
                cells.append([None] * rows.size)
            elif name not in columns.numeric or not _are_floats(column.type):
                found = scalars_of(column, rows)
                if name in columns.numeric:
                    is_odd |= np.array([value is not None for value in found], dtype=np.bool_)
                cells.append(found)
            else:
                values, is_null = self._numbers_or_none(column, rows)
                is_odd |= ~np.isfinite(np.where(is_null, 0.0, values))
                cells.append(_with_none(values, is_null))
        return cells, is_odd

    def _numbers_or_none(
        self, column: pa.Array, rows: _Ints
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        is_null = np.zeros(rows.size, dtype=np.bool_)
        if column.null_count:
            is_null = column.is_null().to_numpy(zero_copy_only=False)[rows]
        return numbers_of(column, rows).values, is_null

    def _floats(self, name: str, rows: _Ints) -> list[float | None]:
        column = self.columns.get(name)
        if column is None:
            return [None] * rows.size
        values, is_null = self._numbers_or_none(column, rows)
        if pa.types.is_null(column.type):
            is_null[:] = True
        return _with_none(values, is_null)

    def _outputs(self, rows: Rows) -> list[OutputRow | None]:
        places = self.numbers(rows)
        nothing = [None] * places.size
        labels = nothing if self.labels is None else self.labels.scalars(places)
        numbers = (self._floats(name, places) for name in ("output.score", "output.value"))
        score, value = numbers
        scores = self._scores(places)
        return [
            None if answer == (None, None, None, None) else OutputRow(*answer)
            for answer in zip(labels, score, scores, value, strict=True)
        ]

    def _scores(self, rows: _Ints) -> Sequence[dict[str, float] | None]:
        """Give the score for each class; what is no finite number is left out."""
        column = self.columns.get("output.scores")
        if column is not None and pa.types.is_map(column.type):
            return [
                None if found is None else _finite((name, score) for name, score in found)
                for found in scalars_of(column, rows)
            ]
        names = [name for name in self.columns if name.startswith(SCORES)]
        columns = [self._floats(name, rows) for name in names]
        classes = [name.removeprefix(SCORES) for name in names]
        found = [_finite(zip(classes, row, strict=True)) for row in zip(*columns, strict=True)]
        return [scores or None for scores in found] if found else [None] * rows.size

    def _segments(self, plan: Plan, rows: _Ints) -> Iterable[dict[str, Scalar]]:
        names = [name for name in plan.segments if SEGMENTS + name in self.columns]
        if not names:
            return ({} for _ in range(rows.size))
        columns = [scalars_of(self.columns[SEGMENTS + name], rows) for name in names]
        return (
            {name: value for name, value in zip(names, row, strict=True) if value is not None}
            for row in zip(*columns, strict=True)
        )

    # ------------------------------------------------------------------ checking

    def _named(self, name: str) -> Codes:
        constant = self.layout.constants.get(name)
        if constant is not None:
            return Codes.constant(constant, self.rows)
        return codes_of(self.columns[name])

    def _check(self) -> None:
        """Refuse the rows without a valid id, model, version, role or time."""
        lengths = self.ids.ends - self.ids.starts
        strange = np.flatnonzero((lengths == 0) | (lengths > _LONGEST_NAME))
        if strange.size or self.ids.array.null_count:
            present = self.columns["prediction_id"].is_valid().to_numpy(zero_copy_only=False)
            suspects = ~present | (lengths == 0) | (lengths > _LONGEST_NAME)
            for row in np.flatnonzero(suspects).tolist():
                self._check_name("prediction_id", row, self.names[row], present=present[row])
        for name, codes in (("model", self.models), ("version", self.versions)):
            bad = [not _is_name(value) for value in codes.values]
            for row in np.flatnonzero(codes.where(np.array([*bad, True]))).tolist():
                value = codes.scalars(slice(row, row + 1))[0]
                self._check_name(name, row, value, present=value is not None)
        roles = self.roles
        wrong = np.array([*(role not in (*_ROLES, None) for role in roles.values), False])
        self.refuse(
            np.flatnonzero(roles.where(wrong)).tolist(),
            lambda row: DeadLetter("bad-value", "role should be champion or shadow, it is "
                                   f"{roles.scalars(slice(row, row + 1))[0]!r}"),
        )  # fmt: skip
        times = self.columns["event_time_ms"]
        valid = self._times[1]
        if not valid.all():
            self.refuse(
                np.flatnonzero(~valid).tolist(),
                lambda row: DeadLetter("bad-value", f"event_time_ms is {times[row].as_py()!r}, it "
                                       "should lie between 1970 and the year 9999"),
            )  # fmt: skip

    def _check_name(self, name: str, row: int, value: str | None, *, present: bool) -> None:
        if value is not None and _is_name(value):
            return
        if not present:
            refused = DeadLetter("missing-field", f"{name}: there is none")
        else:
            size = "more than 255" if value is None or len(value) > _LONGEST_NAME else "no"
            refused = DeadLetter("bad-value", f"{name} has {size} characters, it needs 1 to 255")
        self.refused.setdefault(row, refused)


def chosen_of(rows: Rows, wanted: NDArray[np.bool_]) -> Rows:
    """Give the rows that are wanted; all of them as they are, as a slice needs no copy."""
    if wanted.all():
        return rows
    return np.flatnonzero(wanted) + rows.start if isinstance(rows, slice) else rows[wanted]


def _is_name(value: str | None) -> bool:
    return value is not None and 1 <= len(value) <= _LONGEST_NAME


def _path(name: str) -> list[str]:
    """Take a column's name apart; a feature may have dots in its own name."""
    for prefix in (SCORES, FEATURES, SEGMENTS):
        if name.startswith(prefix):
            return [*prefix.rstrip(".").split("."), name.removeprefix(prefix)]
    return name.split(".", 1) if name.startswith("output.") else [name]


def _are_floats(kind: pa.DataType) -> bool:
    # A boolean is no float to the decoder either.
    return is_number(kind) and not pa.types.is_boolean(kind)


def _with_none(values: NDArray[np.float64], is_null: NDArray[np.bool_]) -> list[Any]:
    found: list[Any] = values.tolist()
    for at in np.flatnonzero(is_null).tolist():
        found[at] = None
    return found


def _finite(scores: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    return {name: float(x) for name, x in scores if x is not None and math.isfinite(x)}
