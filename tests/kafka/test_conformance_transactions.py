"""Transactions, held on Kafka and on the broker in memory alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kedge.errors import Fenced, Stop
from kedge_services.runtime.ports import Position, Produce, TopicPartition

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, Rig

PLACE = TopicPartition("log", 0)


def record(value: bytes, topic: str = "log", partition: int = 0) -> Produce:
    return Produce(topic, b"k", value, partition)


@pytest.fixture(autouse=True)
def topics(rig: Rig) -> None:
    rig.create({"log": 2, "other": 1})


# -------------------------------------------------------------------- what is seen


def test_records_are_invisible_until_the_commit(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.begin()
    driver.sent(producer, record(b"v"))
    assert driver.values("log") == []
    producer.commit()
    assert driver.values("log") == [b"v"]


def test_a_transaction_is_seen_in_all_its_partitions_or_in_none(driver: Driver) -> None:
    producer = driver.producer("p")
    places = [TopicPartition("log", 0), TopicPartition("log", 1), TopicPartition("other", 0)]
    for value in (b"gone", b"kept"):
        producer.begin()
        for topic, partition in places:
            driver.sent(producer, record(value, topic, partition))
        if value == b"gone":
            producer.abort()
        else:
            producer.commit()
    assert [driver.values(*place) for place in places] == [[b"kept"]] * 3


def test_aborted_records_are_never_seen(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.begin()
    producer.produce(record(b"gone"))
    producer.abort()
    driver.write("log", b"kept")
    assert driver.values("log") == [b"kept"]


def test_records_between_those_of_an_aborted_transaction_are_seen(driver: Driver) -> None:
    # The log:  gone, v0 and its marker, gone, v1 and its marker; then the abort.
    producer = driver.producer("p")
    producer.begin()
    for value in (b"v0", b"v1"):
        driver.sent(producer, record(b"gone"))
        driver.write("log", value)
    assert driver.values("log") == []
    producer.abort()
    driver.until(lambda: driver.values("log") == [b"v0", b"v1"])


def test_an_abort_without_a_transaction_does_nothing(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.abort()
    producer.begin()
    producer.produce(record(b"v"))
    producer.commit()
    producer.abort()
    assert driver.values("log") == [b"v"]


def test_a_transaction_without_records_leaves_nothing(driver: Driver) -> None:
    producer = driver.producer("p")
    for end in (producer.commit, producer.abort):
        producer.begin()
        end()
    assert driver.end(PLACE) == 0


def test_markers_and_aborted_records_take_up_offsets(driver: Driver) -> None:
    driver.write("log", b"v0")
    producer = driver.producer("p")
    producer.begin()
    assert driver.sent(producer, record(b"gone")) == 3
    producer.abort()
    driver.write("log", b"v1")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    assert [(r.offset, r.value) for r in driver.read(consumer, PLACE)] == [(0, b"v0"), (4, b"v1")]
    assert consumer.position(PLACE) == consumer.bounds(PLACE)[1] == 6


@pytest.mark.parametrize("first_ends", ["committed", "aborted"])
def test_nothing_is_seen_behind_the_oldest_open_transaction(
    driver: Driver, first_ends: str
) -> None:
    # log:  v0 | marker | one | two | two's marker …
    #                   ^ last stable offset        ^ read-uncommitted end
    driver.write("log", b"v0")
    one, two = driver.producer("one"), driver.producer("two")
    one.begin()
    two.begin()
    assert driver.sent(one, record(b"one")) == 3
    two.produce(record(b"two"))
    two.commit()
    driver.until(lambda: driver.end(PLACE) == 5)
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    assert [r.value for r in driver.read(consumer, PLACE)] == [b"v0"]
    assert (consumer.position(PLACE), consumer.bounds(PLACE)) == (2, (0, 5))
    assert consumer.at_end(PLACE)
    assert consumer.lag(PLACE) == 0
    (one.commit if first_ends == "committed" else one.abort)()
    later = driver.until(lambda: consumer.position(PLACE) == 6, consumer)
    expected = [b"one", b"two"] if first_ends == "committed" else [b"two"]
    assert [value for batch in later for value in batch.values] == expected


# ------------------------------------------------------------------- who may write


def test_a_newer_producer_fences_the_older_and_ends_what_it_left_open(driver: Driver) -> None:
    old = driver.producer("slot")
    old.begin()
    driver.sent(old, record(b"old"))
    new = driver.producer("slot")
    new.begin()
    new.produce(record(b"new"))
    new.commit()
    with pytest.raises(Fenced, match="another process"):
        old.commit()
    assert driver.values("log") == [b"new"]


@pytest.mark.parametrize("end", ["commit", "abort", "close"])
def test_who_is_fenced_cannot_end_the_transaction_of_the_newer(driver: Driver, end: str) -> None:
    old = driver.producer("slot")
    old.begin()
    driver.sent(old, record(b"old"))
    new = driver.producer("slot")
    new.begin()
    driver.sent(new, record(b"new"))
    if end == "close":
        old.close()
    else:
        with pytest.raises(Fenced):
            (old.commit if end == "commit" else old.abort)()
    assert driver.values("log") == []
    new.commit()
    assert driver.values("log") == [b"new"]


def test_whoever_is_fenced_stays_so_whatever_is_asked(driver: Driver) -> None:
    old = driver.producer("slot")
    old.begin()
    driver.sent(old, record(b"old"))
    driver.producer("slot")
    with pytest.raises(Fenced):
        old.commit()
    for call in (old.abort, old.begin, lambda: old.produce(record(b"x")), old.commit):
        with pytest.raises(Fenced, match="slot"):
            call()
    old.close()


def test_closing_aborts_what_is_open(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.begin()
    driver.sent(producer, record(b"open"))
    driver.write("log", b"behind")
    assert driver.values("log") == []
    producer.close()
    driver.until(lambda: driver.values("log") == [b"behind"])


def test_a_transaction_left_open_is_aborted_and_its_owner_is_fenced(
    driver: Driver, rig: Rig
) -> None:
    owners = {name: driver.producer(name, rig.hasty) for name in ("one", "two", "three")}
    for owner in owners.values():
        owner.begin()
        driver.sent(owner, record(b"open"))
    driver.write("log", b"behind")
    assert driver.values("log") == []
    rig.let_pass(6_001)
    driver.until(lambda: driver.values("log") == [b"behind"])
    with pytest.raises(Fenced, match="longer than a transaction may take"):
        owners["one"].commit()
    with pytest.raises(Fenced, match="longer than a transaction may take"):
        owners["two"].abort()
    member = driver.member("m", "log")
    driver.until(lambda: member.held, member.consumer)
    with pytest.raises(Fenced, match="longer than a transaction may take"):
        owners["three"].send_offsets({PLACE: Position(1)}, member.consumer.group_metadata())
    again = driver.producer("one")
    again.begin()
    again.produce(record(b"again"))
    again.commit()
    assert driver.values("log") == [b"behind", b"again"]


@pytest.mark.parametrize("call", ["produce", "commit", "begin twice"])
def test_calls_out_of_order_stop(driver: Driver, call: str) -> None:
    producer = driver.producer("p")
    if call == "begin twice":
        producer.begin()
    with pytest.raises(Stop):
        {
            "produce": lambda: producer.produce(record(b"v")),
            "commit": producer.commit,
            "begin twice": producer.begin,
        }[call]()
