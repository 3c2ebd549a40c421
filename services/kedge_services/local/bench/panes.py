"""panes over filled topics: without labels, with labels, and with many features."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from kedge_services.local.bench.cases import Bench
from kedge_services.local.bench.checking import differences, read_panes
from kedge_services.local.bench.child import Child, Stopwatch
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.limit import measure_limit
from kedge_services.local.bench.workload import Shape, Workload

__all__ = ["PanesBench", "panes_of"]

_TIMEOUT_S = 900.0
_OUTPUTS = ("panes", "examples", "dead-letters")
#: How long before now the traffic ends: event times must not lie ahead of the clock.
_AGO_MS = 60_000


class PanesBench:
    """Predictions, and where the models are labelled their outcomes, folded to the end.

    Parameters
    ----------
    per_record
        Units a prediction counts for: 1, or its features.
    processes
        Of panes, which share the partitions.
    """

    def __init__(
        self, site: Site, workload: Workload, records: int, *, per_record: int = 1,
        processes: int = 1,
    ) -> None:  # fmt: skip
        self.site, self.workload, self.records = site, workload, records
        self._per_record, self._processes = per_record, processes
        self._topics = ("predictions", "outcomes") if workload.shape.labelled else ("predictions",)
        self._has_run = False

    def fill(self) -> None:
        """Declare the models and send the traffic."""
        self.site.declare(self.workload.monitors(), self.workload.references())
        with Filler(self.site.settings) as filler:
            filler.send("predictions", self.workload.predictions(0, self.records))
            if self.workload.shape.labelled:
                filler.send("outcomes", self.workload.outcomes(0, self.records))

    def limit(self) -> Run:
        """Consume and decode the same records."""
        ends = self.site.ends(self._topics)
        found = measure_limit(self.site.settings, ends, self.workload.features)
        # In the case's units: of two topics a pair takes two records.
        return Run(
            self.records * self._per_record, found.wall_s, found.cpu_s, found.peak_rss_mb,
            found.problems,
        )  # fmt: skip

    def measure(self) -> Run:
        """Run panes until all is committed."""
        site = self.site
        if self._has_run:
            site.reset(["panes"], _OUTPUTS)
        self._has_run = True
        ends = site.ends(self._topics)
        with ExitStack() as stack:
            children = [
                stack.enter_context(
                    Child(site.settings, "panes", site.work_dir / "logs", ordinal=ordinal)
                )
                for ordinal in range(self._processes)
            ]
            watch = Stopwatch(*children)
            watch.start()
            watch.until(lambda: site.lag("panes", ends) == 0, _TIMEOUT_S)
        return Run(
            self.records * self._per_record,
            watch.wall_s,
            watch.cpu_s,
            watch.peak_rss_mb,
            tuple(self._problems()),
        )

    def _problems(self) -> list[str]:
        found = read_panes(self.site)
        fates = {topic: dict(counts) for topic, counts in found.fates.items()}
        rows = {"drift": found.rows["drift"]}
        problems = differences(
            "fates of predictions", _some(fates.get("predictions", {})), {"counted": self.records}
        )
        if self.workload.shape.labelled:
            problems += differences(
                "fates of outcomes", _some(fates.get("outcomes", {})), {"matched": self.records}
            )
            examples = sum(1 for _ in self.site.read("examples"))
            problems += differences("examples", {"number": examples}, {"number": self.records})
        return problems + differences("rows of panes", rows, {"drift": self.records})


@contextmanager
def panes_of(
    ground: Ground, name: str, shape: Shape, records: int, seed: int, *,
    per_record: int = 1, processes: int = 1, partitions: int | None = None,
) -> Iterator[Bench]:  # fmt: skip
    """Set up a case of panes with topics of its own."""
    changes = {} if partitions is None else {"request_partitions": partitions}
    now_ms = time.time_ns() // 1_000_000
    start_ms = now_ms - _AGO_MS - int(records * 1_000 / shape.rate)
    with ground.site(name, **changes) as site:
        bench = PanesBench(
            site, Workload(shape, seed, start_ms), records,
            per_record=per_record, processes=processes,
        )  # fmt: skip
        bench.fill()
        yield bench


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if number}
