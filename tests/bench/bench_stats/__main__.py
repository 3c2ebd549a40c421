"""``python -m bench_stats [--quick] [TABLE ...]``: run tables, print them, write the page."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence

from bench_stats import closed_loop, cost, delays, error_rate, estimates, false_alarms
from bench_stats.figures import Result
from bench_stats.page import ORDER, keep, kept, table, write
from bench_stats.scale import Scale

__all__ = ["TABLES", "main", "measured"]

TABLES: dict[str, Callable[[Scale], Result]] = {
    "A": false_alarms.run,
    "B": delays.run,
    "ERROR": error_rate.run,
    "CBPE": estimates.run,
    "C": closed_loop.run,
    "COST": cost.run,
}


def measured(name: str, scale: Scale) -> Result:
    """Run a table and note how long it took."""
    started = time.perf_counter()
    result = TABLES[name](scale)
    seconds = time.perf_counter() - started
    return dataclasses.replace(result, quick=scale.name != "full", seconds=seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="bench_stats", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(ORDER)}")
    parser.add_argument("--quick", action="store_true", help="few seeds")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.tables if name not in TABLES]
    if unknown:
        parser.error(f"no table {', '.join(unknown)}; there are {', '.join(ORDER)}")
    for name in asked.tables or ORDER:
        result = measured(name, Scale("quick" if asked.quick else "full"))
        keep(result)
        sys.stdout.write(table(result) + "\n")
        sys.stdout.flush()
        # After every table, so that a run that is broken off has left something.
        write(kept())
    return 0


if __name__ == "__main__":
    sys.exit(main())
