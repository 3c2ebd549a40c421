"""Bad records of every kind that producers send sooner or later."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kedge_services.runtime.ports import Produce

__all__ = ["bad_records"]

_MINUTE_MS = 60_000
_YEAR_MS = 365 * 86_400_000


def bad_records(model: str, *, now_ms: int, partition: Callable[[str], int]) -> list[Produce]:
    """Make one record of each kind; none of them may disturb any other record.

    The late one comes twice: it is joined all the same, so the second is a duplicate.
    """
    prediction = {
        "model": model,
        "version": "k1",
        "event_time_ms": now_ms,
        "features": {"salary": 1.0},
        "output": {"label": "approve", "score": 0.9},
    }

    def record(topic: str, identity: str, event: dict[str, Any] | bytes) -> Produce:
        value = event if isinstance(event, bytes) else json.dumps(event).encode()
        return Produce(topic, identity.encode(), value, partition(identity))

    def outcome(identity: str, label: object) -> dict[str, Any]:
        return {"prediction_id": identity, "label": label, "event_time_ms": now_ms}

    return [
        record("predictions", "bad-bytes", b"\xff\xfe not json"),
        record("predictions", "bad-type", {"prediction_id": "bad-type", **prediction,
                                           "event_time_ms": "yesterday"}),
        record("predictions", "bad-model", {"prediction_id": "bad-model", **prediction,
                                            "model": "nobody-knows"}),
        record("predictions", "bad-missing", prediction),
        record("predictions", "bad-key", {"prediction_id": "another-key", **prediction}),
        record("predictions", "bad-future", {"prediction_id": "bad-future", **prediction,
                                             "event_time_ms": now_ms + _YEAR_MS}),
        record("predictions", "bad-class", {"prediction_id": "bad-class", **prediction,
                                            "output": {"label": "perhaps"}}),
        record("predictions", "late", {"prediction_id": "late", **prediction,
                                       "event_time_ms": now_ms - _MINUTE_MS}),
        record("predictions", "late", {"prediction_id": "late", **prediction,
                                       "event_time_ms": now_ms - _MINUTE_MS}),
        record("outcomes", "bad-outcome", b"{"),
        record("outcomes", "bad-label", outcome("bad-label", "perhaps")),
        record("outcomes", "bad-orphan", outcome("bad-orphan", "approve")),
    ]  # fmt: skip
