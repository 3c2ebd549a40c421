"""Compares what all deltas of a pane add up to with the rows and labels that lie in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kedge_services.local.recount.bins import Reference, tally_rows
from kedge_services.local.recount.joining import Joined, Predicted
from kedge_services.local.recount.panes import Deltas, PaneKey, Tally
from kedge_services.local.recount.plain import Findings

__all__ = ["compare_answers", "compare_cells", "compare_fates", "compare_rows"]

Tallies = dict[PaneKey, dict[str, Tally]]


def compare_rows(
    rows: Mapping[PaneKey, Sequence[Predicted]],
    deltas: Deltas,
    references: Mapping[str, Reference],
    findings: Findings,
) -> Tallies:
    """Compare drift panes; give the rows' own counts for the windows made of them.

    A pane that began under one reference and went on under another is compared
    by the number of its rows alone.
    """
    tallies: Tallies = {}
    for key in rows.keys() | deltas.rows.keys():
        mine, theirs = rows.get(key, ()), deltas.rows.get(key, Counter[str]())
        findings.compare("panes", "rows of pane", _name(key), len(mine), sum(theirs.values()))
        if len(theirs) != 1 or (reference_id := next(iter(theirs))) not in references:
            continue
        tallies[key] = tally_rows(mine, references[reference_id])
        there = deltas.features[key, reference_id]
        for name in tallies[key].keys() | there.keys():
            expected, found = tallies[key].get(name), there.get(name)
            findings.compare(
                "features of panes", f"{name} of pane", _name(key),
                expected and expected.plain(), found and found.plain(),
            )  # fmt: skip
    return tallies


def compare_answers(
    panes: Mapping[PaneKey, Counter[Any]], deltas: Deltas, findings: Findings
) -> None:
    """Compare performance panes."""
    for key in panes.keys() | deltas.answers.keys():
        found = Counter[Any]()
        for counts in deltas.answers.get(key, {}).values():
            found.update(counts)
        findings.compare(
            "performance panes", "labels of pane", _name(key),
            _without_zeros(panes.get(key, {})), _without_zeros(found),
        )  # fmt: skip


def compare_cells(joined: Joined, deltas: Deltas, findings: Findings) -> None:
    """Compare the number of first labels with that of the cells of label time.

    Which of them came after their cell had been closed is a matter of the
    moment; their number is told in Progress.
    """
    first = sum(
        p.answer is not None and p.standing is not None
        for predictions in joined.predictions.values()
        for p in predictions
    )
    found = sum(deltas.labels.values()) + deltas.fates["labels"]["after-cell"]
    findings.compare("cells", "first labels in cells, and after them", "all models", first, found)


def compare_fates(joined: Joined, deltas: Deltas, findings: Findings) -> None:
    """Compare fates with those that the last Progress of every partition told."""
    for topic, fates in joined.fates.items():
        told = deltas.fates[topic]
        for fate in sorted(fates.keys() | told.keys()):
            findings.compare(
                "fates", f"records that are {fate}", f"topic {topic}", fates[fate], told[fate]
            )


def _name(key: PaneKey) -> str:
    model, version, segment, start_ms = key
    return f"{model}/{version}{segment and '/' + segment} from {start_ms}"


def _without_zeros(counts: Mapping[Any, int]) -> dict[str, int]:
    return {
        " answered ".join(map(str, name)) if isinstance(name, tuple) else name: number
        for name, number in counts.items()
        if number
    }
