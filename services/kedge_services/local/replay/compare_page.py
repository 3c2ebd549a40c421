"""The page that lays several monitors over each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kedge_services.local.replay.plots import Bar, Box, Dot, Lane, Plot, Span, lanes, text, when
from kedge_services.local.replay.report_case import Case, figure, fired_alerts
from kedge_services.local.replay.report_plots import figure_of, status_bars
from kedge_services.local.replay.report_style import document
from kedge_services.local.replay.report_words import Sentence, control, verdict_of
from kedge_services.local.replay.scores import Step

__all__ = ["ROWS", "Contender", "compare_page", "figures"]

#: Lines of different colours; more monitors begin again.
_COLOURS = 6
_HOUR_MS = 3_600_000
#: Hours from which days are told.
_TWO_DAYS = 48
#: What a summary says that is the same for all, or of no use in a table.
_LEFT_OUT = ("first_ms", "last_ms", "first_alert_ms")
_NOTE = (
    "<p class='quiet'>Monitors with different warm-ups begin at different rows. “Last label” "
    "repeats the last label known. What each monitor costs is in compare.json.</p>"
)
Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Contender:
    """What is drawn of one monitor's replay."""

    name: str
    figures: Figures
    span: Span
    quality: str
    steps: Sequence[Step]
    half_ms: float
    panes: Sequence[Bar]
    alerts: Sequence[Bar]
    promotions: Sequence[Bar]
    alarms: Sequence[int]
    budget: str
    control: Sentence | None

    @classmethod
    def of(cls, name: str, case: Case) -> Contender:
        """Take what is drawn from a replay."""
        right = case.followed.span.right_ms
        alerts = [
            Bar(a["fired_ms"], a.get("ends_ms") or right, f"severity-{a['severity']}", a["summary"])
            for a in fired_alerts(case.results)
        ]
        promotions = [
            Bar(v["changed_ms"], None, "promotion", f"{v['version']} serves from "
                f"{when(v['changed_ms'])}: {v.get('reason', '')}")
            for v in case.crowned
        ]  # fmt: skip
        alarms = {
            w["end_ms"]
            for w in case.results.windows
            if w["kind"] == "drift" and w["status"] == "alarm"
        }
        return cls(
            name, figures(case.summary), case.followed.span, case.quality_name,
            case.results.scores.over_time.get("given", ()), case.monitor.pane_ms / 2,
            list(status_bars(case.followed)), alerts, promotions, sorted(alarms),
            case.monitor.drift.false_alarms, control(case),
        )  # fmt: skip


def figures(summary: Figures) -> dict[str, Any]:
    """Give what a table holds of a summary; the first alert is counted from the first row."""
    plain = {name: value for name, value in summary.items() if name not in _LEFT_OUT}
    first = min(summary["first_alert_ms"].values(), default=None)
    after = None if first is None else first - summary["first_ms"]
    return {**plain, "first_alert_ms": first, "first_alert_after_ms": after}


def _first_alert(found: Figures) -> str:
    after_ms = found["first_alert_after_ms"]
    if after_ms is None:
        return "none"
    hours = after_ms / _HOUR_MS
    return f"{hours / 24:.1f} days" if hours >= _TWO_DAYS else f"{hours:.1f} hours"


def _named(name: str) -> Callable[[Figures], str]:
    return lambda found: figure(found.get(name))


#: The rows of the table, with how each is read from a summary.
ROWS: Sequence[tuple[str, Callable[[Figures], str]]] = (
    ("rows replayed", _named("rows")),
    ("panes tested", _named("verdicts")),
    ("with an alarm", _named("verdicts_with_alarm")),
    ("by chance, at most", lambda s: f"{s['alarms_by_chance']:.2g}"),
    ("alerts that fired", _named("alerts")),
    (
        "by rule",
        lambda s: ", ".join(f"{rule} {n}" for rule, n in s["alerts_by_rule"].items()) or "none",
    ),
    (
        "first alert at",
        lambda s: "none" if s["first_alert_ms"] is None else when(s["first_alert_ms"]),
    ),
    ("… after the first row", _first_alert),
    ("retrain requests", _named("retrain_requests")),
    ("trainings", _named("trainings")),
    ("promotions", _named("promotions")),
    ("rollbacks", _named("rollbacks")),
    ("accuracy", _named("accuracy")),
    ("accuracy, first version", _named("accuracy_static")),
    ("accuracy, last label", _named("accuracy_no_change")),
    ("mean absolute error", _named("mae")),
    ("mean absolute error, first version", _named("mae_static")),
    ("mean absolute error, last label", _named("mae_no_change")),
    ("put aside", lambda s: figure(sum(s["dead_letters"].values()))),
)


