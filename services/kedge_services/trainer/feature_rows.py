"""Many rows of features as columns, each value exactly as it was sent.

A row costs eight bytes a number and four a category instead of a dictionary.
Numbers are floats; which of them were whole numbers is kept beside them, and
what is no number at all is kept apart, so that the rows come back as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar

__all__ = ["ABSENT", "Column", "FeatureRows", "Indices", "column_of", "joined"]

#: A feature that a row does not have, unlike one that is null.
ABSENT = msgspec.UNSET
#: Whole numbers up to here are floats without loss.
_EXACT = 1 << 53
#: Rows turned into dictionaries at once.
_TOGETHER = 2_048

Value = Scalar | None | msgspec.UnsetType
Indices = Sequence[int] | NDArray[np.int64]


class Column(Protocol):
    """A column of values."""

    def __len__(self) -> int:
        """Give the number of values."""

    def take(self, indices: Indices | slice) -> Column:
        """Give the values at these places."""

    def values(self) -> list[Any]:
        """Give the values as they were sent; :data:`ABSENT` where there is none."""

    def floats(self) -> NDArray[np.float64]:
        """Give numbers as floats, shape (n,), NaN where there is no number; a copy."""


class _Numbers:
    """Floats; NaN is null, but where ``odd`` has something else."""

    __slots__ = ("numbers", "odd", "whole")

    def __init__(
        self,
        numbers: NDArray[np.float64],
        whole: NDArray[np.bool_] | None = None,
        odd: Mapping[int, Value] | None = None,
    ) -> None:
        self.numbers, self.whole, self.odd = numbers, whole, odd or {}

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, indices: Indices | slice) -> _Numbers:
        places = np.arange(len(self))[indices] if self.odd else None
        odd = (
            {k: self.odd[i] for k, i in enumerate(places.tolist()) if i in self.odd}
            if places is not None
            else None
        )
        whole = None if self.whole is None else self.whole[indices]
        return _Numbers(self.numbers[indices], whole, odd)

    def values(self) -> list[Any]:
        found: list[Any] = self.numbers.tolist()
        for place in np.flatnonzero(np.isnan(self.numbers)).tolist():
            found[place] = None
        if self.whole is not None:
            for place in np.flatnonzero(self.whole).tolist():
                found[place] = int(found[place])
        for place, value in self.odd.items():
            found[place] = value
        return found

    def floats(self) -> NDArray[np.float64]:
        found = self.numbers.copy()
        for place, value in self.odd.items():
            found[place] = _float(value)
        return found

    @classmethod
    def joined(cls, parts: Sequence[_Numbers]) -> _Numbers:
        odd: dict[int, Value] = {}
        start = 0
        for part in parts:
            odd |= {start + place: value for place, value in part.odd.items()}
            start += len(part)
        whole = None
        if any(part.whole is not None for part in parts):
            none = (np.zeros(len(part), bool) if part.whole is None else part.whole
                    for part in parts)  # fmt: skip
            whole = np.concatenate(list(none))
        return cls(np.concatenate([part.numbers for part in parts]), whole, odd)


class _Codes:
    """Places in a table of distinct values, which many columns may share."""

    __slots__ = ("codes", "table")

    def __init__(self, codes: NDArray[np.int32], table: Sequence[Value]) -> None:
        self.codes, self.table = codes, table

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, indices: Indices | slice) -> _Codes:
        return _Codes(self.codes[indices], self.table)

    def values(self) -> list[Any]:
        return list(map(self.table.__getitem__, self.codes.tolist()))

    def floats(self) -> NDArray[np.float64]:
        return np.array(list(map(_float, self.values())), dtype=np.float64)

    @classmethod
    def joined(cls, parts: Sequence[_Codes]) -> _Codes:
        places: dict[tuple[type, Value], int] = {}
        codes = []
        for part in parts:
            mine = [places.setdefault((type(v), v), len(places)) for v in part.table]
            codes.append(np.array(mine or [0], np.int32)[part.codes])
        return cls(np.concatenate(codes), [value for _, value in places])


def column_of(values: Sequence[Value], *, is_number: bool) -> Column:
    """Make a column of values; ``is_number`` says what most of them are."""
    kinds = set(map(type, values))
    if not is_number:
        return _coded(values, is_text=kinds <= {str, type(None)})
    if kinds <= {float, type(None)}:
        numbers = np.array(values, dtype=np.float64)
        if int(np.isnan(numbers).sum()) == (values.count(None) if type(None) in kinds else 0):
            return _Numbers(numbers)
    return _numbers(values)


def _coded(values: Sequence[Value], *, is_text: bool) -> _Codes:
    places: dict[Any, int] = {}
    # 1, 1.0 and true are equal, and yet not the same.
    keys: Sequence[Any] = values if is_text else [(type(value), value) for value in values]
    codes = np.array([places.setdefault(key, len(places)) for key in keys], np.int32)
    return _Codes(codes, list(places) if is_text else [value for _, value in places])


def _numbers(values: Sequence[Value]) -> _Numbers:
    numbers = np.full(len(values), math.nan)
    whole = np.zeros(len(values), dtype=bool)
    odd: dict[int, Value] = {}
    for place, value in enumerate(values):
        is_whole = type(value) is int and abs(value) <= _EXACT
        if is_whole or (type(value) is float and not math.isnan(value)):
            numbers[place] = value
            whole[place] = is_whole
        elif value is not None:
            odd[place] = value
    return _Numbers(numbers, whole, odd)


def _float(value: Any) -> float:
    if value is None or value is ABSENT or isinstance(value, str):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def joined(parts: Sequence[Column]) -> Column:
    """Put columns one after the other; all were made with the same ``is_number``."""
    if isinstance(parts[0], _Numbers):
        return _Numbers.joined([part for part in parts if isinstance(part, _Numbers)])
    return _Codes.joined([part for part in parts if isinstance(part, _Codes)])


class FeatureRows(Sequence[dict[str, Scalar | None]]):
    """Rows that are columns; each is a dictionary when it is asked for.

    Parameters
    ----------
    columns
        By feature, all of ``length``.
    """

    __slots__ = ("_length", "columns")

    def __init__(self, columns: Mapping[str, Column], length: int) -> None:
        self.columns = dict(columns)
        self._length = length

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Scalar | None]]) -> FeatureRows:
        """Take rows that are dictionaries."""
        columns = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values: list[Value] = [row.get(name, ABSENT) for row in rows]
            given = (type(value) for value in values if value is not None and value is not ABSENT)
            columns[name] = column_of(values, is_number=next(given, float) in (int, float))
        return cls(columns, len(rows))

    @classmethod
    def joined(cls, parts: Sequence[FeatureRows]) -> FeatureRows:
        """Put rows one after the other; a feature that a part lacks is absent there."""
        first = {name: part for part in reversed(parts) for name in part.columns}
        names = dict.fromkeys(name for part in parts for name in part.columns)
        columns = {}
        for name in names:
            kind = type(first[name].columns[name])
            columns[name] = joined([part.filled(name, kind) for part in parts])
        return cls(columns, sum(map(len, parts)))

    def filled(self, name: str, kind: type[Column]) -> Column:
        """Give a column of this kind, made for the purpose if there is none."""
        column = self.columns.get(name)
        if isinstance(column, kind):
            return column
        values = [ABSENT] * self._length if column is None else column.values()
        return column_of(values, is_number=kind is _Numbers)

    def __len__(self) -> int:
        """Give the number of rows."""
        return self._length

    @overload
    def __getitem__(self, index: int) -> dict[str, Scalar | None]: ...
    @overload
    def __getitem__(self, index: slice) -> FeatureRows: ...
    def __getitem__(self, index: int | slice) -> dict[str, Scalar | None] | FeatureRows:
        """Give a row, or some that follow one another."""
        if isinstance(index, slice):
            columns = {name: column.take(index) for name, column in self.columns.items()}
            return FeatureRows(columns, len(range(*index.indices(self._length))))
        place = range(self._length)[index]
        return next(iter(self[place : place + 1]))

    def __iter__(self) -> Iterator[dict[str, Scalar | None]]:
        """Give the rows, one after the other."""
        for start in range(0, self._length, _TOGETHER):
            end = min(start + _TOGETHER, self._length)
            parts = [c.take(slice(start, end)).values() for c in self.columns.values()]
            rows = zip(*parts, strict=True) if parts else iter([()] * (end - start))
            for row in rows:
                pairs = zip(self.columns, row, strict=True)
                yield {name: value for name, value in pairs if value is not ABSENT}

    def take(self, indices: Indices) -> FeatureRows:
        """Give the rows at these places."""
        places = np.asarray(indices, dtype=np.int64)
        columns = {name: column.take(places) for name, column in self.columns.items()}
        return FeatureRows(columns, len(places))

    def column(self, name: str) -> list[Scalar | None]:
        """Give a feature of all rows, None where there is none."""
        if name not in self.columns:
            return [None] * self._length
        values: list[Scalar | None] = [
            None if value is ABSENT else value for value in self.columns[name].values()
        ]
        return values

    def floats(self, name: str) -> NDArray[np.float64]:
        """Give a feature of all rows as floats, shape (n,), NaN where there is no number."""
        column = self.columns.get(name)
        return np.full(self._length, math.nan) if column is None else column.floats()
