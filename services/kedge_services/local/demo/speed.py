"""Runs a monitor faster than time: every duration of it divided by a speed-up."""

from __future__ import annotations

from datetime import timedelta

from kedge.monitor import Monitor, Rule, format_duration, parse_duration

__all__ = ["speed_up_monitor"]

_LEAST = timedelta(milliseconds=1)


def speed_up_monitor(monitor: Monitor, factor: float) -> Monitor:
    """Divide every duration by ``factor``; a duration that is not zero stays at least 1 ms."""

    def faster(duration: timedelta) -> timedelta:
        return max(_LEAST, duration / factor) if duration else duration

    retrain = monitor.retrain
    return monitor.model_copy(
        update={
            "label_horizon": faster(monitor.label_horizon),
            "outcome_wait": faster(monitor.outcome_wait),
            "windows": monitor.windows.model_copy(
                update={
                    "pane": timedelta(milliseconds=round(faster(monitor.windows.pane) / _LEAST)),
                    "grace": faster(monitor.windows.grace),
                }
            ),
            "rules": [_faster_rule(rule, factor) for rule in monitor.rules],
            "retrain": retrain
            and retrain.model_copy(update={"cooldown": faster(retrain.cooldown)}),
        }
    )


def _faster_rule(rule: Rule, factor: float) -> Rule:
    def faster(text: str) -> str:
        if "window" in text:
            return text
        return format_duration(max(_LEAST, parse_duration(text) / factor))

    return rule.model_copy(
        update={"for_": faster(rule.for_), "keep_firing_for": faster(rule.keep_firing_for)}
    )
