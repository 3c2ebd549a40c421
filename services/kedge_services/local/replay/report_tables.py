"""The tables of a report: alerts with their reasons, panes with alarms, requests, versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kedge_services.local.replay.plots import text, when
from kedge_services.local.replay.report_case import Case, figure, fired_alerts

__all__ = [
    "alarm_table",
    "alert_table",
    "attribution_table",
    "letter_table",
    "request_table",
    "table",
    "version_table",
]

#: Rows a table shows, the files hold all; and how many stand open on the page.
_SHOWN, _OPEN, _ALERTS_OPEN = 200, 15, 50


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    most_open: int = _OPEN,
) -> str:
    """Write a table of texts; columns in ``numbers`` are aligned to the right.

    One of more than ``most_open`` rows is folded, a long one says how many it leaves out.
    """
    kinds = [
        " class='number'" if i in numbers else " class='time'" if name in _TIMES else ""
        for i, name in enumerate(head)
    ]
    names = "".join(f"<th{kind}>{text(name)}</th>" for name, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{text(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows[:_SHOWN]
    )
    more = len(rows) - _SHOWN
    rest = f"<p class='quiet'>and {more:,} more, see the files</p>" if more > 0 else ""
    whole = (
        f"<div class='wide'><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
        f"</div>{rest}"
    )
    if len(rows) <= most_open:
        return whole
    return f"<details><summary>All {len(rows):,}</summary>{whole}</details>"


def alert_table(case: Case) -> str:
    """List the alerts that fired, each with its explanation."""
    rows = [
        [
            when(alert["fired_ms"]),
            when(alert["ends_ms"]) if alert.get("ends_ms") else "still firing",
            alert["rule"],
            alert["severity"],
            _why(case, alert),
        ]
        for alert in fired_alerts(case.results)
    ]
    head = ("fired", "ended", "rule", "severity", "why")
    return table(head, rows, most_open=_ALERTS_OPEN) if rows else _none("none fired")


def alarm_table(case: Case) -> str:
    """List the detections of single panes."""
    rows = [
        [
            when(window["start_ms"]),
            when(window["end_ms"]) + (" (partial)" if window["is_partial"] else ""),
            window["kind"] + (f", {window['segment']}" if window.get("segment") else ""),
            f"{window['n']:,}",
            detection.get("summary") or detection["detector"],
        ]
        for window in case.results.windows
        for detection in window.get("detections", [])
        if window["scale"] == 1
    ]
    head = ("from", "to", "window", "rows", "verdict")
    return table(head, rows, numbers=(3,)) if rows else _none("none")


def request_table(case: Case) -> str:
    """List when a retrain was asked for, and why."""
    rows = [
        [
            when(request["event_time_ms"]),
            request["cause"]["kind"],
            request["cause"].get("rule") or "",
            ", ".join(request["cause"].get("alert_ids", [])) or request["request_id"],
        ]
        for request in case.results.retrain_requests
    ]
    return table(("when", "cause", "rule", "of"), rows) if rows else _none("none was asked for")


def version_table(case: Case) -> str:
    """List the versions with the decisions about them."""
    rows = [
        [
            when(version["changed_ms"]),
            version["version"],
            version["status"],
            figure((version.get("lineage") or {}).get("rows") or None),
            version.get("reason", ""),
            _evidence(version.get("evidence") or {}),
        ]
        for version in case.results.model_versions
    ]
    head = ("when", "version", "standing", "trained on", "why", "evidence")
    return table(head, rows, numbers=(3,)) if rows else _none("none")


def attribution_table(case: Case) -> str:
    """Rank what drove the changes: the mean share over the panes that tell one."""
    shares: dict[tuple[str, str], list[float]] = {}
    for window in case.followed.windows:
        if window["scale"] != 1:
            continue
        for m in window.get("measures", ()):
            if m["name"] == "attribution" and m.get("value") is not None:
                what = m.get("feature") or window.get("segment") or "the rest"
                shares.setdefault((window["kind"], what), []).append(m["value"])
    panes = {kind: max(len(v) for (k, _), v in shares.items() if k == kind) for kind, _ in shares}
    ranked = sorted(shares.items(), key=lambda item: (-sum(item[1]), item[0]))
    rows = [
        [what, _DRIVEN.get(kind, kind), f"{sum(found) / panes[kind]:.0%}", f"{len(found):,}"]
        for (kind, what), found in ranked[:20]
    ]
    head = ("what", "drives", "mean share", "panes")
    return table(head, rows, numbers=(2, 3)) if rows else ""


def letter_table(case: Case) -> str:
    """Count what was put aside."""
    letters: Mapping[str, int] = case.summary["dead_letters"]
    rows = [[reason, f"{count:,}"] for reason, count in letters.items()]
    return table(("reason", "records"), rows, numbers=(1,)) if rows else _none("nothing")


_TIMES = {"when", "fired", "ended", "from", "to", "rule", "standing"}
_DRIVEN = {"drift": "the drift", "performance": "the loss of accuracy", "labels": "the errors"}


def _why(case: Case, alert: Mapping[str, Any]) -> str:
    # Every alert of a replay is about the same model: its name adds nothing here.
    prefix = f"{case.monitor.model} version "
    return str(alert["summary"]).removeprefix(prefix)


def _evidence(evidence: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in _figures(evidence))


def _figures(evidence: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in evidence.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        yield name.replace("_", " "), figure(value)


def _none(what: str) -> str:
    return f"<p class='quiet'>{what}</p>"
