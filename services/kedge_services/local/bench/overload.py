"""More than panes can carry: the lag grows and is seen, memory stays, nothing is lost."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from kedge_services.local.bench.cases import Bench
from kedge_services.local.bench.checking import differences, read_panes
from kedge_services.local.bench.child import Child, Stopwatch
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.sending import LiveTraffic
from kedge_services.local.bench.workload import Shape, Workload
from kedge_services.local.doctor.findings import Finding
from kedge_services.local.doctor.groups import check_groups
from kedge_services.runtime.kafka import KafkaBackend

__all__ = ["metric", "overload"]

#: Predictions a second, and as many outcomes: more than a core can join, or a sender send.
_RATE = 200_000
_SHAPE = Shape(labelled=True)
_TOPICS = ("predictions", "outcomes")
_TIMEOUT_S = 1_800.0
_LOOK_S = 0.5
#: A lag that has to be seen everywhere.
_FAR = 20_000
#: What memory may come to while everything waits in Kafka.
_MOST_MB = 2_000


class _Overload:
    def __init__(self, site: Site, seconds: float, seed: int) -> None:
        self._site, self._seconds, self._seed = site, seconds, seed
        workload = Workload(_SHAPE, seed, 0)
        site.declare(workload.monitors(), workload.references())

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        """Send as fast as it goes while panes runs, then let it catch up."""
        site, lags, told, rss_mb = self._site, list[int](), list[float](), list[float]()
        found: list[Finding] = []
        traffic = LiveTraffic(
            site.settings, Workload(_SHAPE, self._seed, 0), rate=_RATE, seconds=self._seconds
        )
        with Child(site.settings, "panes", site.work_dir / "logs") as child:
            watch = Stopwatch(child)
            watch.start()
            with traffic:
                began_s = time.monotonic()
                while not traffic.is_over:
                    time.sleep(_LOOK_S)
                    child.check()
                    lags.append(site.lag("panes", site.ends(_TOPICS)))
                    told.append(metric(child.metrics(), "kedge_lag_records"))
                    rss_mb.append(child.rss_bytes() / 1e6)
                    is_late = time.monotonic() - began_s > self._seconds / 4
                    if is_late and not found and lags[-1] > _FAR:
                        found = self._doctor()
                sending_s = time.monotonic() - began_s
            if not found and lags[-1] > _FAR:
                found = self._doctor()
            ends = site.ends(_TOPICS)
            catching_up_s = time.monotonic()
            watch.until(lambda: site.lag("panes", ends) == 0, _TIMEOUT_S)
            catching_up_s = time.monotonic() - catching_up_s
            at_last_mb = child.rss_bytes() / 1e6
        fates = read_panes(site).fates
        problems = [
            problem
            for topic, fate in (("predictions", "counted"), ("outcomes", "matched"))
            for problem in differences(
                f"fates of {topic}",
                {name: n for name, n in fates.get(topic, {}).items() if n},
                {fate: getattr(traffic, topic)},
            )
        ]
        if max(lags, default=0) > _FAR:
            problems += _unseen(max(told), found)
        if watch.peak_rss_mb > _MOST_MB:
            problems.append(f"memory came to {watch.peak_rss_mb:,.0f} MB")
        sent = traffic.predictions + traffic.outcomes
        figures = {
            "sent_per_s": sent / sending_s,
            "largest_lag": max(lags, default=0),
            "largest_lag_told": max(told, default=0.0),
            "catching_up_s": catching_up_s,
            "rss_mb_at_half_time": rss_mb[len(rss_mb) // 2] if rss_mb else at_last_mb,
            "rss_mb_at_the_end_of_sending": rss_mb[-1] if rss_mb else at_last_mb,
            "rss_mb_when_caught_up": at_last_mb,
        }
        return Run(
            traffic.predictions, watch.wall_s, watch.cpu_s, watch.peak_rss_mb,
            tuple(problems), figures,
        )  # fmt: skip

    def _doctor(self) -> list[Finding]:
        """Ask what `kedge doctor` says of the services while more comes than is taken."""
        with closing(KafkaBackend(self._site.settings)) as backend:
            return list(check_groups(self._site.settings, backend, ["panes"]))


def _unseen(told: float, found: list[Finding]) -> list[str]:
    """Say where the lag should have been seen, and was not."""
    unseen = [] if told else ["the lag is not seen in kedge_lag_records"]
    if not any(finding.detail.startswith("panes: ") and " behind" in finding.detail
               for finding in found):  # fmt: skip
        said = "; ".join(finding.detail for finding in found) or "nothing"
        unseen.append(f"`kedge doctor` does not tell the lag: it said {said}")
    return unseen


@contextmanager
def overload(ground: Ground, seconds: float, seed: int) -> Iterator[Bench]:
    """Set up one labelled model."""
    with ground.site("overload") as site:
        yield _Overload(site, seconds, seed)


def metric(text: str, name: str) -> float:
    r"""Add up a metric over its labels.

    >>> metric('a{b="c"} 2.0\na{b="d"} 3.0\nab 9.0', "a")
    5.0
    """
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", text, re.MULTILINE)
    return sum(map(float, found))
