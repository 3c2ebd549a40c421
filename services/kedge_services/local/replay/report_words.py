"""What a replay showed, in sentences; the budget of false alarms beside every count of alarms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kedge_services.local.replay.plots import when
from kedge_services.local.replay.report_case import Case, figure, fired_alerts

__all__ = ["Sentence", "control", "control_text", "sentences", "verdict_of", "verdict_text"]

#: Above this chance so many alarms may be noise.
_CHANCE = 0.05
#: Share of the panes from which the reference itself is in doubt, and of how many panes.
_NEARLY_ALL = (0.8, 5)
_NAMED = 5
_REASONS = 3
_NUMBER = re.compile(r"[\d.,]*\d%?")


class Sentence(NamedTuple):
    """Something to know; ``kind`` is good, bad or note."""

    kind: str
    text: str


def sentences(case: Case) -> list[Sentence]:
    """Give what one has to know, the most important first."""
    return [
        *_drift(case),
        *_quality(case),
        *_estimate(case),
        *_alerts(case),
        *_labels(case),
        *_loop(case),
        *_put_aside(case),
    ]


def verdict_text(*, verdicts: int, alarms: int, by_chance: float, budget: str) -> str:
    """Hold a number of alarms against the budget.

    >>> verdict_text(verdicts=93, alarms=0, by_chance=0.116, budget="1 per week")
    '0 of 93 tested panes alarmed; by chance at most 0.12 would (budget: 1 per week)'
    """
    return (
        f"{alarms:,} of {verdicts:,} tested panes alarmed; by chance at most {by_chance:.2g} would "
        f"(budget: {budget})"
    )


def verdict_of(summary: Mapping[str, Any], budget: str) -> str:
    """Hold the alarms of a replay against the monitor's budget."""
    return verdict_text(
        verdicts=summary["verdicts"],
        alarms=summary["verdicts_with_alarm"],
        by_chance=summary["alarms_by_chance"],
        budget=budget,
    )


def control(case: Case) -> Sentence | None:
    """Say what the control showed; None for a replay of the stream as it was."""
    return control_text(case.summary, case.monitor.drift.false_alarms)


def control_text(summary: Mapping[str, Any], budget: str) -> Sentence | None:
    """Say the same from a summary and a budget."""
    if summary.get("permuted") is None:
        return None
    alarms = summary["verdicts_with_alarm"]
    told = (
        "This is the control: the rows were shuffled over time (seed "
        f"{summary['permuted']}), so nothing changes, and every alarm is a false one. "
    )
    told += verdict_of(summary, budget)
    besides = _besides(summary)
    if not summary["verdicts"]:
        return Sentence("note", f"{told}. No pane could be tested, so it shows nothing.{besides}")
    if not alarms:
        return Sentence("good", f"{told}: the budget held.{besides}")
    chance = min(1.0, summary["alarms_by_chance"] / alarms)
    if chance > _CHANCE:
        told += f"; as many come in up to {chance:.0%} of such controls: the budget is not refuted."
        return Sentence("note", f"{told} Try other seeds.{besides}")
    told += (
        f": the budget did NOT hold here (as many come in at most {chance:.1%} of such controls). "
        "Shuffled rows are exchangeable, so this is worth a report."
    )
    return Sentence("bad", f"{told}{besides}")


def _besides(summary: Mapping[str, Any]) -> str:
    """Say what else a control did: other alerts, and retraining that no drift can have caused."""
    told = ""
    if summary.get("alerts"):
        rules = ", ".join(f"{rule} {n:,}" for rule, n in summary["alerts_by_rule"].items())
        told += f" Alerts that fired: {rules}."
    if summary.get("promotions"):
        told += f" {summary['promotions']:,} versions were promoted"
        for name in ("accuracy", "mae"):
            given, static = summary.get(name), summary.get(f"{name}_static")
            if given is not None and static is not None:
                told += f" ({name} {figure(given)}, of the first version {figure(static)})"
        told += ": what more data is worth here, without any drift."
    return told


def _drift(case: Case) -> Iterator[Sentence]:
    summary, statuses = case.summary, case.statuses
    verdicts, alarms = summary["verdicts"], summary["verdicts_with_alarm"]
    untested = [f"{n:,} {why}" for status, why in _UNTESTED.items() if (n := statuses.get(status))]
    if not verdicts:
        why = f": {'; '.join(untested)}" if untested else ""
        yield Sentence("note", f"No pane was tested for drift{why}. A verdict needs 100 rows in "
                       "the pane and 1,000 in the reference.")  # fmt: skip
        return
    counted = verdict_of(summary, case.monitor.drift.false_alarms)
    rest = f" Not tested: {'; '.join(untested)}." if untested else ""
    if not alarms:
        yield Sentence("good", f"Inputs and outputs were as in the reference: {counted}.{rest}")
        return
    chance = min(1.0, summary["alarms_by_chance"] / alarms)
    if summary.get("permuted") is not None:
        yield Sentence("note", f"Something alarmed: {counted}.{rest}")
    elif chance > _CHANCE:
        told = f"Something alarmed, and it may be noise: {counted}; so many come by chance in up"
        yield Sentence("note", f"{told} to {chance:.0%} of such streams.{rest}")
    else:
        told = f"Inputs or outputs changed: {counted}. This is a change, not noise.{rest}"
        yield Sentence("bad", told)
    share, least = _NEARLY_ALL
    if verdicts >= least and alarms >= share * verdicts and case.summary.get("permuted") is None:
        yield Sentence(
            "note",
            "Nearly every pane alarms, so the reference does not describe this stream: it changed "
            "for good (a retrained model brings a new reference), or it has seasons or a trend "
            "that the reference has not seen (take a longer one, or one by hour: "
            '[reference] from = "same-hour").',
        )
    for what, found in (("Moved", case.followed.tests()), ("Broken", case.followed.counters())):
        named = [(name, sum(t.is_alarm for t in tests)) for name, tests in found.items()]
        named = [pair for pair in named if pair[1]]
        if named:
            told = ", ".join(f"{name} ({count:,})" for name, count in named[:_NAMED])
            more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
            yield Sentence("note", f"{what} most often, by panes with an alarm: {told}{more}.")


