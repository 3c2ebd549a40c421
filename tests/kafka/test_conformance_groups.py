"""Members of a group, held on Kafka and on the broker in memory alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kedge.errors import Fenced
from kedge_services.runtime.ports import Position, Produce, TopicPartition, TransactionAborted

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, Member, Rig

PLACE = TopicPartition("log", 0)


@pytest.fixture(autouse=True)
def topics(rig: Rig) -> None:
    rig.create({"log": 2, "other": 2, "three": 3})


def until_held(driver: Driver, *members: Member) -> None:
    driver.until(lambda: all(m.held for m in members), *(m.consumer for m in members))


# ------------------------------------------------------------------------ who has what


def test_partitions_are_assigned_paused_and_read_after_seek_and_resume(driver: Driver) -> None:
    driver.write("log", b"v0", b"v1")
    member = driver.member("m", "log")
    until_held(driver, member)
    assert member.consumer.poll(10, 0.1) == []
    assert not member.consumer.at_end(PLACE)
    member.consumer.seek(PLACE, 1)
    member.consumer.resume(member.held)
    assert [r.value for r in driver.read(member.consumer, *member.held)] == [b"v1"]


def test_two_members_share_the_same_partitions_of_all_topics(driver: Driver) -> None:
    one = driver.member("m-0", "log", "other")
    driver.until(lambda: len(one.held) == 4, one.consumer)
    two = driver.member("m-1", "log", "other")
    until_held(driver, one, two)
    assert one.told == ["assign", "revoke", "assign"]
    assert two.told == ["assign"]
    assert one.held == [TopicPartition("log", 0), TopicPartition("other", 0)]
    assert two.held == [TopicPartition("log", 1), TopicPartition("other", 1)]


def test_a_range_that_does_not_divide_gives_the_first_members_more(driver: Driver) -> None:
    one, two = driver.member("m-0", "three"), driver.member("m-1", "three")
    driver.until(lambda: len(one.held) == 2 and len(two.held) == 1, one.consumer, two.consumer)
    assert [p.partition for p in one.held] == [0, 1]
    assert [p.partition for p in two.held] == [2]


def test_a_member_too_many_is_told_that_it_has_nothing(driver: Driver) -> None:
    members = [driver.member(f"m-{i}", "log") for i in range(3)]
    driver.until(
        lambda: [len(m.held) for m in members] == [1, 1, 0] and members[2].told,
        *(m.consumer for m in members),
    )
    assert members[2].told[-1] == "assign"
    assert members[2].consumer.poll(10, 0.02) == []
    assert members[2].consumer.group_metadata()


def test_two_groups_know_nothing_of_each_other(driver: Driver) -> None:
    one, two = driver.member("m", "log", group="one"), driver.member("m", "log", group="two")
    until_held(driver, one, two)
    assert len(one.held) == len(two.held) == 2
    assert one.told == two.told == ["assign"]


# --------------------------------------------------------------------- when it changes


def test_who_gives_partitions_up_can_still_commit_for_them(driver: Driver) -> None:
    producer = driver.producer("p")
    one = driver.member("m-0", "log")
    until_held(driver, one)

    def commit(partitions: list[TopicPartition]) -> None:
        producer.begin()
        offsets = {partition: Position(7) for partition in partitions}
        producer.send_offsets(offsets, one.consumer.group_metadata())
        producer.commit()

    one.when_revoked = commit
    two = driver.member("m-1", "log")
    driver.until(lambda: one.held and two.held, one.consumer, two.consumer)
    moved = two.held
    assert one.told == ["assign", "revoke", "assign"]
    assert two.consumer.committed(moved) == {moved[0]: Position(7)}


def test_after_a_rebalance_everything_is_paused_again(driver: Driver) -> None:
    driver.write("log", b"v0")
    one = driver.member("m-0", "log")
    until_held(driver, one)
    one.consumer.resume(one.held)
    driver.read(one.consumer, *one.held)
    two = driver.member("m-1", "log")
    driver.until(lambda: one.told[-2:] == ["revoke", "assign"], one.consumer, two.consumer)
    assert one.held == [PLACE]
    assert not one.consumer.at_end(PLACE)
    assert one.consumer.poll(10, 0.1) == []
    # From the beginning, as nobody has sought.
    one.consumer.resume(one.held)
    assert [r.value for r in driver.read(one.consumer, PLACE)] == [b"v0"]


def test_a_member_without_a_name_leaves_at_once(driver: Driver) -> None:
    one, two = driver.member(None, "log"), driver.member(None, "log")
    driver.until(
        lambda: len(one.held) == len(two.held) == 1, one.consumer, two.consumer
    )  # fmt: skip
    one.consumer.close()
    assert one.told[-1] == "revoke"
    driver.until(lambda: len(two.held) == 2, two.consumer)
    assert two.told[-2:] == ["revoke", "assign"]


def test_a_static_member_that_comes_back_disturbs_nobody(driver: Driver) -> None:
    one, two = driver.member("m-0", "log"), driver.member("m-1", "log")
    driver.until(
        lambda: len(one.held) == len(two.held) == 1, one.consumer, two.consumer
    )  # fmt: skip
    held, told = one.held, list(two.told)
    one.consumer.close()
    assert one.told[-1] == "revoke"
    back = driver.member("m-0", "log")
    until_held(driver, back, two)
    assert back.held == held
    assert two.told == told


def test_a_static_member_that_left_keeps_its_place_for_a_session(driver: Driver, rig: Rig) -> None:
    one, two = driver.member("m-0", "log"), driver.member("m-1", "log")
    driver.until(
        lambda: len(one.held) == len(two.held) == 1, one.consumer, two.consumer
    )  # fmt: skip
    one.consumer.close()
    rig.let_pass(5_900)
    for _ in range(5):
        two.consumer.poll(1, 0.02)
    assert two.told[-1] == "assign"
    assert len(two.held) == 1
    rig.let_pass(200)
    driver.until(lambda: len(two.held) == 2, two.consumer)
    assert two.told[-2:] == ["revoke", "assign"]


def test_whose_place_is_taken_is_fenced(driver: Driver) -> None:
    old = driver.member("m-0", "log")
    until_held(driver, old)
    new = driver.member("m-0", "log")
    until_held(driver, new)
    with pytest.raises(Fenced, match="another process"):
        driver.until(lambda: False, old.consumer)


def test_who_was_expelled_loses_everything_and_may_join_again(driver: Driver, rig: Rig) -> None:
    one, two = driver.member("m-0", "log"), driver.member("m-1", "log")
    driver.until(
        lambda: len(one.held) == len(two.held) == 1, one.consumer, two.consumer
    )  # fmt: skip
    rig.expel("group", "m-0")
    driver.until(lambda: len(two.held) == 2, two.consumer)
    driver.until(lambda: "lost" in one.told, one.consumer)
    driver.until(lambda: len(one.held) == len(two.held) == 1, one.consumer, two.consumer)
    assert one.told[-2:] == ["lost", "assign"]


# -------------------------------------------------------------------- who may commit


def test_who_is_no_member_gets_nothing_to_commit_with(driver: Driver) -> None:
    with pytest.raises(TransactionAborted):
        driver.consumer("group").group_metadata()


def test_offsets_of_a_former_generation_are_refused(driver: Driver) -> None:
    one = driver.member("m-0", "log")
    until_held(driver, one)
    former = one.consumer.group_metadata()
    two = driver.member("m-1", "log")
    until_held(driver, one, two)
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("other", b"k", b"of a zombie", 0))
    with pytest.raises(TransactionAborted):
        producer.send_offsets({PLACE: Position(1)}, former)
    producer.abort()
    assert driver.values("other") == []
    producer.begin()
    producer.produce(Produce("other", b"k", b"of a member", 0))
    producer.send_offsets({PLACE: Position(1)}, one.consumer.group_metadata())
    producer.commit()
    assert driver.values("other") == [b"of a member"]


def test_offsets_of_an_expelled_member_are_refused(driver: Driver, rig: Rig) -> None:
    zombie, other = driver.member("m-0", "log"), driver.member("m-1", "log")
    driver.until(
        lambda: len(zombie.held) == len(other.held) == 1, zombie.consumer, other.consumer
    )  # fmt: skip
    rig.expel("group", "m-0")
    driver.until(lambda: len(other.held) == 2, other.consumer)
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("other", b"k", b"of a zombie", 0))
    with pytest.raises(TransactionAborted):
        # It has not polled: what it has to commit with is what it had.
        producer.send_offsets({PLACE: Position(1)}, zombie.consumer.group_metadata())
    producer.abort()
    assert driver.values("other") == []
    assert other.consumer.committed([PLACE]) == {}
