"""Dead letters: read, counted, sent back once; on the broker in memory."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest

from kedge.batch_layout import CONTENT_TYPE, CONTENT_TYPE_HEADER
from kedge.batches import pieces, table_of
from kedge.errors import Retry, UsageError
from kedge.topics import TOPICS, model_partition, request_partition
from kedge_services.local.letter_box import LetterBox, SendingBack
from kedge_services.local.letters import (
    Book,
    Letter,
    Place,
    Wanted,
    back,
    read_letter,
    read_note,
    why_not,
)
from kedge_services.runtime.dead_letters import dead_letter
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.ports import Produce, Record

#: Request ids and the partitions, of two, on which they belong.
R0 = next(f"r{i}" for i in range(99) if request_partition(f"r{i}", 2) == 0)
R1 = next(f"r{i}" for i in range(99) if request_partition(f"r{i}", 2) == 1)


def record(value: bytes | None, *, topic: str = "predictions", **more: Any) -> Record:
    return Record(topic, more.get("partition", 0), more.get("offset", 5), 1_000,
                  more.get("key", b"k"), value, more.get("headers", ()))  # fmt: skip


def prediction(name: str, model: str = "m") -> bytes:
    return json.dumps({"prediction_id": name, "model": model}).encode()


def letter_of(value: bytes | None, reason: Any = "late", **more: Any) -> Letter:
    """Put a record aside and read it as it lies in dead-letters at 1:9."""
    sent = dead_letter(record(value, **more), reason, "why", service="panes")
    found = read_letter(Record("dead-letters", 1, 9, 2_000, sent.key, sent.value, sent.headers))
    assert found is not None
    return found


def test_a_letter_says_what_the_record_was() -> None:
    letter = letter_of(prediction("r"), headers=[("content-type", b"x")], offset=7)
    assert (letter.place, letter.reason, letter.detail) == (Place(1, 9), "late", "why")
    assert (letter.topic, letter.partition, letter.offset) == ("predictions", 0, 7)
    assert (letter.source_ms, letter.time_ms, letter.service) == (1_000, 2_000, "panes")
    assert (letter.key, letter.model) == (b"k", "m")
    assert letter.headers == [("content-type", b"x")]


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"[1]", b'{"model": 3}', b"[" * 99_999])
def test_a_letter_may_name_no_model(value: bytes | None) -> None:
    assert letter_of(value).model is None


@pytest.mark.parametrize("headers", [(), [("kedge-reason", b"late")], [("kedge-resent", b"x")]])
def test_what_is_no_letter_is_none(headers: Any) -> None:
    assert read_letter(record(b"{}", topic="dead-letters", headers=headers)) is None
    assert read_note(record(b"{}", topic="dead-letters", headers=headers)) is None


@pytest.mark.parametrize(
    ("reason", "value", "key", "went"),
    [
        # Where it was is right, or nobody knows better.
        ("late", prediction(R0), R0.encode(), (R0.encode(), 0)),
        ("undecodable", b"\xff", b"k", (b"k", 0)),
        ("missing-field", b"{}", None, (None, 0)),
        ("bad-key", prediction("#1"), b"k", (b"k", 0)),
        # The id knows better.
        ("misrouted", prediction(R1), R1.encode(), (R1.encode(), 1)),
        ("misrouted", prediction(f"{R1}#4"), R1.encode(), (R1.encode(), 1)),
        ("bad-key", prediction(R1), None, (R1.encode(), 1)),
    ],
)
def test_a_record_goes_back_to_where_its_id_belongs(
    reason: str, value: bytes, key: bytes | None, went: tuple[bytes | None, int]
) -> None:
    sent = back(letter_of(value, reason, key=key), lambda _: 2)
    assert (sent.topic, sent.value) == ("predictions", value)
    assert (sent.key, sent.partition) == went


def test_a_command_goes_back_to_the_partition_of_its_model() -> None:
    value = b'{"model": "fraud", "command_id": "c"}'
    sent = back(letter_of(value, topic="commands", key=b"c"), lambda _: 4)
    assert (sent.key, sent.partition) == (b"c", model_partition("fraud", 4))


def test_a_record_sent_back_carries_its_headers_and_from_where_it_came() -> None:
    before = [("content-type", b"x"), ("kedge-resent-from", b"dead-letters/0/0")]
    sent = back(letter_of(b"\xff", headers=before), lambda _: 2)
    assert list(sent.headers) == [
        ("content-type", b"x"), ("kedge-resent-from", b"dead-letters/1/9"),
    ]  # fmt: skip


def test_a_batch_goes_back_to_where_its_first_row_belongs() -> None:
    rows = {"prediction_id": [f"{R1}#4", f"{R1}#5"], "event_time_ms": [1, 2]}
    table = table_of(rows, {"model": "fraud", "version": "1"}, now_ms=0)
    [piece] = pieces(table, partitions=1)
    headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE)]
    letter = letter_of(piece.value, "bad-key", key=b"x", headers=headers)
    assert letter.model == "fraud"
    sent = back(letter, lambda _: 2)
    assert (sent.key, sent.partition, sent.value) == (R1.encode(), 1, piece.value)
    assert (CONTENT_TYPE_HEADER, CONTENT_TYPE) in sent.headers
    broken = letter_of(piece.value[:40], "undecodable", key=b"x", headers=headers)
    assert (broken.model, back(broken, lambda _: 2).key) == (None, b"x")


def test_only_records_that_mean_the_same_later_go_back() -> None:
    returning = {name for name in TOPICS if why_not(name) is None}
    assert returning == {
        "requests", "predictions", "outcomes", "commands", "candidates", "retrain-requests",
    }  # fmt: skip
    assert why_not("nothing") == "there is no topic 'nothing'"


@pytest.mark.parametrize("text", ["", ":", "1", "1:", ":1", "-1:2", "1:2:3", "a:b", "1 :2", "²:1"])
def test_a_place_is_two_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="write PARTITION:OFFSET"):
        Place.parse(text)
    assert Place.parse("3:17") == Place(3, 17)


# --------------------------------------------------------------- on a broker


class Box:
    """A broker in memory with dead letters."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_000)
        self.broker = MemoryBroker(self.clock, {})
        self.broker.create({"dead-letters": 2, "predictions": 2, "commands": 2, "windows": 2})
        self._writer = self.broker.producer("writer")

    def put_aside(self, value: bytes, reason: Any, **more: Any) -> None:
        self.write(dead_letter(record(value, **more), reason, "why", service="panes"))

    def write(self, *produced: Produce) -> None:
        self._writer.begin()
        for one in produced:
            self._writer.produce(one)
        self._writer.commit()

    def book(self, **wanted: Any) -> Book:
        return LetterBox(self.broker).book(Wanted(**wanted))

    def send(self, book: Book, **how: Any) -> dict[str, int]:
        with closing(SendingBack(self.broker, "alice")) as sending:
            return dict(sending.send(book, **how))

    def values(self, topic: str) -> list[bytes | None]:
        return [r.value for r in self.broker.records(topic)]


