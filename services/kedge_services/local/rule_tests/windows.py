"""The decided windows that the series of a test make, in the order of their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kedge.base import AlertKind, WindowKind
from kedge.events import Detection, Measure, Window
from kedge.monitor import Monitor
from kedge.monitor_checks import WINDOW_METRICS
from kedge_services.local.rule_tests.declared import Metric, RuleTest, panes_of, series_of
from kedge_services.local.rule_tests.notation import Values, at, parse

__all__ = ["VERSION", "begin_ms", "windows_of"]

#: The version that serves in a test.
VERSION = "1"
#: Tests begin in 2024, so that their times look like times.
_BEGIN_MS = 1_704_067_200_000
_ROWS = 500
_KINDS: Mapping[AlertKind, WindowKind] = {
    "data-drift": "drift",
    "prediction-drift": "drift",
    "integrity": "drift",
    "error-rate": "labels",
    "label-drift": "performance",
    "fairness": "performance",
}
_ORDER: Sequence[WindowKind] = ("drift", "labels", "performance")


class _Key(NamedTuple):
    kind: WindowKind
    scale: int = 1
    segment: str = ""


@dataclass(slots=True)
class _Group:
    """The series that windows of one kind, scale and segment hold."""

    measures: list[tuple[Metric, Values]] = field(default_factory=list)
    detections: list[tuple[AlertKind, str | None, Values]] = field(default_factory=list)


def begin_ms(monitor: Monitor) -> int:
    """Give the event time at which the tests of a monitor begin."""
    return _BEGIN_MS - _BEGIN_MS % monitor.performance_pane_ms


def windows_of(test: RuleTest, monitor: Monitor) -> list[Window]:
    """Make the windows of a test.

    Windows of a kind are there when a series or a detector of this kind is
    written: ``rows`` gives the drift windows that say whether data comes,
    ``label_coverage`` the performance windows that say whether labels do.
    """
    groups: dict[_Key, _Group] = {}
    for _, windows in test.measured():
        for _, metric, text in series_of(windows):
            key = _Key(_kind(metric), windows.scale, windows.segment)
            groups.setdefault(key, _Group()).measures.append((metric, parse(text)))
    for found in test.detections:
        key = _Key(_KINDS[found.kind], found.scale, found.segment)
        group = groups.setdefault(key, _Group())
        group.detections.append((found.kind, found.feature, parse(found.panes)))
    if test.rows is not None:
        groups.setdefault(_Key("drift"), _Group())
    if test.label_coverage is not None:
        groups.setdefault(_Key("performance"), _Group())
    counts = _Counts(test, monitor)
    made = [
        _window(key, group, index, counts, monitor)
        for key, group in groups.items()
        for index in range(panes_of(test))
    ]
    # What the services of a live Kedge would have read by the same time: shorter first.
    return sorted(made, key=lambda w: (w.end_ms, _ORDER.index(w.kind), w.scale, w.segment))


class _Counts:
    """Rows and labels by pane, and the labels so far."""

    def __init__(self, test: RuleTest, monitor: Monitor) -> None:
        self._rows = (float(_ROWS),) if test.rows is None else parse(test.rows)
        shares = (1.0,) if test.label_coverage is None else parse(test.label_coverage)
        self._shares = shares if monitor.labelled else (0.0,)
        # A performance window may hold several panes.
        self._length = monitor.performance_pane_ms // monitor.pane_ms
        self._total = [0]

    def rows(self, kind: WindowKind, index: int) -> int:
        """Give the rows of a window of one pane of its kind."""
        if kind != "performance":
            return round(_lasting(self._rows, index))
        first = index * self._length
        return sum(round(_lasting(self._rows, first + i)) for i in range(self._length))

    def coverage(self, index: int) -> float:
        """Give the share of labels of a performance window."""
        return _lasting(self._shares, index)

    def total(self, panes: int) -> int:
        """Give the labels of the first panes together."""
        while len(self._total) <= panes:
            index = len(self._total) - 1
            share = self.coverage(index // self._length)
            self._total.append(self._total[-1] + round(share * _lasting(self._rows, index)))
        return self._total[panes]


def _window(key: _Key, group: _Group, index: int, counts: _Counts, monitor: Monitor) -> Window:
    length = monitor.performance_pane_ms if key.kind == "performance" else monitor.pane_ms
    end_ms = begin_ms(monitor) + (index + 1) * length
    start_ms = end_ms - key.scale * length
    first = max(0, index + 1 - key.scale)
    n = sum(counts.rows(key.kind, i) for i in range(first, index + 1))
    measures = [
        Measure(name=metric.name, feature=metric.feature, value=at(values, index), n=n)
        for metric, values in group.measures
    ]
    verdicts = [(kind, feature, at(values, index)) for kind, feature, values in group.detections]
    found = [
        Detection(kind=kind, detector="test", feature=feature)
        for kind, feature, verdict in verdicts
        if verdict
    ]
    # A window that no detector speaks of was not tested, unless it only has measures.
    is_tested = any(verdict is not None for *_, verdict in verdicts) or not verdicts
    coverage = counts.coverage(index) if key.kind == "performance" else None
    return Window(
        window_id=f"{monitor.model}/{VERSION}/{key.segment}//{key.kind}/{key.scale}/{start_ms}",
        kind=key.kind,
        model=monitor.model,
        version=VERSION,
        segment=key.segment,
        scale=key.scale,
        start_ms=start_ms,
        end_ms=end_ms,
        is_final=True,
        is_decided=True,
        n=n,
        labelled=0 if coverage is None else round(coverage * n),
        label_coverage=coverage,
        labelled_total=counts.total((end_ms - begin_ms(monitor)) // monitor.pane_ms),
        status="alarm" if found else "ok" if is_tested else "insufficient",
        measures=measures,
        detections=found,
    )


def _kind(metric: Metric) -> WindowKind:
    is_of_inputs = metric.feature is not None or metric.name in WINDOW_METRICS
    return "drift" if is_of_inputs and metric.name != "label_effect_w" else "performance"


def _lasting(values: Values, index: int) -> float:
    """Give the value of a pane; the last one lasts."""
    return values[min(index, len(values) - 1)] or 0.0
