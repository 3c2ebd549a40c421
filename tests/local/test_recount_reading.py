"""The recount's own reader and command, on a real Kafka."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from kedge_services.local.recount.__main__ import main
from kedge_services.local.recount.plain import Record
from kedge_services.local.recount.reading import KafkaLog
from kedge_services.runtime.settings import Settings

pytestmark = pytest.mark.kafka


@pytest.fixture
def producer(kafka_settings: Settings) -> Producer:
    found = Producer(
        {
            "bootstrap.servers": kafka_settings.kafka.bootstrap_servers or "",
            "transactional.id": f"{kafka_settings.prefix}writer",
        }
    )
    found.init_transactions(30)
    return found


@pytest.fixture
def log(kafka_settings: Settings) -> Iterator[KafkaLog]:
    servers = kafka_settings.kafka.bootstrap_servers
    with KafkaLog({"bootstrap.servers": servers}, prefix=kafka_settings.prefix) as log:
        yield log


def write(producer: Producer, settings: Settings, *values: bytes, partition: int = 0) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(
            f"{settings.prefix}outcomes", value, b"key", partition, headers=[("h", b"1")]
        )
    producer.flush(30)


def values(records: Iterator[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def test_only_committed_records_are_read_each_with_its_place(
    producer: Producer, log: KafkaLog, kafka_settings: Settings
) -> None:
    write(producer, kafka_settings, b"a", b"b")
    producer.commit_transaction(30)
    write(producer, kafka_settings, b"gone")
    producer.abort_transaction(30)
    write(producer, kafka_settings, b"c", partition=1)
    producer.commit_transaction(30)
    records = sorted(log.read("outcomes"))
    assert [(r.topic, r.partition, r.offset, r.value) for r in records] == [
        ("outcomes", 0, 0, b"a"), ("outcomes", 0, 1, b"b"), ("outcomes", 1, 0, b"c"),
    ]  # fmt: skip
    assert {(r.key, r.headers) for r in records} == {(b"key", (("h", b"1"),))}
    assert all(r.timestamp_ms > 0 for r in records)
    assert log.partitions("outcomes") == 2


def test_a_topic_can_be_read_again_and_others_after_it(
    producer: Producer, log: KafkaLog, kafka_settings: Settings
) -> None:
    write(producer, kafka_settings, b"a")
    producer.commit_transaction(30)
    assert values(log.read("outcomes")) == [b"a"]
    assert values(log.read("predictions")) == []
    assert values(log.read("outcomes")) == [b"a"]


def test_what_is_committed_behind_an_open_transaction_is_waited_for(
    producer: Producer, log: KafkaLog, kafka_settings: Settings
) -> None:
    write(producer, kafka_settings, b"late")
    ending = threading.Timer(0.5, producer.commit_transaction, [30])
    ending.start()
    assert values(log.read("outcomes")) == [b"late"]
    ending.join()


def test_a_topic_that_is_missing_is_one_sentence_and_status_2(
    kafka_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = kafka_settings.kafka.bootstrap_servers or ""
    assert main(["--bootstrap-servers", servers, "--prefix", "nobodys."]) == 2
    assert capsys.readouterr().err.startswith(
        "kedge: the topics cannot be counted again: topic nobodys.monitors: "
    )


def test_the_command_reports_and_its_status_says_whether_all_is_right(
    producer: Producer, kafka_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = kafka_settings.kafka.bootstrap_servers or ""
    arguments = ["--bootstrap-servers", servers, "--prefix", kafka_settings.prefix]
    assert main(arguments) == 0
    assert "0 records in, 0 accounted for, 0 differences" in capsys.readouterr().out
    # Nobody runs who could put this aside.
    write(producer, kafka_settings, b"{")
    producer.commit_transaction(30)
    assert main([*arguments, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["records_in"] == 1
    assert report["differences"][0].startswith(
        "dead letters of a record, outcomes[0]@0: expected ['bad-value or "
    )
