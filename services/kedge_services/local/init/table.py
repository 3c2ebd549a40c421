"""What the columns of a table look like: kinds, distinct values, a spread sample of rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from itertools import islice
from typing import Any, Literal

from kedge.base import label_text
from kedge_services.local.cells import parse_ms
from kedge_services.local.tables import Block

__all__ = ["HEAD_ROWS", "MOST_VALUES", "Column", "Kind", "Table", "describe"]

Kind = Literal["empty", "boolean", "number", "time", "text", "nested"]

#: Distinct values that are counted one by one.
MOST_VALUES = 1_000
#: Rows from the beginning of the table that are kept one after another.
HEAD_ROWS = 4_096
_SAMPLE_ROWS = 20_000
_LEAST_SAMPLE_ROWS = 2_000
#: Of all columns together: a wide table has a shorter sample.
_SAMPLE_CELLS = 2_000_000
#: As :func:`~kedge_services.local.files.read_rows` reads them.
_NOTHING = ("", "nan", "NaN")
_PROBE = 100
_TRUE_FALSE = {"true": True, "false": False}
#: A column with a few cells of another kind is still of this kind.
_MOSTLY = 0.95
_WHOLE = re.compile(r"[+-]?[0-9]{1,300}")


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes
    ----------
    kind
        Of nearly all cells.  A text that reads like a number is one in CSV only.
    cells
        Those of the sampled rows, as bool, number, ms since the epoch or text;
        None where the cell is empty or of another kind.
    head
        Those of the first rows, likewise.
    counts
        How often each value occurs in the whole table, by its text; None when
        there are more than a thousand.
    empty
        Empty cells in the whole table.
    wrong
        Cells of another kind, in the sample.
    is_code
        Numbers written with leading zeros: names, not amounts.
    """

    name: str
    kind: Kind
    cells: Sequence[Any]
    head: Sequence[Any]
    counts: Mapping[str, int] | None
    empty: int
    wrong: int
    is_code: bool = False

    @property
    def distinct(self) -> int:
        """Give the number of distinct values; a thousand and one stands for more."""
        return MOST_VALUES + 1 if self.counts is None else len(self.counts)

    @property
    def is_whole(self) -> bool:
        """Say whether all sampled numbers are whole."""
        return self.kind == "number" and all(
            cell is None or float(cell).is_integer() for cell in self.cells
        )


@dataclass(frozen=True, slots=True)
class Table:
    """A table of ``rows`` rows; every ``stride``-th of them, from the first, is in the sample.

    ``is_complete`` says that there are no more rows than were read.
    """

    rows: int
    stride: int
    columns: Mapping[str, Column]
    is_complete: bool = True


@dataclass(slots=True)
class _Raw:
    """What is kept of a column while the table is read."""

    sample: list[Any]
    head: list[Any]
    counts: Counter[Any] | None = field(default_factory=Counter)
    empty: int = 0


