"""References, and rows counted on their bins one value at a time."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kedge_services.local.recount.joining import Predicted
from kedge_services.local.recount.panes import Tally
from kedge_services.local.recount.plain import Log, events, label_text

__all__ = ["Reference", "read_references", "tally_rows"]

Reference = Mapping[str, Any]


def read_references(log: Log) -> dict[str, Reference]:
    """Read all references, by id; the last record of an id counts."""
    return {event["reference_id"]: event for _, event in events(log.read("references"))}


def tally_rows(rows: Sequence[Predicted], reference: Reference) -> dict[str, Tally]:
    """Count rows of one pane on a reference's bins, by what is counted."""
    declared = rows[0].watched.features if rows else ()
    tallies = {}
    for at, name in enumerate(declared):
        if name in reference["features"]:
            bins = reference["features"][name]
            tallies[f"feature {name}"] = _tally((p.features[at] for p in rows), bins)
    of_output: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "prediction": _answer,
        "score": _score,
    }
    for name, value_of in of_output.items():
        if reference.get(name) is not None:
            values = (None if p.output is None else value_of(p.output) for p in rows)
            tallies[name] = _tally(values, reference[name])
    return tallies


def _tally(values: Iterable[Any], bins: Mapping[str, Any]) -> Tally:
    if bins["kind"] == "numeric":
        return _tally_numbers(values, bins)
    return _tally_categories(values, bins)


def _tally_numbers(values: Iterable[Any], bins: Mapping[str, Any]) -> Tally:
    cuts, least, most = bins["cuts"], bins.get("min"), bins.get("max")
    counts, rest = [0] * (len(cuts) + 1), Counter[str]()
    for value in values:
        number = _number(value)
        if isinstance(number, str):
            rest[number] += 1
            continue
        # A bin holds what lies above one cut and not above the next.
        counts[bisect_left(cuts, number)] += 1
        if least is not None and number < least:
            rest["below"] += 1
        elif most is not None and number > most:
            rest["above"] += 1
    return Tally(counts, rest)


def _number(value: Any) -> float | str:
    """Give a finite number, or the counter of what is none."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return "type_error"
    try:
        number = float(value)
    except OverflowError:
        return "inf"
    if math.isnan(number):
        return "nan"
    return "inf" if math.isinf(number) else number


def _tally_categories(values: Iterable[Any], bins: Mapping[str, Any]) -> Tally:
    top = bins["categories"]
    positions = {name: len(top) for name in bins.get("others", [])}
    positions.update({name: at for at, name in enumerate(top)})
    counts, rest = [0] * (len(top) + 1), Counter[str]()
    for value in values:
        if value is None:
            rest["null"] += 1
        elif isinstance(value, float) and not math.isfinite(value):
            rest["nan" if math.isnan(value) else "inf"] += 1
        elif (at := positions.get(label_text(value))) is None:
            rest["unseen"] += 1
        else:
            counts[at] += 1
    return Tally(counts, rest)


def _answer(output: Mapping[str, Any]) -> Any:
    label = output.get("label")
    if label is not None:
        return label
    value = output.get("value")
    return None if value is None else float(value)


def _score(output: Mapping[str, Any]) -> float | None:
    score, scores = output.get("score"), output.get("scores")
    if score is None and scores:
        return max(float(x) for x in scores.values())
    return None if score is None else float(score)
