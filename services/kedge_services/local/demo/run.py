"""The demo from start to end: scenes of traffic, each until what it must show has shown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kedge.errors import UsageError
from kedge.monitor import Monitor
from kedge.topics import request_partition
from kedge_services.local.demo.mischief import bad_records
from kedge_services.local.demo.scenario import LoanApplications, Row
from kedge_services.local.demo.speed import speed_up_monitor
from kedge_services.local.demo.stage import Stage, send
from kedge_services.local.demo.story import Entry, Story
from kedge_services.local.demo.summary import Ending, Scenario, Summary, judge, recounted, summarise
from kedge_services.local.demo.traffic import Arrival, Sender, arrivals_from_file, arrivals_now
from kedge_services.local.files import FileRow, read_rows
from kedge_services.runtime.settings import Settings, TimeSettings

__all__ = ["Demo", "Options"]

_WARM_UP_ROWS = 5_000
_LABEL_DELAY_S = (1.5, 2.5)
_STABLE_S = 16.0
_CATCH_UP_S = 60.0
_PANES_BEHIND = 4
_CONTROL_S = 40.0
_RECOVERY_S = 8.0
_PROMOTION_S = 75.0
_INCOMES_S = 20.0
_DRAIN_S = 60.0
_QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller chose; ``rate`` in rows a second."""

    rate: float
    seed: int
    drift: bool = True
    data: Path | None = None


