"""Offsets that groups commit, held on Kafka and on the broker in memory alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kedge_services.runtime.ports import (
    OffsetsPending,
    Position,
    Produce,
    TopicPartition,
    TransactionAborted,
)

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, Member, Rig

    from kedge_services.runtime.ports import Consumer

PLACE, SECOND = TopicPartition("log", 0), TopicPartition("log", 1)


@pytest.fixture(autouse=True)
def topics(rig: Rig) -> None:
    rig.create({"log": 2, "other": 1})


@pytest.fixture
def member(driver: Driver) -> Member:
    member = driver.member("m", "log")
    driver.until(lambda: member.held, member.consumer)
    return member


def is_answered(consumer: Consumer, *places: TopicPartition) -> bool:
    try:
        consumer.committed(places)
    except OffsetsPending:
        return False
    return True


def commit(driver: Driver, member: Member, offsets: dict[TopicPartition, Position]) -> None:
    """Commit, and wait for the marker in the topic of the group's offsets."""
    producer = driver.producer("p")
    producer.begin()
    producer.send_offsets(offsets, member.consumer.group_metadata())
    producer.commit()
    driver.until(lambda: is_answered(member.consumer, *offsets))


def test_offsets_are_committed_with_their_metadata(driver: Driver, member: Member) -> None:
    wanted = {PLACE: Position(7, '{"wm": 1, "ø": "ü"}'), SECOND: Position(8)}
    assert member.consumer.committed([PLACE, SECOND]) == {}
    commit(driver, member, wanted)
    assert member.consumer.committed([PLACE, SECOND]) == wanted
    assert member.consumer.committed([SECOND]) == {SECOND: Position(8)}
    assert driver.consumer("group").committed([PLACE, SECOND]) == wanted
    assert driver.consumer("nobody").committed([PLACE, SECOND]) == {}


def test_an_offset_replaces_the_former_one_with_its_metadata(
    driver: Driver, member: Member
) -> None:
    commit(driver, member, {PLACE: Position(7, "old"), SECOND: Position(7, "kept")})
    commit(driver, member, {PLACE: Position(5)})
    assert member.consumer.committed([PLACE, SECOND]) == {
        PLACE: Position(5), SECOND: Position(7, "kept"),
    }  # fmt: skip


@pytest.mark.parametrize("end", ["commit", "abort", "newer producer"])
def test_open_offsets_are_pending_until_they_are_decided(
    driver: Driver, member: Member, end: str
) -> None:
    commit(driver, member, {PLACE: Position(3)})
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("other", b"k", b"v", 0))
    producer.send_offsets({PLACE: Position(7)}, member.consumer.group_metadata())
    with pytest.raises(OffsetsPending):
        member.consumer.committed([PLACE, SECOND])
    assert member.consumer.committed([SECOND]) == {}
    if end == "newer producer":
        driver.producer("p")
    else:
        (producer.commit if end == "commit" else producer.abort)()
    driver.until(lambda: is_answered(member.consumer, PLACE))
    expected = Position(7 if end == "commit" else 3)
    assert member.consumer.committed([PLACE, SECOND]) == {PLACE: expected}


def test_records_and_offsets_commit_together(driver: Driver, member: Member) -> None:
    producer = driver.producer("p")
    for offset in (1, 2):
        producer.begin()
        producer.produce(Produce("other", b"k", b"%d" % offset, 0))
        producer.send_offsets({PLACE: Position(offset)}, member.consumer.group_metadata())
        if offset == 1:
            producer.commit()
        else:
            producer.abort()
    driver.until(lambda: is_answered(member.consumer, PLACE))
    assert member.consumer.committed([PLACE]) == {PLACE: Position(1)}
    assert driver.values("other") == [b"1"]


@pytest.mark.parametrize(("size", "is_taken"), [(4_000, True), (4_095, True), (4_096, False)])
def test_metadata_of_an_offset_is_limited(
    driver: Driver, member: Member, *, size: int, is_taken: bool
) -> None:
    offsets = {PLACE: Position(1, "x" * size)}
    if is_taken:
        commit(driver, member, offsets)
        assert member.consumer.committed([PLACE]) == offsets
        return
    producer = driver.producer("p")
    producer.begin()
    with pytest.raises(TransactionAborted):
        producer.send_offsets(offsets, member.consumer.group_metadata())
    producer.abort()
    producer.begin()
    producer.produce(Produce("other", b"k", b"after", 0))
    producer.commit()
    assert driver.values("other") == [b"after"]
