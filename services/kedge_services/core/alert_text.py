"""One sentence for the person on call: which model, what, since when, how much."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kedge.base import AlertKind
from kedge.events import Detection, Measure
from kedge.monitor import Rule
from kedge_services.core.attribution import attribution_text
from kedge_services.core.lifecycle import Instance

__all__ = ["detections_text", "firing_text", "over_text", "rule_text", "time_text"]

#: Features a summary names.
SHOWN = 3

_WHAT: dict[AlertKind, str] = {
    "data-drift": "its inputs have drifted",
    "prediction-drift": "its predictions have drifted",
    "label-drift": "the outcomes have drifted",
    "integrity": "its inputs are broken",
    "error-rate": "it makes more errors than in its reference",
    "fairness": "it treats segments differently",
    "dead-letters": "too many of its records cannot be read",
}
_DRIFTS: dict[AlertKind, str] = {
    "data-drift": ", mostly ",
    "prediction-drift": ", at the same time as mostly ",
}
_OVER = {
    "recovered": "the condition is gone",
    "superseded": "the version it was about serves no more",
    "removed": "the monitor no longer asks for it",
}


def time_text(at_ms: int) -> str:
    """Write an event time for people, UTC.

    >>> time_text(1795220224624)
    '2026-11-21 00:17:04 UTC'
    """
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def detections_text(
    detections: Sequence[Detection],
    *,
    measures: Sequence[Measure] = (),
    features: int = 0,
    panes: int = 1,
) -> str:
    """Say what was detected; the detections are of one kind, the clearest first.

    Parameters
    ----------
    measures
        Of the window: they say of which features a drift mostly consists.
    features
        Of the model: when half of them or more are named, the cause lies before the model.
    panes
        That the window is long.
    """
    first = detections[0]
    names = list(dict.fromkeys(d.feature for d in detections if d.feature is not None))
    text = _WHAT.get(first.kind, first.kind)
    shares = attribution_text(measures) if len(names) != 1 else None
    if shares is not None and first.kind in _DRIFTS:
        text += _DRIFTS[first.kind] + shares
    elif names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        text += f" ({', '.join(names[:SHOWN])}{more})"
    if len(names) > 1 and 2 * len(names) >= features > 0:
        text += f", {len(names)} of {features} features at once: look upstream"
    if panes > 1:
        text += f", over {panes} panes"
    numbers = first.summary.rstrip(".") or _numbers(first)
    if not numbers:
        return text
    subject = f"{first.feature}: " if first.feature and first.feature not in numbers else ""
    return f"{text}; {subject}{numbers}"


def rule_text(rule: Rule, value: float) -> str:
    """Say which threshold of the user's is broken by what value."""
    side, threshold = ("below", rule.below) if rule.above is None else ("above", rule.above)
    of = f" of {rule.feature}" if rule.feature else ""
    return f"{rule.metric}{of} is {_number(value)}, {side} {_number(threshold or 0.0)}"


def firing_text(instance: Instance) -> str:
    """Give the summary of an alert that is pending or firing."""
    return f"{_subject(instance)}: {instance.detail}; since {time_text(instance.starts_ms)}"


def over_text(instance: Instance, because: str) -> str:
    """Give the summary of an alert that is over; the instance has ended."""
    lasted = f"{time_text(instance.starts_ms)} to {time_text(instance.resolved_at_ms or 0)}"
    return f"{_subject(instance)}: {instance.rule} is over, {_OVER[because]}; it lasted {lasted}"


def _subject(instance: Instance) -> str:
    version = f" version {instance.version}" if instance.version else ""
    segment = f", {instance.segment}" if instance.segment else ""
    return f"{instance.model}{version}{segment}"


def _numbers(detection: Detection) -> str:
    if detection.value is None:
        return ""
    text = f"{detection.detector} is {_number(detection.value)}"
    if detection.threshold is not None:
        text += f", the limit {_number(detection.threshold)}"
    return text


def _number(value: float) -> str:
    return f"{value:.4g}"
