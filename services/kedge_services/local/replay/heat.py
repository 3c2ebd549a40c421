"""A map of panes by features: where the evidence lies, and which of it was an alarm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from kedge_services.local.replay.plots import Box, Plot, Span, columns, text

__all__ = ["Cell", "Row", "heat_map"]

_TOP, _BOTTOM = 10, 24
#: Rows with names, and without: there only pointing tells the name.
_NAMED, _DENSE = 15, 4
#: Alarms whose pane can be pointed at in one map; each costs some 200 bytes.
_TITLED = 4_000


class Cell(NamedTuple):
    """One pane of one row; ``level`` is one of the style's, e.g. ``e2`` or ``a3``."""

    start_ms: int
    end_ms: int
    level: str
    title: str


class Row(NamedTuple):
    """A feature: its cells in the order of time, without those that say nothing."""

    name: str
    title: str
    cells: Sequence[Cell]


def heat_map(span: Span, rows: Sequence[Row], *, label: str, named: bool = True) -> str:
    """Draw the map.

    Cells of the same level that follow each other are one shape, so that 500
    features over hundreds of panes stay a page that opens at once.
    """
    height = _NAMED if named else _DENSE
    box = Box(960, _TOP + len(rows) * height + _BOTTOM, 150 if named else 58)
    plot = Plot(span, 0, 1, label=label, box=box)
    left, _, right, _ = box.inner
    drawn = columns(span, box)
    titled = 0
    for number, row in enumerate(rows):
        top = _TOP + number * height
        if named:
            shown = row.name if len(row.name) <= 22 else row.name[:21] + "…"
            drawn.append(
                f"<text class='name' x='{left - 8}' y='{top + 11}' text-anchor='end'>"
                f"{text(shown)}<title>{text(row.name)}</title></text>"
            )
        drawn.append(
            f"<rect class='row' x='{left}' y='{top}' width='{right - left}' height='{height - 1}'>"
            f"<title>{text(row.title)}</title></rect>"
        )
        shapes: dict[str, list[str]] = {}
        for level, run in groupby(_merged(row.cells), key=attrgetter("level")):
            shapes.setdefault(level, []).extend(
                f"M{plot.x(c.start_ms):.1f} {top}H{plot.x(c.end_ms):.1f}v{height - 1}"
                f"H{plot.x(c.start_ms):.1f}z"
                for c in run
            )
        drawn += [
            f"<path class='{level}' d='{''.join(paths)}'><title>{text(row.title)}</title></path>"
            for level, paths in sorted(shapes.items())
        ]
        alarms = [cell for cell in row.cells if cell.level.startswith("a")]
        for cell in alarms[: max(0, _TITLED - titled)]:
            x = plot.x(cell.start_ms)
            drawn.append(
                f"<rect class='hover' x='{x:.1f}' y='{top}' "
                f"width='{max(1.0, plot.x(cell.end_ms) - x):.1f}' height='{height - 1}'>"
                f"<title>{text(cell.title)}</title></rect>"
            )
        titled += len(alarms)
    return (
        f"<svg viewBox='0 0 {box.width} {box.height}' role='img' aria-label='{text(label)}'>"
        f"{''.join(drawn)}</svg>"
    )


def _merged(cells: Sequence[Cell]) -> list[Cell]:
    merged: list[Cell] = []
    for cell in cells:
        last = merged[-1] if merged else None
        if last is not None and last.level == cell.level and last.end_ms == cell.start_ms:
            merged[-1] = last._replace(end_ms=cell.end_ms)
        else:
            merged.append(cell)
    return merged
