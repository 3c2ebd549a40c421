"""The files a replay writes: the events as they came out, a summary, a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from kedge.monitor import Monitor
from kedge_services.core.budget import Budget
from kedge_services.local.replay.scores import Scores, answers_of, score
from kedge_services.local.replay.simulation import Run, Span

__all__ = ["FILES", "Results", "final_windows", "gather", "to_line", "write"]

#: The events, each kind one file with an event a line.
FILES = ("windows", "alerts", "retrain-requests", "model-versions", "dead-letters")
#: Fields of a window that say how it was sent, not what is in it.
_OF_SENDING = ("revision", "labelled_total")
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """What came out of a run, in the order it is written."""

    windows: list[Event]
    alerts: list[Event]
    retrain_requests: list[Event]
    model_versions: list[Event]
    dead_letters: list[Event]
    scores: Scores
    summary: dict[str, Any]

    def events(self, name: str) -> list[Event]:
        """Give the events of one file."""
        found: list[Event] = getattr(self, name.replace("-", "_"))
        return found


def gather(run: Run, *, permuted: int | None = None) -> Results:
    """Read what came out of a run; ``permuted`` is the seed where the rows were shuffled."""
    cluster, monitor = run.cluster, run.cluster.monitor
    windows = final_windows(cluster.events("windows"), run.span, pane_ms=monitor.pane_ms,
                            performance_pane_ms=monitor.performance_pane_ms)  # fmt: skip
    end_ms = max((window["end_ms"] for window in windows), default=run.span.last_ms)
    alerts = [alert for alert in cluster.events("alerts") if _time(alert) <= end_ms]
    requests = cluster.events("retrain-requests")
    candidates = cluster.events("candidates")
    versions = [_without_cost(version) for version in cluster.events("model-versions")]
    letters = [*_late(run), *_letters(run)]
    regression = monitor.task == "regression"
    scores = score(
        run.live, _given(run), _static(run), regression=regression, step_ms=monitor.pane_ms
    )
    summary = {
        "model": monitor.model,
        "task": monitor.task,
        "permuted": permuted,
        "rows": len(run.live),
        "warm_up": len(run.warm_up),
        "labelled": scores.labelled,
        "first_ms": run.span.first_ms,
        "last_ms": run.span.last_ms,
        "windows": len(windows),
        **_verdicts(windows),
        "alarms_by_chance": _by_chance(monitor, windows),
        **_fired(alerts),
        "retrain_requests": len(requests),
        "trainings": sum(1 for c in candidates if c.get("version") is None) - bool(run.first),
        "promotions": _crowned(versions, "fast", "paired-test"),
        "rollbacks": _crowned(versions, "rollback"),
        "dead_letters": dict(sorted(Counter(letter["reason"] for letter in letters).items())),
        **scores.named(),
    }
    return Results(windows, alerts, requests, versions, letters, scores, summary)


def final_windows(
    events: Iterable[Event], span: Span, *, pane_ms: int, performance_pane_ms: int
) -> list[Event]:
    """Give every final window once, at its highest revision, by (end, id).

    Left out are the windows after the end of the data, and the fields that say
    how a window was sent.  ``is_partial`` marks those that begin before the data
    does or end after it.
    """
    best: dict[str, Event] = {}
    for event in events:
        known = best.get(event["window_id"])
        if known is None or event.get("revision", 0) >= known.get("revision", 0):
            best[event["window_id"]] = event
    kept = []
    for event in best.values():
        last_ms = span.labelled_ms if event["kind"] == "labels" else span.last_ms
        length_ms = performance_pane_ms if event["kind"] == "performance" else pane_ms
        if event.get("is_final") and event["end_ms"] <= last_ms - last_ms % length_ms + length_ms:
            plain = {name: value for name, value in event.items() if name not in _OF_SENDING}
            plain["is_partial"] = event["start_ms"] < span.first_ms or event["end_ms"] > last_ms
            kept.append(plain)
    return sorted(kept, key=lambda window: (window["end_ms"], window["window_id"]))


def write(results: Results, out: Path, *, page: str, cost: Mapping[str, float]) -> None:
    """Write every file into a directory.

    Parameters
    ----------
    cost
        What the run took; the only figures of the summary that differ between
        two runs on the same data.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        lines = [to_line(event) for event in results.events(name)]
        (out / f"{name}.ndjson").write_text("".join(lines), encoding="utf-8")
    summary = json.dumps({**results.summary, **cost}, indent=2, ensure_ascii=False)
    (out / "summary.json").write_text(summary + "\n", encoding="utf-8")
    (out / "report.html").write_text(page, encoding="utf-8")