@pytest.fixture
def box() -> Box:
    box = Box()
    for name in (R0, R1):
        partition = request_partition(name, 2)
        for _ in range(2):
            box.put_aside(prediction(name), "late", key=name.encode(), partition=partition)
    box.clock.advance(60_000)
    box.put_aside(b"\xff", "undecodable")
    box.put_aside(prediction(R0, "other"), "late", key=R0.encode(), partition=0)
    return box


def groups(book: Book) -> dict[tuple[str, str | None], tuple[int, int]]:
    return {(g.reason, g.model): (g.letters, g.resent) for g in book.groups}


def test_letters_are_counted_by_reason_and_model(box: Box) -> None:
    assert groups(box.book()) == {
        ("late", "m"): (4, 0), ("undecodable", None): (1, 0), ("late", "other"): (1, 0),
    }  # fmt: skip
    assert groups(box.book(model="m")) == {("late", "m"): (4, 0)}
    assert groups(box.book(reason="undecodable")) == {("undecodable", None): (1, 0)}
    assert groups(box.book(topic="outcomes")) == {}
    assert groups(box.book(since_ms=2_000)).keys() == {("undecodable", None), ("late", "other")}
    newest = next(g for g in box.book().groups if g.model == "other")
    assert LetterBox(box.broker).find(newest.newest)[0].model == "other"


def test_a_letter_goes_back_once(box: Box) -> None:
    book = box.book(model="m")
    assert box.send(book) == {"predictions": 4}
    assert box.values("predictions").count(prediction(R0)) == 2
    assert groups(box.book()) == {
        ("late", "m"): (4, 4), ("undecodable", None): (1, 0), ("late", "other"): (1, 0),
    }  # fmt: skip
    assert box.send(box.book(model="m")) == {}
    assert len(box.values("predictions")) == 4
    assert box.send(box.book(model="m"), again=True) == {"predictions": 4}
    assert groups(box.book(model="m")) == {("late", "m"): (4, 4)}


def test_the_note_says_who_sent_a_letter_back_and_when(box: Box) -> None:
    place = box.book(model="other").groups[0].newest
    box.send(box.book(places=frozenset({place})))
    box.clock.advance(500)
    box.send(box.book(places=frozenset({place})), again=True)
    _, notes = LetterBox(box.broker).find(place)
    assert [(n.place, n.by, n.time_ms) for n in notes] == [
        (place, "alice", 61_000), (place, "alice", 61_500),
    ]  # fmt: skip


def test_a_limit_holds_and_the_rest_can_follow(box: Box) -> None:
    assert box.send(box.book(model="m"), limit=3) == {"predictions": 3}
    assert box.send(box.book(model="m"), limit=3) == {"predictions": 1}


def test_what_came_after_the_look_is_left(box: Box) -> None:
    book = box.book(model="m")
    box.put_aside(prediction(R0), "late", key=R0.encode())
    assert box.send(book) == {"predictions": 4}


def test_of_two_who_send_at_once_one_sends(box: Box) -> None:
    first = SendingBack(box.broker, "alice")
    book = box.book(model="m")
    assert box.send(box.book(model="m")) == {"predictions": 4}
    with pytest.raises(Retry, match="somebody else began to send back"):
        first.send(book)
    assert len(box.values("predictions")) == 4


def test_what_cannot_go_back_stays(box: Box) -> None:
    box.put_aside(b"{}", "invalid", topic="windows")
    assert box.send(box.book(topic="windows")) == {}
    assert box.values("windows") == []


def test_more_letters_than_a_transaction_holds(box: Box) -> None:
    for number in range(1_200):
        box.put_aside(b"\xff%d" % number, "undecodable", partition=number % 2)
    assert box.send(box.book(reason="undecodable")) == {"predictions": 1_201}
    assert len(set(box.values("predictions"))) == 1_201


def test_a_place_without_a_letter_is_said(box: Box) -> None:
    for place in (Place(0, 99), Place(7, 0)):
        with pytest.raises(UsageError, match=f"no dead letter at {place}"):
            LetterBox(box.broker).find(place)
    box.send(box.book(model="other"))
    note = next(r for r in box.broker.records("dead-letters") if r.value is None)
    with pytest.raises(UsageError, match="no dead letter at"):
        LetterBox(box.broker).find(Place(note.partition, note.offset))
