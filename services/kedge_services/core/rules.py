"""Which windows break which rule, and the alerts that come of it.

=============== ========================= ==============================
rule            breaks with               is over after
=============== ========================= ==============================
a user's own    ``for`` windows or time   ``keep_firing_for``
a detection's   the first window that     8 panes in a row that were tested,
kind            alarms, at any scale      none of which alarms, or almost,
                                          at any scale
no-data         3 panes without a row     the first row
low-coverage    a final performance       a final one with half or more
                window with less than
                half of its labels
=============== ========================= ==============================

Only the first decided revision of a window counts.  Alerts follow the version
that serves: when the first window of a new champion arrives, its windows
carry an alert on, or it ends as ``superseded``.  A detection's alert that is back
within 24 panes of its end is of the same incident.
"""

from __future__ import annotations

import math
from dataclasses import replace

from kedge.base import AlertKind, Severity
from kedge.events import Alert, Detection, Window
from kedge.monitor import Monitor, Rule
from kedge_services.core import alert_text
from kedge_services.core.alert_events import Because, fingerprint, publish
from kedge_services.core.lifecycle import (
    Hold,
    Instance,
    Moved,
    Quiet,
    Verdict,
    breach,
    clear,
    end,
    linger,
)
from kedge_services.core.remarks import remark, remarks_text
from kedge_services.core.watch import Head, Watch

__all__ = [
    "NO_DATA_PANES",
    "QUIET_PANES",
    "REOPEN_PANES",
    "drop",
    "fingerprint",
    "new_watch",
    "observe",
]

#: Panes without a detection after which an alert is over.
QUIET_PANES = 8
#: Panes after its end in which an alert's return reopens its incident.
REOPEN_PANES = 24
#: Panes without a row after which `no-data` fires.
NO_DATA_PANES = 3
#: Share of labels below which `low-coverage` fires, and the rows this takes:
#: with a true share of .8, 30 rows are below the half in 1 of 19,000 windows.
LOW_COVERAGE = 0.5
COVERAGE_ROWS = 30

SEVERITIES: dict[AlertKind, Severity] = {
    "data-drift": "warning",
    "prediction-drift": "warning",
    "label-drift": "warning",
    "integrity": "warning",
    "error-rate": "critical",
    "fairness": "warning",
    "no-data": "critical",
    "low-coverage": "warning",
    "dead-letters": "critical",
}
_AT_ONCE = Hold()
#: Built-in rules that no detection opens.
_COUNTED = frozenset({"no-data", "low-coverage"})
_NEED_LABELS = frozenset({"error-rate", "label-drift", "low-coverage", "fairness"})


def new_watch(model: str) -> Watch:
    """Give the memory of a model that nothing is known of yet."""
    return Watch(Head(model))


def observe(watch: Watch, window: Window, monitor: Monitor, champion: str | None) -> list[Alert]:
    """Take a window.

    Parameters
    ----------
    watch
        The memory of the window's model, changed in place.
    monitor
        In force at the window, or later.
    champion
        The registered version that serves; None when there is none, then every
        version is followed.
    """
    if not (window.is_decided or window.is_final):
        return []
    return _Observer(watch, window, monitor, champion).run()


def drop(watch: Watch) -> list[Alert]:
    """End all alerts of a model whose monitor is gone."""
    return [
        alert
        for instance in watch.active()
        for alert in publish(watch, end(instance, watch.head.clock_ms), "removed")
    ]


