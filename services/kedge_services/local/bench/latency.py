"""End to end at a rate: from a prediction to a window that counts it, from a drift to its alert."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from kedge_services.local.bench.cases import Bench
from kedge_services.local.bench.checking import differences, read_panes
from kedge_services.local.bench.child import Child, Stopwatch
from kedge_services.local.bench.figures import Run, percentile
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.sending import LiveTraffic
from kedge_services.local.bench.workload import Shape, Workload
from kedge_services.runtime.admin import client_properties

__all__ = ["latency"]

_SERVICES = ("panes", "windows", "alerts")
_PANE_MS = 1_000
#: Models that take turns; each drifts once, at a time of its own.
_MODELS = 8
#: The beginning, of which nothing is measured: groups form, processes import.
_WARM_UP_S = 3.0
#: In so long every partition has got records of every model.
_PASSED_MS = 200
#: What the last drift, and the last outcomes, still need.
_AFTER_S = 10.0
_DRAIN_S = 600.0
#: Nothing new for so long: windows and alerts are through.
_QUIET_S = 4.0


class _Window(msgspec.Struct):
    kind: str
    model: str
    scale: int
    start_ms: int
    n: int


class _Alert(msgspec.Struct):
    model: str
    status: str
    starts_ms: int


_window = msgspec.json.Decoder(_Window).decode
_alert = msgspec.json.Decoder(_Alert).decode


@dataclass(slots=True)
class _Arrivals:
    """When windows and alerts could be read.

    Attributes
    ----------
    windows
        By model and start: times in ms and the rows counted, in order.
    alerts
        By model: when alerts fired, in ms.
    """

    windows: dict[tuple[str, int], list[tuple[float, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    alerts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def take(self, message: Any, prefix: str) -> None:
        """Take a record that has just come."""
        now_ms = time.time_ns() / 1e6
        if message.topic() == f"{prefix}alerts":
            alert = _alert(message.value())
            if alert.status == "firing":
                self.alerts[alert.model].append(now_ms)
            return
        window = _window(message.value())
        if window.kind == "drift" and window.scale == 1:
            self.windows[window.model, window.start_ms].append((now_ms, window.n))


class _Latency:
    def __init__(self, site: Site, seed: int, *, rate: float, seconds: float) -> None:
        self._site, self._rate, self._seconds = site, rate, seconds
        self._shape = Shape(
            models=_MODELS, labelled=True, pane="1s", grace="0s", horizon="10m", rate=rate
        )
        self._seed = seed
        workload = Workload(self._shape, seed, 0)
        site.declare(workload.monitors(), workload.references())

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        """Send traffic to running services and watch what they write."""
        site = self._site
        workload = Workload(self._shape, self._seed, 0)
        drifts_s = dict(
            enumerate(np.linspace(_WARM_UP_S, max(_WARM_UP_S, self._seconds - _AFTER_S), _MODELS))
        )
        traffic = LiveTraffic(
            site.settings, workload, rate=self._rate, seconds=self._seconds, drifts_s=drifts_s
        )
        arrivals = _Arrivals()
        with ExitStack() as stack:
            children = [
                stack.enter_context(Child(site.settings, service, site.work_dir / "logs"))
                for service in _SERVICES
            ]
            watch = Stopwatch(*children)
            watch.start()
            reader = stack.enter_context(_reader(site))
            with traffic:
                while not traffic.is_over:
                    self._watch(reader, arrivals, children)
            # Who fell behind catches up, and the latencies show it.
            ends = site.ends(("predictions", "outcomes"))
            behind = site.lag("panes", ends)
            deadline = time.monotonic() + _DRAIN_S
            while site.lag("panes", ends) and time.monotonic() < deadline:
                self._watch(reader, arrivals, children)
            watch.stop()
            quiet_from = time.monotonic()
            while time.monotonic() < min(quiet_from + _QUIET_S, deadline):
                if self._watch(reader, arrivals, children):
                    quiet_from = time.monotonic()
        return self._run(traffic, workload, arrivals, watch, behind)

    def _watch(self, reader: Any, arrivals: _Arrivals, children: list[Child]) -> bool:
        """Take what has come; say whether it was anything."""
        messages = [m for m in reader.consume(1_000, timeout=0.05) if m.error() is None]
        for message in messages:
            arrivals.take(message, self._site.settings.prefix)
        for child in children:
            child.check()
        return bool(messages)

    def _run(
        self,
        traffic: LiveTraffic,
        workload: Workload,
        arrivals: _Arrivals,
        watch: Stopwatch,
        behind: int,
    ) -> Run:
        seen = _window_latencies(traffic, workload, arrivals)
        noticed = [
            min((at for at in arrivals.alerts[model] if at > since), default=np.inf) - since
            for number, model in enumerate(workload.models)
            for since in [traffic.drifted_ms(number)]
        ]
        missed = sum(not np.isfinite(delay) for delay in noticed)
        fates = read_panes(self._site).fates
        problems = [
            *differences("drifts", {"without an alert": missed}, {}),
            *differences(
                "fates of predictions",
                {fate: n for fate, n in fates.get("predictions", {}).items() if n},
                {"counted": traffic.predictions},
            ),
        ]
        figures: dict[str, float] = {"lag_at_the_end": behind}
        figures |= {f"cpu_share_{name}": s / watch.wall_s for name, s in watch.cpu_of.items()}
        if seen:
            figures |= {
                "window_p50_ms": percentile(seen, 0.5),
                "window_p99_ms": percentile(seen, 0.99),
                "alert_p50_ms": statistics.median(noticed),
                "alert_p99_ms": percentile(noticed, 0.99),
            }
        uncounted = sum(not np.isfinite(delay) for delay in seen)
        if uncounted or not seen:
            problems.append(f"{uncounted:,} of {len(seen):,} predictions came into no window")
        finite = {name: value for name, value in figures.items() if np.isfinite(value)}
        return Run(
            traffic.predictions, watch.wall_s, watch.cpu_s, watch.peak_rss_mb,
            tuple(problems), finite,
        )  # fmt: skip


def _window_latencies(traffic: LiveTraffic, workload: Workload, arrivals: _Arrivals) -> list[float]:
    """Give, of each prediction, the ms until a revision that counts it could be read.

    Records of a pane are counted about in the order they were sent in, so revision after
    revision, a window of n rows has the first n.
    """
    first_ms = traffic.sent_ms[0] + _WARM_UP_S * 1_000
    latencies: list[float] = []
    for number, model in enumerate(workload.models):
        sent = traffic.sent_ms[number :: len(workload.models)]
        starts = np.floor(sent).astype(np.int64) // _PANE_MS * _PANE_MS
        # A pane is over when records that come after it have come on every partition.
        last_ms = sent[-1] - _PANE_MS - _PASSED_MS
        for start_ms in np.unique(starts):
            if not first_ms <= start_ms <= last_ms:
                continue
            mine = sent[starts == start_ms]
            known = 0
            for at_ms, rows in arrivals.windows.get((model, int(start_ms)), []):
                if rows > known:
                    latencies += (at_ms - mine[known:rows]).tolist()
                    known = rows
            latencies += [np.inf] * (len(mine) - known)
    return latencies


@contextmanager
def _reader(site: Site) -> Iterator[Any]:
    """Give a consumer of windows and alerts from now on."""
    consumer = Consumer(
        {
            **client_properties(site.settings.kafka),
            "log_level": 2,
            "group.id": site.settings.prefix + "watch",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.assign(
        [
            TopicPartition(site.settings.prefix + topic, partition, OFFSET_END)
            for topic in ("windows", "alerts")
            for partition in range(site.settings.model_partitions)
        ]
    )
    consumer.consume(1, timeout=0.5)
    try:
        yield consumer
    finally:
        consumer.close()


@contextmanager
def latency(ground: Ground, rate: float, seconds: float, seed: int) -> Iterator[Bench]:
    """Set up eight models with labels at 1 s panes."""
    with ground.site("latency") as site:
        yield _Latency(site, seed, rate=rate, seconds=seconds)
