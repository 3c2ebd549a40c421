"""What must hold in a monitor beyond the types of its fields.

Each check gives the place of a mistake and a sentence; the places are those
of the TOML file, so that the mistake is shown with its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from kedge.base import label_text
from kedge.monitor import Monitor, Rule, format_duration
from kedge.toml_lines import Location
from kedge.topics import TOPICS
from kedge.trainers import trainer_mistake

__all__ = [
    "BUILT_IN_RULES",
    "FAIRNESS_METRICS",
    "FEATURE_METRICS",
    "LOCAL",
    "PERFORMANCE_METRICS",
    "RETRAIN_KINDS",
    "WINDOW_METRICS",
    "Mistake",
    "mistakes",
    "suggestion",
]

Mistake = tuple[Location, str]

#: What ``retrain.on`` may name besides the monitor's own rules.
RETRAIN_KINDS = (
    "data-drift",
    "prediction-drift",
    "label-drift",
    "integrity",
    "error-rate",
    "fairness",
)
#: The executor that is Kedge's own trainer.
LOCAL = "local"
#: Rules every monitor has without declaring them.
BUILT_IN_RULES = ("no-data", "low-coverage", "dead-letters", *RETRAIN_KINDS)
#: What a rule can be about without naming a feature, by task.
PERFORMANCE_METRICS = {
    "binary": ("accuracy", "error_rate", "precision", "recall", "f1", "auc", "brier", "ece"),
    "multiclass": ("accuracy", "error_rate", "macro_precision", "macro_recall", "macro_f1", "ece"),
    "regression": ("mae", "rmse"),
}
#: What a rule can be about together with ``segment``, of a binary model.
FAIRNESS_METRICS = (
    "statistical_parity_difference",
    "disparate_impact",
    "equal_opportunity_difference",
)
_SHIFT = ("psi", "jensen_shannon", "kolmogorov_smirnov", "effect_w")
WINDOW_METRICS = (
    "drifted_features",
    "multivariate_drift",
    "label_effect_w",
    "label_selection_w",
    *(f"{output}_{metric}" for output in ("prediction", "score") for metric in _SHIFT),
)
#: What a rule can be about together with ``feature``.
FEATURE_METRICS = (
    *_SHIFT,
    "null_share",
    "type_error_share",
    "not_finite_share",
    "unseen_share",
    "below_share",
    "above_share",
)

#: Topics that must still hold a prediction when its label may come, and a day of slack.
_JOINED = ("predictions", "outcomes", "examples", "panes")
_SLACK = timedelta(days=1)
_MS = timedelta(milliseconds=1)
_HOUR_MS = 3_600_000
_LONGEST_HINT = 100
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


def mistakes(monitor: Monitor) -> list[Mistake]:
    """Give everything that is wrong with a monitor whose fields are valid."""
    return [
        *_labels(monitor),
        *_retention(monitor),
        *_windows(monitor),
        *_segments(monitor),
        *_performance(monitor),
        *_rules(monitor),
        *_retrain(monitor),
        *_executors(monitor),
        *_notify(monitor),
        *_same_hour(monitor),
        *_sources(monitor),
    ]


def suggestion(word: str, known: Sequence[str]) -> str:
    """Say what may have been meant, or what there is.

    >>> suggestion("erorr-rate", ["error-rate", "fairness"])
    'did you mean "error-rate"?'
    >>> suggestion("x", ["error-rate", "fairness"])
    'known: error-rate, fairness'
    """
    close = get_close_matches(word, known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(known) or 'none'}"


def _labels(monitor: Monitor) -> Iterator[Mistake]:
    texts = [label_text(label) for label in monitor.classes]
    for index, text in enumerate(texts):
        if text in texts[:index]:
            yield ("classes", index), f'"{text}" is already in the list'
    if monitor.task == "binary" and monitor.positive not in (None, monitor.classes[1]):
        last = label_text(monitor.classes[0])
        yield ("positive",), f'a score is that of the second class; list "{last}" last in classes'
    if monitor.task == "regression":
        for name, given in (("classes", monitor.classes), ("positive", monitor.positive)):
            if given not in ([], None):
                yield (name,), "a regression model has no classes, leave it out"
    if monitor.labelled and not monitor.label_horizon:
        yield ("label_horizon",), 'must be longer than 0, or write "labelled = false"'


def _retention(monitor: Monitor) -> Iterator[Mistake]:
    if not monitor.labelled:
        return
    kept = {name: TOPICS[name].retention_ms for name in _JOINED}
    topic, retention_ms = min(
        ((name, ms) for name, ms in kept.items() if ms is not None), key=lambda pair: pair[1]
    )
    retention = timedelta(milliseconds=retention_ms)
    needed = monitor.label_horizon + monitor.outcome_wait + _SLACK
    if needed > retention:
        parts = f"{format_duration(monitor.label_horizon)} + "
        parts += f"{format_duration(monitor.outcome_wait)} of outcome_wait + 1d"
        kept_for = f"{retention.days}d"
        yield ("label_horizon",), f"{parts} is longer than {topic} are kept ({kept_for})"


def _windows(monitor: Monitor) -> Iterator[Mistake]:
    scales = monitor.windows.scales
    if not scales:
        yield ("windows", "scales"), "at least one scale is needed, e.g. [1]"
    for index, scale in enumerate(scales):
        if scale in scales[:index]:
            yield ("windows", "scales", index), f"{scale} is already in the list"


def _segments(monitor: Monitor) -> Iterator[Mistake]:
    names = [segment.name for segment in monitor.segments]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("segments", index, "name"), f'"{name}" is declared twice'
    for index, segment in enumerate(monitor.segments):
        low, high = segment.disparate_impact
        if not low < high:
            yield (
                ("segments", index, "disparate_impact"),
                "expected the lower limit and then the higher, like [0.8, 1.25]",
            )


def _performance(monitor: Monitor) -> Iterator[Mistake]:
    detectors = monitor.performance.detectors
    for index, name in enumerate(detectors):
        here: Location = ("performance", "detectors", index)
        if name in detectors[:index]:
            yield here, f'"{name}" is already in the list'
        elif name == "ddm" and monitor.task == "regression":
            yield here, '"ddm" takes losses of 0 and 1 only, a regression model has others'


def _rules(monitor: Monitor) -> Iterator[Mistake]:
    for index, rule in enumerate(monitor.rules):
        for field, text in _rule(monitor, rule):
            yield ("rules", index, field), text


def _rule(monitor: Monitor, rule: Rule) -> Iterator[tuple[str, str]]:
    if rule.name in BUILT_IN_RULES:
        yield "name", f'"{rule.name}" is a built-in rule, choose another name'
    yield from _metric(monitor, rule)
    if rule.scale not in monitor.windows.scales:
        yield "scale", f"{rule.scale} is not one of windows.scales {monitor.windows.scales}"
    if rule.feature is not None and rule.feature not in monitor.features:
        hint = suggestion(rule.feature, list(monitor.features))
        yield "feature", f'"{rule.feature}" is not one of the features; {hint}'
    if rule.segment:
        name = rule.segment.partition("=")[0]
        names = [segment.name for segment in monitor.segments]
        if "=" not in rule.segment:
            yield "segment", 'write it with its value, like "region=NO"'
        elif name not in names:
            yield "segment", f'"{name}" is not one of the segments; {suggestion(name, names)}'


def _metric(monitor: Monitor, rule: Rule) -> Iterator[tuple[str, str]]:
    metrics: tuple[str, ...] = FEATURE_METRICS
    if rule.feature is None:
        metrics = (*PERFORMANCE_METRICS[monitor.task], *WINDOW_METRICS)
        if rule.segment is not None and monitor.task == "binary":
            metrics = (*metrics, *FAIRNESS_METRICS)
    if rule.feature is None and rule.metric in FEATURE_METRICS:
        yield "metric", f'"{rule.metric}" is measured by feature, name one with `feature`'
    elif rule.metric in FAIRNESS_METRICS and rule.metric not in metrics:
        yield "metric", f'"{rule.metric}" is measured by segment, of binary models'
    elif rule.metric not in metrics:
        yield "metric", f'"{rule.metric}" is not measured; {suggestion(rule.metric, metrics)}'


def _retrain(monitor: Monitor) -> Iterator[Mistake]:
    retrain = monitor.retrain
    if retrain is None:
        return
    if not monitor.labelled:
        yield ("retrain",), 'retraining needs labels, but the monitor says "labelled = false"'
    known = [*(rule.name for rule in monitor.rules), *RETRAIN_KINDS]
    for index, name in enumerate(retrain.on):
        if name not in known:
            hint = suggestion(name, known)
            yield ("retrain", "on", index), f'"{name}" is no rule and no kind of alert; {hint}'
    if (mistake := trainer_mistake(retrain.trainer, monitor.task)) is not None:
        yield ("retrain", "trainer"), mistake
    executors = [LOCAL, *(executor.name for executor in monitor.executors)]
    if retrain.executor not in executors:
        hint = suggestion(retrain.executor, executors)
        yield ("retrain", "executor"), f'"{retrain.executor}" is none of the executors; {hint}'


def _executors(monitor: Monitor) -> Iterator[Mistake]:
    names = [executor.name for executor in monitor.executors]
    for index, executor in enumerate(monitor.executors):
        here: Location = ("executors", index)
        if executor.name == LOCAL:
            yield (*here, "name"), f'"{LOCAL}" is Kedge\'s own trainer, choose another name'
        elif executor.name in names[:index]:
            yield (*here, "name"), f'"{executor.name}" is declared twice'
        yield from _variable((*here, "url_env"), executor.url_env, "the URL")
        if executor.secret_env is not None:
            yield from _variable((*here, "secret_env"), executor.secret_env, "the secret")
        if executor.poll > executor.deadline:
            poll, deadline = format_duration(executor.poll), format_duration(executor.deadline)
            yield (*here, "poll"), f"{poll} is longer than the deadline of {deadline}"
        for number, text in enumerate(executor.origins):
            if not _ORIGIN.fullmatch(text):
                yield (
                    (*here, "origins", number),
                    f'"{text}" is no origin, write it like "https://models.example:8443"',
                )


def _notify(monitor: Monitor) -> Iterator[Mistake]:
    for index, notify in enumerate(monitor.notify):
        yield from _variable(("notify", index, "url_env"), notify.url_env, "the URL")


def _variable(location: Location, name: str, what: str) -> Iterator[Mistake]:
    if not _VARIABLE.fullmatch(name):
        yield (
            location,
            f"the name of an environment variable that holds {what}, not {what} itself",
        )


def _same_hour(monitor: Monitor) -> Iterator[Mistake]:
    """Check that a pane lies in one hour of the week, by the clocks that are meant."""
    timezone = monitor.reference.timezone
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = suggestion(timezone, sorted(available_timezones()))
        if len(hint) > _LONGEST_HINT:
            hint = 'write it like "UTC" or "Europe/Oslo"'
        yield ("reference", "timezone"), f'"{timezone}" is no time zone; {hint}'
        return
    if monitor.timezone is None:
        if timezone != "UTC":
            yield ("reference", "timezone"), 'only with from = "same-hour"'
        return
    offsets = (datetime(2025, month, 1, tzinfo=zone).utcoffset() for month in (1, 7))
    step = math.gcd(_HOUR_MS, *(offset // _MS for offset in offsets if offset is not None))
    if step % monitor.pane_ms:
        whose = "an hour" if step == _HOUR_MS else f"the hours of {timezone}"
        most = format_duration(timedelta(milliseconds=step))
        text = f'with from = "same-hour" a pane lies within {whose}: {most}, or {most} divided by '
        text += f"a whole number (got {format_duration(monitor.windows.pane)})"
        yield ("windows", "pane"), text


def _sources(monitor: Monitor) -> Iterator[Mistake]:
    if monitor.reference.source == "file" and not monitor.reference.path:
        yield ("reference", "path"), 'needed, because the reference is from "file"'
    if monitor.reference.path and monitor.reference.source not in {"file", "same-hour"}:
        yield ("reference", "path"), 'only with from = "file" or "same-hour"'
    replay = monitor.replay
    if replay is None:
        return
    if monitor.labelled and replay.label is None:
        yield ("replay", "label"), 'needed, or write "labelled = false"'
    if monitor.task == "regression" and replay.score is not None:
        yield ("replay", "score"), "a regression model has no scores, leave it out"
    if (replay.timestamp is None) == (replay.start is None):
        yield ("replay", "start"), "exactly one of timestamp and start is needed"
    if replay.start is not None:
        if replay.every is None:
            yield ("replay", "every"), "needed with start: the time from row to row"
        if not _is_time(replay.start):
            yield (
                ("replay", "start"),
                f'"{replay.start}" is no time with its zone, like 1996-05-07T00:00:00Z',
            )


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
