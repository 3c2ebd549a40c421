"""The page for people: what happened, when, and why; one file without scripts or links."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kedge_services.local.replay.results import Results

__all__ = ["page"]

#: Rows a table shows; the files hold all.
_SHOWN = 200
_CHART = (960, 200)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem;
       padding: 0 1rem; color: #1d2733; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; vertical-align: top;
         border-bottom: 1px solid #e3e8ee; }
td.number { text-align: right; white-space: nowrap; }
td.time { white-space: nowrap; }
.quiet { color: #5b6875; } .alarm { color: #a4161a; }
svg { width: 100%; height: auto; } dl { display: grid; grid-template-columns: 14rem 1fr; }
dt { color: #5b6875; } dd { margin: 0; }
"""


def page(results: Results, *, data: str, options: Mapping[str, str]) -> str:
    """Make the page.

    Parameters
    ----------
    data
        What was replayed, as the user named it.
    options
        How, by option.
    """
    summary = results.summary
    parts = [
        f"<h1>Replay of {_text(summary['model'])}</h1>",
        _lead(summary, data, options),
        _figures(summary),
        _quality(results),
        _alerts(results.alerts),
        _alarms(results.windows),
        _versions(results.model_versions),
        _requests(results.retrain_requests),
        _letters(summary["dead_letters"]),
    ]
    title = f"Kedge: replay of {_text(summary['model'])}"
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


# ------------------------------------------------------------------- sections


def _lead(summary: Mapping[str, Any], data: str, options: Mapping[str, str]) -> str:
    told = ", ".join(f"{name} {value}".strip() for name, value in options.items())
    span = f"{_time(summary['first_ms'])} to {_time(summary['last_ms'])} (UTC)"
    return f"<p class='quiet'>{_text(data)}: {span}; {_text(told)}</p>"


def _figures(summary: Mapping[str, Any]) -> str:
    names = (
        ("rows", "rows replayed"), ("warm_up", "rows before, as reference"),
        ("labelled", "rows with a label"), ("windows", "windows"),
        ("verdicts", "panes in which drift was tested"),
        ("verdicts_with_alarm", "of these with an alarm"), ("alerts", "alerts that fired"),
        ("retrain_requests", "retrain requests"), ("trainings", "trainings"),
        ("promotions", "promotions"), ("rollbacks", "rollbacks"),
        ("accuracy", "accuracy of the answers given"),
        ("accuracy_static", "… had the first version stayed"),
        ("accuracy_no_change", "… repeating the last label"), ("kappa_t", "kappa_t"),
        ("mae", "mean absolute error"), ("mae_static", "… had the first version stayed"),
        ("mae_no_change", "… repeating the last label"),
    )  # fmt: skip
    rows = (
        f"<dt>{told}</dt><dd>{_number(summary[name])}</dd>"
        for name, told in names
        if summary.get(name) is not None
    )
    return f"<dl>{''.join(rows)}</dl>"


def _quality(results: Results) -> str:
    scores = results.scores
    if not scores.over_time:
        return ""
    name = "Mean absolute error" if scores.is_error else "Accuracy"
    drawn = _chart([(at_ms, value) for at_ms, value, _ in scores.over_time])
    return f"<h2>{name}, pane by pane</h2>{drawn}"


def _chart(points: Sequence[tuple[int, float]]) -> str:
    width, height = _CHART
    times, values = [at for at, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    left, right = min(times), max(times)

    def place(at_ms: int, value: float) -> str:
        x = 50 + (width - 60) * (at_ms - left) / max(1, right - left)
        y = 10 + (height - 40) * (1 - (value - low) / ((high - low) or 1))
        return f"{x:.1f},{y:.1f}"

    line = " ".join(place(at_ms, value) for at_ms, value in points)
    return (
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='from {low:.3g} to {high:.3g}'>"
        f"<polyline points='{line}' fill='none' stroke='#1f6feb' stroke-width='1.5'/>"
        f"<g font-size='11' fill='#5b6875'><text x='0' y='14'>{high:.3g}</text>"
        f"<text x='0' y='{height - 28}'>{low:.3g}</text>"
        f"<text x='50' y='{height - 8}'>{_time(left)}</text>"
        f"<text x='{width - 10}' y='{height - 8}' text-anchor='end'>{_time(right)}</text></g></svg>"
    )


def _alerts(alerts: Iterable[Mapping[str, Any]]) -> str:
    fired: dict[str, Mapping[str, Any]] = {}
    for alert in alerts:
        if alert.get("fired_ms") is not None:
            fired[alert["alert_id"]] = alert
    rows = [
        [
            _cell(_time(alert["fired_ms"]), "time"),
            _cell(_time(alert["ends_ms"]) if alert.get("ends_ms") else "still firing", "time"),
            _cell(alert["rule"]),
            _cell(alert["severity"]),
            _cell(alert["summary"]),
        ]
        for alert in sorted(fired.values(), key=lambda a: (a["fired_ms"], a["alert_id"]))
    ]
    return _table("Alerts", ("fired", "ended", "rule", "severity", "why"), rows)


def _alarms(windows: Iterable[Mapping[str, Any]]) -> str:
    found = [
        (window, detection)
        for window in windows
        for detection in window.get("detections", [])
        if window["scale"] == 1
    ]
    features = Counter(d["feature"] for _, d in found if d.get("feature"))
    told = ", ".join(f"{_text(name)} ({count})" for name, count in features.most_common(20))
    lead = f"<p>Features named most: {told}.</p>" if told else ""
    rows = [
        [
            _cell(_time(window["start_ms"]), "time"),
            _cell(_time(window["end_ms"]) + (" (partial)" if window["is_partial"] else ""), "time"),
            _cell(window["kind"]),
            _cell(_number(window["n"]), "number"),
            _cell(detection["summary"]),
        ]
        for window, detection in found
    ]
    head = ("from", "to", "window", "rows", "verdict")
    return _table("Windows of one pane with an alarm", head, rows, lead=lead)


def _versions(versions: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            _cell(_time(version["changed_ms"]), "time"),
            _cell(version["version"]),
            _cell(version["status"]),
            _cell(_number(version.get("lineage", {}).get("rows", 0)), "number"),
            _cell(version.get("reason", "")),
        ]
        for version in versions
    ]
    return _table("Model versions", ("when", "version", "standing", "trained on", "why"), rows)


def _requests(requests: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            _cell(_time(request["event_time_ms"]), "time"),
            _cell(request["cause"]["kind"]),
            _cell(", ".join(request["cause"].get("alert_ids", [])) or request["request_id"]),
        ]
        for request in requests
    ]
    return _table("Retrain requests", ("when", "cause", "of"), rows)


def _letters(letters: Mapping[str, int]) -> str:
    rows = [[_cell(reason), _cell(_number(count), "number")] for reason, count in letters.items()]
    return _table("Put aside", ("reason", "records"), rows) if rows else ""


# --------------------------------------------------------------------- pieces


def _table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, lead: str = ""
) -> str:
    if not rows:
        return f"<h2>{title}</h2><p class='quiet'>none</p>"
    names = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows[:_SHOWN])
    more = len(rows) - _SHOWN
    rest = f"<p class='quiet'>and {more} more, see the files</p>" if more > 0 else ""
    return f"<h2>{title} ({len(rows)})</h2>{lead}<table><tr>{names}</tr>{body}</table>{rest}"


def _cell(text: str, kind: str = "") -> str:
    return f"<td class='{kind}'>{_text(text)}</td>" if kind else f"<td>{_text(text)}</td>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
