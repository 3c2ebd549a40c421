"""A monitor in a few lines, so that its author sees what Kedge has understood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from kedge import Monitor
from kedge.base import label_text
from kedge.monitor import ReferenceSource, Retrain, Rule, Segment, format_duration
from kedge.monitor_checks import LOCAL
from kedge_services.cli.budgets import budget_lines

__all__ = ["summary"]


def summary(monitor: Monitor) -> str:
    """Give the lines of ``kedge check``."""
    lines = [f"{monitor.model}: {_task(monitor)}"]
    lines += [f"  {name:<9} {text}" for name, text in _parts(monitor)]
    return "\n".join(lines)


def _parts(monitor: Monitor) -> Iterator[tuple[str, str]]:
    kinds = Counter(feature.type for feature in monitor.features.values())
    yield "features", ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    pane = monitor.windows.pane
    sizes = ", ".join(format_duration(pane * scale) for scale in monitor.windows.scales)
    grace = format_duration(monitor.windows.grace)
    yield "windows", f"{sizes}; panes of {format_duration(pane)}, closed {grace} after their end"
    yield "labels", _labels(monitor)
    yield "reference", _reference(monitor.reference)
    yield "drift", f"false alarms: at most {monitor.drift.false_alarms}"
    yield from budget_lines(monitor)
    if monitor.segments:
        yield "segments", ", ".join(map(_segment, monitor.segments))
    if monitor.labelled and monitor.performance.detectors != ["e-sr"]:
        yield "detectors", _detectors(monitor)
    for rule in monitor.rules:
        yield "rule", _rule(rule)
    yield "retrain", "never" if monitor.retrain is None else _retrain(monitor.retrain)
    for executor in monitor.executors:
        deadline = format_duration(executor.deadline)
        secret = f", signed with ${executor.secret_env}" if executor.secret_env else ""
        yield (
            "executor",
            f"{executor.name}: {executor.kind} at ${executor.url_env}{secret}, within {deadline}",
        )
    for notify in monitor.notify:
        severities = ", ".join(notify.severities)
        yield "notify", f"{notify.kind} at ${notify.url_env} ({severities})"


def _task(monitor: Monitor) -> str:
    if monitor.task == "regression":
        return "regression"
    classes = ", ".join(map(label_text, monitor.classes))
    positive = monitor.classes[1] if monitor.positive is None else monitor.positive
    score = f"; a score is that of {label_text(positive)}" if monitor.task == "binary" else ""
    return f"{monitor.task} ({classes}){score}"


def _reference(reference: ReferenceSource) -> str:
    told = f"from {reference.source}"
    if reference.source == "same-hour":
        told += f", by the clocks of {reference.timezone}"
    return told if reference.path is None else f"{told}, {reference.path}"


def _labels(monitor: Monitor) -> str:
    if not monitor.labelled:
        return "none"
    panes = format_duration(timedelta(milliseconds=monitor.performance_pane_ms))
    return (
        f"waited for {format_duration(monitor.label_horizon)}, "
        f"for their prediction {format_duration(monitor.outcome_wait)}; performance by {panes}"
    )


def _segment(segment: Segment) -> str:
    base = "" if segment.base is None else f" (against {label_text(segment.base)})"
    return segment.name + base


def _detectors(monitor: Monitor) -> str:
    named = monitor.performance.detectors
    others = ", ".join(name for name in named if name != "e-sr")
    return f"{', '.join(named)}; the false alarms of {others} are outside the budget"


def _rule(rule: Rule) -> str:
    bound = f"below {rule.below:g}" if rule.below is not None else f"above {rule.above:g}"
    where = "".join(f" of {part}" for part in (rule.feature, rule.segment) if part)
    scale = f", windows of {rule.scale} panes" if rule.scale > 1 else ""
    return f"{rule.name}: {rule.metric}{where} {bound} for {rule.for_}{scale} ({rule.severity})"


def _retrain(retrain: Retrain) -> str:
    causes = [f"on {', '.join(retrain.on)}"] if retrain.on else []
    if retrain.schedule is not None:
        causes.append(f'at "{retrain.schedule}" UTC')
    if retrain.every_labels is not None:
        causes.append(f"every {retrain.every_labels} labels")
    is_local = retrain.executor == LOCAL
    trains = retrain.trainer if is_local else f"the executor {retrain.executor}"
    return (
        f"{' or '.join(causes) or 'by hand only'}; {retrain.mode} with {trains}, "
        f"{retrain.promotion} promotion; at most {retrain.per_day} a day, "
        f"{format_duration(retrain.cooldown)} apart"
    )
