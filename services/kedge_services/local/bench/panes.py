"""panes over filled topics: without labels, with labels, and with many features."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from kedge.client import Client
from kedge_services.local.bench.checking import differences, read_panes
from kedge_services.local.bench.child import Child, Stopwatch
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.limit import measure_limit
from kedge_services.local.bench.workload import VERSION, Shape, Workload

__all__ = ["BATCH_ROWS", "PanesBench", "panes_bench", "start_before"]

#: Rows of a batch of Arrow.
BATCH_ROWS = 1_000
#: Batches of a partition that are made at once.
_AT_ONCE = 20
_TIMEOUT_S = 900.0
_OUTPUTS = ("panes", "examples", "dead-letters")
#: How long before now the traffic ends: event times must not lie ahead of the clock.
_AGO_MS = 60_000
#: Event time from a prediction to its outcome.
_LABEL_DELAY_MS = 1_000
#: Event time of the records that are sent to one topic before it is the other's turn.
_TURN_MS = 50


class PanesBench:
    """Predictions, and where the models are labelled their outcomes, folded to the end.

    Parameters
    ----------
    per_record
        Units a prediction counts for: 1, or its features.
    is_arrow
        Whether predictions travel as batches of Arrow, of :data:`BATCH_ROWS` rows.
    labels_last
        Whether every outcome comes after all predictions; else outcomes come between
        them, when their event time has come.
    """

    def __init__(
        self, site: Site, workload: Workload, records: int, *, per_record: int = 1,
        is_arrow: bool = False, labels_last: bool = False,
    ) -> None:  # fmt: skip
        self.site, self.workload, self.records = site, workload, records
        self._per_record, self._is_arrow, self._labels_last = per_record, is_arrow, labels_last
        self._topics = ("predictions", "outcomes") if workload.shape.labelled else ("predictions",)
        self._has_run = False

    def fill(self) -> None:
        """Declare the models and send the traffic."""
        self.site.declare(self.workload.monitors(), self.workload.references())
        if self._is_arrow:
            self._fill_batches()
            return
        with Filler(self.site.settings) as filler:
            if self.workload.shape.labelled and not self._labels_last:
                self._fill_in_turn(filler)
                return
            filler.send("predictions", self.workload.predictions(0, self.records))
            if self.workload.shape.labelled:
                filler.send("outcomes", self.workload.outcomes(0, self.records))

    def _fill_in_turn(self, filler: Filler) -> None:
        """Send predictions and outcomes in the order of their event times."""
        rate, workload = self.workload.shape.rate, self.workload
        behind = int(rate * _LABEL_DELAY_MS / 1_000)
        turn = max(1, int(rate * _TURN_MS / 1_000))
        for start in range(0, self.records + behind, turn):
            first, last = (min(at, self.records) for at in (start, start + turn))
            filler.send("predictions", workload.predictions(first, last))
            first, last = (max(0, at - behind) for at in (start, start + turn))
            outcomes = workload.outcomes(first, min(last, self.records), delay_ms=_LABEL_DELAY_MS)
            filler.send("outcomes", outcomes)

    def _fill_batches(self) -> None:
        kafka = self.site.settings.kafka
        whole = BATCH_ROWS * _AT_ONCE * self.site.settings.request_partitions
        with Client(
            kafka.bootstrap_servers or "",
            prefix=self.site.settings.prefix,
            properties={"message.max.bytes": 8_000_000, "log_level": 2},
        ) as client:
            for start in range(0, self.records, whole):
                client.predict_batch(
                    self.workload.columns(start, min(start + whole, self.records)),
                    model=self.workload.models[0],
                    version=VERSION,
                    rows_per_record=BATCH_ROWS,
                )

    def limit(self) -> Run:
        """Consume and decode the same records."""
        ends = self.site.ends(self._topics)
        found = measure_limit(
            self.site.settings, ends, self.workload.features, is_arrow=self._is_arrow
        )
        # In the case's units: of two topics a pair takes two records.
        return Run(
            self.records * self._per_record, found.wall_s, found.cpu_s, found.peak_rss_mb,
            found.problems,
        )  # fmt: skip

    def measure(self, processes: int = 1) -> Run:
        """Run so many processes of panes until all is committed."""
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
                for ordinal in range(processes)
            ]
            watch = Stopwatch(*children)
            watch.start()
            # Of several processes the first has begun before the last is ready.
            left = site.lag("panes", ends)
            watch.until(lambda: site.lag("panes", ends) == 0, _TIMEOUT_S)
        return Run(
            self.records * self._per_record * left / sum(ends.values()),
            watch.wall_s,
            watch.cpu_s,
            watch.peak_rss_mb,
            tuple(self.problems()),
        )

    def problems(self) -> list[str]:
        """Compare what came out with what was sent."""
        found = read_panes(self.site)
        fates = {topic: dict(counts) for topic, counts in found.fates.items()}
        rows = {"drift": found.rows["drift"]}
        problems = differences(
            "fates of predictions", _some(fates.get("predictions", {})), self.fates()
        )
        if self.workload.shape.labelled:
            problems += differences(
                "fates of outcomes", _some(fates.get("outcomes", {})), {"matched": self.records}
            )
            examples = sum(1 for _ in self.site.read("examples"))
            problems += differences("examples", {"number": examples}, {"number": self.records})
        return problems + differences("rows of panes", rows, {"drift": self.records})

    def fates(self) -> dict[str, int]:
        """Give what has to become of the predictions."""
        return {"counted": self.records}


@contextmanager
def panes_bench(
    ground: Ground, name: str, shape: Shape, records: int, seed: int, *,
    per_record: int = 1, partitions: int | None = None, is_arrow: bool = False,
    labels_last: bool = False,
) -> Iterator[PanesBench]:  # fmt: skip
    """Set up a case of panes with topics of its own."""
    changes = {} if partitions is None else {"request_partitions": partitions}
    workload = Workload(shape, seed, start_before(shape, records))
    with ground.site(name, **changes) as site:
        bench = PanesBench(
            site, workload, records, per_record=per_record, is_arrow=is_arrow,
            labels_last=labels_last,
        )  # fmt: skip
        bench.fill()
        yield bench


def start_before(shape: Shape, records: int) -> int:
    """Give the event time of the first of so many records, so that the last is just over.

    It is a whole minute, so that panes are cut the same way every time.
    """
    span_ms = int(records * 1_000 / shape.rate)
    return (time.time_ns() // 1_000_000 - _AGO_MS - span_ms) // 60_000 * 60_000


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if number}
