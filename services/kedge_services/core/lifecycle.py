"""The life of an alert: a small enum and a few times.

::

                 the rule breaks          `for` is met
    inactive ──────────────────▶ pending ──────────────▶ firing
       ▲                            │                      │
       │     the rule holds again   │                      │ `keep_firing_for` is met,
       └────────────────────────────┴──────────────────────┘ or nobody serves it any more

Every function takes what one window says and gives the new instance and the
status to publish, if it changed.  Time is event time: a window speaks for its
newest pane, so windows that overlap do not count a pane twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from kedge.base import AlertKind, AlertStatus, Severity, WindowKind
from kedge.monitor import parse_duration

__all__ = [
    "Hold",
    "Instance",
    "Moved",
    "Phase",
    "Quiet",
    "Verdict",
    "breach",
    "clear",
    "end",
    "linger",
]

#: So many windows an alert names: the first one that broke the rule, and the newest.
WINDOW_IDS = 20

_COUNT = re.compile(r"(\d+) windows?")


class Phase(StrEnum):
    """Where an instance stands; a resolved one is inactive again."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


@dataclass(frozen=True, slots=True)
class Hold:
    """How long a condition must hold: a number of windows in a row, or a time."""

    windows: int = 0
    ms: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"2 windows"`` or a duration.

        >>> Hold.parse("2 windows"), Hold.parse("10m")
        (Hold(windows=2, ms=0), Hold(windows=0, ms=600000))
        """
        if match := _COUNT.fullmatch(text):
            return cls(windows=int(match[1]))
        return cls(ms=round(parse_duration(text).total_seconds() * 1000))

    def is_met(self, windows: int, elapsed_ms: int) -> bool:
        """Say whether it has held for so many windows, over so much time."""
        return windows >= self.windows and elapsed_ms >= self.ms


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one window says about a rule that it breaks."""

    window_id: str
    window_kind: WindowKind
    version: str
    start_ms: int
    pane_ms: int
    end_ms: int
    value: float | None = None
    threshold: float | None = None
    features: tuple[str, ...] = ()
    detail: str = ""
    labelled_total: int = 0


@dataclass(frozen=True, slots=True)
class Quiet:
    """A pane in which the rule holds; ``pane_ms`` is its start."""

    pane_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Instance:
    """One rule on one segment and feature of a model.

    Attributes
    ----------
    version
        The version whose windows hold the alert.
    starts_ms
        Start of the first window that broke the rule, and never before the end
        of the instance's last alert, so that no two alerts share an id.
    active_at_ms, fired_at_ms, resolved_at_ms, keep_firing_since_ms
        When it became pending (start of the newest pane), fired, was resolved
        and began to be quiet; None while it has not.
    clock_ms
        The latest event time it has seen.
    alarmed_ms
        The latest end of a window that broke the rule, or almost did.
    breaches, clears, strangers
        Windows in a row that broke the rule, that did not, and that came from
        other versions while the holder sent none.
    quiet
        The last quiet pane, not counted yet: a longer window that ends with it
        may still alarm.
    incident_id
        What groups it with others; an instance that is inactive remembers its last.
    """

    model: str
    fingerprint: str
    rule: str
    kind: AlertKind
    segment: str = ""
    feature: str | None = None
    severity: Severity = "warning"
    phase: Phase = Phase.INACTIVE
    version: str = ""
    window_kind: WindowKind = "drift"
    starts_ms: int = 0
    active_at_ms: int = 0
    fired_at_ms: int | None = None
    resolved_at_ms: int | None = None
    keep_firing_since_ms: int | None = None
    clock_ms: int = 0
    alarmed_ms: int = 0
    breaches: int = 0
    clears: int = 0
    strangers: int = 0
    quiet: Quiet | None = None
    value: float | None = None
    threshold: float | None = None
    features: tuple[str, ...] = ()
    detail: str = ""
    window_ids: tuple[str, ...] = ()
    labelled_total: int = 0
    incident_id: str | None = None

    @property
    def alert_id(self) -> str:
        """The id of the alert it is or was."""
        return f"{self.fingerprint}/{self.starts_ms}"

    @property
    def is_active(self) -> bool:
        """Whether it is pending or firing."""
        return self.phase is not Phase.INACTIVE


Moved = tuple[Instance, AlertStatus | None]


