"""The figures a run is told in, drawn from the topics anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kedge_services.local.recount.examples import Example, Key
from kedge_services.local.recount.joining import Joined
from kedge_services.local.recount.plain import Log, events

__all__ = ["Accuracy", "Promotions", "accuracies", "alerts_fired", "read_promotions"]


@dataclass(slots=True)
class Promotions:
    """What became of the versions: all records, and promotions, with their times; rollbacks."""

    records: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    promoted: list[tuple[str, int]] = field(default_factory=list)
    rollbacks: int = 0


@dataclass(slots=True)
class Accuracy:
    """Correct ones among labelled answers of the version that served."""

    correct: int = 0
    labelled: int = 0

    @property
    def share(self) -> float | None:
        """The share; None without labels."""
        return self.correct / self.labelled if self.labelled else None


def read_promotions(log: Log) -> Promotions:
    """Follow the versions of all models, in the order of their records."""
    found = Promotions()
    standing: dict[tuple[str, str], str] = {}
    champions: dict[str, str] = {}
    for record, event in events(log.read("model-versions")):
        found.records.append((event, record.timestamp_ms))
        model, version = event["model"], event["version"]
        before = standing.get((model, version))
        standing[model, version] = event["status"]
        if event["status"] != "champion" or before == "champion":
            continue
        is_back = event.get("evidence", {}).get("decision") in ("rollback", "rollback-command")
        if is_back:
            found.rollbacks += 1
        elif model in champions:
            found.promoted.append((version, record.timestamp_ms))
        champions[model] = version
    return found


def alerts_fired(log: Log) -> int:
    """Count the alerts that fired, each once."""
    return len({e["alert_id"] for _, e in events(log.read("alerts")) if e["status"] == "firing"})


def accuracies(
    joined: Joined,
    examples: Mapping[Key, Example],
    *,
    drift_started_ms: int | None,
    promoted: tuple[str, int] | None,
) -> dict[str, float | None]:
    """Give the accuracy of what was answered before a drift, from it on, and after a promotion."""
    before, drifted, after = Accuracy(), Accuracy(), Accuracy()
    for (_, prediction_id), example in examples.items():
        if example.served_by is None:
            continue
        answer = next(
            p.answer for p in joined.predictions[prediction_id] if p.version == example.served_by
        )
        at_ms, is_right = example.event_time_ms, answer == example.label
        if drift_started_ms is None or at_ms < drift_started_ms:
            _add(before, is_right)
        elif promoted is None or at_ms < promoted[1]:
            _add(drifted, is_right)
        if promoted is not None and at_ms >= promoted[1] and example.served_by == promoted[0]:
            _add(after, is_right)
    return {
        "accuracy_before_drift": before.share,
        "accuracy_drifted": None if drift_started_ms is None else drifted.share,
        "accuracy_after_promotion": None if promoted is None else after.share,
    }


def _add(accuracy: Accuracy, is_right: bool) -> None:  # noqa: FBT001 -- the one thing to add
    accuracy.labelled += 1
    accuracy.correct += is_right
