"""Series as they are written: values with how often they come.

=============  =============================================================
``0.9``        once
``0.9x10``     in ten panes
``0.9..0.6x4`` from the first to the last value in four panes: .9 .8 .7 .6
``_``, ``_x3`` no value: nothing was measured, or nothing was tested
=============  =============================================================
"""

from __future__ import annotations

import math
import re

__all__ = ["LONGEST", "Values", "at", "parse"]

#: A value by pane; None where there is none.
Values = tuple[float | None, ...]
#: Panes of a test at most: a mistyped count shall not fill the memory.
LONGEST = 100_000

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PART = re.compile(
    rf"(?:(?P<gap>_)|(?P<first>{_NUMBER})(?:\.\.(?P<last>{_NUMBER}))?)(?:x(?P<n>\d+))?"
)


def parse(text: object) -> Values:
    """Read a series.

    >>> parse("0.9x2 _ 1..3x3")
    (0.9, 0.9, None, 1.0, 2.0, 3.0)

    Raises
    ------
    ValueError
        It is none; the message says which part of it.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = repr(text)
    if not isinstance(text, str) or not text.strip():
        raise ValueError('expected a series like "0.9x10 0.7x3 _"')
    values: list[float | None] = []
    for part in text.split():
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(
                f'"{part}" is no part of a series; write a value (0.9), with its panes (0.9x10), '
                "from one to another (0.9..0.6x4), or _ for none"
            )
        count = int(match["n"] or 1)
        if not 1 <= count <= LONGEST - len(values):
            raise ValueError(f'"{part}": a series has 1 to {LONGEST:,} panes')
        values += _values(match, part, count)
    return tuple(values)


def at(values: Values, index: int) -> float | None:
    """Give the value of a pane; None after the end."""
    return values[index] if index < len(values) else None


def _values(match: re.Match[str], part: str, count: int) -> list[float | None]:
    if match["gap"]:
        return [None] * count
    first = float(match["first"])
    if not math.isfinite(first):
        raise ValueError(f'"{part}" is too large a number')
    if match["last"] is None:
        return [first] * count
    last = float(match["last"])
    if count == 1:
        raise ValueError(f'"{part}": say in how many panes, like {part}x4')
    # Nine digits, so that .9..0.6x4 meets a threshold of .7 as it is written.
    return [float(f"{first + (last - first) * i / (count - 1):.9g}") for i in range(count)]
