"""windows and alerts: how many series one core carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from kedge.codec import decode
from kedge.events import Alert
from kedge.topics import model_partition
from kedge_services.local.bench.cases import Bench
from kedge_services.local.bench.checking import differences
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.multiplied import (
    Deltas,
    deltas_of,
    fill_deltas,
    run_to_end,
    windows_of,
)
from kedge_services.local.bench.workload import Keyed, Workload

__all__ = ["alerts", "windows"]

_OUTPUTS = ("windows", "references", "alerts", "dead-letters")


class _Window(msgspec.Struct):
    window_id: str
    kind: str
    scale: int
    is_final: bool
    n: int


_window = msgspec.json.Decoder(_Window).decode


class _Series:
    """Deltas of so many models, in topics of their own."""

    def __init__(self, site: Site, deltas: Deltas, models: int, panes: int) -> None:
        self.site, self.panes = site, panes
        self.names = _names(models)
        self._has_run = False
        monitor, reference = deltas.monitor, deltas.reference
        site.declare(
            [monitor.model_copy(update={"model": name}) for name in self.names],
            [reference.model_copy(update={"model": name}) for name in self.names],
        )
        fill_deltas(site, deltas, self.names, panes)

    def measure(self, rows: int) -> Run:
        """Run windows to the end; every series must have its windows, of all its rows."""
        if self._has_run:
            # References are input here: this workload has none to learn.
            self.site.reset(["windows"], [name for name in _OUTPUTS if name != "references"])
        self._has_run = True
        watch = run_to_end(self.site, "windows", ("panes",))
        counts: dict[str, int] = {}
        for _, _, value in self.site.read("windows"):
            window = _window(value)
            if window.kind == "drift" and window.scale == 1 and window.is_final:
                counts[window.window_id] = window.n
        units = len(self.names) * self.panes
        problems = differences(
            f"{len(self.names)} series",
            {"final windows": len(counts), "rows": sum(counts.values())},
            {"final windows": units, "rows": units * rows},
        )
        return Run(units, watch.wall_s, watch.cpu_s, watch.peak_rss_mb, tuple(problems))


class _Windows:
    """Each size with deltas of one source partition; the largest of eight, too."""

    def __init__(self, series: dict[str, _Series], rows: int) -> None:
        self._series, self._rows = series, rows

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        runs = {name: series.measure(self._rows) for name, series in self._series.items()}
        main = runs["series_5000"]
        figures = {f"{name}_per_cpu_s": run.rate_per_cpu_s for name, run in runs.items()}
        figures["rss_mb_series_5000"] = main.peak_rss_mb
        problems = tuple(problem for run in runs.values() for problem in run.problems)
        return Run(main.units, main.wall_s, main.cpu_s, main.peak_rss_mb, problems, figures)


@contextmanager
def windows(
    ground: Ground, sizes: Sequence[tuple[str, int, int, int]], rows: int, seed: int
) -> Iterator[Bench]:
    """Set up deltas.

    Parameters
    ----------
    sizes
        Name, models, panes and source partitions of each measurement.
    """
    longest: dict[int, int] = {}
    for _, _, panes, sources in sizes:
        longest[sources] = max(panes, longest.get(sources, 0))
    made = {
        sources: deltas_of(ground, panes=panes, sources=sources, seed=seed)
        for sources, panes in longest.items()
    }
    with ExitStack() as stack:
        series = {}
        for name, models, panes, sources in sizes:
            site = stack.enter_context(ground.site(f"windows-{name}"))
            series[name] = _Series(site, made[sources], models, panes)
        yield _Windows(series, rows)


class _Alerts:
    def __init__(self, site: Site, names: Sequence[str], records: int) -> None:
        self._site, self._names, self._records = site, names, records
        self._has_run = False

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        """Run alerts over the windows of models that all drift: each must be told of it."""
        if self._has_run:
            self._site.reset(["alerts"], ["alerts", "dead-letters"])
        self._has_run = True
        watch = run_to_end(self._site, "alerts", ("windows",))
        fired = {
            alert.model
            for alert in (decode(Alert, value) for _, _, value in self._site.read("alerts"))
            if alert.status == "firing"
        }
        problems = differences("models", {"alerts": len(fired)}, {"alerts": len(self._names)})
        return Run(self._records, watch.wall_s, watch.cpu_s, watch.peak_rss_mb, tuple(problems))


@contextmanager
def alerts(ground: Ground, models: int, panes: int, seed: int) -> Iterator[Bench]:
    """Set up the windows of models that drift in the middle."""
    workload, records = windows_of(ground, panes=panes, seed=seed)
    names = _names(models)
    with ground.site("alerts") as site:
        site.declare([workload.monitors()[0].model_copy(update={"model": name}) for name in names])
        _fill_windows(site, workload, names, records)
        yield _Alerts(site, names, len(names) * len(records))


def _fill_windows(
    site: Site, workload: Workload, names: Sequence[str], records: Sequence[tuple[str, bytes]]
) -> None:
    former = workload.models[0]
    partitions = site.settings.model_partitions
    with Filler(site.settings) as filler:
        for name in names:
            mine = [
                Keyed(
                    key.replace(former, name).encode(),
                    value.replace(former.encode(), name.encode()),
                )
                for key, value in records
            ]
            filler.send("windows", mine, partition=model_partition(name, partitions))


def _names(models: int) -> list[str]:
    """Name models as a workload does: all names are of one length."""
    return [f"bench-{number:04}" for number in range(models)]
