"""Final windows: their counts and shares, against the rows and labels that lie in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kedge_services.local.recount.comparing import Tallies
from kedge_services.local.recount.joining import Predicted
from kedge_services.local.recount.panes import Deltas, PaneKey, Tally
from kedge_services.local.recount.plain import Findings, Log, Monitors, Watched, events

__all__ = ["compare_windows"]

Measures = dict[tuple[str, str | None], float]


def compare_windows(
    log: Log,
    monitors: Monitors,
    deltas: Deltas,
    findings: Findings,
    *,
    rows: Mapping[PaneKey, Sequence[Predicted]],
    tallies: Tallies,
    answers: Mapping[PaneKey, Counter[Any]],
) -> int:
    """Compare every final window at its highest revision; give the number of windows."""
    best: dict[str, dict[str, Any]] = {}
    for _, window in events(log.read("windows")):
        known = best.get(window["window_id"])
        if known is None or window["revision"] >= known["revision"]:
            best[window["window_id"]] = window
    closed: dict[tuple[str, str], int] = {}
    for window in best.values():
        kind, model = window["kind"], window["model"]
        if not window["is_final"] or model not in monitors:
            continue
        if window["scale"] == 1:
            closed[kind, model] = max(closed.get((kind, model), 0), window["end_ms"])
        if kind == "drift":
            _compare_drift(window, deltas, rows, tallies, findings)
        elif kind == "performance":
            _compare_performance(window, deltas, answers, monitors[model][-1], findings)
    _compare_presence(best.values(), closed, "drift", deltas.rows, findings)
    _compare_presence(best.values(), closed, "performance", deltas.answers, findings)
    return len(best)


def _panes(window: Mapping[str, Any]) -> Iterator[PaneKey]:
    length = (window["end_ms"] - window["start_ms"]) // window["scale"]
    for start_ms in range(window["start_ms"], window["end_ms"], length):
        yield PaneKey(window["model"], window["version"], window["segment"], start_ms)


# ----------------------------------------------------------------------- drift


def _compare_drift(
    window: Mapping[str, Any],
    deltas: Deltas,
    rows: Mapping[PaneKey, Sequence[Predicted]],
    tallies: Tallies,
    findings: Findings,
) -> None:
    number, merged = 0, dict[str, Tally]()
    for key in _panes(window):
        under = deltas.rows.get(key, Counter[str]())
        if len(under) > 1:
            # Both references have rows of this pane; which row has which is nowhere written.
            number += under[window["reference_id"]]
            continue
        if window["reference_id"] not in under:
            continue
        number += len(rows.get(key, ()))
        for name, tally in tallies.get(key, {}).items():
            if name not in merged:
                merged[name] = Tally([0] * len(tally.bins))
            merged[name].add(tally)
    where = window["window_id"]
    findings.compare("windows", "rows of drift window", where, number, window["n"])
    expected = _shares(merged)
    for measure in window["measures"]:
        which = (measure["name"], measure.get("feature"))
        if which in expected:
            findings.compare(
                "measures", f"{which[0]} of {which[1]} in drift window", where,
                expected[which], measure["value"],
            )  # fmt: skip


def _shares(merged: Mapping[str, Tally]) -> Measures:
    shares: Measures = {}
    for name, tally in merged.items():
        feature = name.removeprefix("feature ")
        if feature == name:
            continue
        rest = tally.rest
        if tally.total:
            shares["null_share", feature] = rest["null"] / tally.total
            shares["type_error_share", feature] = rest["type_error"] / tally.total
            shares["not_finite_share", feature] = (rest["nan"] + rest["inf"]) / tally.total
        if tally.valid:
            shares["below_share", feature] = rest["below"] / tally.valid
            shares["above_share", feature] = rest["above"] / tally.valid
    return shares


# ----------------------------------------------------------------- performance


def _compare_performance(
    window: Mapping[str, Any],
    deltas: Deltas,
    answers: Mapping[PaneKey, Counter[Any]],
    watched: Watched,
    findings: Findings,
) -> None:
    counts = Counter[Any]()
    for key in _panes(window):
        under = deltas.answers.get(key, {})
        if len(under) > 1:
            counts.update(under.get(window["reference_id"], Counter()))
        elif window["reference_id"] in under:
            counts.update(answers.get(key, {}))
    where = window["window_id"]
    n, labelled = counts["predicted"], counts["labelled"]
    share = labelled / n if n > 0 else None
    findings.compare("windows", "rows of performance window", where, n, window["n"])
    findings.compare("windows", "labels of window", where, labelled, window["labelled"])
    findings.compare("windows", "coverage of window", where, share, window.get("label_coverage"))
    expected = _regression(counts) if watched.regression else _classification(counts, watched)
    found = {
        measure["name"]: measure["value"]
        for measure in window["measures"]
        if measure["name"] in _MEASURES
    }
    for name in expected.keys() | found.keys():
        wanted, given = expected.get(name), found.get(name)
        if wanted is None or given is None or not math.isclose(wanted, given, rel_tol=1e-9):
            findings.differ(f"{name} of performance window", where, wanted, given)
        findings.count("measures")


_MEASURES = frozenset(
    {
        "accuracy", "error_rate", "precision", "recall", "f1", "macro_precision", "macro_recall",
        "macro_f1", "mae", "rmse",
    }
)  # fmt: skip


def _classification(counts: Mapping[Any, int], watched: Watched) -> dict[str, float]:
    table = {key: number for key, number in counts.items() if isinstance(key, tuple)}
    total = sum(table.values())
    if not total:
        return {}
    right = sum(number for (label, answer), number in table.items() if label == answer)
    measures = {"accuracy": right / total, "error_rate": (total - right) / total}
    if watched.positive is not None:
        return measures | _of_class(table, watched.positive)
    by_class = [_of_class(table, name) for name in watched.classes]
    for name in ("precision", "recall", "f1"):
        values = [found[name] for found in by_class if name in found]
        if values:
            measures[f"macro_{name}"] = math.fsum(values) / len(values)
    return measures


def _of_class(table: Mapping[tuple[str, str], int], name: str) -> dict[str, float]:
    hits = table.get((name, name), 0)
    of_label = sum(number for (label, _), number in table.items() if label == name)
    answered = sum(number for (_, answer), number in table.items() if answer == name)
    measures = {}
    if answered:
        measures["precision"] = hits / answered
    if of_label:
        measures["recall"] = hits / of_label
    if answered + of_label:
        measures["f1"] = 2 * hits / (answered + of_label)
    return measures


def _regression(counts: Mapping[Any, int]) -> dict[str, float]:
    n = counts.get("labelled", 0)
    if n <= 0:
        return {}
    one = 1 << 30
    return {
        "mae": counts.get("absolute_error", 0) / one / n,
        "rmse": math.sqrt(max(0.0, counts.get("squared_error", 0) / one / n)),
    }


# -------------------------------------------------------------------- presence


def _compare_presence(
    windows: Any,
    closed: Mapping[tuple[str, str], int],
    kind: str,
    panes: Mapping[PaneKey, Mapping[str, Any]],
    findings: Findings,
) -> None:
    """Make sure that every pane with rows that is over has its final window."""
    there = {
        (PaneKey(w["model"], w["version"], w["segment"], w["start_ms"]), w["reference_id"]):
            w["is_final"]
        for w in windows
        if w["kind"] == kind and w["scale"] == 1
    }  # fmt: skip
    lengths = {
        w["model"]: w["end_ms"] - w["start_ms"]
        for w in windows
        if w["kind"] == kind and w["scale"] == 1
    }
    for key, by_reference in panes.items():
        end_ms = key.start_ms + lengths.get(key.model, 0)
        if end_ms > closed.get((kind, key.model), 0):
            continue
        for reference_id in by_reference:
            findings.compare(
                "windows", f"final {kind} window of a pane", f"{'/'.join(map(str, key))}", True,
                there.get((key, reference_id), False),
            )  # fmt: skip
