"""Figures with their 95 % intervals, as tables keep them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Figure:
    """One cell: a value with its interval, from ``n`` runs or windows; a note instead, or beside.

    ``digits`` are those behind the point; negative: one digit and a power of ten.
    """

    row: str
    column: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""
    digits: int = 1

    def shown(self) -> str:
        if self.value is None or math.isinf(self.value):
            return self.note or "-"
        if self.digits < 0:
            return f"{self.value:.1e}"
        text = f"{self.value:,.{self.digits}f}"
        if self.low is not None and self.high is not None:
            text += f" ({self.low:,.{self.digits}f}-{self.high:,.{self.digits}f})"
        return f"{text} {self.note}".rstrip()


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach: ``value <= limit``, or ``>=`` where ``at_least``."""

    row: str
    column: str
    limit: float
    at_least: bool = False

    def judged(self, figures: Sequence[Figure]) -> str:
        found = [f for f in figures if (f.row, f.column) == (self.row, self.column)]
        sign, limit = ("at least" if self.at_least else "at most"), f"{self.limit:,.6g}"
        wanted = f"{self.row}, {self.column}: {sign} {limit}"
        if not found or found[0].value is None:
            why = found[0].note if found and found[0].note else "not run"
            return f"| {wanted} | {why} | not measured |"
        value = found[0].value
        short = self.limit - value if self.at_least else value - self.limit
        by = "" if math.isinf(short) else f" by {short:,.3g}"
        verdict = "met" if short <= 0 else f"**missed{by}**"
        end = found[0].low if self.at_least else found[0].high
        beyond = 0.0 if end is None else (self.limit - end if self.at_least else end - self.limit)
        if short <= 0 < beyond:
            verdict += ", but the interval reaches beyond"
        return f"| {wanted} | {found[0].shown()} | {verdict} |"


@dataclass(frozen=True, slots=True)
class Result:
    """A table: its figures, what they were held to, and how they were made."""

    name: str
    title: str
    figures: list[Figure]
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quick: bool = False
    seconds: float = 0.0

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, data: dict[str, Any]) -> Result:
        figures = [Figure(**f) for f in data["figures"]]
        targets = [Target(**t) for t in data["targets"]]
        return cls(**{**data, "figures": figures, "targets": targets})


def rate(row: str, column: str, hits: Sequence[Sequence[bool]], *, per: float = 1_000) -> Figure:
    """Give the share of hits with Wilson's interval, wider where runs differ among themselves.

    Parameters
    ----------
    hits
        By run (seed): windows of one run share a reference, so the interval is that
        of the number of windows divided by the design effect of the runs.
    """
    runs = [list(map(bool, run)) for run in hits if len(run)]
    n = sum(map(len, runs))
    if not n:
        return Figure(row, column, note="no window was tested")
    share = sum(map(sum, runs)) / n
    # Korn and Graubard 1998: the effective sample size of a clustered one.
    effect = 1.0
    if 0 < share < 1 and len(runs) > 1:
        between = math.fsum((sum(run) - share * len(run)) ** 2 for run in runs)
        effect = max(1.0, between * len(runs) / (len(runs) - 1) / (n * share * (1 - share)))
    low, high = wilson(share, n / effect)
    return Figure(row, column, share * per, low * per, high * per, n)


def wilson(share: float, n: float) -> tuple[float, float]:
    middle = share + _Z * _Z / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    scale = 1 + _Z * _Z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def quantile(
    row: str,
    column: str,
    values: Sequence[float | None],
    *,
    q: float = 0.5,
    digits: int = 0,
) -> Figure:
    """Give a quantile with the order statistics that enclose it; None is later than all."""
    ordered = sorted(math.inf if value is None else value for value in values)
    n = len(ordered)
    if not n:
        return Figure(row, column, note="no run")
    at = ordered[max(0, math.ceil(q * n) - 1)]
    lower, upper = (int(stats.binom.ppf(p, n, q)) for p in (0.025, 0.975))
    low, high = ordered[max(0, lower - 1)], ordered[min(n - 1, upper)]
    missed = sum(value is None for value in values)
    note = f"[{missed} of {n} missed]" if missed else ""
    if math.isinf(at):
        return Figure(row, column, at, n=n, note=f"missed in {missed} of {n}")
    if math.isinf(high):
        return Figure(row, column, at, n=n, note=note, digits=digits)
    return Figure(row, column, at, low, high, n, note, digits)


def mean(
    row: str, column: str, values: Sequence[float], *, digits: int = 2, scale: float = 1.0
) -> Figure:
    """Give a mean with its bootstrap interval over runs."""
    array = np.asarray(values, dtype=np.float64) * scale
    if not array.size:
        return Figure(row, column, note="no run")
    rng = np.random.default_rng(0)
    means = rng.choice(array, size=(2_000, array.size)).mean(axis=1)
    low, high = (float(x) for x in np.quantile(means, [0.025, 0.975]))
    return Figure(row, column, float(array.mean()), low, high, array.size, digits=digits)


def pivot(figures: Sequence[Figure]) -> list[str]:
    """Give the lines of a Markdown table."""
    columns = list(dict.fromkeys(figure.column for figure in figures))
    rows = list(dict.fromkeys(figure.row for figure in figures))
    cells = {(figure.row, figure.column): figure.shown() for figure in figures}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        shown = (cells.get((row, column), "-") for column in columns)
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    return lines
