"""How panes grows: with processes, models, features, segments and partitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from kedge_services.local.bench.cases import Bench
from kedge_services.local.bench.figures import Run, exponents
from kedge_services.local.bench.ground import Ground
from kedge_services.local.bench.panes import PanesBench, panes_bench
from kedge_services.local.bench.workload import Shape

__all__ = ["PROCESSES", "growth", "scale_out"]

#: Processes of panes over the 8 partitions.
PROCESSES = (1, 2, 4)
#: What is varied, one at a time, from one model, 10 features, no segment and 8 partitions.
_MODELS, _FEATURES, _PARTITIONS = (1, 10, 100), (5, 10, 50, 500), (1, 8, 64)
_SEGMENTS = (0, 1, 3)
#: Feature values that a measurement decodes at most, so that wide rows do not take for ever.
_VALUES = 100


class _ScaleOut:
    def __init__(self, bench: PanesBench) -> None:
        self._bench = bench

    def limit(self) -> Run | None:
        return self._bench.limit()

    def measure(self) -> Run:
        runs = {number: self._bench.measure(number) for number in PROCESSES}
        figures = {
            f"{what}_{number}": value
            for number, run in runs.items()
            for what, value in (
                ("rate_wall", run.rate_wall),
                ("rate_per_cpu_s", run.rate_per_cpu_s),
                ("rss_mb", run.peak_rss_mb),
            )
        }
        problems = [problem for run in runs.values() for problem in run.problems]
        last = runs[PROCESSES[-1]]
        return replace(last, problems=tuple(problems), figures=figures)


@contextmanager
def scale_out(ground: Ground, records: int, seed: int) -> Iterator[Bench]:
    """Set up predictions without labels for one, two and four processes."""
    with panes_bench(ground, "scale-out", Shape(), records, seed) as bench:
        yield _ScaleOut(bench)


class _Growth:
    """Small runs of panes, one for each size; what is compared is the cost of a record."""

    def __init__(self, ground: Ground, records: int, seed: int) -> None:
        self._ground, self._records, self._seed = ground, records, seed
        self._measured: dict[tuple[Shape, int], Run] = {}

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        self._measured = {}
        base = Shape(distinct=2_000)
        costs: dict[str, dict[int, float]] = {
            "models": {n: self._cost(replace(base, models=n)) for n in _MODELS},
            "features": {n: self._cost(replace(base, features=n)) for n in _FEATURES},
            "segments": {
                n: self._cost(replace(base, segments=n, labelled=True)) for n in _SEGMENTS
            },
            "partitions": {n: self._cost(base, n) for n in _PARTITIONS},
        }
        figures = {
            f"us_{what}_{size}": cost for what, by in costs.items() for size, cost in by.items()
        }
        for what in ("models", "features", "partitions"):
            figures[f"exponent_{what}"] = max(exponents([*costs[what]], [*costs[what].values()]))
        figures |= _fixed(costs)
        runs = list(self._measured.values())
        return Run(
            sum(run.units for run in runs),
            sum(run.wall_s for run in runs),
            sum(run.cpu_s for run in runs),
            max(run.peak_rss_mb for run in runs),
            tuple(problem for run in runs for problem in run.problems),
            figures,
        )

    def _cost(self, shape: Shape, partitions: int = 8) -> float:
        """Give the CPU time of a record in microseconds."""
        key = (shape, partitions)
        if key not in self._measured:
            records = min(self._records, self._records * _VALUES // shape.features)
            name = f"growth-{len(self._measured)}"
            with panes_bench(
                self._ground, name, shape, records, self._seed, partitions=partitions
            ) as bench:
                self._measured[key] = bench.measure()
        run = self._measured[key]
        # The kernel counts in hundredths of a second.
        return 1e6 * max(run.cpu_s, 0.01) / run.units


def _fixed(costs: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Give what each more of a thing adds to a record, and what is left without it."""
    found = {}
    for what, by in costs.items():
        (low, at_low), *_, (high, at_high) = by.items()
        slope = (at_high - at_low) / (high - low)
        found[f"us_per_{what.removesuffix('s')}"] = slope
        found[f"us_fixed_{what}"] = at_low - low * slope
    return found


@contextmanager
def growth(ground: Ground, records: int, seed: int) -> Iterator[Bench]:
    """Set up nothing yet: each size has topics of its own."""
    yield _Growth(ground, records, seed)
