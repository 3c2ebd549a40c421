"""What Kedge builds on, held on Kafka and on the broker in memory alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kedge.errors import BrokerUnavailable, Fenced, Misconfigured, Stop
from kedge.topics import murmur2
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import (
    OffsetsPending,
    Position,
    Produce,
    TopicPartition,
    TransactionAborted,
)
from kedge_services.runtime.settings import KafkaSettings, Settings

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, Member, Rig

    from kedge_services.runtime.ports import Producer

PLACE = TopicPartition("log", 0)


@pytest.fixture(autouse=True)
def topics(rig: Rig) -> None:
    rig.create({"log": 2, "other": 2})


# ------------------------------------------------------------------ transactions


def test_records_are_invisible_until_the_commit(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("log", b"k", b"v", 0))
    assert driver.values("log") == []
    producer.commit()
    assert driver.values("log") == [b"v"]


def test_aborted_records_are_never_seen(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("log", b"k", b"gone", 0))
    producer.abort()
    driver.write("log", b"kept")
    assert driver.values("log") == [b"kept"]


def test_an_abort_without_a_transaction_does_nothing(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.abort()
    producer.begin()
    producer.produce(Produce("log", b"k", b"v", 0))
    producer.commit()
    producer.abort()
    assert driver.values("log") == [b"v"]


def test_the_end_of_a_partition_lies_behind_markers_and_aborted_records(driver: Driver) -> None:
    driver.write("log", b"kept")
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("log", b"k", b"gone", 0))
    consumer = driver.consumer()
    # Kafka writes nothing of a transaction that is aborted before it was sent.
    driver.until(lambda: consumer.bounds(PLACE)[1] == 3)
    producer.abort()
    consumer.assign({PLACE: 0})
    assert [r.value for r in driver.read(consumer, PLACE)] == [b"kept"]
    assert consumer.position(PLACE) == consumer.bounds(PLACE)[1] == 4


def test_an_open_transaction_holds_back_what_was_committed_after_it(driver: Driver) -> None:
    # log:  v0 | marker | open … | v1 | marker
    #                   ^ last stable offset    ^ read-uncommitted end
    driver.write("log", b"v0")
    slow = driver.producer("slow")
    slow.begin()
    slow.produce(Produce("log", b"k", b"open", 0))
    consumer = driver.consumer()
    driver.until(lambda: consumer.bounds(PLACE)[1] == 3)
    driver.write("log", b"v1")
    consumer.assign({PLACE: 0})
    assert [r.value for r in driver.read(consumer, PLACE)] == [b"v0"]
    assert consumer.position(PLACE) == 2
    assert consumer.bounds(PLACE) == (0, 5)
    slow.commit()
    later = driver.until(lambda: consumer.position(PLACE) == 6, consumer)
    assert [value for batch in later for value in batch.values] == [b"open", b"v1"]


def test_a_newer_producer_fences_the_older_and_ends_what_it_left_open(driver: Driver) -> None:
    old = driver.producer("slot")
    old.begin()
    old.produce(Produce("log", b"k", b"old", 0))
    new = driver.producer("slot")
    new.begin()
    new.produce(Produce("log", b"k", b"new", 0))
    new.commit()
    with pytest.raises(Fenced, match="another process"):
        old.commit()
    assert driver.values("log") == [b"new"]


# ----------------------------------------------------------------------- records


def test_keys_values_and_headers_arrive_as_they_were_sent(driver: Driver) -> None:
    headers = [("a", b"1"), ("a", b"\x00\xff"), ("empty", b"")]
    driver.write("log", b"v", None, b"", headers=headers)
    driver.write("log", b"w", key=b"k")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    records = driver.read(consumer, PLACE)
    assert [(r.key, r.value) for r in records] == [
        (None, b"v"), (None, None), (None, b""), (b"k", b"w"),
    ]  # fmt: skip
    assert [list(r.headers) for r in records] == [headers, headers, headers, []]
    assert [r.offset for r in records] == [0, 1, 2, 4]
    assert all(r.timestamp_ms > 0 for r in records)


def test_without_a_partition_murmur2_of_the_key_decides(driver: Driver) -> None:
    keys = [f"request-{i}".encode() for i in range(20)]
    producer = driver.producer("p")
    producer.begin()
    for key in keys:
        producer.produce(Produce("log", key, key))
    producer.commit()
    for partition in (0, 1):
        expected = [key for key in keys if (murmur2(key) & 0x7FFFFFFF) % 2 == partition]
        assert driver.values("log", partition) == expected


def test_batches_are_of_one_partition_in_the_order_of_offsets(driver: Driver) -> None:
    for topic in ("log", "other"):
        for partition in (0, 1):
            driver.write(topic, *[b"%d" % i for i in range(50)], partition=partition)
    places = [TopicPartition(t, p) for t in ("log", "other") for p in (0, 1)]
    consumer = driver.consumer()
    consumer.assign(dict.fromkeys(places, 0))
    batches = driver.until(lambda: all(consumer.at_end(p) for p in places), consumer)
    for place in places:
        mine = [b for b in batches if (b.topic, b.partition) == place]
        assert [o for b in mine for o in b.offsets] == list(range(50))
        assert [v for b in mine for v in b.values] == [b"%d" % i for i in range(50)]


def test_a_record_beyond_8_mb_is_refused(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.begin()
    with pytest.raises(Stop, match=r"(?i)size too large"):
        producer.produce(Produce("log", b"k", bytes(9 << 20), 0))


def test_a_missing_topic_is_named(driver: Driver) -> None:
    with pytest.raises(Misconfigured, match="missing"):
        driver.backend.partitions("missing")
    producer = driver.producer("p")
    producer.begin()
    with pytest.raises(Misconfigured, match="missing"):
        producer.produce(Produce("missing", b"k", b"v", 0))
    assert driver.backend.partitions("log") == 2


def test_reading_what_was_deleted_stops(driver: Driver, rig: Rig) -> None:
    driver.write("log", b"v0", b"v1", b"v2")
    rig.delete_before("log", 0, 2)
    consumer = driver.consumer()
    assert consumer.bounds(PLACE) == (2, 4)
    consumer.assign({PLACE: 0})
    with pytest.raises(Stop, match="deleted"):
        driver.until(lambda: False, consumer)
    assert driver.values("log") == [b"v2"]


# ------------------------------------------------------------------------ seeking


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


def test_after_a_resume_at_the_end_the_end_is_noticed_again(driver: Driver) -> None:
    driver.write("log", b"v")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    driver.read(consumer, PLACE)
    consumer.pause([PLACE])
    consumer.resume([PLACE])
    assert driver.read(consumer, PLACE) == []


def test_seek_reads_again_from_there(driver: Driver) -> None:
    driver.write("log", b"v0", b"v1")
    consumer = driver.consumer()
    consumer.assign({PLACE: 0})
    driver.read(consumer, PLACE)
    consumer.seek(PLACE, 1)
    assert not consumer.at_end(PLACE)
    assert [r.value for r in driver.read(consumer, PLACE)] == [b"v1"]


# ------------------------------------------------------------------------- groups


def test_partitions_are_assigned_paused_and_read_after_seek_and_resume(driver: Driver) -> None:
    driver.write("log", b"v0", b"v1")
    member = driver.member("m", "log")
    driver.until(lambda: len(member.held) == 2, member.consumer)
    assert member.consumer.poll(10, 0.1) == []
    member.consumer.seek(PLACE, 1)
    member.consumer.resume(member.held)
    assert [r.value for r in driver.read(member.consumer, *member.held)] == [b"v1"]


def test_offsets_are_committed_with_their_metadata(driver: Driver) -> None:
    member = driver.member("m", "log")
    driver.until(lambda: member.held, member.consumer)
    producer = driver.producer("p")
    producer.begin()
    wanted = {PLACE: Position(7, '{"wm": 1}'), TopicPartition("log", 1): Position(8)}
    producer.send_offsets(wanted, member.consumer.group_metadata())
    assert commit_and_ask(driver, producer, member) == wanted
    assert driver.consumer("group").committed(member.held) == wanted
    assert driver.consumer("nobody").committed(member.held) == {}


def is_answered(member: Member) -> bool:
    try:
        member.consumer.committed(member.held)
    except OffsetsPending:
        return False
    return True


def commit_and_ask(
    driver: Driver, producer: Producer, member: Member
) -> dict[TopicPartition, Position]:
    """Commit, and wait for the marker in the topic of the group's offsets."""
    producer.commit()
    driver.until(lambda: is_answered(member) and member.consumer.committed(member.held))
    return member.consumer.committed(member.held)


