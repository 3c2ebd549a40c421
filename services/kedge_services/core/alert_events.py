"""Alerts as they are sent: identity, incident, and one event for each change of status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Literal

from kedge.base import AlertStatus
from kedge.events import Alert
from kedge_services.core import alert_text
from kedge_services.core.lifecycle import Instance, Moved, Phase
from kedge_services.core.watch import Watch

__all__ = ["Because", "fingerprint", "publish"]

Because = Literal["recovered", "superseded", "removed"]


def fingerprint(model: str, rule: str, segment: str = "", feature: str | None = None) -> str:
    """Give the identity of an alert over all its versions and times: 16 hex digits.

    >>> fingerprint("fraud", "error-rate") == fingerprint("fraud", "error-rate", "", None)
    True
    """
    parts = "\0".join((model, rule, segment, feature or ""))
    return blake2b(parts.encode(), digest_size=8).hexdigest()


def publish(watch: Watch, moved: Moved, because: Because = "recovered") -> Iterator[Alert]:
    """Keep an instance and give the alert to publish, if its status changed."""
    instance, status = moved
    if status is None and not instance.is_active:
        return
    if status == "firing":
        instance = replace(instance, incident_id=_incident(watch, instance))
    watch.put(instance)
    if status == "resolved":
        head = watch.head
        ends_ms = max(head.incident_ends_ms, instance.resolved_at_ms or 0)
        watch.put(replace(head, incident_ends_ms=ends_ms))
    # A built-in rule that only counts its panes is nothing to tell.
    if status is not None and (status != "pending" or instance.kind == "rule"):
        yield _alert(instance, status, because)


def _incident(watch: Watch, instance: Instance) -> str:
    """Give the incident an alert belongs to: one that goes on, overlaps or is reopened."""
    head = watch.head
    goes_on = any(other.phase is Phase.FIRING for other in watch.instances.values())
    overlaps = instance.starts_ms < head.incident_ends_ms
    if head.incident_id is not None and (goes_on or overlaps):
        return head.incident_id
    incident_id = instance.incident_id or instance.alert_id
    watch.put(replace(head, incident_id=incident_id))
    return incident_id


def _alert(instance: Instance, status: AlertStatus, because: Because) -> Alert:
    is_over = not instance.is_active
    text = alert_text.over_text(instance, because) if is_over else alert_text.firing_text(instance)
    return Alert(
        alert_id=instance.alert_id,
        fingerprint=instance.fingerprint,
        model=instance.model,
        version=instance.version,
        rule=instance.rule,
        kind=instance.kind,
        severity=instance.severity,
        status=status,
        segment=instance.segment,
        feature=instance.feature,
        starts_ms=instance.starts_ms,
        fired_ms=instance.fired_at_ms,
        ends_ms=instance.resolved_at_ms if is_over else None,
        value=instance.value,
        threshold=instance.threshold,
        summary=text,
        window_ids=list(instance.window_ids),
        labelled_total=instance.labelled_total,
        incident_id=instance.incident_id,
        resolved_because=because if is_over else None,
    )
