"""When rows happened, how fast they come, and the windows that fit."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

from kedge.errors import UsageError
from kedge.monitor import format_duration, parse_duration
from kedge_services.local.init.answers import can_be_named, named
from kedge_services.local.init.features import is_year
from kedge_services.local.init.guess import Certainty, Given, Guess, given
from kedge_services.local.init.table import Column, Table
from kedge_services.local.init.words import TIME, words

__all__ = ["Pace", "find_time", "guess_pace", "nice_ms", "pane_of", "say_ms"]

_S, _M, _H, _D = 1_000, 60_000, 3_600_000, 86_400_000
_NICE_MS = (
    *(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    *(n * _S for n in (1, 2, 5, 10, 15, 20, 30)),
    *(n * _M for n in (1, 2, 5, 10, 15, 20, 30)),
    *(n * _H for n in (1, 2, 3, 4, 6, 8, 12)),
    *(n * _D for n in (1, 2, 3, 5, 7, 10, 14, 20, 30, 60, 90, 180, 365)),
)
#: Rows a cycle of a day's length may have, by the time from row to row.
_DAY_CYCLES = {_D // ms: ms for ms in (_H, 30 * _M, 20 * _M, 15 * _M, 10 * _M, 5 * _M, _M)}
_PLAIN_START = "2024-01-01T00:00:00Z"
_PLAIN_EVERY_MS = _M
_VERDICT_ROWS = 100
_PANE_ROWS = 500
_FIRST_MS = 946_684_800_000  # 2000
_LAST_MS = 4_102_444_800_000  # 2100


@dataclass(frozen=True, slots=True)
class Pace:
    """The clock of the rows: a column, or a start and the time from row to row."""

    timestamp: Guess | None
    start: Guess | None
    every: Guess | None
    row_ms: float
    span_ms: float
    #: Event times of the sampled rows, where they are known.
    times: Sequence[int] = ()


def find_time(columns: Mapping[str, Column], said: Given) -> Guess:
    """Find the column of event times; the value is None when there is none.

    Raises
    ------
    UsageError
        The column that was named holds no times.
    """
    if said.timestamp is not None:
        column = columns[named(columns, said.timestamp, "--timestamp")]
        if why := _no_time(column):
            raise UsageError(f"--timestamp: {said.timestamp} {why}")
        return given(said.timestamp, "--timestamp")
    if said.every is not None:
        return Guess(None, "--every", "given")
    others = (said.label, said.prediction, said.score)
    free = [
        c for name, c in columns.items()
        if name not in others and can_be_named(name) and not _no_time(c)
    ]  # fmt: skip
    best = max(free, key=_rank, default=None)
    if best is not None and (rank := _rank(best)) > 0:
        certainty: Certainty = "sure" if rank >= 4 else "likely" if rank == 3 else "unsure"
        return Guess(best.name, f"its values are times{_order(best)}", certainty)
    looked = [
        f"{c.name} {why}"
        for c in columns.values()
        if not TIME.isdisjoint(words(c.name)[-1:]) and (why := _no_time(c))
    ]
    return Guess(None, "no column of usable times" + _in_brackets(looked), "likely")


def guess_pace(table: Table, time: Guess, said: Given) -> Pace:
    """Tell when the rows happened.

    Raises
    ------
    UsageError
        ``--every`` is no duration.
    """
    if time.value is not None:
        times = [int(cell) for cell in table.columns[time.value].cells if cell is not None]
        span = max(times) - min(times) + 1
        return Pace(time, None, None, max(span / table.rows, 1e-9), span, times)
    start, every, every_ms = _clock(table, said)
    return Pace(None, start, every, every_ms, float(every_ms) * table.rows)


def pane_of(pace: Pace, rows: int) -> Guess:
    """Choose the length of a pane so that a pane holds about 500 rows, for a few panes less."""
    wanted = min(_PANE_ROWS, max(_VERDICT_ROWS + 20, rows // 20))
    pane_ms = nice_ms(pace.row_ms * wanted)
    around = pane_ms / pace.row_ms
    why = f"about {around:,.0f} rows a pane; a verdict needs {_VERDICT_ROWS}"
    filled = Counter(time // pane_ms for time in pace.times)
    if around < _VERDICT_ROWS or not filled:
        return Guess(pane_ms, why, "unsure" if around < _VERDICT_ROWS else "likely")
    each = rows / len(pace.times)
    enough = sum(count * each >= _VERDICT_ROWS for count in filled.values()) / len(filled)
    if enough < 0.9:
        return Guess(pane_ms, f"{why}, which {1 - enough:.0%} of the panes do not have", "unsure")
    return Guess(pane_ms, why, "likely")


def nice_ms(wanted_ms: float) -> int:
    """Give the round duration that is nearest, in proportion.

    >>> nice_ms(500 * 1_800_000) == 10 * 86_400_000, nice_ms(0.001)
    (True, 1)
    """
    place = bisect_left(_NICE_MS, wanted_ms)
    if place in (0, len(_NICE_MS)):
        return _NICE_MS[min(place, len(_NICE_MS) - 1)]
    low, high = _NICE_MS[place - 1 : place + 1]
    return low if wanted_ms * wanted_ms < low * high else high


def say_ms(ms: float) -> str:
    """Write a duration for people; a monitor reads it as well."""
    return format_duration(timedelta(milliseconds=round(ms)))


def _no_time(column: Column) -> str | None:
    """Say why a column cannot be the event time."""
    if column.kind == "number" and column.is_whole:
        cells = [cell for cell in column.cells if cell is not None]
        if all(_FIRST_MS <= cell * 1000 < _LAST_MS for cell in cells):
            return "looks like seconds since the epoch, Kedge reads milliseconds"
        if not all(_FIRST_MS <= cell < _LAST_MS for cell in cells):
            return "holds numbers that are no times in ms since the epoch"
    elif column.kind != "time":
        return "is not written like 2026-01-31T12:00:00Z"
    if column.empty or column.wrong:
        return "has cells without a time"
    return "always has the same time" if column.distinct == 1 else None


def _rank(column: Column) -> int:
    parts = words(column.name)
    own_name = parts in (
        ("timestamp",),
        ("ts",),
        ("time",),
        ("datetime",),
        ("date",),
        ("event", "time"),
    )
    rank = 2 * own_name + (not TIME.isdisjoint(parts)) + (column.kind == "time")
    if not {"label", "birth", "born", "updated", "modified", "deleted"}.isdisjoint(parts):
        rank -= 2
    return rank + 2 * (_falls(column) == 0) - (column.kind == "number" and TIME.isdisjoint(parts))


def _falls(column: Column) -> float:
    steps = [after < before for before, after in pairwise(column.cells)]
    return sum(steps) / len(steps) if steps else 0.0


def _order(column: Column) -> str:
    falls = _falls(column)
    return ", in order" if not falls else f", {falls:.1%} of them out of order"


def _in_brackets(texts: Sequence[str]) -> str:
    return f" ({'; '.join(texts)})" if texts else ""


def _clock(table: Table, said: Given) -> tuple[Guess, Guess, int]:
    """Give a start, a step and the step in ms for rows without times."""
    start = Guess(_PLAIN_START, "nothing tells when the rows happened", "unsure")
    if said.every is not None:
        try:
            every_ms = round(parse_duration(said.every).total_seconds() * 1000)
        except ValueError as error:
            raise UsageError(f"--every: {error}") from error
        if every_ms < 1:
            raise UsageError("--every: expected a duration of at least 1ms")
        return start, given(say_ms(every_ms), "--every"), every_ms
    years = next((c for c in table.columns.values() if _orders_years(c)), None)
    if years is not None:
        first, last = (int(years.cells[place]) for place in (0, -1))
        every_ms = max(1, nice_step((last - first + 1) * 365.25 * _D / table.rows))
        start = Guess(f"{first}-01-01T00:00:00Z", f"{years.name} begins with {first}", "likely")
        why = f"{years.name} goes from {first} to {last} in {table.rows:,} rows, spread evenly"
        return start, Guess(say_ms(every_ms), why, "unsure"), every_ms
    for column in table.columns.values():
        if (rows := _cycle(column.head)) in _DAY_CYCLES:
            every_ms = _DAY_CYCLES[rows]
            why = f"{column.name} repeats every {rows} rows, taken as a day"
            return start, Guess(say_ms(every_ms), why, "likely"), every_ms
    why = "nothing tells how fast rows come"
    return start, Guess(say_ms(_PLAIN_EVERY_MS), why, "unsure"), _PLAIN_EVERY_MS


def nice_step(ms: float) -> int:
    """Round down to a whole number of the largest unit that is at most a tenth of it."""
    unit = next((u for u in (_D, _H, _M, 10 * _S, _S) if ms >= 10 * u), 1)
    return int(ms // unit * unit)


def _orders_years(column: Column) -> bool:
    cells = column.cells
    if not is_year(column) or column.empty or column.wrong or not 1 < column.distinct <= 200:
        return False
    return not _falls(column) and cells[0] > 1970


def _cycle(cells: Sequence[Any]) -> int:
    """Give the length of a cycle a column runs through all the time; 0 without one."""
    if len(cells) < 2 or cells[0] is None or isinstance(cells[0], str):
        return 0
    length = next((i for i, cell in enumerate(cells) if i and cell == cells[0]), 0)
    if length < 4 or len(cells) < 3 * length:
        return 0
    repeats = all(cell == cells[i % length] for i, cell in enumerate(cells))
    return length if repeats and len(set(cells[:length])) == length else 0