def describe(blocks: Iterable[Block], *, texts_only: bool, most_rows: int) -> Table:
    """Read blocks and describe their columns; a column may be missing in some blocks.

    Parameters
    ----------
    texts_only
        The table has no types (CSV): texts are read for what they look like.
    most_rows
        When to stop reading.
    """
    raws: dict[str, _Raw] = {}
    rows, stride = 0, 1
    is_complete = True
    for block in blocks:
        if rows >= most_rows:
            is_complete = False
            break
        for name in block.columns:
            if name not in raws:
                padding = -(-rows // stride)
                raws[name] = _Raw([None] * padding, [None] * min(rows, HEAD_ROWS), empty=rows)
        first_kept = -rows % stride
        for name, raw in raws.items():
            cells = block.columns.get(name, [None] * block.rows)
            _count(raw, cells)
            raw.head.extend(islice(cells, HEAD_ROWS - len(raw.head)))
            raw.sample.extend(cells[first_kept::stride])
        rows += block.rows
        most = max(_LEAST_SAMPLE_ROWS, min(_SAMPLE_ROWS, _SAMPLE_CELLS // max(1, len(raws))))
        while rows > stride * most:
            stride *= 2
            for raw in raws.values():
                del raw.sample[1::2]
    columns = {name: _column(name, raw, texts_only=texts_only) for name, raw in raws.items()}
    return Table(rows, stride, columns, is_complete)


def _count(raw: _Raw, cells: Sequence[Any]) -> None:
    filled = _filled(cells)
    raw.empty += len(cells) - len(filled)
    if raw.counts is None:
        return
    try:
        raw.counts.update(filled)
    except TypeError:  # lists and objects
        raw.counts = None
    else:
        if len(raw.counts) > MOST_VALUES:
            raw.counts = None


def _filled(cells: Sequence[Any]) -> list[Any]:
    """Give the cells that are not empty, as :func:`~kedge_services.local.files.read_rows` does."""
    return [
        cell for cell in cells
        # What is not equal to itself is NaN.
        if cell is not None and cell == cell and cell not in _NOTHING  # noqa: PLR0124
    ]  # fmt: skip


def _column(name: str, raw: _Raw, *, texts_only: bool) -> Column:
    filled = _filled(raw.sample)
    is_code = texts_only and any(map(_has_leading_zero, filled))
    readers = _TEXT_READERS if texts_only else _TYPED_READERS
    kind: Kind = "text" if is_code else _kind(filled, readers)
    read = readers.get(kind, _nothing)
    cells = list(map(read, raw.sample))
    counts = None
    if raw.counts is not None:
        counts = Counter[str]()
        for value, number in raw.counts.items():
            known = read(value) if kind in ("boolean", "number") else None
            counts[label_text(value if known is None else known)] += number
    return Column(
        name=name,
        kind=kind,
        cells=cells,
        head=list(map(read, raw.head)),
        counts=counts,
        empty=raw.empty,
        wrong=len(filled) - sum(cell is not None for cell in cells),
        is_code=is_code,
    )


def _nothing(_: Any) -> Any:
    return None


def _kind(filled: Sequence[Any], readers: Mapping[Kind, Callable[[Any], Any]]) -> Kind:
    """Tell of what kind nearly all cells are."""
    if not filled:
        return "empty"
    enough = _MOSTLY * len(filled)
    if sum(isinstance(cell, (list, dict)) for cell in filled) >= len(filled) - enough + 1:
        return "nested"
    few = filled[:: -(-len(filled) // _PROBE)]
    for kind, read in readers.items():
        if not any(read(cell) is not None for cell in few):
            continue  # no need to look at all of them
        if sum(read(cell) is not None for cell in filled) >= enough:
            return kind
    return "text"


def _has_leading_zero(cell: Any) -> bool:
    return isinstance(cell, str) and len(cell) > 1 and cell[0] == "0" and cell.isdecimal()


def _boolean_text(cell: Any) -> bool | None:
    if isinstance(cell, str):
        return _TRUE_FALSE.get(cell.lower())
    return cell if isinstance(cell, bool) else None


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, (list, dict)) or cell in _NOTHING:
        return None
    return None if cell != cell else label_text(cell)  # noqa: PLR0124 -- NaN


def _time(cell: Any) -> int | None:
    if not isinstance(cell, (str, date)) or (isinstance(cell, str) and cell.isdecimal()):
        return None
    try:
        return parse_ms(cell)
    except (ValueError, OverflowError):
        return None


def _number(cell: Any) -> float | None:
    """Read a finite number; whole ones stay as exact as they are written."""
    if isinstance(cell, bool) or not isinstance(cell, (int, float, Decimal)):
        return None
    try:
        number = float(cell)
    except OverflowError:
        return None
    return cell if isinstance(cell, int) else number if math.isfinite(number) else None


def _number_text(cell: Any) -> float | None:
    if not isinstance(cell, str):
        return _number(cell)
    try:
        return _number(int(cell) if _WHOLE.fullmatch(cell) else float(cell))
    except ValueError:
        return None


_TYPED_READERS: Mapping[Kind, Callable[[Any], Any]] = {
    "boolean": lambda cell: cell if isinstance(cell, bool) else None,
    "number": _number,
    "time": _time,
    "text": _text,
}
_TEXT_READERS: Mapping[Kind, Callable[[Any], Any]] = {
    **_TYPED_READERS,
    "boolean": _boolean_text,
    "number": _number_text,
}
