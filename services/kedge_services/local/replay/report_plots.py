"""The plots of a report: quality, evidence, drift by feature, and whatever else was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

from kedge_services.local.replay.followed import Followed, Point, Tested
from kedge_services.local.replay.heat import Cell, Row, heat_map
from kedge_services.local.replay.plots import Bar, Box, Dot, Lane, Plot, lanes, text, when
from kedge_services.local.replay.report_case import Case, figure, fired_alerts

__all__ = [
    "SMALL",
    "drift_plots",
    "error_rate_plots",
    "figure_of",
    "integrity_plots",
    "label_plot",
    "measured",
    "quality_plot",
    "reach",
    "status_bars",
    "timeline",
]

#: A plot of which two stand side by side.
SMALL = Box(470, 128, 48)
#: Features with a plot of their own, features with a name in the map, and in the dense one.
_PLOTTED, _NAMED, _DENSE = 8, 40, 1_000
#: From this evidence on a cell is coloured, and how its shades go on (ln p).
_LEVELS = (math.log(1e-2), math.log(1e-4), math.log(1e-8), math.log(1e-16))
_STATUSES = {
    "ok": "quiet: tested, no alarm",
    "alarm": "alarm",
    "learning": "reference being learnt",
    "insufficient": "not enough rows",
}


def figure_of(svg: str, caption: str, *, small: bool = False) -> str:
    """Put a plot on the page with what it shows."""
    kind = " class='small'" if small else ""
    return f"<figure{kind}><figcaption>{caption}</figcaption>{svg}</figure>"


def timeline(case: Case) -> str:
    """Draw what happened when: panes, alerts by rule, requests, versions."""
    followed, span = case.followed, case.followed.span
    rows = [Lane("panes", list(status_bars(followed)))]
    rules: dict[str, list[Bar]] = {}
    for alert in fired_alerts(case.results):
        ends = alert.get("ends_ms")
        told = f"{alert['summary']}; fired {when(alert['fired_ms'])}"
        bar = Bar(alert["fired_ms"], span.right_ms if ends is None else ends,
                  f"severity-{alert['severity']}", told)  # fmt: skip
        rules.setdefault(_of_segment(alert), []).append(bar)
    rows += [Lane(name, bars) for name, bars in rules.items()]
    requests = [
        Bar(r["event_time_ms"], None, "request", f"retrain asked for at "
            f"{when(r['event_time_ms'])}: {r['cause']['kind']}")
        for r in case.results.retrain_requests
    ]  # fmt: skip
    if requests:
        rows.append(Lane("retrain requests", requests))
    if case.crowned:
        marks = [
            Bar(v["changed_ms"], None, _crown(v), f"{v['version']} serves from "
                f"{when(v['changed_ms'])}: {v.get('reason', '')}")
            for v in case.crowned
        ]  # fmt: skip
        rows.append(Lane("promotions", marks))
    rows.append(Lane("who serves", list(_reigns(case))))
    label = "what happened when"
    return figure_of(
        lanes(span, rows, label=label, box=Box(left=150)),
        "Panes: <b class='key ok'></b>tested, quiet <b class='key alarm'></b>alarm "
        "<b class='key insufficient'></b>not tested. Alerts: from firing to their end, "
        "<b class='key severity-critical'></b>critical <b class='key severity-warning'></b>warning "
        "<b class='key severity-info'></b>info. Point at anything for its time and reason.",
    )


def quality_plot(case: Case) -> str:
    """Draw how good the answers were, beside the estimate and the naive answers."""
    steps = case.results.scores.over_time.get("given", ())
    if not steps:
        return ""
    half = case.monitor.pane_ms / 2
    names = {"static": "first version", "no_change": "repeating the last label"}
    others = {
        name: [Dot(s.at_ms + half, s.value) for s in case.results.scores.over_time.get(name, ())]
        for name in names
    }
    estimates = case.followed.estimates(f"estimated_{case.quality}")
    values = [v for s in steps for v in (s.value, s.low, s.high) if v is not None]
    values += [d.value for dots in others.values() for d in dots if d.value is not None]
    values += [p.value for p in estimates if p.value is not None]
    share = not case.results.scores.is_error
    low, high = reach(values, share=share)
    plot = Plot(case.followed.span, low, high, label=case.quality_name, box=Box(height=240),
                is_share=share)  # fmt: skip
    plot.marks([(v["changed_ms"], f"{v['version']} serves") for v in case.crowned], "promotion")
    plot.band([(s.at_ms + half, s.low, s.high) for s in steps], "main")
    keys = [f"<b class='key main'></b>{case.quality_name} of the answers given, with 95 %"]
    if others["static"]:
        keys.append("<b class='key static'></b>had the first version stayed")
    if others["no_change"]:
        keys.append("<b class='key no_change'></b>repeating the last known label")
    for name, dots in others.items():
        plot.line(dots, name)
    if any(p.value is not None for p in estimates):
        plot.band([(p.at_ms, p.low, p.high) for p in estimates], "estimate")
        plot.line([measured(p, f"estimated {case.quality_name}") for p in estimates], "estimate")
        keys.append("<b class='key estimate'></b>estimated without labels, where that is valid")
    plot.line(
        [
            Dot(s.at_ms + half, s.value, f"{when(s.at_ms)}: {figure(s.value)}"
                f"{_between(s.low, s.high)}, {s.n:,} labels")
            for s in steps
        ],
        "main",
    )  # fmt: skip
    if case.crowned:
        keys.append("<b class='key promotion'></b>another version serves")
    return figure_of(plot.svg(), "; ".join(keys))


def error_rate_plots(case: Case) -> str:
    """Draw the evidence of the sequential detectors, each against its threshold."""
    followed = case.followed
    names = sorted({
        name for (name, segment, _), kind in followed.names().items()
        if kind == "labels" and not segment and name not in ("error_rate", "mae")
    })  # fmt: skip
    drawn: list[str] = []
    quiet: list[str] = []
    for name in names:
        points = followed.series(name, kind="labels")
        if not any(p.threshold is not None for p in points):
            continue
        alarms = [
            Dot((w["start_ms"] + w["end_ms"]) / 2, d.get("evidence"), d.get("summary", ""))
            for w in followed.panes("labels")
            for d in w.get("detections", ())
            if d["kind"] == "error-rate" and d["detector"] == name
        ]
        known = [p.value for p in points if p.value is not None] + [
            d.value for d in alarms if d.value is not None
        ]
        limits = [p.threshold for p in points if p.threshold is not None]
        is_log = name.startswith("e_")
        low = 1.0 if is_log else min(0.0, *known, *limits)
        high = max([*known, *limits, low]) * (10 if is_log else 1.05)
        high = min(high, 1e300)
        plot = Plot(followed.span, low, high, label=f"evidence of {name}", is_log=is_log,
                    box=Box(height=150))  # fmt: skip
        plot.marks([(v["changed_ms"], f"{v['version']} serves") for v in case.crowned], "promotion")
        plot.limit([Dot(p.at_ms, p.threshold) for p in points], "alarm above")
        plot.line([measured(p, f"evidence of {name}") for p in points], "main")
        plot.dots(alarms, "alarm")
        told = "evidence that errors are more than in the reference" if is_log else "detector"
        # One that never alarmed need not stand open, but for the error rate's own.
        (drawn if alarms or name == "e_sr" else quiet).append(
            figure_of(
                plot.svg(),
                f"{text(name)}: {told}, pane by pane of the labels' time; "
                "<b class='key limit'></b>alarm above; <b class='key alarm round'></b>alarms"
                f"{', after which it starts again and pauses' if is_log else ''}",
            )
        )
    if quiet:
        more = f"{len(quiet)} more that never alarmed"
        drawn.append(f"<details><summary>{more}</summary>{''.join(quiet)}</details>")
    return "".join(drawn)


def label_plot(case: Case) -> str:
    """Draw the share of rows whose label came in time, where it was not always all of them."""
    panes = case.followed.panes("performance")
    shares = [
        Dot((w["start_ms"] + w["end_ms"]) / 2, w.get("label_coverage"),
            f"{when(w['start_ms'])}: {w['labelled']:,} of {w['n']:,} rows have a label")
        for w in panes
    ]  # fmt: skip
    if all(dot.value in (None, 1.0) for dot in shares):
        told = "Every row of every pane got its label in time." if shares else ""
        return f"<p class='quiet'>{told}</p>"
    plot = Plot(
        case.followed.span, 0, 1, label="share of labels", is_share=True, box=Box(height=120)
    )
    plot.limit([Dot(0, 0.5)], "below, no verdict about labels is given")
    plot.line(shares, "main")
    return figure_of(plot.svg(), "share of rows with a label; <b class='key limit'></b>below it "
                     "there is no verdict")  # fmt: skip


def drift_plots(case: Case) -> str:
    """Draw the map of all features, and the measures of those that say most."""
    tests = case.followed.tests()
    if not tests:
        return "<p class='quiet'>Nothing was measured: no reference, or no rows.</p>"
    drawn = [_map(case.followed, tests, "drift by feature and pane")]
    loudest = [name for name, found in tests.items() if any(t.ln_p is not None for t in found)]
    plots = [_feature(case, name) for name in loudest[:_PLOTTED]]
    if plots:
        drawn.append(
            f"<h3>The {len(plots)} that say most</h3><div class='grid'>{''.join(plots)}</div>"
        )
    return "".join(drawn)


def integrity_plots(case: Case) -> str:
    """Draw the counters (nulls, unseen values ...) that ever stood out."""
    counters = {
        name: tests
        for name, tests in case.followed.counters().items()
        if any(t.is_alarm or (t.ln_p or 0.0) < _LEVELS[0] for t in tests)
    }
    if not counters:
        return ("<p class='quiet'>No counter stood out: nulls, wrong types, numbers that are none, "
                "unseen and out-of-range values were as in the reference.</p>")  # fmt: skip
    return _map(case.followed, counters, "counters by pane")


# --------------------------------------------------------------------- pieces


def _map(followed: Followed, tests: dict[str, list[Tested]], label: str) -> str:
    rows = [_row(name, found) for name, found in tests.items()]
    named, rest = rows[:_NAMED], [row for row in rows[_NAMED:] if row.cells]
    silent = len(rows) - len(named) - len(rest)
    drawn = [
        figure_of(
            heat_map(followed.span, named, label=label),
            "Alarm, by size of the effect: <b class='key a1'></b>up to twice its limit "
            "<b class='key a2'></b>up to four times <b class='key a3'></b>more. Evidence without "
            "the size an alarm needs: <b class='key e1'></b>p &lt; .01 <b class='key e2'></b>.0001 "
            "<b class='key e3'></b>1e-8 <b class='key e4'></b>1e-16. Over all scales, the "
            "strongest; most alarms first.",
        )
    ]
    if silent:
        drawn.append(f"<p class='quiet'>In {silent:,} more nothing stood out in any pane.</p>")
    if rest:
        shown = rest[:_DENSE]
        more = f", the first {len(shown):,} of them" if len(rest) > len(shown) else ""
        dense = heat_map(followed.span, shown, label=label, named=False)
        drawn.append(
            f"<details><summary>The other {len(rest):,}{more}, a thin row each (point at one for "
            f"its name)</summary>{figure_of(dense, text(label))}</details>"
        )
    return "".join(drawn)


def _row(name: str, tests: Sequence[Tested]) -> Row:
    alarms = sum(test.is_alarm for test in tests)
    judged = sum(test.ln_p is not None for test in tests)
    most = max((test.value for test in tests), default=0.0)
    title = f"{name}: alarm in {alarms:,} of {len(tests):,} panes, largest effect {figure(most)}"
    if not judged and not alarms:
        title += ", too few rows to test"
    cells = [
        Cell(t.start_ms, t.end_ms, level, _told(name, t))
        for t in tests
        if (level := _level(t)) is not None
    ]
    return Row(name, title, cells)


def _level(test: Tested) -> str | None:
    if test.is_alarm:
        times = test.value / test.threshold if test.threshold else math.inf
        return "a1" if times <= 2 else "a2" if times <= 4 else "a3"
    depth = sum((test.ln_p or 0.0) < level for level in _LEVELS)
    return f"e{depth}" if depth else None


def _told(name: str, test: Tested) -> str:
    panes = f", over {test.scale} panes" if test.scale > 1 else ""
    p = "not tested" if test.ln_p is None else f"p {_p(test.ln_p)}"
    said = test.summary or f"{name}: effect {figure(test.value)}"
    return f"{when(test.start_ms)}{panes}: {said}, {p}"


def _p(ln_p: float) -> str:
    """Write a p-value from its logarithm, which may be too small for a number."""
    power = ln_p / math.log(10)
    return f"{math.exp(ln_p):.2g}" if power > -4 else f"1e{math.floor(power)}"


def _feature(case: Case, name: str) -> str:
    tests = case.followed.tests()[name]
    dots = [Dot((t.start_ms + t.end_ms) / 2, t.value, _told(name, t)) for t in tests]
    limits = [Dot((t.start_ms + t.end_ms) / 2, t.threshold) for t in tests]
    known = [d.value for d in (*dots, *limits) if d.value is not None]
    plot = Plot(case.followed.span, 0.0, max(known) * 1.08, label=f"drift of {name}", box=SMALL)
    plot.marks([(v["changed_ms"], f"{v['version']} serves") for v in case.crowned], "promotion")
    plot.band([(t.start_ms + (t.end_ms - t.start_ms) / 2, t.low, t.value) for t in tests], "main")
    plot.limit(limits, "an alarm needs a lower bound above this, and evidence")
    plot.line(dots, "main")
    alarms = [dot for dot, test in zip(dots, tests, strict=True) if test.is_alarm]
    plot.dots(alarms, "alarm")
    return figure_of(plot.svg(), f"<b>{text(name)}</b>: alarm in {len(alarms):,} of {len(tests):,} "
                     "panes", small=True)  # fmt: skip


def measured(point: Point, name: str) -> Dot:
    """Give a measure as a point to draw, with all it says."""
    said = f"{when(point.at_ms)}: {name} {figure(point.value)}{_between(point.low, point.high)}"
    return Dot(point.at_ms, point.value, f"{said}, n {point.n:,}")


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({figure(low)} to {figure(high)})"


def reach(values: Iterable[float], *, share: bool) -> tuple[float, float]:
    """Give the ends of an axis: a little air, and never more than a share can be."""
    known = list(values)
    low, high = min(known), max(known)
    air = 0.05 * (high - low) or abs(high) * 0.05 or 0.5
    low, high = (low if low == 0 else low - air), high + air
    return (max(0.0, low), min(1.0, high)) if share else (low, high)


def status_bars(followed: Followed) -> Iterator[Bar]:
    """Give the panes as bars by what became of them; panes of one kind in a row are one bar."""
    panes = followed.panes("drift")
    ends = {
        w["end_ms"] for w in followed.windows if w["kind"] == "drift" and w["status"] == "alarm"
    }
    named = [(w, "alarm" if w["end_ms"] in ends else w["status"]) for w in panes]
    for status, run in groupby(named, key=lambda pair: pair[1]):
        found = [window for window, _ in run]
        start, end = found[0]["start_ms"], found[-1]["end_ms"]
        told = (
            f"{len(found):,} panes, {when(start)} to {when(end)}: {_STATUSES.get(status, status)}"
        )
        yield Bar(start, end, status, told)


def _reigns(case: Case) -> Iterator[Bar]:
    span = case.followed.span
    serving = [(span.left_ms, v) if i == 0 else (at, v)
               for i, (at, v) in enumerate(case.followed.serving)]  # fmt: skip
    ended = [*serving, (span.right_ms, "")]
    for number, ((start, version), (end, _)) in enumerate(pairwise(ended)):
        yield Bar(
            start, end, f"reign{number % 2}", f"{version} serves, {when(start)} to {when(end)}"
        )


def _crown(version: Any) -> str:
    decision = (version.get("evidence") or {}).get("decision")
    return "rollback" if decision == "rollback" else "promotion"


def _of_segment(alert: Any) -> str:
    return f"{alert['rule']}, {alert['segment']}" if alert.get("segment") else str(alert["rule"])
