"""The page for people: what was run, what it showed, when and why; one file without scripts.

==================== =====================================================
``followed``         the windows of whoever served, read for people
``report_case``      one replay to be reported
``report_words``     what it showed, in sentences
``report_plots``     the plots; ``plots`` and ``heat`` draw them as SVG
``report_measures``  every further measure, a small plot each
``report_tables``    alerts, panes with alarms, requests, versions
``report_style``     the frame: style, content security policy
==================== =====================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta

from kedge.monitor import Monitor, format_duration
from kedge_services.core.budget import Budget
from kedge_services.local.replay import report_plots as plots
from kedge_services.local.replay import report_tables as tables
from kedge_services.local.replay.plots import text, when
from kedge_services.local.replay.report_case import Case, figure
from kedge_services.local.replay.report_measures import measure_plots
from kedge_services.local.replay.report_style import document
from kedge_services.local.replay.report_words import control, sentences
from kedge_services.local.replay.results import Results

__all__ = ["page"]


def page(results: Results, monitor: Monitor, *, data: str, options: Mapping[str, str]) -> str:
    """Make the page.

    Parameters
    ----------
    data
        What was replayed, as the user named it.
    options
        How, by option.
    """
    case = Case.of(results, monitor, data, options)
    sections = {
        "Timeline": plots.timeline(case),
        "Quality": _quality(case),
        "Drift": _drift(case),
        "Broken inputs": plots.integrity_plots(case),
        "Alerts": tables.alert_table(case),
        "Other measures": measure_plots(case),
        "Retrain requests": tables.request_table(case),
        "Model versions": tables.version_table(case),
        "Put aside": tables.letter_table(case),
        "What was run": _run(case),
        "How to read this": _notes(case),
    }
    shown = {name: body for name, body in sections.items() if body}
    parts = [
        f"<h1>Replay of {text(monitor.model)}</h1>",
        f"<p class='quiet'>{text(data)}, {_rows(case)}</p>",
        _control(case),
        f"<div class='tiles'>{''.join(_tiles(case))}</div>",
        _told(case),
        _links(list(shown)),
        *(f"<h2 id='{_anchor(name)}'>{name}</h2>\n{body}" for name, body in shown.items()),
    ]
    return document(f"Kedge: replay of {monitor.model}", "\n".join(filter(None, parts)))


# ------------------------------------------------------------------- sections


def _control(case: Case) -> str:
    told = control(case)
    return "" if told is None else f"<p class='control {told.kind}'>{text(told.text)}</p>"


def _told(case: Case) -> str:
    items = "".join(f"<li class='{s.kind}'>{text(s.text)}</li>" for s in sentences(case))
    return f"<ul class='told'>{items}</ul>"


def _tiles(case: Case) -> Iterator[str]:
    summary = case.summary
    alarms, verdicts = summary["verdicts_with_alarm"], summary["verdicts"]
    yield _tile(f"{alarms:,} of {verdicts:,}", "tested panes with an alarm")
    yield _tile(f"{summary['alarms_by_chance']:.2g}", "alarms by chance, at most")
    yield _tile(f"{summary['alerts']:,}", "alerts that fired")
    whole = case.results.scores.whole
    if whole is not None:
        yield _tile(figure(whole.value), f"{case.quality_name} of the answers")
    if case.monitor.retrain is not None:
        yield _tile(f"{summary['retrain_requests']:,}", "retrain requests")
    if "closed loop" in case.options:
        yield _tile(
            f"{summary['promotions']:,}", f"promotions, of {summary['trainings']:,} trainings"
        )


def _quality(case: Case) -> str:
    parts = [plots.quality_plot(case), plots.error_rate_plots(case), plots.label_plot(case)]
    return "".join(filter(None, parts))


def _drift(case: Case) -> str:
    attribution = tables.attribution_table(case)
    alarms = tables.alarm_table(case)
    return (
        plots.drift_plots(case)
        + (f"<h3>What drives it</h3>{attribution}" if attribution else "")
        + f"<h3>Verdicts of single panes</h3>{alarms}"
    )


def _run(case: Case) -> str:
    monitor, summary = case.monitor, case.summary
    kinds = Counter(feature.type for feature in monitor.features.values())
    pane = monitor.windows.pane
    scales = ", ".join(format_duration(pane * scale) for scale in monitor.windows.scales)
    performance = format_duration(timedelta(milliseconds=monitor.performance_pane_ms))
    told = {
        "data": case.data,
        "event times (UTC)": f"{when(summary['first_ms'], seconds=True)} to "
        f"{when(summary['last_ms'], seconds=True)}",
        "rows": f"{summary['rows']:,} replayed, after {summary['warm_up']:,} taken as reference; "
        f"{summary['labelled']:,} with a label",
        "how": ", ".join(f"{name} {value}".strip() for name, value in case.options.items()),
        "monitor": f"{monitor.model}, {monitor.task}; "
        + ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        + " features",
        "windows": f"{scales}; a pane is {format_duration(pane)}, for performance {performance}",
        "reference": _reference(case),
        "labels": f"waited for {format_duration(monitor.label_horizon)}"
        if monitor.labelled
        else "none",
        "budget": f"{monitor.drift.false_alarms} over all tests of the model",
        "rules": "; ".join(
            f"{r.name}: {r.metric}{f' of {r.feature}' if r.feature else ''} "
            f"{'below' if r.above is None else 'above'} "
            f"{r.below if r.above is None else r.above} for {r.for_}"
            for r in monitor.rules
        )
        or "none but the built-in ones",
        "retraining": _retraining(case),
        "windows made": f"{summary['windows']:,}",
    }
    if case.results.stride > 1:
        told["windows shown"] = (
            f"of every {case.results.stride:,} panes that follow one another one, with an alarm if "
            "there is any; the counts above are of all, and so is windows.ndjson"
        )
    rows = "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in told.items())
    return f"<dl>{rows}</dl>"


def _notes(case: Case) -> str:
    budget = Budget.of(case.monitor)
    verdicts = case.summary["verdicts"]
    spent = f"{budget.drift:.3g} and those of counters {budget.integrity:.3g}"
    notes = [
        (
            "A <b>pane</b> is the shortest window; when it closes, every feature and output is "
            "tested in windows of several lengths that end with it. An <b>alarm</b> needs both "
            "evidence (a p-value below its share of the budget) and size (an 80 % lower bound of "
            "the effect above a floor), so neither trifles in large windows nor noise in small "
            "ones alarm."
        ),
        (
            "<b>By chance at most</b>: in one pane the tests of distributions together have "
            f"{spent}, split over all features and lengths (union bound, whatever depends on "
            f"what); times {verdicts:,} panes. The chance of so many alarms is bounded by Markov's "
            "inequality. It holds for streams that do not change; <code>--permute</code> makes one "
            "of this stream."
        ),
        (
            "<b>Effects</b>: Kolmogorov-Smirnov distance (floor .05) for numbers, Cohen's w (floor "
            ".10) for categories; the shaded band goes down to the lower bound."
        ),
        (
            "<b>Bands</b> of shares are Wilson's 95 % intervals, of means &plusmn;1.96 s/&radic;n; "
            "both take rows as independent, and are too narrow where labels come in runs."
        ),
        "<b>Accuracy</b> is prequential: every answer was given before its label was known.",
        (
            "Times are event times in UTC. The files beside this page hold every number; the cost "
            "of the run is in summary.json."
        ),
    ]
    return f"<ul>{''.join(f'<li>{note}</li>' for note in notes)}</ul>"


# --------------------------------------------------------------------- pieces


def _tile(value: str, told: str) -> str:
    return f"<div class='tile'><b>{text(value)}</b><span>{text(told)}</span></div>"


def _rows(case: Case) -> str:
    summary = case.summary
    told = ", ".join(f"{name} {value}".strip() for name, value in case.options.items())
    return (
        f"{summary['rows']:,} rows, {when(summary['first_ms'])} to {when(summary['last_ms'])} UTC; "
        f"{text(told)}"
    )


def _reference(case: Case) -> str:
    source = case.monitor.reference.source
    if case.summary["warm_up"]:
        return f"the first {case.summary['warm_up']:,} rows of the data ({source})"
    return "learnt from the first rows" if source == "first-events" else source


def _retraining(case: Case) -> str:
    retrain = case.monitor.retrain
    if retrain is None:
        return "never"
    causes = [*retrain.on]
    if retrain.every_labels:
        causes.append(f"every {retrain.every_labels:,} labels")
    if retrain.schedule:
        causes.append(f"schedule {retrain.schedule}")
    return f"on {', '.join(causes)}; promotion {retrain.promotion}, trainer {retrain.trainer}"


def _links(names: list[str]) -> str:
    links = "".join(f"<a href='#{_anchor(name)}'>{name}</a> " for name in names)
    return f"<nav>{links}</nav>"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
