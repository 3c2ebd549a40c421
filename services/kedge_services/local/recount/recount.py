"""The whole recount: reads every topic once, compares, and reports."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kedge_services.local.recount.bins import read_references
from kedge_services.local.recount.comparing import (
    compare_answers,
    compare_cells,
    compare_fates,
    compare_rows,
)
from kedge_services.local.recount.examples import Example, Key, compare_examples, expected_examples
from kedge_services.local.recount.figures import (
    Promotions,
    accuracies,
    alerts_fired,
    read_promotions,
)
from kedge_services.local.recount.intake import Intake
from kedge_services.local.recount.joining import Joined, join
from kedge_services.local.recount.letters import Letters
from kedge_services.local.recount.pairs import compare_evidence, compare_pairs
from kedge_services.local.recount.panes import Deltas, count_labelled, read_deltas, rows_of
from kedge_services.local.recount.plain import Findings, Log, events, read_monitors
from kedge_services.local.recount.windows import compare_windows

__all__ = ["Report", "recount"]

#: As the services have it when nobody set anything else.
MAX_SKEW_MS = 300_000
#: Fates of records that are nowhere else told than by their number.
_STILL = ("duplicate", "unlabelled", "waiting")


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes
    ----------
    records_in
        Records of the two inputs.
    records_accounted
        Those of them that were found again: in panes, in examples, in dead
        letters; and those that repeat, wait, or belong to a model without labels.
    places
        The same by topic and place.
    decided_by_dead_letter
        Records whose fate the raw records alone leave open, by the reason the
        dead letter gives.
    compared
        How many things of which kind were compared.
    figures
        A run's figures.
    differences, differences_total
        Everything that does not fit, the first 200 in full.
    """

    records_in: int
    records_accounted: int
    places: Mapping[str, Mapping[str, int]]
    fates: Mapping[str, Mapping[str, int]]
    decided_by_dead_letter: Mapping[str, int]
    compared: Mapping[str, int]
    figures: Mapping[str, int | float | None]
    differences_total: int
    differences: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Say whether everything fits, and every record is accounted for."""
        return not self.differences_total and self.records_in == self.records_accounted


def recount(
    log: Log, *, max_skew_ms: int = MAX_SKEW_MS, drift_started_ms: int | None = None
) -> Report:
    """Count everything again.

    Parameters
    ----------
    log
        The topics, at rest.
    max_skew_ms
        How far event time may lie ahead of append time.
    drift_started_ms
        Event time that divides the figures of accuracy.
    """
    with _without_collector():
        return _recount(log, max_skew_ms=max_skew_ms, drift_started_ms=drift_started_ms)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Let nobody look for cycles: there are none in millions of objects that all stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _recount(log: Log, *, max_skew_ms: int, drift_started_ms: int | None) -> Report:
    findings = Findings()
    monitors, references = read_monitors(log), read_references(log)
    letters = Letters(log.read("dead-letters"), findings)
    intake = Intake(monitors, partitions=log.partitions("predictions"), max_skew_ms=max_skew_ms)
    joined = join(log, intake, letters, findings)
    letters.check_rest()

    expected = expected_examples(joined)
    there = compare_examples(log, monitors, expected, findings)

    deltas, rows, answers = read_deltas(log), rows_of(joined), count_labelled(joined)
    tallies = compare_rows(rows, deltas, references, findings)
    compare_answers(answers, deltas, findings)
    compare_cells(joined, deltas, findings)
    compare_fates(joined, deltas, findings)
    by_version = {(r["model"], r["version"]): r for r in references.values()}
    compare_pairs(joined, deltas, by_version, findings)
    windows = compare_windows(
        log, monitors, deltas, findings, rows=rows, tallies=tallies, answers=answers
    )
    promotions = read_promotions(log)
    compare_evidence(promotions.records, deltas, findings)

    places = _places(joined, deltas, there)
    return Report(
        records_in=joined.records.total(),
        records_accounted=sum(sum(found.values()) for found in places.values()),
        places=places,
        fates={topic: dict(sorted(fates.items())) for topic, fates in joined.fates.items()},
        decided_by_dead_letter={name: n for name, n in joined.decided.items() if n},
        compared=dict(sorted(findings.compared.items())),
        figures=_figures(log, joined, letters, promotions, expected, windows=windows)
        | accuracies(
            joined,
            expected,
            drift_started_ms=drift_started_ms,
            promoted=promotions.promoted[0] if promotions.promoted else None,
        ),
        differences_total=findings.number,
        differences=[str(difference) for difference in findings.differences],
    )


def _places(joined: Joined, deltas: Deltas, there: set[Key]) -> dict[str, dict[str, int]]:
    """Give where the records were found."""
    in_examples = sum(
        any((p.watched.model, name) in there for p in joined.matching(name, given))
        for name, labels in joined.labels.items()
        for given in labels
    )
    found: dict[str, dict[str, int]] = {
        "predictions": {"panes": sum(sum(rows.values()) for rows in deltas.rows.values())},
        "outcomes": {"examples": in_examples},
    }
    for topic, fates in joined.fates.items():
        kept = Counter({fate: fates[fate] for fate in _STILL if fates[fate]})
        if topic == "outcomes":
            del kept["duplicate"]  # The same label again is in its example, too.
        found[topic] |= kept
        aside = fates.total() - sum(
            fates[fate] for fate in (*_STILL, "counted", "matched")
        )  # fmt: skip
        found[topic]["dead-letters"] = aside
    return found


def _figures(
    log: Log,
    joined: Joined,
    letters: Letters,
    promotions: Promotions,
    examples: Mapping[Key, Example],
    *,
    windows: int,
) -> dict[str, Any]:
    requests = [event["request_id"] for _, event in events(log.read("retrain-requests"))]
    answers = sum(e["request_id"] in requests for _, e in events(log.read("candidates")))
    return {
        "predictions": joined.champions,
        "outcomes": joined.records["outcomes"],
        "examples": sum(example.served_by is not None for example in examples.values()),
        "windows": windows,
        "alerts": alerts_fired(log),
        "retrain_requests": len(requests),
        "candidates": answers,
        "promotions": len(promotions.promoted),
        "rollbacks": promotions.rollbacks,
        "dead_letters": letters.number,
        "promoted_ms": promotions.promoted[0][1] if promotions.promoted else None,
    }
