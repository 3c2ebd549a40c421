"""The statistics in ``docs/benchmarks.md``: the tables as they were measured, and their targets.

The page has other parts; this one lies between two markers, and nothing else is written.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version

import psutil

from bench_stats.data import ROOT
from bench_stats.figures import Result, pivot
from bench_stats.peers import CACHE, pinned
from kedge_services.local.bench.report import replaced

__all__ = ["PAGE", "keep", "kept", "page", "write"]

PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = CACHE / "results"
ORDER = ("A", "B", "ERROR", "CBPE", "C", "COST")

_HEAD = """\

## How good are the statistics?

Written by `make bench-stats`; do not edit. Kedge stands beside Evidently {evidently} and NannyML
{nannyml} (each in an environment of its own, pinned in `tests/bench/peers`) and River {river}, in
one harness, on the same data and seeds. Intervals in brackets are 95 %.

```sh
make bench-stats                    # all tables, about 40 minutes on two cores
make bench-stats TABLES="A ERROR"   # some of them
make bench-stats QUICK=1            # few seeds: a first look, no figures to quote
```

Machine: {machine}.

Kedge judges by the path live events take: reference, bins, panes, windows over the scales 1, 2, 4
and 8. Data: Elec2, California housing and ACS employment (`tests/data/README.md`; the larger files
are looked for in `../shared/data`).
"""

_QUICK = """\
> **Quick run.** These figures come from few seeds and short streams (`QUICK=1`), on a machine that
> may have been busy: their intervals are wide, and "met" or "missed" says little.
"""


def keep(result: Result) -> None:
    """Write a table into the cache."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result.encode(), indent=1)
    (RESULTS / f"{result.name}.json").write_text(text, encoding="utf-8")


def kept() -> list[Result]:
    """Read the tables from the cache, in their order."""
    paths = [RESULTS / f"{name}.json" for name in ORDER]
    return [
        Result.decode(json.loads(path.read_text(encoding="utf-8")))
        for path in paths
        if path.exists()
    ]


def write(results: Sequence[Result]) -> None:
    """Write the tables into their part of the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(text, page(results), "statistics"), encoding="utf-8")


def page(results: Sequence[Result]) -> str:
    """Give the part of the page."""
    parts = [
        _HEAD.format(
            evidently=pinned("evidently", "evidently"),
            nannyml=pinned("nannyml", "nannyml"),
            river=version("river"),
            machine=_machine(),
        ),
        *map(table, results),
    ]
    missing = [name for name in ORDER if name not in {result.name for result in results}]
    if missing:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    return "\n".join(parts)


def table(result: Result) -> str:
    """Give one table with what it was held to."""
    lines = [f"### {result.name}. {result.title}", ""]
    if result.quick:
        lines += [_QUICK]
    lines += [*pivot(result.figures), ""]
    lines += [f"- {note}" for note in result.notes]
    lines += [f"- `make bench-stats TABLES={result.name}`, {_told(result.seconds)}.", ""]
    if result.targets:
        lines += ["| target | figure | |", "|---|---|---|"]
        lines += [target.judged(result.figures) for target in result.targets]
        lines.append("")
    return "\n".join(lines)


def _told(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _machine() -> str:
    memory = psutil.virtual_memory().total / (1 << 30)
    return (
        f"{psutil.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}, numpy {version('numpy')}, "
        f"scipy {version('scipy')}"
    )