_UNTESTED = {
    "insufficient": "with too few rows",
    "learning": "while the reference was learnt",
}


def _quality(case: Case) -> Iterator[Sentence]:
    scores, name = case.results.scores, case.quality_name
    whole = scores.whole
    if whole is None:
        why = "" if case.results.scores.labelled else ", and no labels"
        yield Sentence("note", f"The data holds no answers of a model{why}: inputs and labels "
                       "alone were watched, nothing can be said of errors.")  # fmt: skip
        return
    told = f"{name[0].upper()}{name[1:]} of the answers given: {figure(whole.value)}"
    if whole.low is not None:
        told += f" (95 % {figure(whole.low)} to {figure(whole.high)})"
    told += f" over {whole.n:,} labelled rows"
    if scores.static is not None:
        told += f"; had the first version stayed {figure(scores.static)}"
    if scores.no_change is not None:
        told += f"; repeating the last known label {figure(scores.no_change)}"
    worse = scores.no_change is not None and (
        scores.no_change < whole.value if scores.is_error else scores.no_change > whole.value
    )
    told += ", which is better: labels come in runs here." if worse else "."
    yield Sentence("note", told)
    reference = _worse_than_static(case)
    if reference:
        yield reference


def _worse_than_static(case: Case) -> Sentence | None:
    scores = case.results.scores
    if scores.static is None or scores.given is None or not case.summary["promotions"]:
        return None
    gain = scores.static - scores.given if scores.is_error else scores.given - scores.static
    if gain < 0:
        return Sentence("bad", "Retraining made it worse than leaving the first version alone.")
    unit = f"{figure(gain)}" if scores.is_error else f"{100 * gain:.1f} points"
    return Sentence("good", f"Retraining was worth {unit} over the first version. Part of any such "
                    "gain is more data, not drift: see what --permute gives.")  # fmt: skip


def _estimate(case: Case) -> Iterator[Sentence]:
    points = case.followed.estimates("estimated_accuracy")
    if not points:
        return
    valid = sum(point.value is not None for point in points)
    reasons: dict[str, list[str]] = {}
    for point in points:
        if point.value is None and point.note:
            for reason in point.note.removeprefix("not valid: ").split("; "):
                # The same reason with other numbers is one reason.
                reasons.setdefault(_NUMBER.sub("#", reason), []).append(reason)
    ranked = sorted(reasons.values(), key=len, reverse=True)[:_REASONS]
    why = "; ".join(f"{found[0]} ({_panes(len(found))})" for found in ranked)
    if valid:
        told = f"Without labels accuracy could be estimated in {valid:,} of {len(points):,} panes"
        told += f"; elsewhere not, e.g.: {why}" if why else ""
    else:
        told = f"Without labels accuracy could not be estimated in any pane: {why or 'no scores'}"
    yield Sentence("note", f"{told}.")


def _panes(count: int) -> str:
    return "1 pane" if count == 1 else f"{count:,} panes"


def _alerts(case: Case) -> Iterator[Sentence]:
    fired = fired_alerts(case.results)
    if not fired:
        yield Sentence("good", "No alert fired.")
        return
    kinds = Counter(alert["rule"] for alert in fired)
    told = ", ".join(f"{rule} {count:,}" for rule, count in kinds.most_common())
    first = fired[0]
    still = sum(alert.get("ends_ms") is None for alert in fired)
    ends = f"; {still:,} still firing at the end" if still else "; all over by the end"
    yield Sentence("bad", f"{len(fired):,} alerts fired ({told}), the first, {first['rule']}, at "
                   f"{when(first['fired_ms'])}{ends}.")  # fmt: skip


def _labels(case: Case) -> Iterator[Sentence]:
    rows, labelled = case.summary["rows"], case.summary["labelled"]
    if not case.monitor.labelled:
        yield Sentence("note", "The monitor says that no labels come.")
    elif labelled < rows:
        share = labelled / max(1, rows)
        yield Sentence("note", f"{labelled:,} of {rows:,} rows ({share:.1%}) have a label.")


def _loop(case: Case) -> Iterator[Sentence]:
    summary = case.summary
    asked = summary["retrain_requests"]
    if case.monitor.retrain is None:
        return
    causes = Counter(r["cause"]["kind"] for r in case.results.retrain_requests)
    why = ", ".join(f"{kind} {count:,}" for kind, count in causes.most_common())
    told = f"A retrain was asked for {asked:,} times{f' ({why})' if why else ''}"
    if summary["trainings"] or summary["promotions"]:
        told += (
            f"; {summary['trainings']:,} trainings ended, {summary['promotions']:,} of the new "
            f"versions were promoted, {summary['rollbacks']:,} rolled back"
        )
    elif asked and "closed loop" not in case.options:
        told += "; nobody trains here without --closed-loop"
    yield Sentence("note", f"{told}.")


def _put_aside(case: Case) -> Iterator[Sentence]:
    letters = case.summary["dead_letters"]
    if letters:
        told = ", ".join(f"{reason} {count:,}" for reason, count in letters.items())
        yield Sentence("bad", f"Records were put aside, because they could not be counted: {told}.")
