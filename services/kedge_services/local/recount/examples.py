"""Examples: which there must be, and what must be in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kedge_services.local.recount.joining import Joined, Predicted, standing
from kedge_services.local.recount.plain import Findings, Log, Monitors, events, label_text

__all__ = ["Example", "compare_examples", "expected_examples"]

Key = tuple[str, str]
"""Model and prediction id."""


class Example(NamedTuple):
    """A prediction with its label; features in declared order."""

    partition: int
    label: str
    revision: int
    served_by: str | None
    event_time_ms: int
    label_time_ms: int
    features: tuple[Any, ...]
    segments: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]]


def expected_examples(joined: Joined) -> dict[Key, Example]:
    """Give the examples there must be, of every labelled id and model one."""
    expected = {}
    for prediction_id, labels in joined.labels.items():
        predictions = joined.predictions[prediction_id]
        for model in dict.fromkeys(p.watched.model for p in predictions):
            mine = [p for p in predictions if p.watched.model == model]
            found = standing(labels, mine)
            if found is not None:
                expected[model, prediction_id] = _expected(
                    mine, found.since.text, found.changes, found.since.time_ms
                )
    return expected


def compare_examples(
    log: Log, monitors: Monitors, expected: Mapping[Key, Example], findings: Findings
) -> set[Key]:
    """Compare with the examples at their highest revision; give those that are there."""
    names = {model: history[-1].features for model, history in monitors.items()}
    found: dict[Key, Example] = {}
    for record, event in events(log.read("examples")):
        key = (event["model"], event["prediction_id"])
        known = found.get(key)
        if known is None or event["revision"] >= known.revision:
            found[key] = _found(record.partition, event, names.get(event["model"], ()))
    for key, example in expected.items():
        there = found.get(key)
        if there is None:
            findings.differ("example", "/".join(key), _short(example), "none")
            continue
        findings.count("examples")
        if example == there:
            continue
        for name, wanted, given in zip(Example._fields, example, there, strict=True):
            if wanted != given:
                findings.differ(f"{name} of example", "/".join(key), wanted, given)
    for key in found.keys() - expected.keys():
        findings.differ("example", "/".join(key), "none", _short(found[key]))
    return set(found)


def _expected(mine: Sequence[Predicted], label: str, revision: int, label_time_ms: int) -> Example:
    champion = next((p for p in mine if p.champion), None)
    base = champion or mine[0]
    return Example(
        partition=base.partition,
        label=label,
        revision=revision,
        served_by=None if champion is None else champion.version,
        event_time_ms=base.time_ms,
        label_time_ms=label_time_ms,
        features=tuple(map(_plain, base.features)),
        segments=base.segments,
        outputs={p.version: _output(p.output or {}) for p in mine},
    )


def _found(partition: int, event: dict[str, Any], names: Sequence[str]) -> Example:
    features = event["features"]
    extra = tuple(features[name] for name in features.keys() - set(names))
    return Example(
        partition=partition,
        label=label_text(event["label"]),
        revision=event["revision"],
        served_by=event.get("served_by"),
        event_time_ms=event["event_time_ms"],
        label_time_ms=event["label_time_ms"],
        features=tuple(map(features.get, names)) + extra,
        segments=event.get("segments", {}),
        outputs={version: _output(output) for version, output in event["outputs"].items()},
    )


def _output(output: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a version answered, numbers as numbers, without what says nothing."""
    plain: dict[str, Any] = {}
    if output.get("label") is not None:
        plain["label"] = output["label"]
    for name in ("score", "value"):
        if output.get(name) is not None and (number := _plain(float(output[name]))) is not None:
            plain[name] = number
    if output.get("scores") is not None:
        numbers = {name: float(score) for name, score in output["scores"].items()}
        plain["scores"] = {name: x for name, x in numbers.items() if math.isfinite(x)}
    return plain


def _plain(value: Any) -> Any:
    """Give a value as JSON can carry it: what is no finite number is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(example: Example) -> str:
    return f"label {example.label}, revision {example.revision}, served by {example.served_by}"
