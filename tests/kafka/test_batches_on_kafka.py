"""Batches sent by the client to a real Kafka, and counted by panes."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from kedge.batch_layout import CONTENT_TYPE, is_batch
from kedge.client import Client
from kedge.errors import DeadLetter, Misconfigured, QueueFull, UsageError
from kedge.topics import request_id, request_partition
from kedge_services.panes.arrow import ArrowReader
from kedge_services.panes.arrow_rows import ArrowRows
from kedge_services.runtime.settings import Settings

#: Declared as a mapping or a list; it is a list.
_headers: Callable[[Message], Any] = Message.headers
NOW = 1_795_220_224_624


def rows(names: list[str]) -> dict[str, object]:
    return {
        "prediction_id": names,
        "event_time_ms": [NOW + i for i in range(len(names))],
        "features": {"amount": [0.5 * i for i in range(len(names))]},
        "output": {"label": pa.array(["ok"] * len(names)).dictionary_encode()},
    }


@pytest.mark.kafka
def test_every_row_is_delivered_on_the_partition_of_its_request(kafka_settings: Settings) -> None:
    names = [f"r-{i % 300}#{i // 300}" for i in range(2_000)] + ["Zürich", "日本"]
    servers = str(kafka_settings.kafka.bootstrap_servers)
    with Client(servers, prefix=kafka_settings.prefix, headers={"trace": "a-1"}) as kedge:
        sent = kedge.predict_batch(
            rows(names), model="fraud", version="12", role="shadow", rows_per_record=300
        )
        kedge.flush()
        assert (sent, kedge.delivered, kedge.waiting, kedge.lost) == (len(names), len(names), 0, 0)

    partitions = kafka_settings.request_partitions
    consumer = Consumer({"bootstrap.servers": servers, "group.id": uuid.uuid4().hex,
                         "auto.offset.reset": "error"})  # fmt: skip
    topic = f"{kafka_settings.prefix}predictions"
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    found: Counter[str] = Counter()
    while found.total() < len(names):
        messages = consumer.consume(100, 20.0)
        assert messages, "nothing more came"
        for message in messages:
            headers = [*(_headers(message) or ())]
            assert dict(headers) == {"trace": b"a-1", "content-type": CONTENT_TYPE}
            assert is_batch(headers)
            layout, batch, _ = ArrowReader().open(message.value())
            assert layout.constants == {"model": "fraud", "version": "12", "role": "shadow"}
            read = ArrowRows.of(layout, [batch])
            mine = read.names.tolist()
            assert 1 <= len(mine) <= 300
            assert (message.key() or b"").decode() == request_id(mine[0])
            assert {request_partition(name, partitions) for name in mine} == {message.partition()}
            # Rows of a partition stay in order.
            assert read.times_ms.tolist() == sorted(read.times_ms.tolist())
            found.update(mine)
    consumer.close()
    assert found == Counter(names)


@pytest.mark.kafka
def test_a_topic_that_does_not_exist_is_told_before_anything_is_sent(
    kafka_settings: Settings,
) -> None:
    with (
        Client(str(kafka_settings.kafka.bootstrap_servers), prefix="nowhere.") as kedge,
        pytest.raises(Misconfigured, match=r"nowhere\.predictions: .*kedge topics create"),
    ):
        kedge.predict_batch(rows(["r"]), model="m", version="1")
    assert (kedge.delivered, kedge.lost) == (0, 0)


@pytest.mark.kafka
@pytest.mark.parametrize(
    "properties", [{"linger.ms": 50}, {"linger.ms": 50, "compression.type": "gzip"}]
)
def test_batches_and_events_of_a_thread_do_not_overtake_each_other(
    kafka_settings: Settings, properties: dict[str, str | float | bool]
) -> None:
    servers = str(kafka_settings.kafka.bootstrap_servers)
    with Client(servers, prefix=kafka_settings.prefix, properties=properties) as kedge:
        for turn in range(4):
            for name in ("one", "two"):
                kedge.predict(
                    prediction_id=f"r#{turn}-{name}", model="fraud", version="12", features={}
                )
            kedge.predict_batch(rows([f"r#{turn}-batch"]), model="fraud", version="12")
        kedge.flush()
        assert (kedge.delivered, kedge.waiting, kedge.lost) == (12, 0, 0)

    consumer = Consumer({"bootstrap.servers": servers, "group.id": uuid.uuid4().hex,
                         "auto.offset.reset": "error"})  # fmt: skip
    partition = request_partition("r", kafka_settings.request_partitions)
    consumer.assign([TopicPartition(f"{kafka_settings.prefix}predictions", partition, 0)])
    found: list[bool] = []
    while len(found) < 12:
        messages = consumer.consume(12 - len(found), 20.0)
        assert messages, "nothing more came"
        found += [is_batch(_headers(message) or ()) for message in messages]
    consumer.close()
    assert found == [False, False, True] * 4


@pytest.mark.kafka
def test_a_full_queue_says_how_many_rows_were_taken(kafka_settings: Settings) -> None:
    names = [f"r-{i}" for i in range(40)]
    kedge = Client(
        str(kafka_settings.kafka.bootstrap_servers), prefix=kafka_settings.prefix, max_queue=3,
        properties={"linger.ms": 5_000},
    )  # fmt: skip
    with pytest.raises(QueueFull) as full:
        kedge.predict_batch(rows(names), model="m", version="1", rows_per_record=5, block=False)
    assert full.value.sent == kedge.waiting
    assert 0 < full.value.sent < 40
    assert "0 events wait" not in str(full.value)
    kedge.close()
    assert kedge.delivered == full.value.sent


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("columns", "reason", "detail"),
    [
        (
            {"prediction_id": ["a", ""], "event_time_ms": [1, 2]},
            "bad-value",
            "row 1: prediction_id",
        ),
        ({"prediction_id": ["#1"], "event_time_ms": [1]}, "bad-key", "row 0: #1 has no request id"),
        ({"prediction_id": ["a"], "event_time_ms": [-1]}, "bad-value", "row 0: event_time_ms"),
        ({"prediction_id": [1], "event_time_ms": [1]}, "schema-mismatch", "prediction_id is int64"),
        ({"prediction_id": ["a"], "model": ["m"]}, "schema-mismatch", "too"),
    ],
)
def test_a_wrong_row_is_told_by_its_number(
    kafka_settings: Settings, columns: dict[str, object], reason: str, detail: str
) -> None:
    kedge = Client(str(kafka_settings.kafka.bootstrap_servers), prefix=kafka_settings.prefix)
    with pytest.raises(DeadLetter, match=detail) as refused:
        kedge.predict_batch(columns, model="m", version="1")
    assert refused.value.reason == reason
    assert kedge.waiting == 0
    kedge.close()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ([1, 2], "rows are a pyarrow Table or columns by name, not list"),
        ({"prediction_id": ["a"], "event_time_ms": [1, 2]}, "the columns make no table"),
    ],
)
def test_what_is_no_table_is_a_mistake(wrong: object, sentence: str) -> None:
    kedge = Client("127.0.0.1:1")
    with pytest.raises(UsageError, match=sentence):
        kedge.predict_batch(wrong, model="m", version="1")
    with pytest.raises(UsageError, match="rows_per_record is 0"):
        kedge.predict_batch({}, model="m", version="1", rows_per_record=0)


def test_without_pyarrow_the_client_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['pyarrow'] = None\n"
        "from kedge.client import Client\n"
        "from kedge.errors import UsageError\n"
        "try:\n"
        "    Client('127.0.0.1:1').predict_batch({}, model='m', version='1')\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "batches need pyarrow and numpy" in done.stdout
    assert "pip install 'kedge[arrow]'" in done.stdout
