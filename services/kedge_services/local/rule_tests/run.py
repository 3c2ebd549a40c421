"""One test: its windows through the rules and triggers that run live, against what is expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kedge.events import Alert, RetrainRequest
from kedge.monitor import Monitor, format_duration
from kedge.toml_lines import Location, line_of
from kedge_services.core.rules import new_watch, observe
from kedge_services.core.triggers import State, Step, decide, keep_schedule, see_alert, see_window
from kedge_services.local.rule_tests.declared import Expected, RuleTest, Status, Suite, end_of
from kedge_services.local.rule_tests.windows import VERSION, begin_ms, windows_of

__all__ = ["Failure", "Outcome", "run_suite"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One expectation that was not met, and where in the file it stands."""

    line: int
    what: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a test; ``happened`` is told of one that failed."""

    name: str
    line: int
    failures: list[Failure] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)

    @property
    def is_passed(self) -> bool:
        """Whether all that was expected came."""
        return not self.failures


@dataclass(slots=True)
class _History:
    """Everything that was sent, with the event time at which it was decided."""

    monitor: Monitor
    alerts: list[tuple[int, Alert]] = field(default_factory=list)
    requests: list[tuple[int, RetrainRequest]] = field(default_factory=list)


def run_suite(suite: Suite) -> list[Outcome]:
    """Run all tests of a file, each from the beginning."""
    lines = suite.lines()
    outcomes = []
    for number, test in enumerate(suite.tests):
        here: Location = ("tests", number)
        history = _play(test, suite.monitor)
        failures = list(_failures(test, history, lines, here))
        happened = list(_told(history)) if failures else []
        outcomes.append(Outcome(test.name, line_of(lines, here), failures, happened))
    return outcomes


def _play(test: RuleTest, monitor: Monitor) -> _History:
    watch, state = new_watch(monitor.model), State(monitor.model)
    history = _History(monitor)
    state = keep_schedule(state, monitor, VERSION, begin_ms(monitor)).state
    for window in windows_of(test, monitor):
        at_ms = window.end_ms

        def take(step: Step, at_ms: int = at_ms) -> State:
            if step.request is not None:
                history.requests.append((at_ms, step.request))
            return step.state

        alerts = observe(watch, window, monitor, VERSION)
        state = see_window(state, end_ms=at_ms, labelled_total=window.labelled_total)
        state = take(decide(state, monitor, VERSION))
        for alert in alerts:
            history.alerts.append((at_ms, alert))
            state = take(decide(see_alert(state, alert), monitor, VERSION))
        state = take(keep_schedule(state, monitor, VERSION, at_ms))
    return history


# ---------------------------------------------------------------- expectations


def _failures(
    test: RuleTest, history: _History, lines: Mapping[Location, int], here: Location
) -> Iterator[Failure]:
    known = dict(lines)
    for number, expected in enumerate(test.expect):
        place: Location = (*here, "expect", number)
        until_ms = begin_ms(history.monitor) + end_of(expected.at, history.monitor)
        if expected.alert is not None:
            got = _status(expected, history, until_ms)
            if got != expected.status:
                line = line_of(known, (*place, "status"))
                what = f"at {expected.at}, {_named(expected)}"
                yield Failure(line, what, str(expected.status), got)
        if expected.retrain is not None:
            asked = sum(at_ms <= until_ms for at_ms, _ in history.requests)
            if not _is_met(expected.retrain, asked):
                line = line_of(known, (*place, "retrain"))
                wanted = _requests(expected.retrain)
                yield Failure(line, f"at {expected.at}, retrain requests", wanted, str(asked))
    if test.fires is not None:
        fired = sorted({alert.rule for _, alert in history.alerts if alert.status == "firing"})
        if fired != sorted(set(test.fires)):
            line = line_of(known, (*here, "fires"))
            wanted = ", ".join(sorted(set(test.fires))) or "none"
            yield Failure(line, "alerts that fire", wanted, ", ".join(fired) or "none")


def _status(expected: Expected, history: _History, until_ms: int) -> Status:
    """Give where the alerts of a rule stand after a time; the most urgent of several."""
    last: dict[str, Alert] = {}
    for at_ms, alert in history.alerts:
        is_asked = (
            alert.rule == expected.alert
            and expected.segment in (None, alert.segment)
            and expected.feature in (None, alert.feature)
        )
        if is_asked and at_ms <= until_ms:
            last[alert.alert_id] = alert
    active = {alert.status for alert in last.values() if alert.ends_ms is None}
    if "firing" in active:
        return "firing"
    if "pending" in active:
        return "pending"
    # What was pending and never fired is as if it had never been.
    return "resolved" if any(a.status == "resolved" for a in last.values()) else "none"


def _is_met(expected: bool | int, asked: int) -> bool:  # noqa: FBT001 -- as it is written in the file
    return asked > 0 if expected is True else asked == int(expected)


def _requests(expected: bool | int) -> str:  # noqa: FBT001 -- as it is written in the file
    return "at least 1" if expected is True else str(int(expected))


def _named(expected: Expected) -> str:
    of = [text for text in (expected.segment, expected.feature) if text]
    return f"{expected.alert} ({', '.join(of)})" if of else str(expected.alert)


def _told(history: _History) -> Iterator[str]:
    """Tell what happened, in order."""
    told = [
        (at_ms, f"{alert.rule} {'over before it fired' if _is_gone(alert) else alert.status}")
        for at_ms, alert in history.alerts
    ]
    told += [(at_ms, f"retrain asked for ({r.cause.kind})") for at_ms, r in history.requests]
    for at_ms, text in sorted(told, key=lambda pair: pair[0]):
        yield f"at {_when(at_ms, history.monitor)}: {text}"


def _is_gone(alert: Alert) -> bool:
    return alert.status == "pending" and alert.ends_ms is not None


def _when(at_ms: int, monitor: Monitor) -> str:
    panes = (at_ms - begin_ms(monitor)) // monitor.pane_ms
    return f"{panes} panes ({format_duration(panes * monitor.windows.pane)})"
