"""Dead letters: what one says, which of them are meant, how one goes back."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from kedge.batch_layout import is_batch
from kedge.errors import DeadLetter, UsageError
from kedge.topics import TOPICS, model_partition, request_id, request_partition
from kedge_services.runtime.dead_letters import PUT_ASIDE, RESENT, RESENT_FROM, TOPIC
from kedge_services.runtime.ports import Headers, Produce, Record

__all__ = [
    "HINTS",
    "Book",
    "Group",
    "Letter",
    "Note",
    "Place",
    "Wanted",
    "back",
    "note_of",
    "read_letter",
    "read_note",
    "why_not",
]

#: What has to happen first, where sending back alone changes nothing.
HINTS: dict[str, str] = {
    "late": "they are still late and will be put aside again",
    "bad-time": "their times are still wrong: they will be put aside again unless the clock "
    "they are held against has caught up",
    "unknown-model": "publish the model's monitor first: kedge apply MONITOR.toml",
    "unmatched-outcome": "they match only when their prediction is there by now",
    "undecodable": "they can still not be read unless the services were updated",
    "unsupported-format": "they can still not be read unless the services were updated",
    "missing-field": "their bytes go back as they are, still without the field",
    "bad-value": "their bytes go back as they are; a changed monitor may take them",
    "invalid": "their bytes go back as they are; a changed monitor may take them",
    "too-large": "they are still too large",
}
#: Topics whose records may come again; all others are of their moment.
_RETURNING = {
    "requests", "predictions", "outcomes", "commands", "candidates", "retrain-requests",
}  # fmt: skip


class Place(NamedTuple):
    """Where a dead letter lies."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``PARTITION:OFFSET``.

        Raises
        ------
        UsageError
            It is none.
        """
        partition, _, offset = text.partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            raise UsageError(f"{text!r} is no place of a dead letter; write PARTITION:OFFSET")
        return cls(int(partition), int(offset))


class Letter(NamedTuple):
    """A dead letter.

    Attributes
    ----------
    time_ms
        When it was put aside.
    topic, partition, offset, source_ms
        The record it was, and when that was appended.
    model
        None when the value does not say.
    headers
        Those the record had before it was put aside.
    """

    place: Place
    time_ms: int
    reason: str
    detail: str
    service: str
    topic: str
    partition: int
    offset: int
    source_ms: int
    key: bytes | None
    value: bytes | None
    model: str | None
    headers: Headers


class Note(NamedTuple):
    """That a letter was sent back: which, when, by whom."""

    place: Place
    time_ms: int
    by: str


def read_letter(record: Record) -> Letter | None:
    """Read a record of dead-letters; None when it is a note, or nothing of Kedge's."""
    # A record that was put aside twice has the headers twice; the last ones count.
    told = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    if RESENT in told or not {"kedge-reason", "kedge-topic"} <= told.keys():
        return None
    model = _fields(record.value, record.headers).get("model")
    return Letter(
        place=Place(record.partition, record.offset),
        time_ms=record.timestamp_ms,
        reason=told["kedge-reason"],
        detail=told.get("kedge-detail", ""),
        service=told.get("kedge-service", ""),
        topic=told["kedge-topic"],
        partition=_number(told.get("kedge-partition")),
        offset=_number(told.get("kedge-offset")),
        source_ms=_number(told.get("kedge-timestamp-ms")),
        key=record.key,
        value=record.value,
        model=model if isinstance(model, str) else None,
        headers=[(name, value) for name, value in record.headers if name not in PUT_ASIDE],
    )


def read_note(record: Record) -> Note | None:
    """Read the note that a letter was sent back; None when the record is a letter."""
    told = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    if RESENT not in told:
        return None
    try:
        place = Place.parse(told[RESENT])
    except UsageError:
        return None
    return Note(place, record.timestamp_ms, told.get("kedge-by", ""))


def note_of(letter: Letter, by: str) -> Produce:
    """Make the note, for the transaction that sends the letter back."""
    headers = ((RESENT, str(letter.place).encode()), ("kedge-by", by.encode()))
    return Produce(TOPIC, None, None, letter.place.partition, headers)


def why_not(topic: str) -> str | None:
    """Say why a letter cannot go back to its topic; None when it can."""
    if topic in _RETURNING:
        return None
    if topic not in TOPICS:
        return f"there is no topic {topic!r}"
    return f"{topic} is written by its service alone, and what it said may be over"