class _Observer:
    """One window on its way through all rules."""

    def __init__(
        self, watch: Watch, window: Window, monitor: Monitor, champion: str | None
    ) -> None:
        self.watch, self.window, self.monitor, self.champion = watch, window, monitor, champion
        # A longer window overlaps the one before; what it adds is its last pane.
        pane_ms = (window.end_ms - window.start_ms) // window.scale
        self.pane = Quiet(window.end_ms - pane_ms, window.end_ms)
        self.alerts: list[Alert] = []

    def run(self) -> list[Alert]:
        window, head = self.window, self.watch.head
        clock_ms = max(head.clock_ms, window.end_ms)
        labelled = max(head.labelled_total, window.labelled_total)
        self.watch.put(replace(head, clock_ms=clock_ms, labelled_total=labelled))
        self._adopt_monitor()
        if not self.watch.is_first(window) or not self._follows():
            return self.alerts
        if window.is_decided:
            self.watch.put(remark(self.watch.head, window))
            if window.kind != "labels":
                self._user_rules()
            self._detections()
        if window.scale == 1 and not window.segment:
            if window.kind == "drift":
                self._no_data()
            elif window.kind == "performance":
                self._low_coverage()
        if window.is_decided and window.scale == 1:
            self._strangers()
        return self.alerts

    # ------------------------------------------------------- who and what counts

    def _adopt_monitor(self) -> None:
        """End what a newer monitor does not ask for any more."""
        head, monitor = self.watch.head, self.monitor
        if monitor.effective_ms > head.effective_ms:
            self.watch.put(replace(head, effective_ms=monitor.effective_ms))
        wanted = {self._instance_of(rule).fingerprint for rule in monitor.rules}
        for instance in self.watch.active():
            is_gone = instance.kind == "rule" and instance.fingerprint not in wanted
            if is_gone or (instance.kind in _NEED_LABELS and not monitor.labelled):
                self._take(end(instance, self.window.end_ms), "removed")

    def _follows(self) -> bool:
        version, head = self.window.version, self.watch.head
        if self.champion is None:
            return True
        if version == self.champion and head.serving != version and self.window.is_decided:
            self.watch.put(replace(head, serving=version))
        return version == (self.watch.head.serving or self.champion)

    def _is_stranger(self, instance: Instance) -> bool:
        return instance.is_active and instance.version != self.window.version

    # -------------------------------------------------------------------- rules

    def _user_rules(self) -> None:
        for rule in self.monitor.rules:
            if (rule.segment or "") != self.window.segment or rule.scale != self.window.scale:
                continue
            value = self._measured(rule)
            if value is None:
                continue
            instance = self._instance_of(rule)
            if value < rule.below if rule.below is not None else value > (rule.above or 0.0):
                threshold = rule.above if rule.below is None else rule.below
                detail = alert_text.rule_text(rule, value)
                verdict = self._verdict(value=value, threshold=threshold, detail=detail)
                self._take(breach(instance, verdict, Hold.parse(rule.for_)))
            else:
                self._clear(instance, Hold.parse(rule.keep_firing_for), value)

    def _measured(self, rule: Rule) -> float | None:
        for measure in self.window.measures:
            if (measure.name, measure.feature) == (rule.metric, rule.feature):
                value = measure.value
                return None if value is None or math.isnan(value) else value
        return None

    def _detections(self) -> None:
        window = self.window
        for instance in self._watched():
            quiet = instance.quiet
            if quiet is not None and quiet.end_ms != window.end_ms:
                self._take(clear(replace(instance, quiet=None), quiet, Hold(QUIET_PANES)))
        self._alarms()
        for instance in self._watched():
            if instance.kind in window.near_alarms:
                self.watch.put(linger(instance, window.end_ms))
            elif window.status in {"ok", "alarm"} and window.end_ms > instance.alarmed_ms:
                self.watch.put(replace(instance, quiet=self.pane))

    def _alarms(self) -> None:
        window = self.window
        found: dict[AlertKind, list[Detection]] = {}
        for detection in sorted(window.detections, key=_by_size):
            if detection.kind != "rule" and detection.kind not in _COUNTED:
                found.setdefault(detection.kind, []).append(detection)
        for kind, detections in sorted(found.items()):
            beside = remarks_text(self.watch.head, window) if kind == "error-rate" else ""
            verdict = self._verdict(
                value=detections[0].value,
                threshold=detections[0].threshold,
                features=tuple(dict.fromkeys(d.feature for d in detections if d.feature)),
                detail=alert_text.detections_text(
                    detections,
                    measures=window.measures,
                    features=len(self.monitor.features),
                    panes=window.scale,
                )
                + beside,
            )
            instance = self._built_in(kind, window.segment)
            self._take(breach(instance, verdict, _AT_ONCE, reopen_panes=REOPEN_PANES))

    def _watched(self) -> list[Instance]:
        """Give the active alerts of which this window could carry a detection."""
        return [
            instance
            for instance in self.watch.active()
            if self._watches(instance) and not self._is_stranger(instance)
        ]

    def _watches(self, instance: Instance) -> bool:
        """Say whether this window could carry a detection of the instance."""
        return (
            instance.kind != "rule"
            and instance.kind not in _COUNTED
            and instance.window_kind == self.window.kind
            and instance.segment == self.window.segment
        )

    def _no_data(self) -> None:
        instance, head = self._built_in("no-data"), self.watch.head
        if self.window.n > 0:
            self.watch.put(replace(head, data_ms=max(head.data_ms, self.window.end_ms)))
            if self.champion is None:
                self._take(clear(instance, self.pane, _AT_ONCE))
            else:
                self._clear(instance, _AT_ONCE)
            return
        # Several versions may be followed: a pane is empty when all are, and counts once.
        counted_ms = max(head.data_ms, instance.clock_ms if instance.is_active else 0)
        if self.window.end_ms > counted_ms:
            detail = f"no predictions have arrived for {NO_DATA_PANES} windows or more"
            self._take(breach(instance, self._verdict(detail=detail), Hold(NO_DATA_PANES)))

    def _low_coverage(self) -> None:
        window, coverage = self.window, self.window.label_coverage
        if coverage is None or window.n < COVERAGE_ROWS:
            return
        instance = self._built_in("low-coverage")
        if coverage >= LOW_COVERAGE:
            self._clear(instance, _AT_ONCE, coverage)
        elif window.is_final:
            detail = (
                f"only {coverage:.0%} of its predictions got a label in time, "
                f"{LOW_COVERAGE:.0%} are needed"
            )
            verdict = self._verdict(value=coverage, threshold=LOW_COVERAGE, detail=detail)
            self._take(breach(instance, verdict, _AT_ONCE))

    def _strangers(self) -> None:
        """Let go of what is held by a version that serves no more.

        With a registered champion its own window decides at once; without one
        the holder has to be silent for as long as an alert has to be quiet.
        """
        window = self.window
        for instance in self.watch.active():
            if instance.window_kind != window.kind:
                continue
            if not self._is_stranger(instance):
                if window.n > 0 and window.segment == instance.segment and instance.strangers:
                    self.watch.put(replace(instance, strangers=0))
                continue
            is_same = window.segment == instance.segment
            if self.champion is not None and is_same and instance.kind != "rule":
                self._take(end(instance, window.end_ms), "superseded")
            elif is_same or not window.segment:
                self._count_stranger(instance)

    def _count_stranger(self, instance: Instance) -> None:
        instance = replace(instance, strangers=instance.strangers + 1)
        scales = (r.scale for r in self.monitor.rules if r.name == instance.rule)
        if instance.strangers >= QUIET_PANES - 1 + next(scales, 1):
            self._take(end(instance, self.window.end_ms), "superseded")
        else:
            self.watch.put(instance)

    # ------------------------------------------------------------------ pieces

    def _clear(self, instance: Instance, keep: Hold, value: float | None = None) -> None:
        if not self._is_stranger(instance):
            self._take(clear(instance, self.pane, keep, value))
        elif self.champion is not None:
            self._take(end(instance, self.window.end_ms), "superseded")

    def _take(self, moved: Moved, because: Because = "recovered") -> None:
        self.alerts += publish(self.watch, moved, because)

    def _instance_of(self, rule: Rule) -> Instance:
        model, segment = self.window.model, rule.segment or ""
        identity = fingerprint(model, rule.name, segment, rule.feature)
        known = self.watch.instances.get(identity)
        if known is None:
            known = Instance(model, identity, rule.name, "rule", segment, rule.feature)
        return known if known.severity == rule.severity else replace(known, severity=rule.severity)

    def _built_in(self, kind: AlertKind, segment: str = "") -> Instance:
        identity = fingerprint(self.window.model, kind, segment)
        known = self.watch.instances.get(identity)
        return known or Instance(
            self.window.model, identity, kind, kind, segment, severity=SEVERITIES[kind]
        )

    def _verdict(
        self,
        *,
        detail: str,
        value: float | None = None,
        threshold: float | None = None,
        features: tuple[str, ...] = (),
    ) -> Verdict:
        window = self.window
        return Verdict(
            window_id=window.window_id,
            window_kind=window.kind,
            version=window.version,
            start_ms=window.start_ms,
            pane_ms=self.pane.pane_ms,
            end_ms=window.end_ms,
            value=value,
            threshold=threshold,
            features=features,
            detail=detail,
            labelled_total=self.watch.head.labelled_total,
        )


def _by_size(detection: Detection) -> tuple[float, str]:
    """Order detections by how far they go beyond their limit, the farthest first."""
    beyond = abs((detection.value or 0.0) - (detection.threshold or 0.0))
    return (-beyond if math.isfinite(beyond) else 0.0, detection.feature or "")
