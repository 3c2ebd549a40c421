"""Panes: what all deltas of a pane add up to, against the rows that lie in it."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from kedge_services.local.recount.joining import Joined, Predicted
from kedge_services.local.recount.letters import INPUTS, UNREADABLE
from kedge_services.local.recount.plain import Log, Record, label_text

__all__ = [
    "Deltas",
    "PaneKey",
    "Tally",
    "absolute_error",
    "count_labelled",
    "read_deltas",
    "rows_of",
]

_ONE = 1 << 30
_LARGEST_ERROR = 1e100
_COUNTERS = ("null", "nan", "inf", "type_error", "below", "above", "unseen")
#: Distributions that are no features, by what they are called in deltas.
_ANSWERS = {"": "prediction", "\0": "score"}


class PaneKey(NamedTuple):
    """A pane of a version; segments have panes of their own."""

    model: str
    version: str
    segment: str
    start_ms: int


@dataclass(slots=True)
class Tally:
    """Values of one feature by bin, and those in none."""

    bins: list[int]
    rest: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add the other's values."""
        self.bins = [a + b for a, b in zip(self.bins, other.bins, strict=True)]
        self.rest.update(other.rest)

    @property
    def valid(self) -> int:
        """Values that could be judged."""
        return sum(self.bins) + self.rest["unseen"]

    @property
    def total(self) -> int:
        """All values."""
        return self.valid + sum(self.rest[name] for name in ("null", "nan", "inf", "type_error"))

    def plain(self) -> dict[str, Any]:
        """Give bins, and counters that are not zero."""
        return {"bins": self.bins, **{name: n for name in _COUNTERS if (n := self.rest[name])}}


@dataclass(slots=True)
class Deltas:
    """Sums of all deltas, by pane and by reference.

    ``pairs`` lists the loss differences of (model, champion, challenger) in the
    order of the topic, as ``(record, pane start, {difference: pairs})``.
    """

    rows: dict[PaneKey, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    features: dict[tuple[PaneKey, str], dict[str, Tally]] = field(default_factory=dict)
    answers: dict[PaneKey, dict[str, Counter[Any]]] = field(default_factory=dict)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    pairs: dict[tuple[str, str, str], list[tuple[Record, int, dict[int, int]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    fates: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def read_deltas(log: Log) -> Deltas:
    """Add up what the panes topic holds, and take the last Progress of every partition."""
    deltas, last = Deltas(), dict[int, dict[str, Any]]()
    for record in log.read("panes"):
        pane = json.loads(record.value or b"{}")
        if pane.get("type") == "progress":
            known = last.get(pane["partition"])
            if known is None or pane["sequence"] >= known["sequence"]:
                last[pane["partition"]] = pane
        elif pane.get("type") == "pane":
            _add(deltas, record, pane)
    for progress in last.values():
        for topic, fates in progress["fates"].items():
            for fate, number in fates.items():
                is_input = topic in INPUTS
                name = "unreadable" if is_input and fate in UNREADABLE else fate
                deltas.fates[topic][name] += number
    return deltas


def _add(deltas: Deltas, record: Record, pane: dict[str, Any]) -> None:
    key = PaneKey(pane["model"], pane["version"], pane.get("segment", ""), pane["start_ms"])
    kind, counts, reference = pane["kind"], pane["counts"], pane.get("reference_id", "")
    if kind in ("drift", "learning"):
        deltas.rows[key][reference] += counts["rows"]
        sums = deltas.features.setdefault((key, reference), {})
        for name, tally in _tallies(counts):
            if name in sums:
                sums[name].add(tally)
            else:
                sums[name] = tally
    elif kind == "performance":
        sums_of = deltas.answers.setdefault(key, defaultdict(Counter))
        sums_of[reference].update(_flat(counts))
    elif kind == "labels":
        deltas.labels[key.model, key.version] += counts["labelled"]
    elif kind == "pair":
        differences = {int(d): n for d, n in counts["differences"].items()}
        who = (key.model, counts["champion"], key.version)
        deltas.pairs[who].append((record._replace(value=None), key.start_ms, differences))


def _tallies(counts: Mapping[str, Any]) -> Iterable[tuple[str, Tally]]:
    """Read the bins of one distribution after the other, then each counter of all of them."""
    packed = counts.get("features")
    if packed is None:
        return
    numbers, names = _integers(packed["counts"]), packed["names"]
    ends = list(accumulate(packed["bins"]))
    for i, (name, size, end) in enumerate(zip(names, packed["bins"], ends, strict=True)):
        counters = numbers[ends[-1] + i :: len(names)]
        rest = Counter(dict(zip(_COUNTERS, counters, strict=False)))
        yield _ANSWERS.get(name, f"feature {name}"), Tally(numbers[end - size : end], rest)


def _integers(text: str) -> list[int]:
    """Read base64 of integers, after a digit that says how many bytes each has."""
    width, data = int(text[0]), b64decode(text[1:])
    return [
        int.from_bytes(data[at : at + width], "little", signed=True)
        for at in range(0, len(data), width)
    ]


def _flat(counts: Mapping[str, Any]) -> dict[Any, int]:
    """Give the counts of labelled rows; the confusion by (label, answer)."""
    flat: dict[Any, int] = {
        name: counts[name]
        for name in ("predicted", "labelled", "served", "absolute_error", "squared_error")
    }
    for label, row in counts["confusion"].items():
        for answer, number in row.items():
            flat[label, answer] = number
    return flat


# ---------------------------------------------------------------- counting again


def rows_of(joined: Joined) -> dict[PaneKey, list[Predicted]]:
    """Sort the predictions that are counted, those in time, into their panes."""
    rows: dict[PaneKey, list[Predicted]] = defaultdict(list)
    for predictions in joined.predictions.values():
        for p in predictions:
            if not p.is_late:
                start_ms = p.time_ms - p.time_ms % p.watched.pane_ms
                rows[PaneKey(p.watched.model, p.version, "", start_ms)].append(p)
    return rows


def count_labelled(joined: Joined) -> dict[PaneKey, Counter[Any]]:
    """Count all predictions of labelled models, late ones too, in their performance panes."""
    panes: dict[PaneKey, list[Predicted]] = defaultdict(list)
    for predictions in joined.predictions.values():
        for p in predictions:
            if not p.watched.labelled:
                continue
            start_ms = p.time_ms - p.time_ms % p.watched.performance_pane_ms
            names = [f"{name}={label_text(value)}" for name, value in p.segments.items()]
            for segment in ["", *names]:
                key = PaneKey(p.watched.model, p.version, segment, start_ms)
                panes[key].append(p)
    return {key: _count(rows) for key, rows in panes.items()}


def _count(rows: Sequence[Predicted]) -> Counter[Any]:
    counts: Counter[Any] = Counter(predicted=len(rows))
    for p in rows:
        if p.standing is None:
            continue
        given = p.standing.since
        counts["labelled"] += 1
        counts["served"] += p.champion
        if isinstance(p.answer, float):
            error = absolute_error(p.answer, given.label)
            counts["absolute_error"] += round(error * _ONE)
            counts["squared_error"] += round(error * error * _ONE)
        elif p.answer is not None:
            counts[given.text, p.answer] += 1
    return counts


def absolute_error(answer: float, label: Any) -> float:
    """Give |answer - label|; what is no number errs most."""
    try:
        return min(_LARGEST_ERROR, abs(answer - float(label)))
    except (ValueError, OverflowError):
        return _LARGEST_ERROR