def compare_page(contenders: Sequence[Contender], *, data: str, options: Mapping[str, str]) -> str:
    """Make the page; the monitors in the order they were named."""
    told = ", ".join(f"{name} {value}".strip() for name, value in options.items())
    parts = [
        f"<h1>{len(contenders)} monitors on the same data</h1>",
        f"<p class='quiet'>{text(data)}; {text(told)}</p>",
        f"<ul class='told'>{''.join(_sentences(contenders))}</ul>",
        "<h2>Side by side</h2>",
        _table(contenders),
        "<h2>What happened when</h2>",
        _timeline(contenders),
        "<h2>Panes with an alarm so far</h2>",
        _alarms(contenders),
        _quality(contenders),
        _NOTE,
    ]
    return document("Kedge: monitors compared", "\n".join(filter(None, parts)))


def _sentences(contenders: Sequence[Contender]) -> Iterator[str]:
    for contender in contenders:
        found, said = contender.figures, contender.control
        if said is None:
            said = Sentence("note", f"{verdict_of(found, contender.budget)}.")
        yield f"<li class='{said.kind}'><b>{text(contender.name)}</b>: {text(said.text)}</li>"


def _table(contenders: Sequence[Contender]) -> str:
    head = "".join(
        f"<th class='number'><b class='key {_colour(i)}'></b>"
        f"<a href='{quote(c.name)}/report.html'>{text(c.name)}</a></th>"
        for i, c in enumerate(contenders)
    )
    rows = []
    for name, read in ROWS:
        cells = [read(contender.figures) for contender in contenders]
        if any(cell != "-" for cell in cells):
            shown = "".join(f"<td class='number'>{text(cell)}</td>" for cell in cells)
            rows.append(f"<tr><td>{name}</td>{shown}</tr>")
    return (
        f"<div class='wide'><table class='figures'><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _timeline(contenders: Sequence[Contender]) -> str:
    rows = []
    for contender in contenders:
        rows.append(Lane(f"{contender.name}: panes", contender.panes))
        rows.append(Lane("alerts", contender.alerts))
        if contender.promotions:
            rows.append(Lane("promotions", contender.promotions))
    drawn = lanes(_span(contenders), rows, label="what happened when", box=Box(left=190))
    return figure_of(
        drawn,
        "Panes: <b class='key ok'></b>tested, quiet <b class='key alarm'></b>alarm "
        "<b class='key insufficient'></b>not tested; alerts from firing to their end.",
    )


def _alarms(contenders: Sequence[Contender]) -> str:
    most = max(len(contender.alarms) for contender in contenders)
    if not most:
        return "<p class='quiet'>None alarmed.</p>"
    span = _span(contenders)
    plot = Plot(span, 0, most * 1.05, label="panes with an alarm so far", box=Box(height=180))
    for number, contender in enumerate(contenders):
        dots = [Dot(contender.span.left_ms, 0)]
        for count, end_ms in enumerate(contender.alarms, 1):
            dots.append(Dot(end_ms, count - 1))
            dots.append(Dot(end_ms, count, f"{contender.name}: alarm {count} at {when(end_ms)}"))
        dots.append(Dot(contender.span.right_ms, len(contender.alarms)))
        plot.line(dots, _colour(number))
    return figure_of(plot.svg(), _keys(contenders))


def _quality(contenders: Sequence[Contender]) -> str:
    drawn = []
    for quality in dict.fromkeys(contender.quality for contender in contenders):
        mine = [
            (number, contender)
            for number, contender in enumerate(contenders)
            if contender.quality == quality and contender.steps
        ]
        values = [step.value for _, contender in mine for step in contender.steps]
        if not values:
            continue
        air = 0.05 * (max(values) - min(values)) or 0.05
        is_share = quality == "accuracy"
        high = min(1.0, max(values) + air) if is_share else max(values) + air
        plot = Plot(_span(contenders), max(0.0, min(values) - air), high, label=quality,
                    is_share=is_share, box=Box(height=240))  # fmt: skip
        for number, contender in mine:
            dots = [
                Dot(s.at_ms + contender.half_ms, s.value, f"{contender.name}, {when(s.at_ms)}: "
                    f"{figure(s.value)}")
                for s in contender.steps
            ]  # fmt: skip
            plot.line(dots, _colour(number))
        drawn.append(
            f"<h2>{quality[0].upper()}{quality[1:]}, pane by pane</h2>"
            f"{figure_of(plot.svg(), _keys(contenders))}"
        )
    return "".join(drawn)


def _keys(contenders: Sequence[Contender]) -> str:
    return " ".join(
        f"<b class='key {_colour(i)}'></b>{text(c.name)}" for i, c in enumerate(contenders)
    )


def _span(contenders: Sequence[Contender]) -> Span:
    return Span(
        min(contender.span.left_ms for contender in contenders),
        max(contender.span.right_ms for contender in contenders),
    )


def _colour(number: int) -> str:
    return f"m{number % _COLOURS}"