def breach(instance: Instance, verdict: Verdict, hold: Hold, *, reopen_panes: int = 0) -> Moved:
    """Take a window that breaks the rule; ``hold`` is its ``for``.

    An alert that comes back so many panes after its end, for the same version, belongs to
    the incident it belonged to before.  It is a new alert, since consumers know an alert
    that ended by its id.
    """
    status: AlertStatus | None = None
    if not instance.is_active:
        reopens = _reopens(instance, verdict, reopen_panes)
        instance = _activate(instance, verdict)
        instance = instance if reopens else replace(instance, incident_id=None)
        status = "pending"
    ids = (*instance.window_ids, verdict.window_id)
    instance = replace(
        instance,
        version=verdict.version,
        window_kind=verdict.window_kind,
        clock_ms=max(instance.clock_ms, verdict.end_ms),
        alarmed_ms=max(instance.alarmed_ms, verdict.end_ms),
        breaches=instance.breaches + 1,
        clears=0,
        strangers=0,
        quiet=None,
        keep_firing_since_ms=None,
        window_ids=ids if len(ids) <= WINDOW_IDS else (ids[0], *ids[1 - WINDOW_IDS :]),
    )
    elapsed_ms = instance.clock_ms - instance.active_at_ms
    if instance.phase is Phase.PENDING and hold.is_met(instance.breaches, elapsed_ms):
        return (
            replace(
                instance,
                phase=Phase.FIRING,
                fired_at_ms=instance.clock_ms,
                value=verdict.value,
                threshold=verdict.threshold,
                features=verdict.features,
                detail=verdict.detail,
                labelled_total=verdict.labelled_total,
            ),
            "firing",
        )
    return instance, status


def linger(instance: Instance, end_ms: int) -> Instance:
    """Take a window that almost breaks the rule: the wait for quiet begins anew."""
    if not instance.is_active:
        return instance
    return replace(
        instance,
        clock_ms=max(instance.clock_ms, end_ms),
        alarmed_ms=max(instance.alarmed_ms, end_ms),
        clears=0,
        strangers=0,
        quiet=None,
        keep_firing_since_ms=None,
    )


def clear(instance: Instance, quiet: Quiet, keep: Hold, value: float | None = None) -> Moved:
    """Take a window in which the rule holds; ``keep`` is its ``keep_firing_for``.

    A pending alert ends at once, a firing one when ``keep`` is met.
    """
    if not instance.is_active:
        return instance, None
    since_ms = instance.keep_firing_since_ms
    since_ms = quiet.pane_ms if since_ms is None else since_ms
    instance = replace(
        instance,
        clock_ms=max(instance.clock_ms, quiet.end_ms),
        clears=instance.clears + 1,
        strangers=0,
        keep_firing_since_ms=since_ms,
        value=instance.value if value is None else value,
    )
    is_over = keep.is_met(instance.clears, instance.clock_ms - since_ms)
    if instance.phase is Phase.PENDING or is_over:
        return end(instance, instance.clock_ms)
    return instance, None


def end(instance: Instance, at_ms: int) -> Moved:
    """End the alert; what never fired ends as ``pending``, nobody was told of it."""
    if not instance.is_active:
        return instance, None
    status: AlertStatus = "resolved" if instance.phase is Phase.FIRING else "pending"
    ends_ms = max(instance.clock_ms, at_ms, instance.starts_ms + 1)
    ended = replace(
        instance,
        phase=Phase.INACTIVE,
        clock_ms=ends_ms,
        resolved_at_ms=ends_ms,
        breaches=0,
        clears=0,
        strangers=0,
        quiet=None,
    )
    return ended, status


def _activate(instance: Instance, verdict: Verdict) -> Instance:
    after_ms = instance.resolved_at_ms or 0
    return replace(
        instance,
        phase=Phase.PENDING,
        version=verdict.version,
        window_kind=verdict.window_kind,
        starts_ms=max(verdict.start_ms, after_ms),
        active_at_ms=max(verdict.pane_ms, after_ms),
        fired_at_ms=None,
        resolved_at_ms=None,
        keep_firing_since_ms=None,
        clock_ms=max(instance.clock_ms, verdict.end_ms),
        breaches=0,
        clears=0,
        value=verdict.value,
        threshold=verdict.threshold,
        features=verdict.features,
        detail=verdict.detail,
        window_ids=(),
        labelled_total=verdict.labelled_total,
    )


def _reopens(instance: Instance, verdict: Verdict, panes: int) -> bool:
    if instance.resolved_at_ms is None or instance.version != verdict.version:
        return False
    return verdict.pane_ms - instance.resolved_at_ms < panes * (verdict.end_ms - verdict.pane_ms)