def test_open_offsets_are_pending_until_they_are_decided(driver: Driver) -> None:
    member = driver.member("m", "log")
    driver.until(lambda: member.held, member.consumer)
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("other", b"k", b"v", 0))
    producer.send_offsets({PLACE: Position(7)}, member.consumer.group_metadata())
    with pytest.raises(OffsetsPending):
        member.consumer.committed(member.held)
    assert commit_and_ask(driver, producer, member) == {PLACE: Position(7)}


def test_aborted_offsets_are_not_committed(driver: Driver) -> None:
    member = driver.member("m", "log")
    driver.until(lambda: member.held, member.consumer)
    producer = driver.producer("p")
    for offset in (3, 5):
        producer.begin()
        producer.send_offsets({PLACE: Position(offset)}, member.consumer.group_metadata())
        if offset == 5:
            producer.abort()
        else:
            producer.commit()
    driver.until(lambda: is_answered(member))
    assert member.consumer.committed(member.held) == {PLACE: Position(3)}


@pytest.mark.parametrize("size", [4_000, 4_096])
def test_metadata_of_an_offset_is_limited(driver: Driver, size: int) -> None:
    member = driver.member("m", "log")
    driver.until(lambda: member.held, member.consumer)
    producer = driver.producer("p")
    producer.begin()
    offsets = {PLACE: Position(1, "x" * size)}
    if size == 4_000:
        producer.send_offsets(offsets, member.consumer.group_metadata())
        producer.commit()
        return
    with pytest.raises(TransactionAborted):
        producer.send_offsets(offsets, member.consumer.group_metadata())
    producer.abort()
    producer.begin()
    producer.produce(Produce("log", b"k", b"after", 0))
    producer.commit()
    assert driver.values("log") == [b"after"]


