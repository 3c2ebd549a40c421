"""What a report is about: the results, what was asked, and who served when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kedge.monitor import Monitor
from kedge_services.local.replay.followed import Followed, follow
from kedge_services.local.replay.results import Results

__all__ = ["Case", "figure", "fired_alerts"]


@dataclass(frozen=True, slots=True)
class Case:
    """One replay to be reported.

    Attributes
    ----------
    data
        What was replayed, as the user named it.
    options
        How, by option.
    """

    results: Results
    monitor: Monitor
    followed: Followed
    data: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, results: Results, monitor: Monitor, data: str, options: Mapping[str, str]) -> Case:
        """Read the results for people."""
        followed = follow(results.windows, results.model_versions)
        return cls(results, monitor, followed, data, options)

    @property
    def summary(self) -> Mapping[str, Any]:
        """The figures."""
        return self.results.summary

    @property
    def quality(self) -> str:
        """What tells how good the answers are: ``accuracy`` or ``mae``."""
        return "mae" if self.results.scores.is_error else "accuracy"

    @property
    def quality_name(self) -> str:
        """The same for people."""
        return "mean absolute error" if self.results.scores.is_error else "accuracy"

    @property
    def statuses(self) -> Mapping[str, int]:
        """Count the panes by what became of their drift windows, over all scales.

        Nothing where not all windows are here to be counted.
        """
        if self.results.stride > 1:
            return {}
        panes: dict[int, set[str]] = {}
        for window in self.followed.windows:
            if window["kind"] == "drift":
                panes.setdefault(window["end_ms"], set()).add(window["status"])
        order = ("alarm", "ok", "learning", "insufficient")
        return Counter(next(s for s in order if s in found) for found in panes.values())

    @property
    def crowned(self) -> Sequence[Mapping[str, Any]]:
        """The moments at which another version began to serve."""
        return [
            v
            for v in self.results.model_versions
            if v["status"] == "champion"
            and (v.get("evidence") or {}).get("decision", "first") != "first"
        ]


def fired_alerts(results: Results) -> list[Mapping[str, Any]]:
    """Give each alert that fired, with its reason and its end, in the order of firing."""
    fired: dict[str, dict[str, Any]] = {}
    for alert in results.alerts:
        if alert.get("fired_ms") is not None:
            # What is told when it ends is that it ended; the reason was told before.
            why = fired.get(alert["alert_id"], alert)["summary"]
            fired[alert["alert_id"]] = {**alert, "summary": why}
    return sorted(fired.values(), key=lambda a: (a["fired_ms"], a["alert_id"]))


def figure(value: float | None, digits: int = 4) -> str:
    """Write a number for people.

    >>> figure(1234567), figure(0.123456), figure(12345.678), figure(None)
    ('1,234,567', '0.1235', '12,346', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"
