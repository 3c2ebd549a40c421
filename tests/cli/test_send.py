"""``kedge send`` on a real Kafka."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from kedge.batch_layout import is_batch
from kedge.topics import model_partition, request_partition

pytestmark = pytest.mark.kafka


def prediction(name: str, **more: Any) -> dict[str, Any]:
    return {"prediction_id": name, "model": "m", "version": "1", "event_time_ms": 1,
            "features": {"a": 1}, **more}  # fmt: skip


def outcome(name: str) -> dict[str, Any]:
    return {"prediction_id": name, "label": 1.5, "event_time_ms": 2}


def write(path: Path, *events: Any) -> str:
    lines = (event if isinstance(event, str) else json.dumps(event) for event in events)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_events_lie_where_their_services_look_for_them(
    kedge: Any, cluster: Any, tmp_path: Path
) -> None:
    cluster.watch("m")
    names = [f"r-{i // 2}#{i % 2}" for i in range(40)]
    command = {"command_id": "c", "model": "m", "action": "pause", "by": "me", "event_time_ms": 1}
    request = {"request_id": "q", "model": "m", "rows": [{"a": 1}], "event_time_ms": 1}
    file = write(
        tmp_path / "events.ndjson.gz", *map(prediction, names), *map(outcome, names), command,
        request,
    )  # fmt: skip
    told = kedge("send", file)
    assert told.status == 0
    assert "sent 40 predictions, 40 outcomes, 1 commands, 1 requests" in told.out
    assert "40 lines are predictions, by the fields prediction_id, features" in told.error
    for topic in ("predictions", "outcomes"):
        records = cluster.read(topic)
        assert len(records) == 40
        for record in records:
            name = json.loads(record.value)["prediction_id"]
            assert record.key == name.partition("#")[0].encode()
            assert record.partition == request_partition(name, 2)
    [record] = cluster.read("commands")
    assert (record.key, record.partition) == (b"c", model_partition("m", 2))
    assert json.loads(record.value) == command
    assert json.loads(cluster.read("requests")[0].value) == request


def test_a_file_of_columns_is_sent_as_batches(kedge: Any, cluster: Any, tmp_path: Path) -> None:
    cluster.watch("m")
    names = [f"r-{i}" for i in range(3_000)]
    file, unknown = tmp_path / "rows.parquet", tmp_path / "unknown.parquet"
    columns = {"prediction_id": names, "event_time_ms": range(3_000), "version": ["1"] * 3_000,
               "features.a": [1.5] * 3_000}  # fmt: skip
    parquet.write_table(pa.table(columns | {"model": ["m"] * 3_000}), file)
    parquet.write_table(pa.table(columns | {"model": ["n"] * 3_000}), unknown)
    told = kedge("send", str(unknown))
    assert told.status == 2
    assert "'n' has no monitor" in told.error
    told = kedge("send", str(file), "--dry-run")
    assert (told.status, cluster.read("predictions")) == (0, [])
    assert "3,000 predictions can be sent" in told.out
    for option in (["--topic", "outcomes"], ["--skip-bad"]):
        told = kedge("send", str(file), *option)
        assert told.status == 2
        assert str(file) in told.error
    began = time.monotonic()
    told = kedge("send", str(file), "--rate", "2000", "--json")
    assert told.status == 0
    assert json.loads(told.out)["sent"] == {"predictions": 3_000}
    # The last thousand or fewer go when those before have had their time.
    assert time.monotonic() - began >= 0.9
    found = []
    for record in cluster.read("predictions"):
        assert is_batch(record.headers)
        batch = pa.ipc.open_stream(record.value).read_next_batch()
        sent = batch.column("prediction_id").to_pylist()
        assert record.key == sent[0].encode()
        assert {request_partition(name, 2) for name in sent} == {record.partition}
        found += sent
    assert sorted(found) == sorted(names)


def test_with_a_bad_line_nothing_of_a_file_is_sent(
    kedge: Any, cluster: Any, tmp_path: Path
) -> None:
    cluster.watch("fraud")
    file = write(
        tmp_path / "bad.ndjson", prediction("r-1", model="fraud"), "{nonsense", "",
        prediction("r-2", model="fruad"), {"prediction_id": "r-3", "features": {}},
        outcome("r-1"),
    )  # fmt: skip
    told = kedge("send", file)
    assert told.status == 2
    assert told.out == "nothing was sent; 3 refused\n"
    assert f"{file}:2: undecodable: no JSON" in told.error
    assert (
        f"{file}:4: unknown-model: 'fruad' has no monitor (did you mean \"fraud\"?)" in told.error
    )
    assert f"{file}:5: missing-field: model: this field is required" in told.error
    assert cluster.read("predictions") == []

    told = kedge("send", file, "--skip-bad", "--json")
    assert told.status == 0
    assert told.data["sent"] == {"predictions": 1, "outcomes": 1}
    assert told.data["refused"] == 3
    assert [m["line"] for m in told.data["mistakes"]] == [2, 4, 5]
    assert len(cluster.read("predictions")) == 1


def test_standard_input_is_sent_up_to_its_first_bad_line(
    kedge: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps(outcome("a")), "nonsense", json.dumps(outcome("b"))]
    type_in(monkeypatch, "\n".join(lines))
    told = kedge("send", "-")
    assert told.status == 2
    assert "sent 1 outcomes" in told.out
    assert "standard input:2: undecodable" in told.error
    type_in(monkeypatch, "\n".join(lines))
    assert kedge("send", "-", "--skip-bad").status == 0
    assert sorted(record.key for record in cluster.read("outcomes")) == [b"a", b"a", b"b"]


def test_a_pipe_is_a_stream_that_is_sent_while_it_comes(
    kedge: Any, cluster: Any, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    seen: list[int] = []

    def feed() -> None:
        with pipe.open("w", buffering=1) as file:
            file.write(json.dumps(outcome("first")) + "\n")
            deadline = time.monotonic() + 30
            while not seen and time.monotonic() < deadline:
                seen.extend([1] * len(cluster.read("outcomes")))
            file.write(json.dumps(outcome("second")) + "\n")

    feeder = threading.Thread(target=feed)
    feeder.start()
    told = kedge("send", str(pipe))
    feeder.join()
    assert told.status == 0
    assert seen == [1]  # it was in Kafka before the stream went on
    assert len(cluster.read("outcomes")) == 2


def test_the_rate_is_a_limit(kedge: Any, cluster: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "outcomes.ndjson", *(outcome(f"r-{i}") for i in range(40)))
    began = time.monotonic()
    assert kedge("send", file, "--rate", "80").status == 0
    assert time.monotonic() - began >= 39 / 80 - 0.1
    assert len(cluster.read("outcomes")) == 40


def test_a_topic_that_does_not_exist_is_said_before_anything_is_lost(
    kedge: Any, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del cluster
    monkeypatch.setenv("KEDGE_PREFIX", "nobody.")
    told = kedge("send", write(tmp_path / "o.ndjson", outcome("r")), "--topic", "outcomes")
    assert told.status == 1
    assert "create all of them with `kedge topics create`" in told.error


def test_a_dry_run_needs_no_kafka(
    kedge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "events.ndjson", prediction("r"), outcome("r"))
    told = kedge("send", file, "--dry-run")
    assert told.status == 0
    assert told.out == "1 predictions, 1 outcomes can be sent; nothing was sent (--dry-run)\n"
    told = kedge("send", file, "--dry-run", "--topic", "outcomes", "--json")
    assert told.status == 2
    assert told.data["refused"] == 1


def test_what_was_tailed_can_be_sent_again(kedge: Any, cluster: Any, tmp_path: Path) -> None:
    kedge("send", write(tmp_path / "o.ndjson", outcome("a"), outcome("b")))
    tailed = kedge("tail", "outcomes", "--from-start", "--no-follow", "--json").out
    (tmp_path / "tailed.ndjson").write_text(tailed)
    assert kedge("send", str(tmp_path / "tailed.ndjson")).status == 0
    values = [json.loads(record.value) for record in cluster.read("outcomes")]
    assert sorted(v["prediction_id"] for v in values) == ["a", "a", "b", "b"]
