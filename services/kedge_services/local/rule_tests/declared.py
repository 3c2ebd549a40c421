"""What a file of tests may say, and every mistake in one with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from kedge.base import Name
from kedge.monitor import Declaration, Monitor, parse_duration
from kedge.monitor_checks import (
    BUILT_IN_RULES,
    FAIRNESS_METRICS,
    FEATURE_METRICS,
    PERFORMANCE_METRICS,
    WINDOW_METRICS,
    Mistake,
    mistakes,
    suggestion,
)
from kedge.monitor_file import FileMistake, Table, read_monitor, read_table, validate
from kedge.toml_lines import Location, locate
from kedge_services.core.schedule import schedule_mistakes
from kedge_services.local.rule_tests.notation import Values, parse

__all__ = [
    "Detected",
    "Expected",
    "Metric",
    "RuleTest",
    "Suite",
    "Windows",
    "end_of",
    "panes_of",
    "read_suite",
    "series_of",
]

Status = Literal["none", "pending", "firing", "resolved"]
Detectable = Literal[
    "data-drift", "prediction-drift", "label-drift", "integrity", "error-rate", "fairness"
]
_PANES = re.compile(r"(\d+) panes?")


class Metric(NamedTuple):
    """A measure as rules name it."""

    name: str
    feature: str | None = None


class Windows(Declaration):
    """Measures of windows that are longer than a pane, or of a segment."""

    scale: int = Field(default=1, ge=1)
    segment: str = ""
    series: dict[Name, Any] = Field(min_length=1)


class Detected(Declaration):
    """Verdicts of a detector: 1 where it alarms, 0 where it was quiet, _ where it did not test."""

    kind: Detectable
    panes: str
    feature: str | None = None
    segment: str = ""
    scale: int = Field(default=1, ge=1)


class Expected(Declaration):
    """What must hold after a time: the status of an alert, or the retrain requests so far."""

    at: str
    alert: str | None = None
    status: Status | None = None
    segment: str | None = None
    feature: str | None = None
    retrain: bool | int | None = None


class RuleTest(Declaration):
    """One test; ``rows`` and ``label_coverage`` go on with their last value."""

    name: str = Field(min_length=1)
    rows: str | None = None
    label_coverage: str | None = None
    series: dict[Name, Any] = {}
    windows: list[Windows] = []
    detections: list[Detected] = []
    expect: list[Expected] = []
    fires: list[str] | None = None

    def measured(self) -> Iterator[tuple[Location, Windows]]:
        """Give all tables of series with their places, those of single panes first."""
        if self.series:
            yield (), Windows(series=self.series)
        for number, windows in enumerate(self.windows):
            yield ("windows", number), windows


class _File(Declaration):
    monitor: Any
    tests: list[RuleTest] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of a file and the monitor they are about."""

    table: Table
    monitor: Monitor
    tests: list[RuleTest]

    def lines(self) -> dict[Location, int]:
        """Give the lines of everything in the file."""
        return locate(self.table.text)


def read_suite(path: Path) -> tuple[Suite | None, list[FileMistake]]:
    """Read a file of tests, or find all that is wrong with it and its monitor.

    Raises
    ------
    MonitorError
        The file, or the one of its monitor, cannot be read.
    """
    table, wrong = read_table(path)
    if table is None:
        return None, wrong
    declared, found = validate(table.data, _File)
    named = table.data.get("monitor")
    monitor = None
    if isinstance(named, str):
        place = path.parent / named
        if place.is_file():
            monitor, wrong = read_monitor(place, schedule_mistakes)
        else:
            found.append((("monitor",), f"there is no file {place}"))
    elif isinstance(named, dict):
        monitor, inner = validate(named, Monitor, [mistakes, schedule_mistakes])
        found += [(("monitor", *location), sentence) for location, sentence in inner]
    elif "monitor" in table.data:
        found.append((("monitor",), 'expected a path like "fraud.toml", or a table'))
    if declared is not None and monitor is not None:
        found += _mistakes(declared.tests, monitor)
    if found or wrong or declared is None or monitor is None:
        return None, [*wrong, *table.located(found)]
    return Suite(table, monitor, declared.tests), []


def series_of(windows: Windows) -> Iterator[tuple[Location, Metric, object]]:
    """Give the measures of a table: ``accuracy = "..."`` and ``psi.amount = "..."``."""
    for name, value in windows.series.items():
        if isinstance(value, Mapping):
            for feature, text in value.items():
                yield (name, feature), Metric(name, feature), text
        else:
            yield (name,), Metric(name), value


def end_of(text: str, monitor: Monitor) -> int:
    """Give how long after the beginning a time lies, in ms.

    Raises
    ------
    ValueError
        It is neither a number of panes nor a duration.
    """
    if match := _PANES.fullmatch(text.strip()):
        return int(match[1]) * monitor.pane_ms
    try:
        return round(parse_duration(text).total_seconds() * 1000)
    except ValueError as error:
        raise ValueError(f'{error}, or in panes, like "12 panes"') from None


def panes_of(test: RuleTest) -> int:
    """Give the number of panes of the longest series."""
    given: list[Values] = [parse(text) for _, w in test.measured() for _, _, text in series_of(w)]
    given += [parse(found.panes) for found in test.detections]
    given += [parse(text) for text in (test.rows, test.label_coverage) if text is not None]
    return max(map(len, given), default=0)


# ----------------------------------------------------------------------- checks