class Demo:
    """One run.  ``tell`` gets the timeline, ``pulse`` is called some times a second."""

    def __init__(
        self,
        options: Options,
        settings: Settings,
        monitor: Monitor,
        *,
        work_dir: Path,
        tell: Callable[[Entry], None],
        pulse: Callable[[str], None],
    ) -> None:
        self._options = options
        self._declared = monitor
        self._tell_pulse = pulse
        self.story = Story(tell)
        self._settings = settings.model_copy(
            update={
                "state_dir": work_dir / "state",
                "artefacts": str(work_dir / "artefacts"),
                "time": TimeSettings(revise_interval_ms=2_000),
                # A free port: somebody may have Kedge up beside the demo.
                "serving": settings.serving.model_copy(update={"port": 0}),
            }
        )
        self._work_dir = work_dir
        #: What the on-call person received, once the run is over.
        self.notified: list[dict[str, Any]] = []
        self._peak_rss_mb = 0.0
        self._drift_started_ms: int | None = None
        self._speed_up: float | None = None
        self._comes_to_rest = True

    def run(self, hold: Callable[[Stage], None] = lambda _: None) -> tuple[Summary, Ending]:
        """Run all scenes; ``hold`` is called before everything is stopped."""
        warm_up, monitor, traffic = self._cast()
        stage = Stage.set_up(
            self._settings, work_dir=self._work_dir, monitor=monitor, story=self.story
        )
        try:
            stage.offer_first_version(monitor, warm_up, seed=self._options.seed)
            stage.wait_ready()
            stage.tell("ready", f"{self.story.champion} serves {monitor.model}; traffic begins")
            sender = Sender(stage.client, monitor.model, traffic.make, rate=self._options.rate)
            sender.start()
            self._play(stage, sender, traffic)
            sender.stop()
            self._drain(stage, sender)
            self.notified = list(stage.on_call.received().values())
            summary = self._recounted(stage)
            ending = judge(
                summary, self.story, pane_ms=monitor.pane_ms,
                label_delay_ms=round(_LABEL_DELAY_S[1] * 1000),
            )  # fmt: skip
            hold(stage)
        finally:
            stage.close()
        return summary, ending

    # --------------------------------------------------------------- the cast

    def _cast(self) -> tuple[list[Row], Monitor, _Traffic]:
        options, monitor = self._options, self._declared
        if options.data is None:
            people = LoanApplications(options.seed)
            warm_up = people.take(_WARM_UP_ROWS)
            make = arrivals_now(people.take, seed=options.seed, delay_s=_LABEL_DELAY_S)
            return warm_up, monitor, _Traffic(make, people)
        columns = monitor.replay
        if columns is None:
            raise UsageError(f"the monitor of {monitor.model} has no [replay] section")
        rows = read_rows(options.data, monitor)
        first = [
            Row(row.features, row.label)
            for row in islice(rows, columns.warm_up)
            if row.label is not None
        ]
        following = [row for row in rows if row.label is not None]
        if not following:
            raise UsageError(f"{options.data} has no rows beyond the {columns.warm_up} of warm_up")
        self._speed_up = _speed_up(following, options.rate)
        monitor = speed_up_monitor(monitor, self._speed_up)
        return first, monitor, _Traffic(self._from_file(following))

    def _from_file(self, rows: list[FileRow]) -> Callable[[int, int], list[Arrival]]:
        arrivals: Iterator[Arrival] | None = None

        def make(wanted: int, now_ms: int) -> list[Arrival]:
            nonlocal arrivals
            if arrivals is None:
                arrivals = arrivals_from_file(
                    rows,
                    start_ms=now_ms,
                    speed_up=self._speed_up or 1.0,
                    rate=self._options.rate,
                )
            return list(islice(arrivals, wanted))

        return make

    # -------------------------------------------------------------- the scenes

    def _play(self, stage: Stage, sender: Sender, traffic: _Traffic) -> None:
        if traffic.people is None:
            stage.tell("speed", f"time runs {self._speed_up:,.0f} times faster than in the file")
            self._until(stage, sender, lambda: not sender.is_alive(), math.inf)
            return
        self._until(stage, sender, lambda: False, _STABLE_S)
        self._until(stage, sender, lambda: self._keeps_up(stage), _CATCH_UP_S)
        self._send_bad_records(stage)
        if not self._options.drift:
            self._until(stage, sender, lambda: False, _CONTROL_S - _STABLE_S)
            return
        self._drift_started_ms = _now_ms()
        traffic.people.phase = "concept"
        stage.tell("drift", "the concept changes: the same people, other decisions are right")
        self._until(stage, sender, lambda: bool(self.story.promoted_ms), _PROMOTION_S)
        self._until(stage, sender, lambda: False, _RECOVERY_S)
        traffic.people.phase = "incomes"
        stage.tell("drift", "the incomes rise by 30 %, and 8 % of the commissions are missing")
        self._until(stage, sender, self._incomes_noticed, _INCOMES_S)

    def _keeps_up(self, stage: Stage) -> bool:
        """Say whether everything runs and windows are of the present: a drift would be seen."""
        behind_ms = _now_ms() - self.story.drift_until_ms
        return stage.is_ready() and behind_ms < _PANES_BEHIND * self._declared.pane_ms

    def _incomes_noticed(self) -> bool:
        kinds = {self.story.alerts[alert_id].kind for alert_id in self.story.fired_ms}
        return {"data-drift", "integrity"} <= kinds

    def _until(
        self, stage: Stage, sender: Sender, condition: Callable[[], bool], seconds: float
    ) -> None:
        deadline = time.monotonic() + seconds
        next_look = 0.0
        while time.monotonic() < deadline and not condition():
            stage.watch(0.2)
            if sender.error is not None:
                raise sender.error
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 1
                self._look(stage, sender)

    def _look(self, stage: Stage, sender: Sender) -> None:
        self._peak_rss_mb = max(self._peak_rss_mb, stage.rss_mb())
        now_ms = _now_ms()
        recent = self.story.accuracy(now_ms - 6_000, now_ms).value
        accuracy = "" if recent is None else f", accuracy {recent:.3f}"
        self._tell_pulse(
            f"{sender.requests_sent:,} requests, {sender.outcomes_sent:,} outcomes, "
            f"{len(self.story.window_ids):,} windows, {self.story.champion} serves{accuracy}"
        )

    def _send_bad_records(self, stage: Stage) -> None:
        settings = stage.settings
        records = bad_records(
            self._declared.model,
            now_ms=_now_ms(),
            partition=lambda key: request_partition(key, settings.request_partitions),
        )
        send(settings, records)
        stage.tell("mischief", f"{len(records)} bad records among the good ones")

    def _drain(self, stage: Stage, sender: Sender) -> None:
        """Wait until everything sent is answered and accounted for and nothing new comes."""
        deadline = time.monotonic() + _DRAIN_S
        quiet_since = time.monotonic()
        seen = (-1, -1, -1)
        while time.monotonic() < deadline:
            stage.watch(0.2)
            self._look(stage, sender)
            windows = self.story.counts.get("windows", 0)
            state = (self.story.records_in, windows, len(stage.on_call.received()))
            if state != seen or not self._is_done(stage, sender):
                seen, quiet_since = state, time.monotonic()
            elif time.monotonic() - quiet_since > _QUIET_S:
                return
        self._comes_to_rest = False

    def _is_done(self, stage: Stage, sender: Sender) -> bool:
        story = self.story
        return (
            not sender.is_alive()
            and stage.is_ready()
            and story.counts.get("predictions-champion", 0) >= sender.requests_sent
            and story.counts.get("outcomes", 0) >= sender.outcomes_sent
            and story.records_in == story.records_accounted
        )

    def _recounted(self, stage: Stage) -> Summary:
        """Give the figures as told on the way, held to a recount of the topics."""
        summary = self._summary(stage)
        stage.tell("recount", "everything is counted again from the raw topics")
        report = stage.recount(summary.drift_started_ms)
        stage.watch(1.0)
        if not self._comes_to_rest:
            summary = replace(summary, at_rest=False)
        return recounted(summary, report, self._summary(stage))

    def _summary(self, stage: Stage) -> Summary:
        scenario: Scenario = "drift" if self._options.drift else "no-drift"
        return summarise(
            self.story,
            scenario="data" if self._options.data else scenario,
            broker="local" if stage.broker is not None else "given",
            drift_started_ms=self._drift_started_ms,
            notifications=len(self.notified),
            peak_rss_mb=self._peak_rss_mb,
            restarts=sum(state.restarts for state in stage.supervisor.states()),
            speed_up=self._speed_up,
        )


@dataclass(frozen=True, slots=True)
class _Traffic:
    make: Callable[[int, int], list[Arrival]]
    people: LoanApplications | None = None


def _speed_up(rows: list[FileRow], rate: float) -> float:
    """Give file time per second so that ``rate`` rows are sent a second."""
    span_ms = rows[-1].time_ms - rows[0].time_ms
    return max(1.0, span_ms / 1000 / (len(rows) / rate))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
