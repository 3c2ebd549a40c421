"""Judges one record by itself: is it an event, of a known model, in its place, of its time."""

from __future__ import annotations

import json
from typing import Any

from kedge_services.local.recount.letters import UNREADABLE
from kedge_services.local.recount.plain import Monitors, Record, Watched, murmur2

__all__ = ["Intake", "Judged", "is_champion"]

_LAST_MS = 253_402_300_799_999
_NUMBERS = frozenset({bool, int, float})
_SCALARS = _NUMBERS | {str}
_NULL_OR_SCALAR = _SCALARS | {type(None)}

Judged = tuple[dict[str, Any], Watched | None] | frozenset[str]
"""The event and its monitor, or the reasons for which it has to be put aside."""


class Intake:
    """Judges records of one cluster.

    Parameters
    ----------
    monitors
        Of all models.
    partitions
        Number of partitions of the inputs.
    max_skew_ms
        How far event time may lie ahead of append time.
    """

    def __init__(self, monitors: Monitors, *, partitions: int, max_skew_ms: int) -> None:
        self.monitors = monitors
        self._partitions = partitions
        self._max_skew_ms = max_skew_ms
        self._hashed: dict[bytes, int] = {}

    def watched(self, model: str, time_ms: int) -> Watched | None:
        """Give the monitor of a model at an event time: the newest in effect, else the oldest."""
        history = self.monitors.get(model)
        if not history or len(history) == 1:
            return history[0] if history else None
        in_effect = [m for m in history if m.effective_ms <= time_ms]
        return in_effect[-1] if in_effect else history[0]

    def prediction(self, record: Record) -> Judged:
        """Judge a prediction; the one that is fine has a monitor."""
        event = _object(record.value)
        if event is None or not _is_readable(event, ("prediction_id", "model", "version")):
            return UNREADABLE
        watched = self.watched(event["model"], event["event_time_ms"])
        if watched is None:
            return frozenset({"unknown-model", *UNREADABLE})
        if not _is_answer(event, watched):
            return UNREADABLE
        reasons = set(self._misplaced(record, event))
        output = event.get("output") or {}
        label = output.get("label")
        if label is not None and not watched.regression and not watched.accepts(label):
            reasons.add("bad-value")
        return frozenset(reasons) or (event, watched)

    def outcome(self, record: Record) -> Judged:
        """Judge an outcome; its monitor is None when it may belong to several models."""
        event = _object(record.value)
        if (
            event is None
            or not _is_readable(event, ("prediction_id",))
            or type(event.get("label")) not in _SCALARS
            or not (event.get("model") is None or _is_readable(event, ("model",)))
            or not isinstance(event.get("source"), str | None)
        ):
            return UNREADABLE
        model, time_ms = event.get("model"), event["event_time_ms"]
        if model is None and len(self.monitors) == 1:
            model = next(iter(self.monitors))
        reasons = set(self._misplaced(record, event))
        owner = None if model is None else self.watched(model, time_ms)
        if not self.monitors or (model is not None and owner is None):
            reasons.add("unknown-model")
        elif owner is not None:
            if owner.labelled and not owner.accepts(event["label"]):
                reasons.add("bad-value")
        elif (claimed := self.claimed_by(event)) is not None and not claimed:
            reasons.add("bad-value")
        return frozenset(reasons) or (event, owner)

    def claimed_by(self, event: dict[str, Any]) -> list[str] | None:
        """Give the models that an outcome without model may be a label of.

        None when no model has labels.
        """
        known = [self.watched(model, event["event_time_ms"]) for model in self.monitors]
        labelled = [m for m in known if m is not None and m.labelled]
        return [m.model for m in labelled if m.accepts(event["label"])] if labelled else None

    def _misplaced(self, record: Record, event: dict[str, Any]) -> list[str]:
        key = event["prediction_id"].partition("#")[0].encode()
        hashed = self._hashed.get(key)
        if hashed is None:
            hashed = self._hashed[key] = murmur2(key) & 0x7FFFFFFF
        reasons = []
        if record.key != key:
            reasons.append("bad-key")
        if hashed % self._partitions != record.partition:
            reasons.append("misrouted")
        if event["event_time_ms"] > record.timestamp_ms + self._max_skew_ms:
            reasons.append("bad-time")
        return reasons


def is_champion(prediction: Record | dict[str, Any]) -> bool:
    """Say whether a prediction, if it can be read at all, is of the version that serves."""
    event = _object(prediction.value) if isinstance(prediction, Record) else prediction
    return event is not None and event.get("role", "champion") == "champion"


def _object(value: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads((value or b"").decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_readable(event: dict[str, Any], names: tuple[str, ...]) -> bool:
    for name in names:
        value = event.get(name)
        if not (isinstance(value, str) and 1 <= len(value) <= 255):
            return False
    time_ms = event.get("event_time_ms")
    return type(time_ms) is int and 0 <= time_ms <= _LAST_MS and event.get("schema", 1) == 1


def _is_answer(event: dict[str, Any], watched: Watched) -> bool:
    """Say whether what is particular to a prediction can be read."""
    features, segments = event.get("features"), event.get("segments", {})
    if not isinstance(features, dict) or not isinstance(segments, dict):
        return False
    for name in watched.features:
        if type(features.get(name)) not in _NULL_OR_SCALAR:
            return False
    return (
        _SCALARS.issuperset(map(type, segments.values()))
        and event.get("role", "champion") in ("champion", "shadow")
        and _is_number_or_null(event.get("latency_ms"))
        and _is_output(event.get("output"))
    )


def _is_output(output: object) -> bool:
    if output is None:
        return True
    if not isinstance(output, dict) or type(output.get("label")) not in _NULL_OR_SCALAR:
        return False
    scores = output.get("scores")
    return (
        _is_number_or_null(output.get("score"))
        and _is_number_or_null(output.get("value"))
        and (scores is None or (isinstance(scores, dict) and None not in scores.values()))
        and all(map(_is_number_or_null, (scores or {}).values()))
    )


def _is_number_or_null(value: object) -> bool:
    """Say whether it is a number or null; a number written as a string is one."""
    if value is None or type(value) in _NUMBERS:
        return True
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
