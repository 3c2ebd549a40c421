"""What a record is and where it goes, held on Kafka and on the broker in memory alike."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import KafkaException

from kedge.errors import Misconfigured, Stop
from kedge.topics import LARGE_MESSAGE, TOPICS, murmur2
from kedge_services.runtime.ports import RECORD_BYTES, Produce, TopicPartition, TransactionAborted

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, Rig

    from kedge_services.runtime.ports import Record

PLACE = TopicPartition("log", 0)
HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def topics(rig: Rig) -> None:
    rig.create({"log": 2, "other": 2})


def read(driver: Driver, place: TopicPartition = PLACE) -> list[Record]:
    consumer = driver.consumer()
    consumer.assign({place: consumer.bounds(place)[0]})
    return driver.read(consumer, place)


# --------------------------------------------------------------------- its content


def test_keys_values_and_headers_arrive_as_they_were_sent(driver: Driver) -> None:
    headers = [("a", b"1"), ("a", b"\x00\xff"), ("empty", b"")]
    driver.write("log", b"v", None, b"", headers=headers)
    driver.write("log", b"w", key=b"k")
    records = read(driver)
    assert [(r.key, r.value) for r in records] == [
        (None, b"v"), (None, None), (None, b""), (b"k", b"w"),
    ]  # fmt: skip
    assert [list(r.headers) for r in records] == [headers, headers, headers, []]
    assert [r.offset for r in records] == [0, 1, 2, 4]
    assert all(r.timestamp_ms > 0 for r in records)


def test_a_record_may_have_almost_8_mb(driver: Driver) -> None:
    # Random, as what is sent is compressed; a broker counts what is left.
    large = random.Random(7).randbytes(RECORD_BYTES - 1_024)
    driver.write("log", large)
    assert driver.values("log") == [large]


@pytest.mark.parametrize("size", [RECORD_BYTES + 1, LARGE_MESSAGE, LARGE_MESSAGE + 1])
def test_a_larger_record_is_refused_and_spoils_nothing(driver: Driver, size: int) -> None:
    producer = driver.producer("p")
    producer.begin()
    with pytest.raises(Stop, match=r"(?i)log.*size too large"):
        producer.produce(Produce("log", b"k", bytes(size), 0))
    producer.abort()
    producer.begin()
    producer.produce(Produce("log", b"k", b"v", 0))
    producer.commit()
    assert driver.values("log") == [b"v"]


@pytest.mark.memory_gap("a topic in memory has no limit of its own")
def test_what_a_topic_refuses_aborts_the_transaction(driver: Driver, rig: Rig) -> None:
    rig.create({"small": 1}, max_message_bytes="1000")
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("small", b"k", random.Random(7).randbytes(2_000), 0))
    with pytest.raises(TransactionAborted):
        producer.commit()


@pytest.mark.memory_gap("a topic in memory does not know that it is compacted")
def test_a_compacted_topic_refuses_records_without_a_key(driver: Driver, rig: Rig) -> None:
    rig.create_compacted("state")
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("state", None, b"v", 0))
    with pytest.raises(TransactionAborted):
        producer.commit()


# ------------------------------------------------------------------------ its place


def test_without_a_partition_murmur2_of_the_key_decides(driver: Driver) -> None:
    keys = [f"request-{i}".encode() for i in range(20)] + [b"", b"\xff\x00", b"x" * 300]
    producer = driver.producer("p")
    producer.begin()
    for key in keys:
        producer.produce(Produce("log", key, key))
    producer.commit()
    for partition in (0, 1):
        expected = [key for key in keys if (murmur2(key) & 0x7FFFFFFF) % 2 == partition]
        assert driver.values("log", partition) == expected


def test_a_partition_that_is_named_counts_more_than_the_key(driver: Driver) -> None:
    for partition in (0, 1):
        driver.write("log", b"v", key=b"k", partition=partition)
    assert driver.values("log", 0) == driver.values("log", 1) == [b"v"]


def test_without_key_and_partition_a_record_goes_anywhere(driver: Driver) -> None:
    producer = driver.producer("p")
    producer.begin()
    producer.produce(Produce("log", None, b"v"))
    producer.commit()
    assert driver.values("log", 0) + driver.values("log", 1) == [b"v"]


def test_a_missing_topic_is_named(driver: Driver) -> None:
    with pytest.raises(Misconfigured, match="missing"):
        driver.backend.partitions("missing")
    producer = driver.producer("p")
    producer.begin()
    with pytest.raises(Misconfigured, match="missing"):
        producer.produce(Produce("missing", b"k", b"v", 0))
    assert driver.backend.partitions("log") == 2


def test_offsets_rise_in_the_order_of_sending(driver: Driver) -> None:
    for topic in ("log", "other"):
        for partition in (0, 1):
            driver.write(topic, *[b"%d" % i for i in range(50)], partition=partition)
            driver.write(topic, *[b"%d" % i for i in range(50, 80)], partition=partition)
    places = [TopicPartition(t, p) for t in ("log", "other") for p in (0, 1)]
    consumer = driver.consumer()
    consumer.assign(dict.fromkeys(places, 0))
    batches = driver.until(lambda: all(consumer.at_end(p) for p in places), consumer)
    for place in places:
        mine = [b for b in batches if (b.topic, b.partition) == place]
        # The marker of the first transaction lies between.
        assert [o for b in mine for o in b.offsets] == [*range(50), *range(51, 81)]
        assert [v for b in mine for v in b.values] == [b"%d" % i for i in range(80)]
        assert all(len(b) == len(b.keys) == len(b.headers) == len(b.timestamps_ms) for b in mine)


# ------------------------------------------------------------------------- its time


def test_a_topic_keeps_the_time_it_was_sent_with(driver: Driver, rig: Rig) -> None:
    rig.append("log", b"old", timestamp_ms=HOUR_MS)
    rig.append("log", b"older", timestamp_ms=HOUR_MS - 1)
    assert [r.timestamp_ms for r in read(driver)] == [HOUR_MS, HOUR_MS - 1]


@pytest.mark.memory_gap("what is appended in memory with a time keeps it")
def test_inputs_have_the_time_of_appending(driver: Driver, rig: Rig) -> None:
    assert TOPICS["predictions"].config()["message.timestamp.type"] == "LogAppendTime"
    rig.create({"input": 1}, message_timestamp_type="LogAppendTime")
    rig.append("input", b"old", timestamp_ms=1)
    driver.write("input", b"new")
    old, new = (record.timestamp_ms for record in read(driver, TopicPartition("input", 0)))
    assert 1 < old <= new


@pytest.mark.memory_gap("the broker in memory takes every time")
def test_a_time_of_the_future_is_refused(rig: Rig) -> None:
    with pytest.raises(KafkaException, match=r"(?i)timestamp"):
        rig.append("log", b"v", timestamp_ms=32_503_680_000_000)  # in the year 3000
