"""What the demo found, as numbers and as a verdict."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from kedge_services.local.demo.story import Story
from kedge_services.local.recount.recount import Report

__all__ = ["Ending", "Scenario", "Summary", "judge", "recounted", "summarise"]

Scenario = Literal["drift", "no-drift", "data"]
_RECOVERED_WITHIN = 0.03
_PANES_TO_ALERT = 3
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run; times are ms since the epoch, None where it did not happen."""

    scenario: Scenario
    broker: str
    predictions: int
    outcomes: int
    examples: int
    windows: int
    alerts: int
    notifications: int
    retrain_requests: int
    candidates: int
    promotions: int
    rollbacks: int
    dead_letters: int
    drift_started_ms: int | None
    first_alert_ms: int | None
    retrain_requested_ms: int | None
    candidate_ms: int | None
    promoted_ms: int | None
    accuracy_before_drift: float | None
    accuracy_drifted: float | None
    accuracy_after_promotion: float | None
    records_in: int
    records_accounted: int
    peak_rss_mb: float
    alert_rules: list[str] = field(default_factory=list)
    fates: dict[str, dict[str, int]] = field(default_factory=dict)
    service_restarts: int = 0
    speed_up: float | None = None
    at_rest: bool = True
    recount_compared: int = 0
    recount_differences: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Give JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ending:
    """Whether the run ended well, and every reason why it did not."""

    problems: list[str]

    @property
    def is_good(self) -> bool:
        """True when nothing is missing."""
        return not self.problems


def summarise(
    story: Story,
    *,
    scenario: Scenario,
    broker: str,
    drift_started_ms: int | None,
    notifications: int,
    peak_rss_mb: float,
    restarts: int,
    speed_up: float | None = None,
) -> Summary:
    """Draw the figures out of what was seen."""
    fired = sorted(story.fired_ms.values())
    if scenario == "data":
        drift_started_ms = fired[0] if fired else None
    since_drift = [ms for ms in fired if drift_started_ms is not None and ms >= drift_started_ms]
    promoted = story.promoted_ms[0] if story.promoted_ms else None
    before_end = drift_started_ms if drift_started_ms is not None else sys.maxsize
    promoted_version = story.promotions[0].version if story.promotions else None
    drifted = (
        None
        if drift_started_ms is None
        else story.accuracy(drift_started_ms, promoted or sys.maxsize).value
    )
    after = None if promoted is None else story.accuracy(promoted, sys.maxsize, promoted_version)
    fates: dict[str, dict[str, int]] = {}
    for progress in story.fates.values():
        for topic, counts in progress.fates.items():
            sums = fates.setdefault(topic, {})
            for fate, count in counts.items():
                sums[fate] = sums.get(fate, 0) + count
    return Summary(
        scenario=scenario,
        broker=broker,
        predictions=story.counts.get("predictions-champion", 0),
        outcomes=story.counts.get("outcomes", 0),
        examples=len(story.answers),
        windows=len(story.window_ids),
        alerts=len(story.fired_ms),
        notifications=notifications,
        retrain_requests=len(story.requested_ms),
        candidates=len(story.candidate_ms),
        promotions=len(story.promoted_ms),
        rollbacks=story.rollbacks,
        dead_letters=story.counts.get("dead-letters", 0),
        drift_started_ms=drift_started_ms,
        first_alert_ms=since_drift[0] if since_drift else None,
        retrain_requested_ms=story.requested_ms[0] if story.requested_ms else None,
        candidate_ms=story.candidate_ms[0] if story.candidate_ms else None,
        promoted_ms=promoted,
        accuracy_before_drift=story.accuracy(0, before_end).value,
        accuracy_drifted=drifted,
        accuracy_after_promotion=after.value if after else None,
        records_in=story.records_in,
        records_accounted=story.records_accounted,
        peak_rss_mb=round(peak_rss_mb, 1),
        alert_rules=sorted({alert.rule for alert in story.alerts.values()}),
        fates=fates,
        service_restarts=restarts,
        speed_up=speed_up,
    )