def to_line(event: Event) -> str:
    """Give an event as it is written, the same whatever it was read from."""
    return msgspec.json.encode(event).decode() + "\n"


def _time(alert: Event) -> int:
    """Give the event time of an alert's last change."""
    times = (alert["starts_ms"], alert.get("fired_ms"), alert.get("ends_ms"))
    return max(int(time_ms) for time_ms in times if time_ms is not None)


def _verdicts(windows: Iterable[Event]) -> dict[str, int]:
    """Count the panes at whose close at least one drift test ran, and those with an alarm."""
    judged = {
        w["end_ms"] for w in windows if w["kind"] == "drift" and w["status"] in ("ok", "alarm")
    }
    alarms = {w["end_ms"] for w in windows if w["kind"] == "drift" and w["status"] == "alarm"}
    return {"verdicts": len(judged), "verdicts_with_alarm": len(alarms)}


def _by_chance(monitor: Monitor, windows: Iterable[Event]) -> float:
    """Give how many of the panes with a verdict would alarm by chance, at most.

    The union bound over all tests of a pane, whatever depends on what.
    """
    budget = Budget.of(monitor)
    return round(_verdicts(windows)["verdicts"] * (budget.drift + budget.integrity), 6)


def _fired(alerts: Iterable[Event]) -> dict[str, Any]:
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


def _crowned(versions: Iterable[Event], *decisions: str) -> int:
    """Count how often a version became champion by one of these decisions."""
    return sum(
        1
        for version in versions
        if version["status"] == "champion" and version["evidence"]["decision"] in decisions
    )


def _without_cost(version: Event) -> Event:
    """Leave out what differs between two runs: the cost, and where the store lies."""
    plain = {name: value for name, value in version.items() if name != "cost"}
    if plain.get("artefact"):
        artefact = plain["artefact"]
        suffix = artefact["uri"].rpartition("/")[2]
        plain["artefact"] = {**artefact, "uri": f"artefacts/{suffix[:2]}/{suffix}"}
    return plain


def _late(run: Run) -> list[Event]:
    return [
        {
            "reason": "late",
            "detail": f"{behind_ms} ms behind the watermark of model {run.cluster.monitor.model}",
            "topic": "predictions",
            "prediction_id": row.prediction_id,
            "event_time_ms": row.time_ms,
        }
        for row, behind_ms in run.live.late
    ]


def _letters(run: Run) -> list[Event]:
    found = []
    for record in run.cluster.broker.records("dead-letters"):
        headers = {name: value.decode(errors="replace") for name, value in record.headers}
        found.append(
            {
                "reason": headers.get("kedge-reason", ""),
                "detail": headers.get("kedge-detail", ""),
                "topic": headers.get("kedge-topic", ""),
                "value": (record.value or b"").decode(errors="replace"),
            }
        )
    return sorted(found, key=lambda letter: (letter["topic"], letter["value"]))


def _given(run: Run) -> dict[str, Any]:
    if run.first is None:
        rows = (row for row in run.live.rows if row.role == "champion")
        return answers_of((row.prediction_id, row.output) for row in rows)
    events = run.cluster.events("predictions")
    served = (event for event in events if event.get("role", "champion") == "champion")
    return answers_of((event["prediction_id"], event.get("output")) for event in served)


def _static(run: Run) -> dict[str, Any]:
    """Give what the first version would have answered, had it never been replaced."""
    if run.first is None:
        return {}
    outputs = run.first.predict([row.features for row in run.live.rows])
    return answers_of(
        (row.prediction_id, output.model_dump(exclude_none=True))
        for row, output in zip(run.live.rows, outputs, strict=True)
    )