def back(letter: Letter, partitions: Callable[[str], int]) -> Produce:
    """Give the record to be sent: the bytes as they were, where they belong.

    The key and the partition are those that the id or the model in the value
    asks for, so that what was ``misrouted`` or had a ``bad-key`` comes right;
    where nothing can be read they are the old ones.
    """
    count = partitions(letter.topic)
    key, where = letter.key, letter.partition % count
    fields = _fields(letter.value, letter.headers)
    if TOPICS[letter.topic].partitioned_by == "model":
        if letter.model is not None:
            where = model_partition(letter.model, count)
    else:
        name = fields.get("request_id" if letter.topic == "requests" else "prediction_id")
        if isinstance(name, str) and request_id(name):
            key, where = request_id(name).encode(), request_partition(name, count)
    kept = [(name, value) for name, value in letter.headers if name != RESENT_FROM]
    mark = (RESENT_FROM, f"{TOPIC}/{letter.place.partition}/{letter.place.offset}".encode())
    return Produce(letter.topic, key, letter.value, where, [*kept, mark])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant; None does not matter."""

    reason: str | None = None
    topic: str | None = None
    model: str | None = None
    since_ms: int | None = None
    places: frozenset[Place] | None = None

    def takes(self, letter: Letter) -> bool:
        """Say whether this one is meant."""
        return (
            self.reason in (None, letter.reason)
            and self.topic in (None, letter.topic)
            and (self.since_ms is None or letter.time_ms >= self.since_ms)
            and (self.places is None or letter.place in self.places)
            and (self.model is None or self.model == letter.model)
        )


_NOWHERE = Place(0, 0)


@dataclass(slots=True)
class Group:
    """Letters of one reason, topic and model."""

    reason: str
    topic: str
    model: str | None
    letters: int = 0
    resent: int = 0
    newest_ms: int = 0
    newest: Place = _NOWHERE


class Book:
    """All letters that are meant, grouped; a letter costs some bytes, not its size.

    Attributes
    ----------
    groups
        In the order in which they were met.
    resent
        The places of the letters that were sent back.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.groups: list[Group] = []
        self.resent: set[Place] = set()
        self._wanted = wanted
        self._numbers: dict[tuple[str, str, str | None], int] = {}
        #: Offsets, rising, and the numbers of their groups, by partition.
        self._places: dict[int, tuple[array[int], array[int]]] = {}

    def take(self, record: Record) -> None:
        """Take a record of dead-letters; those of a partition in their order."""
        if (note := read_note(record)) is not None:
            self._mark(note.place)
        elif (letter := read_letter(record)) is not None and self._wanted.takes(letter):
            self._add(letter)

    def __contains__(self, place: Place) -> bool:
        """Say whether the letter at this place is among those that were met."""
        return self._number(place) is not None

    def _add(self, letter: Letter) -> None:
        key = (letter.reason, letter.topic, letter.model)
        number = self._numbers.setdefault(key, len(self.groups))
        if number == len(self.groups):
            self.groups.append(Group(*key))
        group = self.groups[number]
        group.letters += 1
        if letter.time_ms >= group.newest_ms:
            group.newest_ms, group.newest = letter.time_ms, letter.place
        offsets, numbers = self._places.setdefault(letter.place.partition, _no_places())
        offsets.append(letter.place.offset)
        numbers.append(number)

    def _mark(self, place: Place) -> None:
        number = self._number(place)
        if number is not None and place not in self.resent:
            self.resent.add(place)
            self.groups[number].resent += 1

    def _number(self, place: Place) -> int | None:
        offsets, numbers = self._places.get(place.partition, _no_places())
        at = bisect_left(offsets, place.offset)
        return numbers[at] if at < len(offsets) and offsets[at] == place.offset else None


def _no_places() -> tuple[array[int], array[int]]:
    return array("q"), array("q")


def _fields(value: bytes | None, headers: Headers) -> dict[str, Any]:
    """Read what tells whose a record is; of a batch the first row's id, by which it is keyed."""
    if is_batch(headers):
        return _fields_of_batch(value)
    try:
        parsed = None if value is None else json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _fields_of_batch(value: bytes | None) -> dict[str, Any]:
    from kedge_services.panes.arrow import ArrowReader
    from kedge_services.panes.arrow_rows import ArrowRows

    try:
        layout, batch, _ = ArrowReader().open(value)
    except DeadLetter:
        return {}
    rows = ArrowRows.of(layout, [batch])
    named = next((row for row in range(rows.rows) if rows.names[row]), None)
    fields = dict[str, Any](layout.constants)
    return fields if named is None else fields | {"prediction_id": rows.names[named]}


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