def _mistakes(tests: list[RuleTest], monitor: Monitor) -> Iterator[Mistake]:
    names = [test.name for test in tests]
    for number, test in enumerate(tests):
        here: Location = ("tests", number)
        if test.name in names[:number]:
            yield (*here, "name"), f'two tests are called "{test.name}"'
        found = [*_series(test, monitor), *_detections(test, monitor), *_counts(test)]
        # Without the series nobody knows how long the test is.
        found = found or [*_expectations(test, monitor)]
        for location, sentence in found:
            yield (*here, *location), sentence


def _series(test: RuleTest, monitor: Monitor) -> Iterator[Mistake]:
    for place, windows in test.measured():
        if windows.scale not in monitor.windows.scales:
            yield (*place, "scale"), _no_scale(windows.scale, monitor)
        yield from _segment((*place, "segment"), windows.segment, monitor)
        for location, metric, text in series_of(windows):
            here = (*place, "series", *location)
            if (sentence := _metric(metric, monitor)) is not None:
                yield here, sentence
            yield from _text(here, text)


def _metric(metric: Metric, monitor: Monitor) -> str | None:
    by_feature = metric.name in FEATURE_METRICS or any(
        rule.metric == metric.name and rule.feature is not None for rule in monitor.rules
    )
    asked = [rule.metric for rule in monitor.rules]
    known = [*PERFORMANCE_METRICS[monitor.task], *FAIRNESS_METRICS, *WINDOW_METRICS, *asked]
    if metric.feature is None:
        if metric.name in known:
            return None
        if by_feature:
            return f'is measured by feature; write {metric.name}.NAME = "..."'
        return f"is not measured; {suggestion(metric.name, [*known, *FEATURE_METRICS])}"
    if not by_feature:
        hint = suggestion(metric.name, [*FEATURE_METRICS, *asked])
        return f"is not measured by feature; {hint}"
    if metric.feature not in monitor.features:
        return f"no such feature; {suggestion(metric.feature, list(monitor.features))}"
    return None


def _detections(test: RuleTest, monitor: Monitor) -> Iterator[Mistake]:
    for number, found in enumerate(test.detections):
        here: Location = ("detections", number)
        if found.scale not in monitor.windows.scales:
            yield (*here, "scale"), _no_scale(found.scale, monitor)
        yield from _segment((*here, "segment"), found.segment, monitor)
        if found.feature is not None and found.feature not in monitor.features:
            hint = suggestion(found.feature, list(monitor.features))
            yield (*here, "feature"), f'"{found.feature}" is not one of the features; {hint}'
        wrong = list(_text((*here, "panes"), found.panes))
        yield from wrong
        if not wrong and not set(parse(found.panes)) <= {0.0, 1.0, None}:
            yield (
                (*here, "panes"),
                "1 where it alarms, 0 where it is quiet, _ where it does not test",
            )


def _counts(test: RuleTest) -> Iterator[Mistake]:
    for name, text, most in (("rows", test.rows, None), ("label_coverage", test.label_coverage, 1)):
        if text is None:
            continue
        wrong = list(_text((name,), text))
        yield from wrong
        values = [] if wrong else list(parse(text))
        if any(v is None or v < 0 or (most is not None and v > most) for v in values):
            yield (name,), "numbers of rows, 0 or more" if most is None else "shares from 0 to 1"
    if not (test.series or test.windows or test.detections or test.rows or test.label_coverage):
        yield (), "needs series, detections or rows: nothing happens in it"
    if not test.expect and test.fires is None:
        yield (), "expects nothing; add [[tests.expect]] or fires = [...]"


def _expectations(test: RuleTest, monitor: Monitor) -> Iterator[Mistake]:
    rules = [*(rule.name for rule in monitor.rules), *BUILT_IN_RULES]
    ends_ms = panes_of(test) * monitor.performance_pane_ms
    for number, name in enumerate(test.fires or ()):
        if name not in rules:
            yield ("fires", number), f'"{name}" is no rule; {suggestion(name, rules)}'
    for number, expected in enumerate(test.expect):
        here: Location = ("expect", number)
        try:
            is_after = end_of(expected.at, monitor) > ends_ms
        except ValueError as error:
            yield (*here, "at"), str(error)
        else:
            if is_after:
                yield (*here, "at"), f"is after the series, which end with {panes_of(test)} panes"
        for location, sentence in _expectation(expected, rules, monitor):
            yield (*here, *location), sentence


def _expectation(expected: Expected, rules: list[str], monitor: Monitor) -> Iterator[Mistake]:
    if expected.alert is not None and expected.alert not in rules:
        yield ("alert",), f'"{expected.alert}" is no rule; {suggestion(expected.alert, rules)}'
    if (expected.alert is None) != (expected.status is None):
        yield (), "`alert` and `status` go together"
    elif expected.alert is None and expected.retrain is None:
        yield (), "expects nothing; give `alert` with `status`, or `retrain`"
    if expected.retrain is not None and monitor.retrain is None:
        yield ("retrain",), "the monitor has no [retrain], so none is ever asked for"


def _segment(here: Location, segment: str, monitor: Monitor) -> Iterator[Mistake]:
    names = [declared.name for declared in monitor.segments]
    if segment and segment.partition("=")[0] not in names:
        yield here, f'"{segment}" is of no segment of the monitor; {suggestion(segment, names)}'


def _text(here: Location, text: object) -> Iterator[Mistake]:
    try:
        parse(text)
    except ValueError as error:
        yield here, str(error)


def _no_scale(scale: int, monitor: Monitor) -> str:
    return f"{scale} is not one of windows.scales {monitor.windows.scales}"
