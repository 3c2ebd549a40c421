"""Records, monitors and differences, as plainly as they can be said."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = [
    "Difference",
    "Findings",
    "Log",
    "Monitors",
    "Place",
    "Record",
    "Watched",
    "events",
    "label_text",
    "murmur2",
    "read_monitors",
]

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SHOWN = 200


class Place(NamedTuple):
    """Where a record lies, and which row of it is meant if it is a batch."""

    topic: str
    partition: int
    offset: int
    row: int | None = None

    def __str__(self) -> str:
        """Give topic, partition, offset and row."""
        row = "" if self.row is None else f"#{self.row}"
        return f"{self.topic}[{self.partition}]@{self.offset}{row}"


class Record(NamedTuple):
    """One record, or one row of a batch; the topic is named without its prefix."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    row: int | None = None

    @property
    def place(self) -> Place:
        """Where it lies."""
        return Place(self.topic, self.partition, self.offset, self.row)


class Log(Protocol):
    """The topics."""

    def partitions(self, topic: str) -> int:
        """Give the number of a topic's partitions."""

    def read(self, topic: str) -> Iterable[Record]:
        """Give a topic's committed records; those of one partition in offset order."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as the raw records say: what, where, and both values."""

    what: str
    where: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        """Give it as a sentence."""
        return f"{self.what}, {self.where}: expected {self.expected}, found {self.found}"


@dataclass(slots=True)
class Findings:
    """Differences (the first ones in full), and how many things were compared."""

    differences: list[Difference] = field(default_factory=list)
    number: int = 0
    compared: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str) -> None:
        """Count a comparison of this kind."""
        self.compared[kind] = self.compared.get(kind, 0) + 1

    def compare(self, kind: str, what: str, where: object, expected: Any, found: Any) -> bool:
        """Count a comparison of this kind; note it when the two differ."""
        self.count(kind)
        if expected == found:
            return True
        self.differ(what, where, expected, found)
        return False

    def differ(self, what: str, where: object, expected: Any, found: Any) -> None:
        """Note a difference."""
        self.number += 1
        if len(self.differences) < _SHOWN:
            self.differences.append(Difference(what, str(where), expected, found))


@dataclass(frozen=True, slots=True)
class Watched:
    """A monitor, as far as it decides what is counted; durations in ms.

    ``classes`` are the labels by their text, empty for regression.
    """

    model: str
    effective_ms: int
    labelled: bool
    regression: bool
    classes: tuple[str, ...]
    positive: str | None
    features: tuple[str, ...]
    segments: tuple[str, ...]
    pane_ms: int
    performance_pane_ms: int
    grace_ms: int
    horizon_ms: int
    wait_ms: int

    def accepts(self, label: object) -> bool:
        """Say whether this can be a label of the model."""
        if not self.regression:
            return label_text(label) in self.classes
        return isinstance(label, int | float) and not isinstance(label, bool) and _is_finite(label)


Monitors = dict[str, list[Watched]]


def label_text(label: object) -> str:
    """Give the text by which labels and categories are compared.

    >>> [label_text(x) for x in (True, 1, 1.0, 0.5, "UP")]
    ['true', '1', '1', '0.5', 'UP']
    """
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)


def murmur2(data: bytes) -> int:
    """Hash as Kafka's Java producer does: MurmurHash2 of 32 bits, seed 0x9747b28c.

    >>> hex(murmur2(b"21")), hex(murmur2(b"foobar"))
    ('0xc5f2f8ec', '0xd0e47bbe')
    """
    word, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    tail = len(data) % 4
    for at in range(0, len(data) - tail, 4):
        k = (int.from_bytes(data[at : at + 4], "little") * m) & word
        k = ((k ^ k >> 24) * m) & word
        h = ((h * m) & word) ^ k
    if tail:
        h = ((h ^ int.from_bytes(data[-tail:], "little")) * m) & word
    h = ((h ^ h >> 13) * m) & word
    return h ^ h >> 15


def events(records: Iterable[Record]) -> Iterable[tuple[Record, dict[str, Any]]]:
    """Give the records that have a value, with the JSON object in it."""
    for record in records:
        if record.value is not None:
            yield record, json.loads(record.value)


def read_monitors(log: Log) -> Monitors:
    """Read the monitors of every model, in the order in which they take effect.

    A later record replaces what was to take effect at its time or after.
    """
    monitors: Monitors = {}
    for record in log.read("monitors"):
        if record.value is None:
            monitors.pop((record.key or b"").decode(), None)
            continue
        watched = _watched(json.loads(record.value))
        before = monitors.get(watched.model, [])
        kept = [m for m in before if m.effective_ms < watched.effective_ms]
        monitors[watched.model] = [*kept, watched]
    return monitors


def _watched(monitor: dict[str, Any]) -> Watched:
    windows = monitor.get("windows", {})
    pane = _ms(windows.get("pane", "5m"))
    horizon = _ms(monitor.get("label_horizon", "1d"))
    labels = monitor.get("classes", [])
    regression = monitor["task"] == "regression"
    positive = None
    if monitor["task"] == "binary":
        declared = monitor.get("positive")
        positive = label_text(labels[1] if declared is None else declared)
    return Watched(
        model=monitor["model"],
        effective_ms=monitor.get("effective_ms", 0),
        labelled=monitor.get("labelled", True),
        regression=regression,
        classes=() if regression else tuple(map(label_text, labels)),
        positive=positive,
        features=tuple(monitor["features"]),
        segments=tuple(segment["name"] for segment in monitor.get("segments", [])),
        pane_ms=pane,
        # At least a two-hundredth of the horizon, in whole panes.
        performance_pane_ms=pane * max(1, math.ceil(math.ceil(horizon / 200) / pane)),
        grace_ms=_ms(windows.get("grace", "5s")),
        horizon_ms=horizon,
        wait_ms=_ms(monitor.get("outcome_wait", "10m")),
    )


def _ms(duration: str) -> int:
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", duration)
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in parts))


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
