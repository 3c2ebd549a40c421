"""Measures of runs, and what is said of several: medians, spreads, percentiles, exponents."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CaseResult", "Run", "exponents", "percentile", "summarise", "written"]


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement.

    Attributes
    ----------
    units
        What was done: records, pairs, rows, values or series-panes.
    wall_s, cpu_s
        From readiness to the end of the work; CPU of user and system, all
        threads, of the measured processes alone.
    peak_rss_mb
        Largest resident memory seen, of all measured processes together.
    problems
        What is wrong with the results; none means that they were checked.
    figures
        Anything else, by name.
    """

    units: float
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    problems: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate_wall(self) -> float:
        """Units a second."""
        return self.units / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def rate_per_cpu_s(self) -> float:
        """Units a CPU second."""
        return self.units / self.cpu_s if self.cpu_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What several runs of a case say: medians, with the least and the largest.

    ``figures`` has the medians by name, ``spread`` the least and the largest of
    each; ``problems`` are those of any run.
    """

    name: str
    unit: str
    runs: int
    figures: dict[str, float]
    spread: dict[str, tuple[float, float]]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        data: dict[str, Any] = {name: _rounded(value) for name, value in self.figures.items()}
        data["spread"] = {n: [_rounded(a), _rounded(b)] for n, (a, b) in self.spread.items()}
        return data | {
            "unit": self.unit,
            "runs": self.runs,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def summarise(
    name: str, unit: str, runs: Sequence[Run], limits: Sequence[Run] = (), notes: Sequence[str] = ()
) -> CaseResult:
    """Give the medians of some runs and their ratios to the limits measured just before each.

    Parameters
    ----------
    limits
        One for every run, in the same order, or none.
    """
    columns: dict[str, list[float]] = {
        "rate_wall": [run.rate_wall for run in runs],
        "rate_per_cpu_s": [run.rate_per_cpu_s for run in runs],
        "peak_rss_mb": [run.peak_rss_mb for run in runs],
    }
    if limits:
        columns["ratio_to_limit_per_cpu"] = [
            run.rate_per_cpu_s / limit.rate_per_cpu_s
            for run, limit in zip(runs, limits, strict=True)
            if limit.rate_per_cpu_s
        ]
    for run in runs:
        for figure, value in run.figures.items():
            columns.setdefault(figure, []).append(value)
    known = {figure: values for figure, values in columns.items() if values}
    return CaseResult(
        name=name,
        unit=unit,
        runs=len(runs),
        figures={figure: statistics.median(values) for figure, values in known.items()},
        spread={figure: (min(values), max(values)) for figure, values in known.items()},
        problems=tuple(dict.fromkeys(problem for run in runs for problem in run.problems)),
        notes=tuple(notes),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least ``share`` of the values do not exceed.

    >>> percentile([4, 1, 3, 2], 0.5), percentile([4, 1, 3, 2], 0.99)
    (2, 4)

    Raises
    ------
    ValueError
        There are no values.
    """
    if not values:
        raise ValueError("no values, no percentile")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def exponents(sizes: Sequence[float], costs: Sequence[float]) -> list[float]:
    """Give k of cost ~ size^k between neighbours: 1 is linear growth, 0 none.

    >>> exponents([1, 10, 100], [2.0, 20.0, 20.0])
    [1.0, 0.0]
    """
    points = list(zip(sizes, costs, strict=True))
    return [
        math.log(y2 / y1) / math.log(x2 / x1) for (x1, y1), (x2, y2) in itertools.pairwise(points)
    ]


def written(value: float) -> str:
    """Write a figure with as many digits as say something.

    >>> written(198_200.0), written(11.62), written(0.25), written(0)
    ('198,200', '11.6', '0.25', '0')
    """
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f}"


def _rounded(value: float) -> float:
    """Give four significant digits: nothing here is known better."""
    return value if value == 0 or not math.isfinite(value) else float(f"{value:.4g}")
