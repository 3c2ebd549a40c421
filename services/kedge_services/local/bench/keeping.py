"""What the join keeps: memory and disk of pending predictions, and restoring a lost store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kedge_services.local.bench.cases import Bench
from kedge_services.local.bench.checking import differences, read_panes
from kedge_services.local.bench.child import Child, Stopwatch
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.overload import metric
from kedge_services.local.bench.panes import start_before
from kedge_services.local.bench.workload import Shape, Workload

__all__ = ["memory", "restore"]

_TIMEOUT_S = 3_600.0
_SHAPE = Shape(labelled=True)
_TOPICS = ("predictions", "outcomes")


class _Pending:
    """Predictions whose outcomes have not come."""

    def __init__(self, site: Site, records: int, seed: int) -> None:
        self.site, self.records = site, records
        self.workload = Workload(_SHAPE, seed, start_before(_SHAPE, records))

    def fill(self) -> None:
        self.site.declare(self.workload.monitors(), self.workload.references())
        with Filler(self.site.settings) as filler:
            filler.send("predictions", self.workload.predictions(0, self.records))

    def child(self) -> Child:
        return Child(self.site.settings, "panes", self.site.work_dir / "logs")

    def take_in(self, child: Child) -> Stopwatch:
        """Run panes to the end of what there is."""
        ends = self.site.ends(_TOPICS)
        watch = Stopwatch(child)
        watch.start()
        watch.until(lambda: self.site.lag("panes", ends) == 0, _TIMEOUT_S)
        return watch

    def problems(self, outcomes: int) -> list[str]:
        fates = read_panes(self.site).fates
        wanted = {"predictions": {"counted": self.records}, "outcomes": {"matched": outcomes}}
        return [
            problem
            for topic, counts in wanted.items()
            for problem in differences(
                f"fates of {topic}",
                {fate: n for fate, n in fates.get(topic, {}).items() if n},
                {fate: n for fate, n in counts.items() if n},
            )
        ]


class _Memory:
    def __init__(self, ground: Ground, sizes: tuple[int, ...], seed: int) -> None:
        self._ground, self._sizes, self._seed = ground, sizes, seed

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        figures: dict[str, float] = {}
        problems: list[str] = []
        for records in self._sizes:
            name = _told(records)
            with self._ground.site(f"memory-{name}") as site:
                pending = _Pending(site, records, self._seed)
                pending.fill()
                with pending.child() as child:
                    watch = pending.take_in(child)
                    rss = child.rss_bytes()
                disk = _disk_bytes(site.settings.state_dir)
                problems += pending.problems(outcomes=0)
            figures |= {
                f"rss_mb_{name}": rss / 1e6,
                f"peak_rss_mb_{name}": watch.peak_rss_mb,
                f"disk_mb_{name}": disk / 1e6,
                f"disk_bytes_each_{name}": disk / records,
                f"rss_bytes_each_{name}": rss / records,
            }
        return Run(records, watch.wall_s, watch.cpu_s, watch.peak_rss_mb, tuple(problems), figures)


@contextmanager
def memory(ground: Ground, sizes: tuple[int, ...], seed: int) -> Iterator[Bench]:
    """Set up nothing yet: each size has topics of its own."""
    yield _Memory(ground, sizes, seed)


class _Restore:
    def __init__(self, pending: _Pending) -> None:
        self._pending = pending
        self._sent = 0

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        """Lose the store on disk, start again, and see that nothing is missing."""
        pending, site = self._pending, self._pending.site
        if not self._sent:
            with pending.child() as child:
                pending.take_in(child)
        shutil.rmtree(site.settings.state_dir)
        began_s = time.monotonic()
        with pending.child() as child:
            watch = Stopwatch(child)
            watch.start()
            ready_s, cpu_s = time.monotonic() - began_s, child.cpu_s()
            restored = metric(child.metrics(), "kedge_restored_records_total")
            # What was lost is asked for: some of the outcomes come now.
            share = pending.records // 10
            with Filler(site.settings) as filler:
                filler.send("outcomes", pending.workload.outcomes(self._sent, self._sent + share))
            self._sent += share
            pending.take_in(child)
        problems = pending.problems(self._sent)
        if restored < pending.records - self._sent:
            problems.append(f"only {restored:,.0f} records were restored")
        figures = {"restored_records": restored, "seconds": ready_s}
        return Run(restored, ready_s, cpu_s, watch.peak_rss_mb, tuple(problems), figures)


@contextmanager
def restore(ground: Ground, records: int, seed: int) -> Iterator[Bench]:
    """Set up predictions that wait for their outcomes."""
    with ground.site("restore") as site:
        pending = _Pending(site, records, seed)
        pending.fill()
        yield _Restore(pending)


def _told(records: int) -> str:
    return f"{records // 1_000_000}m" if records >= 1_000_000 else f"{records // 1_000}k"


def _disk_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