def recounted(summary: Summary, report: Report, later: Summary) -> Summary:
    """Add what the recount found; its records in and accounted for are those that count.

    Parameters
    ----------
    summary
        The figures as they were told.
    report
        Of the recount that followed.
    later
        The figures after it: what was still on its way may have been counted or not.
    """
    found = report.differences_total
    differences = report.differences[:_SHOWN]
    if found > len(differences):
        differences.append(f"and {found - len(differences):,} more")
    told, since = summary.as_json(), later.as_json()
    for name, number in report.figures.items():
        if number not in (told[name], since[name]) and not _is_between(
            told[name], number, since[name]
        ):
            differences.append(f"{name}: recounted {number}, told {told[name]}")
    return replace(
        summary,
        records_in=report.records_in,
        records_accounted=report.records_accounted,
        recount_compared=sum(report.compared.values()) + len(report.figures),
        recount_differences=differences,
    )


def _is_between(least: float | None, number: float | None, most: float | None) -> bool:
    return None not in (least, number, most) and least <= number <= most  # type: ignore[operator]


def judge(summary: Summary, story: Story, *, pane_ms: int, label_delay_ms: int) -> Ending:
    """Say what is missing from a good end of this scenario."""
    problems = []
    if summary.records_in != summary.records_accounted:
        problems.append(
            f"{summary.records_in:,} records came in, {summary.records_accounted:,} are accounted"
        )
    if not summary.at_rest:
        problems.append("the services did not come to rest, so the recount is of a moment")
    if summary.recount_differences:
        problems.append(f"the recount differs: {summary.recount_differences[0]}")
    if summary.scenario == "no-drift":
        if summary.alerts:
            problems.append(f"{summary.alerts} alerts fired: {', '.join(summary.alert_rules)}")
        if summary.promotions:
            problems.append(f"{summary.promotions} versions were promoted")
        return Ending(problems)
    steps = {
        "no alert fired": summary.first_alert_ms,
        "no retrain was requested": summary.retrain_requested_ms,
        "no candidate was trained": summary.candidate_ms,
        "no version was promoted": summary.promoted_ms,
    }
    problems += [problem for problem, at_ms in steps.items() if at_ms is None]
    problems += _unexplained_promotions(story)
    if summary.scenario == "drift":
        problems += _drift_problems(summary, story, pane_ms=pane_ms, label_delay_ms=label_delay_ms)
    return Ending(problems)


def _unexplained_promotions(story: Story) -> list[str]:
    problems = []
    for version in story.promotions:
        unknown = [a for a in version.lineage.alert_ids if a not in story.fired_ms]
        if not version.lineage.alert_ids or unknown:
            problems.append(f"{version.version} does not name the alert that caused it")
        stated = sum(end - start for start, end in version.lineage.examples.values())
        if not 0 < version.lineage.rows <= stated:
            problems.append(
                f"{version.version} was trained on {version.lineage.rows} rows, but its lineage "
                f"states a range of {stated}"
            )
    return problems


def _drift_problems(
    summary: Summary, story: Story, *, pane_ms: int, label_delay_ms: int
) -> list[str]:
    problems = []
    before, drifted = summary.accuracy_before_drift, summary.accuracy_drifted
    after = summary.accuracy_after_promotion
    if before is None or drifted is None or drifted >= before - _RECOVERED_WITHIN:
        problems.append("the accuracy did not fall with the drift")
    if after is None or before is None or after < before - _RECOVERED_WITHIN:
        problems.append("the accuracy did not come back within 3 points of the start")
    if summary.first_alert_ms is not None and summary.drift_started_ms is not None:
        waited = summary.first_alert_ms - summary.drift_started_ms - label_delay_ms
        if waited > _PANES_TO_ALERT * pane_ms:
            problems.append(
                f"the first alert came {waited / pane_ms:.1f} panes after the first labels"
            )
    kinds = {story.alerts[alert_id].kind for alert_id in story.fired_ms}
    problems += [
        f"no {kind} alert when the incomes shifted and nulls appeared"
        for kind in ("data-drift", "integrity")
        if kind not in kinds
    ]
    if not summary.notifications:
        problems.append("the on-call webhook received nothing")
    return problems
