"""Positions, pauses and ends, held on Kafka and on the broker in memory alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kedge.errors import Stop
from kedge_services.runtime.ports import Produce, Record, TopicPartition
from kedge_services.runtime.reading import RangeReader, TableReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.kafka.conftest import Driver, Rig

    from kedge_services.runtime.ports import Batch, Consumer

PLACE, SECOND, OTHER = (
    TopicPartition("log", 0),
    TopicPartition("log", 1),
    TopicPartition("other", 0),
)


@pytest.fixture(autouse=True)
def topics(rig: Rig) -> None:
    rig.create({"log": 2, "other": 1})


def numbers(count: int) -> list[bytes]:
    return [b"%d" % i for i in range(count)]


def values(batches: list[Batch]) -> list[bytes | None]:
    return [value for batch in batches for value in batch.values]


def gather(
    driver: Driver,
    reader: Consumer | RangeReader,
    condition: Callable[[list[Batch]], object],
    *,
    at_most: int = 1_000,
) -> list[Batch]:
    """Poll until the condition holds of what has come."""
    found: list[Batch] = []

    def is_met() -> object:
        batches = reader.poll(at_most, 0.02)
        assert sum(map(len, batches)) <= at_most
        found.extend(batches)
        return condition(found)

    driver.until(is_met)
    return found


def some(driver: Driver, reader: Consumer | RangeReader, at_most: int) -> list[Batch]:
    """Poll until something has come."""
    return gather(driver, reader, bool, at_most=at_most)


def is_read(reader: TableReader) -> bool:
    reader.poll(0.02)
    return reader.is_read


# ------------------------------------------------------------------------- positions


def test_a_poll_gives_no_more_than_was_asked_for_and_loses_nothing(driver: Driver) -> None:
    driver.write("log", *numbers(30))
    driver.write("log", *numbers(20), partition=1)
    consumer = driver.consumer()
    consumer.assign({PLACE: 0, SECOND: 0})
    found: list[Batch] = []
    while sum(map(len, found)) < 50:
        found += some(driver, consumer, 7)
    for partition, count in ((0, 30), (1, 20)):
        assert values([b for b in found if b.partition == partition]) == numbers(count)


def test_the_position_is_behind_what_was_handed_out(driver: Driver) -> None:
    driver.write("log", *numbers(10))
    consumer = driver.consumer()
    consumer.assign({PLACE: 3})
    assert consumer.position(PLACE) == 3
    (batch,) = some(driver, consumer, 4)
    assert batch.offsets[0] == 3
    assert consumer.position(PLACE) == batch.offsets[-1] + 1
    assert not consumer.at_end(PLACE)


def test_the_end_is_left_when_there_is_more(driver: Driver) -> None:
    driver.write("log", b"v0")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    driver.read(consumer, PLACE)
    # The record and the marker.
    assert consumer.bounds(PLACE) == (0, consumer.position(PLACE)) == (0, 2)
    assert consumer.lag(PLACE) == 0
    driver.write("log", b"v1")
    assert consumer.bounds(PLACE) == (0, 4)
    batches = driver.until(lambda: consumer.position(PLACE) == 4, consumer)
    assert values(batches) == [b"v1"]
    assert consumer.at_end(PLACE)


def test_an_empty_partition_is_at_its_end_once_somebody_has_looked(driver: Driver) -> None:
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    assert driver.read(consumer, PLACE) == []
    assert (consumer.position(PLACE), consumer.bounds(PLACE)) == (0, (0, 0))


def test_seek_reads_again_from_there(driver: Driver) -> None:
    driver.write("log", b"v0", b"v1")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    driver.read(consumer, PLACE)
    consumer.seek(PLACE, 1)
    assert [r.value for r in driver.read(consumer, PLACE)] == [b"v1"]


@pytest.mark.parametrize("target", [0, 2, 80])
def test_after_a_seek_nothing_of_the_former_place_is_handed_out(
    driver: Driver, target: int
) -> None:
    driver.write("log", *numbers(100))
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    some(driver, consumer, 5)  # the others wait in the client's queue
    consumer.seek(PLACE, target)
    assert consumer.position(PLACE) == target
    assert [r.offset for r in driver.read(consumer, PLACE)] == list(range(target, 100))


def test_assigning_anew_forgets_what_was_read_and_what_was_paused(driver: Driver) -> None:
    driver.write("log", *numbers(50))
    driver.write("other", b"v")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0, OTHER: 0})
    some(driver, consumer, 1)
    consumer.pause([PLACE, OTHER])
    consumer.assign({OTHER: 0})
    assert [(r.topic, r.value) for r in driver.read(consumer, OTHER)] == [("other", b"v")]


def test_from_before_the_first_offset_nothing_is_read(driver: Driver, rig: Rig) -> None:
    driver.write("log", *numbers(5))
    rig.delete_before("log", 0, 2)
    consumer = driver.consumer()
    assert consumer.bounds(PLACE) == (2, 6)
    consumer.assign({PLACE: 1})
    with pytest.raises(Stop, match="records 1 to 2 of log/0 were deleted"):
        driver.until(lambda: False, consumer)
    assert driver.values("log") == numbers(5)[2:]


def test_from_behind_the_end_nothing_is_read(driver: Driver) -> None:
    driver.write("log", b"v")
    consumer = driver.consumer()
    consumer.assign({PLACE: 9})
    with pytest.raises(Stop, match="offset 9 of log/0 lies beyond its end 2"):
        driver.until(lambda: False, consumer)


# ---------------------------------------------------------------------------- pauses


def test_a_paused_partition_is_not_at_its_end_until_it_is_resumed(driver: Driver) -> None:
    driver.write("log", b"v")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    driver.read(consumer, PLACE)
    consumer.pause([PLACE])
    assert not consumer.at_end(PLACE)
    driver.write("log", b"w")
    assert consumer.poll(10, 0.05) == []
    consumer.resume([PLACE])
    assert [r.value for r in driver.read(consumer, PLACE)] == [b"w"]
    assert consumer.lag(PLACE) == 0


def test_the_lag_of_a_paused_partition_grows_with_what_is_written(driver: Driver) -> None:
    driver.write("log", b"v")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    driver.read(consumer, PLACE)
    consumer.pause([PLACE])
    # Each with its marker.
    for expected in (2, 4):
        driver.write("log", b"w")
        driver.until(lambda: consumer.lag(PLACE) == expected, consumer)  # noqa: B023 -- it ends here


def test_a_poll_gives_one_batch_a_partition_in_the_order_of_offsets(driver: Driver) -> None:
    for n in range(3):
        driver.write("log", b"a%d" % n)
        driver.write("other", b"b%d" % n)
    consumer = driver.consumer()
    consumer.assign({PLACE: 0, OTHER: 0})
    read: list[Batch] = []

    def read_on() -> bool:
        batches = consumer.poll(100, 0.05)
        places = [(batch.topic, batch.partition) for batch in batches]
        assert len(places) == len(set(places))
        read.extend(batches)
        return consumer.at_end(PLACE) and consumer.at_end(OTHER)

    driver.until(read_on)
    for place, letter in ((PLACE, b"a"), (OTHER, b"b")):
        mine = [b for b in read if TopicPartition(b.topic, b.partition) == place]
        assert values(mine) == [letter + b"0", letter + b"1", letter + b"2"]


def test_after_a_resume_at_the_end_the_end_is_noticed_again(driver: Driver) -> None:
    driver.write("log", b"v")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    driver.read(consumer, PLACE)
    consumer.pause([PLACE])
    consumer.resume([PLACE])
    assert driver.read(consumer, PLACE) == []


def test_a_pause_holds_back_what_the_client_has_already(driver: Driver) -> None:
    driver.write("log", *numbers(100))
    driver.write("other", b"v")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0, OTHER: 0})
    found: list[Batch] = []
    while not any(batch.topic == "log" for batch in found):
        found += some(driver, consumer, 5)
    consumer.pause([PLACE])
    position = consumer.position(PLACE)
    found += driver.until(lambda: consumer.at_end(OTHER), consumer)
    assert consumer.position(PLACE) == position < 100
    consumer.resume([PLACE])
    found += driver.until(lambda: consumer.at_end(PLACE), consumer)
    assert values([b for b in found if b.topic == "log"]) == numbers(100)


def test_a_seek_while_paused_counts_after_the_resume(driver: Driver) -> None:
    driver.write("log", *numbers(5))
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    driver.read(consumer, PLACE)
    consumer.pause([PLACE])
    consumer.seek(PLACE, 3)
    assert consumer.poll(10, 0.05) == []
    assert not consumer.at_end(PLACE)
    consumer.resume([PLACE])
    assert [r.value for r in driver.read(consumer, PLACE)] == numbers(5)[3:]


# -------------------------------------------------------------------- to the very end


class Table:
    """Remembers everything it was given."""

    topic = "log"

    def __init__(self) -> None:
        self.applied: list[bytes | None] = []

    def apply(self, record: Record) -> None:
        self.applied.append(record.value)


@pytest.fixture
def table(driver: Driver) -> Iterator[tuple[Table, TableReader]]:
    driver.write("log", b"v0")
    table = Table()
    reader = TableReader(driver.backend, [table])
    yield table, reader
    reader.close()


def test_a_table_is_read_when_everything_there_was_has_been_applied(
    driver: Driver, table: tuple[Table, TableReader]
) -> None:
    driver.write("log", b"v1", partition=1)
    driver.until(lambda: is_read(table[1]))
    assert b"v0" in table[0].applied
    table[1].refresh()
    assert sorted(v or b"" for v in table[0].applied) == [b"v0", b"v1"]


def test_a_table_is_not_read_before_an_open_transaction_is_decided(driver: Driver) -> None:
    # A paused former owner has begun; the end of the partition comes before b"behind".
    slow = driver.producer("paused-owner")
    slow.begin()
    driver.sent(slow, Produce("log", b"k", b"open", 0))
    driver.write("log", b"behind")
    table = Table()
    reader = TableReader(driver.backend, [table])
    for _ in range(5):
        reader.poll(0.02)
    assert not reader.is_read
    assert table.applied == []
    slow.commit()
    driver.until(lambda: is_read(reader))
    assert table.applied == [b"open", b"behind"]
    reader.close()


def test_a_range_is_read_exactly(driver: Driver) -> None:
    driver.write("log", *numbers(10))
    driver.write("log", *numbers(10), partition=1)
    reader = RangeReader(driver.backend)
    reader.add(PLACE, 2, 5)
    reader.add(SECOND, 9, 10)
    reader.add(OTHER, 0, 0)  # empty: done at once
    assert reader.is_done(OTHER)
    found = gather(driver, reader, lambda _: reader.is_done(PLACE) and reader.is_done(SECOND))
    assert values([b for b in found if b.partition == 0]) == numbers(10)[2:5]
    assert values([b for b in found if b.partition == 1]) == numbers(10)[9:]
    assert reader.poll(100, 0.0) == []
    reader.close()


def test_a_range_added_while_another_is_read_interrupts_nothing(driver: Driver) -> None:
    driver.write("log", *numbers(50))
    driver.write("log", *numbers(50), partition=1)
    reader = RangeReader(driver.backend)
    reader.add(PLACE, 0, 50)
    found = some(driver, reader, 5)
    reader.add(SECOND, 40, 50)
    reader.add(OTHER, 0, 2)
    reader.forget(OTHER)
    assert reader.is_done(OTHER)
    found += gather(
        driver, reader, lambda _: reader.is_done(PLACE) and reader.is_done(SECOND), at_most=5
    )
    assert values([b for b in found if b.partition == 0]) == numbers(50)
    assert values([b for b in found if b.partition == 1]) == numbers(50)[40:]
    reader.close()


def test_a_partition_that_was_read_can_be_read_again_while_others_are(driver: Driver) -> None:
    # As after an abort: one task is restored again while others still are.
    driver.write("log", *numbers(50))
    driver.write("log", *numbers(50), partition=1)
    reader = RangeReader(driver.backend)
    reader.add(PLACE, 0, 3)
    reader.add(SECOND, 0, 51)
    slow = driver.producer("slow")
    slow.begin()
    driver.sent(slow, Produce("log", b"k", b"open", 1))
    reader.add(SECOND, 0, 52)
    found = gather(driver, reader, lambda _: reader.is_done(PLACE))
    assert values([b for b in found if b.partition == 0]) == numbers(3)
    reader.add(PLACE, 1, 5)
    found = gather(driver, reader, lambda _: reader.is_done(PLACE))
    assert values([b for b in found if b.partition == 0]) == numbers(5)[1:]
    assert not reader.is_done(SECOND)
    reader.close()


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_range_up_to_the_end_waits_for_an_open_transaction(driver: Driver, end: str) -> None:
    driver.write("log", b"v0")
    slow = driver.producer("paused-owner")
    slow.begin()
    driver.sent(slow, Produce("log", b"k", b"open", 0))
    driver.write("log", b"behind")
    reader = RangeReader(driver.backend)
    reader.add(PLACE, 0, driver.end(PLACE))
    found = some(driver, reader, 100)
    for _ in range(3):
        found += reader.poll(100, 0.02)
    assert values(found) == [b"v0"]
    assert not reader.is_done(PLACE)
    (slow.commit if end == "commit" else slow.abort)()
    driver.write("log", b"after the end that was asked for")
    found += gather(driver, reader, lambda _: reader.is_done(PLACE))
    assert values(found) == [b"v0", *([b"open"] if end == "commit" else []), b"behind"]
    reader.close()
