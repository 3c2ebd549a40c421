"""An alert as a webhook: Alertmanager's format, version 4, one alert a request.  Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from kedge.events import Alert
from kedge_services.core.signing import HEADER, signature

__all__ = ["Notification", "notification"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: What Go's zero time looks like; receivers take it for "not ended yet".
_NOT_ENDED = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Notification:
    """One request's content; ``key`` makes its repetition harmless."""

    key: str
    body: bytes

    def headers(self, secret: str | None) -> dict[str, str]:
        """Give the headers, signed when there is a secret."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": self.key}
        if secret:
            headers[HEADER] = signature(self.body, secret)
        return headers


def notification(alert: Alert) -> Notification:
    """Give the request that tells about an alert that is firing or resolved."""
    return Notification(
        # The key goes into a header, and those are ASCII.
        key=quote(f"{alert.alert_id}/{alert.status}", safe="/:,"),
        body=json.dumps(_payload(alert), ensure_ascii=False, separators=(",", ":")).encode(),
    )


def _payload(alert: Alert) -> dict[str, Any]:
    labels = {
        "alertname": alert.rule,
        "model": alert.model,
        "version": alert.version,
        "kind": alert.kind,
        "severity": alert.severity,
        "segment": alert.segment,
        "feature": alert.feature,
    }
    annotations = {
        "summary": alert.summary,
        "value": alert.value,
        "threshold": alert.threshold,
        "alert_id": alert.alert_id,
        "incident_id": alert.incident_id,
        "resolved_because": alert.resolved_because,
        "window_ids": ",".join(alert.window_ids) or None,
    }
    one = {
        "status": alert.status,
        "labels": {name: text for name, text in labels.items() if text},
        "annotations": {name: str(text) for name, text in annotations.items() if text is not None},
        "startsAt": _rfc3339(alert.starts_ms),
        "endsAt": _NOT_ENDED if alert.ends_ms is None else _rfc3339(alert.ends_ms),
        "generatorURL": "",
        "fingerprint": alert.fingerprint,
    }
    return {
        "version": "4",
        "groupKey": "{}:{model=" + json.dumps(alert.model, ensure_ascii=False) + "}",
        "truncatedAlerts": 0,
        "status": alert.status,
        "receiver": "kedge",
        "groupLabels": {"model": alert.model},
        "commonLabels": one["labels"],
        "commonAnnotations": one["annotations"],
        "externalURL": "",
        "alerts": [one],
    }


def _rfc3339(time_ms: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
