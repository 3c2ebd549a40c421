"""Cells of a file become values, a column at a time.

CSV has only texts, JSON and Parquet have types; what a cell means is what the
monitor declares.  Each reader takes the cells of a column and gives as many
values; a column that needs no care costs one pass in C.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from kedge.base import Scalar, label_text

__all__ = [
    "BadCellError",
    "Reader",
    "classes_reader",
    "feature_reader",
    "feature_value",
    "parse_ms",
    "read_numbers",
    "read_times",
]

#: Gives the values of a column's cells.
Reader = Callable[[Sequence[Any]], Sequence[Any]]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LAST_MS = 253_402_300_799_999
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_WHOLE = re.compile(r"([+-]?\d{1,300})(?:\.0*)?")
_EACH_ONCE = (str, int, bool)


class BadCellError(Exception):
    """A cell that cannot be what it must be; ``index`` is its position in the column."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def feature_reader(kind: str) -> Reader:
    """Give the reader of a feature of this declared type; see :func:`feature_value`."""
    if kind == "numeric":
        return _feature_numbers

    def read(cells: Sequence[Any]) -> Sequence[Scalar | None]:
        return _each(cells, lambda cell: feature_value(cell, kind))

    return read


def feature_value(value: Any, kind: str) -> Scalar | None:
    """Give a feature's value in its declared type; empty cells and NaN are None."""
    if value is None or value == "":
        return None
    if kind == "numeric":
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return str(value)  # stays wrong, so that it is counted as a type error
        return None if math.isnan(number) else number
    if isinstance(value, float) and math.isnan(value):
        return None
    if kind == "boolean" and isinstance(value, str):
        return _BOOLEANS.get(value.lower(), value)
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def classes_reader(classes: Sequence[Scalar]) -> Reader:
    """Give the reader of labels: each cell becomes the declared class of its text.

    ``1``, ``1.0`` and ``"1.0"`` are one class, and so are ``true`` and ``"True"``;
    where the classes are 0 and 1, or false and true, the other spelling is read
    as well.  What is no declared class stays a text: it is for the services to
    refuse and to count.
    """
    declared = {label_text(label): label for label in classes}
    known = {**_other_spelling(declared), **declared}

    def read_one(cell: Any) -> Scalar | None:
        if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
            return None
        text = label_text(cell)
        if text not in known:
            whole = _WHOLE.fullmatch(text)
            other = whole[1] if whole else text.lower()
            if other == "nan":
                return None
            return known.get(other, text) if whole or other in _BOOLEANS else text
        return known[text]

    return lambda cells: _each(cells, read_one)


def read_numbers(cells: Sequence[Any]) -> Sequence[float | None]:
    """Read floats; empty cells and NaN are None.

    Raises
    ------
    BadCellError
        A cell is no number.
    """
    values = _floats(cells)
    return [_number(index, cell) for index, cell in enumerate(cells)] if values is None else values


def read_times(cells: Sequence[Any]) -> Sequence[int]:
    """Read event times in ms since the epoch.

    Raises
    ------
    BadCellError
        A cell is no time, or one that no event can have.
    """
    if (quick := _iso_times(cells)) is not None:
        return quick
    times = []
    for index, cell in enumerate(cells):
        try:
            times.append(parse_ms(cell))
        except ValueError as error:
            raise BadCellError(index, str(error)) from error
    return times


def parse_ms(value: Any) -> int:
    """Read an ISO 8601 time or date (UTC without an offset), or integer ms since the epoch.

    Raises
    ------
    ValueError
        It is neither, or not between 1970 and 9999.
    """
    time_ms = _ms(value)
    if not 0 <= time_ms <= _LAST_MS:
        raise ValueError(f"{value!r} is not between the years 1970 and 9999 (in ms)")
    return time_ms


def _iso_times(cells: Sequence[Any]) -> list[int] | None:
    """Read texts that are all ISO 8601, all with an offset or all without; None for others."""
    try:
        if not cells or any(map(str.isdecimal, cells)):
            return None
        moments = list(map(datetime.fromisoformat, cells))
        epoch = _EPOCH if moments[0].tzinfo else _EPOCH.replace(tzinfo=None)
        times = [(moment - epoch) // _MS for moment in moments]
    except (TypeError, ValueError):
        return None
    return times if min(times) >= 0 else None


def _ms(value: Any) -> int:
    if isinstance(value, str):
        if not value:
            value = None
        elif whole := _WHOLE.fullmatch(value):
            return int(whole[1])
        else:
            value = datetime.fromisoformat(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    elif isinstance(value, float) and value.is_integer():
        return int(value)  # a column of integers with gaps
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        why = "the cell is empty" if value is None else f"{value!r} is no time"
        raise ValueError(why)  # noqa: TRY004 -- as for a text that is none
    return (moment - _EPOCH) // _MS


def _feature_numbers(cells: Sequence[Any]) -> Sequence[Scalar | None]:
    values = _floats(cells)
    return [feature_value(cell, "numeric") for cell in cells] if values is None else values


def _floats(cells: Sequence[Any]) -> Sequence[float | None] | None:
    """Give all cells as floats, NaN as None; None when one is no number, or empty."""
    try:
        values: list[float] = list(map(float, cells))
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isnan(sum(values)):
        return values
    return [None if math.isnan(value) else value for value in values]


def _number(index: int, cell: Any) -> float | None:
    if cell is None or cell == "":
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise BadCellError(index, f"expected a number (got {cell!r})") from None
    return None if math.isnan(value) else value


def _each(cells: Sequence[Any], read: Callable[[Any], Any]) -> Sequence[Any]:
    """Read every cell, equal ones once.

    Only where all are of one type: 1, 1.0 and true are equal, and yet not the same.
    """
    kinds = set(map(type, cells)) - {type(None)}
    if len(kinds) == 1 and kinds <= set(_EACH_ONCE):
        values = {cell: read(cell) for cell in set(cells)}
        return [values[cell] for cell in cells]
    return [read(cell) for cell in cells]


def _other_spelling(declared: Mapping[str, Scalar]) -> dict[str, Scalar]:
    for mine, other in ((("0", "1"), ("false", "true")), (("false", "true"), ("0", "1"))):
        if set(declared) == set(mine):
            return {text: declared[same] for text, same in zip(other, mine, strict=True)}
    return {}