def test_who_is_no_member_gets_nothing_to_commit_with(driver: Driver) -> None:
    with pytest.raises(TransactionAborted):
        driver.consumer("group").group_metadata()


def test_two_members_share_the_same_partitions_of_all_topics(driver: Driver) -> None:
    one = driver.member("m-0", "log", "other")
    driver.until(lambda: len(one.held) == 4, one.consumer)
    two = driver.member("m-1", "log", "other")
    driver.until(lambda: one.held and two.held, one.consumer, two.consumer)
    assert one.told == ["assign", "revoke", "assign"]
    assert {p.partition for p in one.held} == {0}
    assert {p.partition for p in two.held} == {1}
    assert len(one.held) == len(two.held) == 2


def test_offsets_of_a_former_generation_are_refused(driver: Driver) -> None:
    one = driver.member("m-0", "log")
    driver.until(lambda: one.held, one.consumer)
    former = one.consumer.group_metadata()
    two = driver.member("m-1", "log")
    driver.until(lambda: one.held and two.held, one.consumer, two.consumer)
    producer = driver.producer("p")
    producer.begin()
    with pytest.raises(TransactionAborted):
        producer.send_offsets({PLACE: Position(1)}, former)
    producer.abort()


def test_a_static_member_that_comes_back_disturbs_nobody(driver: Driver) -> None:
    one = driver.member("m-0", "log")
    two = driver.member("m-1", "log")
    driver.until(
        lambda: len(one.held) == len(two.held) == 1, one.consumer, two.consumer
    )  # fmt: skip
    held, told = one.held, list(two.told)
    one.consumer.close()
    back = driver.member("m-0", "log")
    driver.until(lambda: back.held, back.consumer, two.consumer)
    assert back.held == held
    assert two.told == told


def test_whose_place_is_taken_is_fenced(driver: Driver) -> None:
    old = driver.member("m-0", "log")
    driver.until(lambda: old.held, old.consumer)
    new = driver.member("m-0", "log")
    driver.until(lambda: new.held, new.consumer)
    with pytest.raises(Fenced, match="another process"):
        driver.until(lambda: False, old.consumer)


# ------------------------------------------------------------------------ reaching


def test_without_a_broker_one_sentence_says_what_to_do() -> None:
    nowhere = KafkaSettings(
        bootstrap_servers="127.0.0.1:1", properties={"socket.connection.setup.timeout.ms": 1_000}
    )
    backend = KafkaBackend(Settings(kafka=nowhere), patience_s=0.5)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1.*kedge broker"):
        backend.partitions("monitors")
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        backend.producer("p")


@pytest.mark.parametrize(
    "rig",
    [
        pytest.param(
            "memory",
            marks=pytest.mark.xfail(
                strict=True, reason="the broker in memory keeps every record of a compacted topic"
            ),
        ),
        pytest.param("kafka", marks=pytest.mark.kafka),
    ],
    indirect=True,
)
def test_compaction_keeps_the_last_value_of_a_key(driver: Driver, rig: Rig) -> None:
    rig.create(
        {"state": 1},
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        max_compaction_lag_ms="100",
    )
    for value in (b"1", b"2", b"3"):
        driver.write("state", value, key=b"k")
    count = 0

    def is_compacted() -> bool:
        nonlocal count
        count += 1
        driver.write("state", b"%d" % count, key=b"tick")
        return driver.values("state").count(b"3") == 1 and b"1" not in driver.values("state")[:2]

    for _ in range(3):
        if is_compacted():
            return
    driver.until(is_compacted)
