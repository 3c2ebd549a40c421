"""What is compacted or deleted, held on Kafka and on the broker in memory alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kedge.errors import Stop
from kedge_services.runtime.ports import Batch, Produce, Record, TopicPartition
from kedge_services.runtime.reading import RangeReader, TableReader

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, Rig

STATE, LOG = TopicPartition("state", 0), TopicPartition("log", 0)
#: As in conftest.py: what makes Kafka begin a new segment is of this key.
TICK = b"tick"


def read(driver: Driver, place: TopicPartition = STATE) -> list[Record]:
    consumer = driver.consumer()
    consumer.assign({place: consumer.bounds(place)[0]})
    return [record for record in driver.read(consumer, place) if record.key != TICK]


def write_history(driver: Driver) -> None:
    """Write values of three keys: a twice, b once, c and its tombstone; abort one of a."""
    # Offsets: a 0, b 2, c 4, (abort: 6 and 7), a 8, tombstone of c 10, markers between.
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"c", b"3")):
        driver.write("state", value, key=key)
    producer = driver.producer("p")
    producer.begin()
    driver.sent(producer, Produce("state", b"a", b"aborted", 0))
    producer.abort()
    driver.until(lambda: driver.end(STATE) == 8)
    driver.write("state", b"4", key=b"a")
    driver.write("state", None, key=b"c")


# ------------------------------------------------------------------------ compaction


def test_compaction_keeps_the_last_value_of_every_key_where_it_was(
    driver: Driver, rig: Rig
) -> None:
    rig.create_compacted("state")
    write_history(driver)
    end = driver.end(STATE)
    rig.compact("state")
    records = read(driver)
    assert [(r.offset, r.key, r.value) for r in records] == [(2, b"b", b"2"), (8, b"a", b"4")]
    assert driver.end(STATE) >= end
    driver.write("state", b"5", key=b"a")
    assert [r.value for r in read(driver)][-1] == b"5"


def test_a_tombstone_outlives_what_it_deletes(driver: Driver, rig: Rig) -> None:
    rig.create_compacted("state", keep_tombstones=True)
    write_history(driver)
    rig.compact("state", keep_tombstones=True)
    records = [(r.offset, r.key, r.value) for r in read(driver)]
    assert records == [(2, b"b", b"2"), (8, b"a", b"4"), (10, b"c", None)]


def test_ranges_are_read_to_their_end_across_gaps(driver: Driver, rig: Rig) -> None:
    rig.create_compacted("state")
    write_history(driver)
    end = driver.end(STATE)
    rig.compact("state")
    # Begins and ends where nothing is left.
    for start, stop, expected in ((0, end, [2, 8]), (0, 7, [2]), (3, 8, []), (6, 9, [8])):
        reader = RangeReader(driver.backend)
        reader.add(STATE, start, stop)
        found: list[Batch] = []
        while not reader.is_done(STATE):
            found += reader.poll(100, 0.02)
        assert [o for batch in found for o in batch.offsets] == expected, (start, stop)
        reader.close()


class Table:
    """Keeps the last value of every key."""

    topic = "state"

    def __init__(self) -> None:
        self.values: dict[bytes | None, bytes] = {}

    def apply(self, record: Record) -> None:
        self.values.pop(record.key, None)
        if record.value is not None and record.key != TICK:
            self.values[record.key] = record.value


def table_of(driver: Driver) -> dict[bytes | None, bytes]:
    table = Table()
    reader = TableReader(driver.backend, [table])
    while not reader.is_read:
        reader.poll(0.02)
    reader.close()
    return table.values


def test_a_table_of_a_compacted_topic_is_that_of_the_whole(driver: Driver, rig: Rig) -> None:
    rig.create_compacted("state")
    write_history(driver)
    assert table_of(driver) == {b"a": b"4", b"b": b"2"}
    rig.compact("state")
    assert table_of(driver) == {b"a": b"4", b"b": b"2"}


# -------------------------------------------------------------------------- deletion


def test_deleting_moves_the_beginning_and_nothing_else(driver: Driver, rig: Rig) -> None:
    rig.create({"log": 1})
    driver.write("log", b"0", b"1", b"2", b"3")
    rig.delete_before("log", 0, 2)
    consumer = driver.consumer()
    assert consumer.bounds(LOG) == (2, 5)
    assert [(r.offset, r.value) for r in read(driver, LOG)] == [(2, b"2"), (3, b"3")]
    rig.delete_before("log", 0, 1)
    assert consumer.bounds(LOG) == (2, 5)
    rig.delete_before("log", 0, 5)
    assert consumer.bounds(LOG) == (5, 5)
    assert read(driver, LOG) == []
    driver.write("log", b"5")
    assert [(r.offset, r.value) for r in read(driver, LOG)] == [(5, b"5")]


def test_who_falls_behind_what_is_deleted_is_told_what_is_lost(driver: Driver, rig: Rig) -> None:
    rig.create({"log": 1})
    driver.write("log", b"0")
    consumer = driver.consumer()
    consumer.assign({LOG: 0})
    driver.read(consumer, LOG)
    consumer.pause([LOG])
    driver.write("log", *[b"x"] * 8)
    rig.delete_before("log", 0, 7)
    # What the client has fetched before the pause may still come: nothing, or all up to 7.
    consumer.seek(LOG, 4)
    consumer.resume([LOG])
    with pytest.raises(Stop, match="records 4 to 7 of log/0 were deleted before they were read"):
        driver.until(lambda: False, consumer)


def test_a_group_learns_what_it_lost_of_what_it_was_reading(driver: Driver, rig: Rig) -> None:
    rig.create({"log": 1})
    driver.write("log", b"0", b"1", b"2")
    rig.delete_before("log", 0, 2)
    member = driver.member("m", "log")
    driver.until(lambda: member.held, member.consumer)
    member.consumer.seek(LOG, 1)
    member.consumer.resume([LOG])
    with pytest.raises(Stop, match="records 1 to 2 of log/0"):
        driver.until(lambda: False, member.consumer)
