"""The files a replay writes: the events as they came out, a summary, a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from kedge_services.local.replay.scores import Scores
from kedge_services.local.replay.simulation import Span

__all__ = [
    "Event",
    "Results",
    "crowned",
    "final_windows",
    "fired",
    "time_of",
    "to_line",
    "without_cost",
    "write",
]

#: Fields of a window that say how it was sent, not what is in it.
_OF_SENDING = ("revision", "labelled_total")
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """What came out of a run.

    Attributes
    ----------
    windows
        Those that a page draws: of a run of many panes some of every stretch of time.
    stride
        Of how many panes one is among them, where some are left out; 1: all are.
    """

    windows: list[Event]
    alerts: list[Event]
    retrain_requests: list[Event]
    model_versions: list[Event]
    scores: Scores
    summary: dict[str, Any]
    stride: int = 1


def final_windows(
    events: Iterable[Event], span: Span, *, pane_ms: int, performance_pane_ms: int
) -> Iterator[Event]:
    """Give every final window once, at its highest revision.

    Left out are the windows after the end of the data, and the fields that say
    how a window was sent.  ``is_partial`` marks those that begin before the data
    does or end after it.

    Parameters
    ----------
    events
        By (end, id), and the revisions of one window in their order.
    """
    for _, revisions in groupby(events, key=itemgetter("window_id")):
        # Of equal revisions the last one counts.
        event = max(enumerate(revisions), key=lambda e: (e[1].get("revision", 0), e[0]))[1]
        last_ms = span.labelled_ms if event["kind"] == "labels" else span.last_ms
        length_ms = performance_pane_ms if event["kind"] == "performance" else pane_ms
        if event.get("is_final") and event["end_ms"] <= last_ms - last_ms % length_ms + length_ms:
            plain = {name: value for name, value in event.items() if name not in _OF_SENDING}
            plain["is_partial"] = event["start_ms"] < span.first_ms or event["end_ms"] > last_ms
            yield plain


def write(results: Results, out: Path, *, page: str, cost: Mapping[str, float]) -> None:
    """Write into a directory what the recorder has not written there.

    Parameters
    ----------
    cost
        What the run took; the only figures of the summary that differ between
        two runs on the same data.
    """
    for name, events in (
        ("alerts", results.alerts),
        ("retrain-requests", results.retrain_requests),
        ("model-versions", results.model_versions),
    ):
        (out / f"{name}.ndjson").write_bytes(b"".join(map(to_line, events)))
    summary = json.dumps({**results.summary, **cost}, indent=2, ensure_ascii=False)
    (out / "summary.json").write_text(summary + "\n", encoding="utf-8")
    (out / "report.html").write_text(page, encoding="utf-8")


def to_line(event: Event) -> bytes:
    """Give an event as it is written, the same whatever it was read from."""
    return msgspec.json.encode(event) + b"\n"


def time_of(alert: Event) -> int:
    """Give the event time of an alert's last change."""
    times = (alert["starts_ms"], alert.get("fired_ms"), alert.get("ends_ms"))
    return max(int(time_ms) for time_ms in times if time_ms is not None)


def fired(alerts: Iterable[Event]) -> dict[str, Any]:
    """Count the alerts that fired, and give when the first of each rule did."""
    fired = {a["alert_id"]: a for a in alerts if a["status"] == "firing"}
    firsts: dict[str, int] = {}
    for alert in fired.values():
        firsts[alert["rule"]] = min(alert["fired_ms"], firsts.get(alert["rule"], alert["fired_ms"]))
    return {
        "alerts": len(fired),
        "alerts_by_rule": dict(sorted(Counter(a["rule"] for a in fired.values()).items())),
        "first_alert_ms": dict(sorted(firsts.items())),
    }


def crowned(versions: Iterable[Event], *decisions: str) -> int:
    """Count how often a version became champion by one of these decisions."""
    return sum(
        1
        for version in versions
        if version["status"] == "champion" and version["evidence"]["decision"] in decisions
    )


def without_cost(version: Event) -> Event:
    """Leave out what differs between two runs: the cost, and where the store lies."""
    plain = {name: value for name, value in version.items() if name != "cost"}
    if plain.get("artefact"):
        artefact = plain["artefact"]
        suffix = artefact["uri"].rpartition("/")[2]
        plain["artefact"] = {**artefact, "uri": f"artefacts/{suffix[:2]}/{suffix}"}
    return plain
