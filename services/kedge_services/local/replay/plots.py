"""Plots as text: SVG with axes, dates and titles to hover over, coloured by the page's style.

No attribute holds a colour and nothing is loaded, so that a page with such plots
opens offline, under a strict content security policy, in a light and a dark scheme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from itertools import groupby
from typing import NamedTuple

__all__ = [
    "Bar",
    "Box",
    "Dot",
    "Lane",
    "Plot",
    "Span",
    "columns",
    "lanes",
    "text",
    "time_axis",
    "when",
]

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 10, 24
_S, _M, _H, _D = 1_000, 60_000, 3_600_000, 86_400_000
#: Steps between two dates of an axis; beyond the days, months are counted.
_STEPS_MS = (_S, 5 * _S, 15 * _S, _M, 5 * _M, 15 * _M, _H, 3 * _H, 6 * _H, 12 * _H, _D, 2 * _D,
             7 * _D)  # fmt: skip
_MONTHS = (1, 3, 6, 12, 24, 60, 120, 240, 600, 1200)
_MONTH_MS = 30.44 * _D
_LANE = 22
#: Points that are drawn smaller, so that each is seen.
_MANY = 60
#: Levels of a logarithmic axis at most.
_DECADES = 6


class Span(NamedTuple):
    """The event times of an axis."""

    left_ms: int
    right_ms: int


class Dot(NamedTuple):
    """A value at a time, and what is said when one points at it."""

    at_ms: float
    value: float | None
    title: str = ""


class Bar(NamedTuple):
    """Something that lasted; without an end a mark."""

    start_ms: float
    end_ms: float | None
    kind: str
    title: str


class Lane(NamedTuple):
    """A row of a timeline."""

    name: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Box:
    """Where a plot is drawn: pixels of its drawing, and of its inner frame."""

    width: int = 960
    height: int = 190
    left: int = _LEFT

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """Give left, top, right and bottom of the frame."""
        return self.left, _TOP, self.width - _RIGHT, self.height - _BOTTOM


def text(value: object) -> str:
    """Write anything so that a page shows it and obeys none of it."""
    return html.escape(str(value))


def when(at_ms: float, *, seconds: bool = False) -> str:
    """Write an event time for people, UTC.

    >>> when(0)
    '1970-01-01 00:00'
    """
    form = "%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)


class Plot:
    """One plot over time; what is drawn first lies below.

    Parameters
    ----------
    low, high
        Ends of the vertical axis.
    is_log
        Let equal factors be equally far apart; values below ``low`` are drawn there.
    is_share
        Write the values of the axis in percent.
    """

    def __init__(
        self,
        span: Span,
        low: float,
        high: float,
        *,
        label: str,
        box: Box | None = None,
        is_log: bool = False,
        is_share: bool = False,
    ) -> None:
        self._span, self._label = span, label
        self._box = Box() if box is None else box
        self._is_log, self._is_share = is_log, is_share
        # An axis between values that floats can hardly tell apart has no ticks.
        least = max(1e-300, 1e-9 * max(abs(low), abs(high)))
        around = 0.5 * max(1.0, abs(low))
        is_flat = high - low < least
        self._low, self._high = (low - around, low + around) if is_flat else (low, high)
        self._parts: list[str] = []

    def x(self, at_ms: float) -> float:
        """Give the pixel of a time."""
        left, _, right, _ = self._box.inner
        share = (at_ms - self._span.left_ms) / max(1, self._span.right_ms - self._span.left_ms)
        return left + (right - left) * min(1.0, max(0.0, share))

    def y(self, value: float) -> float:
        """Give the pixel of a value; what lies beyond the axis is drawn at its end."""
        _, top, _, bottom = self._box.inner
        low, high = self._low, self._high
        if self._is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = (value - low) / (high - low)
        return bottom - (bottom - top) * min(1.0, max(0.0, share))

    def band(self, points: Iterable[tuple[float, float | None, float | None]], kind: str) -> None:
        """Draw an interval (time, low, high) over time; it breaks where an end is missing."""
        for whole, run in groupby(points, key=lambda p: p[1] is not None and p[2] is not None):
            if whole:
                known = [(self.x(at), self.y(low or 0.0), self.y(high or 0.0))
                         for at, low, high in run]  # fmt: skip
                there = [f"{x:.1f},{y:.1f}" for x, _, y in known]
                back = [f"{x:.1f},{y:.1f}" for x, y, _ in reversed(known)]
                self._parts.append(
                    f"<polygon class='band {kind}' points='{' '.join(there + back)}'/>"
                )

    def line(self, dots: Sequence[Dot], kind: str, *, marked: bool = False) -> None:
        """Draw values over time; the line breaks where there is none."""
        for known, run in groupby(dots, key=lambda dot: dot.value is not None):
            if known:
                places = [f"{self.x(d.at_ms):.1f},{self.y(d.value or 0.0):.1f}" for d in run]
                shape = kind
                if len(places) == 1:
                    # A line of one point is a dot by its round ends.
                    places, shape = places * 2, f"{kind} single"
                self._parts.append(f"<polyline class='line {shape}' points='{' '.join(places)}'/>")
        self.dots(dots, kind if marked else "point")

    def dots(self, dots: Iterable[Dot], kind: str) -> None:
        """Draw points; of the kind ``point`` they are seen when pointed at."""
        dots = list(dots)
        radius = 4 if kind == "point" else 3 if len(dots) <= _MANY else 2
        self._parts += [
            f"<circle class='dot {kind}' cx='{self.x(d.at_ms):.1f}' cy='{self.y(d.value):.1f}' "
            f"r='{radius}'><title>{text(d.title)}</title></circle>"
            for d in dots
            if d.value is not None
        ]

    def limit(self, dots: Sequence[Dot], name: str) -> None:
        """Draw what a measure is held to."""
        known = [dot for dot in dots if dot.value is not None]
        if not known:
            return
        left, _, right, _ = self._box.inner
        places = [f"{self.x(d.at_ms):.1f},{self.y(d.value or 0.0):.1f}" for d in known]
        if len({dot.value for dot in known}) == 1:
            height = self.y(known[0].value or 0.0)
            places = [f"{left},{height:.1f}", f"{right},{height:.1f}"]
        self._parts.append(
            f"<polyline class='line limit' points='{' '.join(places)}'>"
            f"<title>{text(name)}</title></polyline>"
        )

    def marks(self, times: Iterable[tuple[float, str]], kind: str) -> None:
        """Draw moments, each a line from top to bottom."""
        _, top, _, bottom = self._box.inner
        self._parts += [
            f"<path class='mark {kind}' d='M{self.x(at):.1f} {top}V{bottom}'>"
            f"<title>{text(title)}</title></path>"
            for at, title in times
        ]

    def svg(self) -> str:
        """Give the plot."""
        box = self._box
        parts = [*self._rows(), *columns(self._span, box), *self._parts]
        return (
            f"<svg viewBox='0 0 {box.width} {box.height}' role='img' "
            f"aria-label='{text(self._label)}'>{''.join(parts)}</svg>"
        )

    def _rows(self) -> list[str]:
        left, _, right, _ = self._box.inner
        drawn = []
        for value in self._ticks():
            y = self.y(value)
            drawn.append(
                f"<path class='grid' d='M{left} {y:.1f}H{right}'/>"
                f"<text class='tick' x='{left - 6}' y='{y + 3.5:.1f}' text-anchor='end'>"
                f"{self._tick(value)}</text>"
            )
        return drawn

    def _ticks(self) -> list[float]:
        if self._is_log:
            low, high = math.floor(math.log10(self._low)), math.ceil(math.log10(self._high))
            step = max(1, -(-(high - low) // _DECADES))
            return [10.0**k for k in range(low, high + 1, step) if 10.0**k <= self._high]
        few = self._box.height - _TOP - _BOTTOM < 100
        width = _nice((self._high - self._low) / (3 if few else 5))
        first = math.ceil(self._low / width - 1e-9)
        last = math.floor(self._high / width + 1e-9)
        return [k * width for k in range(first, last + 1)]

    def _tick(self, value: float) -> str:
        if self._is_share:
            return f"{100 * value:.3g} %"
        if self._is_log:
            return f"{value:.0f}" if value < 1e4 else f"1e{round(math.log10(value))}"
        for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if unit * 10 <= abs(value) < unit * 1e4:
                return f"{value / unit:.6g}{letter}"
        return f"{value:.6g}"


def lanes(span: Span, rows: Sequence[Lane], *, label: str, box: Box) -> str:
    """Draw a timeline: a row for each name, with what lasted and what happened on it."""
    box = Box(box.width, _TOP + len(rows) * _LANE + _BOTTOM, box.left)
    plot = Plot(span, 0, 1, label=label, box=box)
    parts = list(columns(span, box))
    for number, lane in enumerate(rows):
        top = _TOP + number * _LANE
        parts.append(
            f"<text class='name' x='{box.left - 8}' y='{top + 14}' text-anchor='end'>"
            f"{text(_shortened(lane.name, box.left))}<title>{text(lane.name)}</title></text>"
        )
        for bar in lane.bars:
            x, title = plot.x(bar.start_ms), f"<title>{text(bar.title)}</title>"
            if bar.end_ms is None:
                parts.append(
                    f"<path class='flag {bar.kind}' d='M{x:.1f} {top + 3}l5 7l-5 7l-5 -7z'>"
                    f"{title}</path>"
                )
            else:
                width = max(2.0, plot.x(bar.end_ms) - x)
                parts.append(
                    f"<rect class='bar {bar.kind}' x='{x:.1f}' y='{top + 4}' width='{width:.1f}' "
                    f"height='{_LANE - 9}' rx='2'>{title}</rect>"
                )
    return (
        f"<svg viewBox='0 0 {box.width} {box.height}' role='img' aria-label='{text(label)}'>"
        f"{''.join(parts)}</svg>"
    )


def time_axis(span: Span, *, most: int) -> list[tuple[int, str]]:
    """Give round times within a span, at most about so many, and how they are written.

    >>> time_axis(Span(0, 4 * 86_400_000), most=5)[1]
    (86400000, '1970-01-02')
    """
    width = max(1, span.right_ms - span.left_ms)
    step = next((step for step in _STEPS_MS if width / step <= most), None)
    if step is None:
        return _month_axis(span, most)
    form = "%Y-%m-%d" if step >= _D else "%m-%d %H:%M" if step >= _M else "%H:%M:%S"
    first = -(-span.left_ms // step) * step
    return [
        (at, datetime.fromtimestamp(at / 1000, UTC).strftime(form))
        for at in range(first, span.right_ms + 1, step)
    ]


def _month_axis(span: Span, most: int) -> list[tuple[int, str]]:
    months = (span.right_ms - span.left_ms) / _MONTH_MS
    step = next((step for step in _MONTHS if months / step <= most), _MONTHS[-1])
    begin = datetime.fromtimestamp(span.left_ms / 1000, UTC)
    number = -(-(begin.year * 12 + begin.month - 1) // step) * step
    found: list[tuple[int, str]] = []
    while True:
        year, month = divmod(number, 12)
        if year > MAXYEAR:
            return found
        at = round(datetime(year, month + 1, 1, tzinfo=UTC).timestamp() * 1000)
        if at > span.right_ms:
            return found
        if at >= span.left_ms:
            form = f"{year}" if step % 12 == 0 else f"{year}-{month + 1:02}"
            found.append((at, form))
        number += step


def columns(span: Span, box: Box) -> list[str]:
    """Draw the axis of time with its dates, and a line upwards from each."""
    plot = Plot(span, 0, 1, label="", box=box)
    left, top, right, bottom = box.inner
    drawn = [f"<path class='axis' d='M{left} {bottom}H{right}'/>"]
    for at, told in time_axis(span, most=max(2, (right - left) // 120)):
        x = plot.x(at)
        anchor = "end" if x > right - 35 else "start" if x < left + 20 else "middle"
        drawn.append(
            f"<path class='grid' d='M{x:.1f} {top}V{bottom + 4}'/>"
            f"<text class='tick' x='{x:.1f}' y='{bottom + 17}' text-anchor='{anchor}'>{told}</text>"
        )
    return drawn


def _shortened(name: str, pixels: int) -> str:
    most = max(6, pixels // 7)
    return name if len(name) <= most else name[: most - 1] + "…"


def _nice(step: float) -> float:
    """Round a step up to 1, 2 or 5 times a power of ten."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= step * (1 - 1e-9))
