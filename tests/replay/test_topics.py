"""A range of topics is a stream: each record arrives when it was appended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kedge import Monitor
from kedge.batch_layout import CONTENT_TYPE
from kedge.batches import pieces, table_of
from kedge.errors import UsageError
from kedge.topics import request_partition
from kedge_services.local.replay.flow import Flow
from kedge_services.local.replay.recorder import Recorder
from kedge_services.local.replay.simulation import simulate
from kedge_services.local.replay.topics import stream_of_topics
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.settings import Settings

MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": ["no", "yes"],
        "features": {"x": "numeric"},
        "windows": {"grace": "1s"},
    }
)


def broker() -> MemoryBroker:
    return MemoryBroker(ManualClock(), {"predictions": 2, "outcomes": 2})


def predict(
    kafka: MemoryBroker, name: str, *, time_ms: int, at_ms: int, partition: int = 0, **more: Any
) -> None:
    event = {
        "prediction_id": name, "model": "m", "version": "1", "event_time_ms": time_ms,
        "features": {"x": 1.0}, "output": {"label": "no", "score": 0.2}, **more,
    }  # fmt: skip
    kafka.append(
        "predictions", name.encode(), json.dumps(event).encode(), partition=partition,
        timestamp_ms=at_ms,
    )  # fmt: skip


def label(kafka: MemoryBroker, name: str, *, time_ms: int, at_ms: int, **more: Any) -> None:
    event = {"prediction_id": name, "label": "yes", "event_time_ms": time_ms, **more}
    kafka.append(
        "outcomes", name.encode(), json.dumps(event).encode(), partition=1, timestamp_ms=at_ms
    )


def test_records_of_all_partitions_arrive_by_append_time() -> None:
    kafka = broker()
    predict(kafka, "b", time_ms=2_000, at_ms=30, partition=0)
    predict(kafka, "a", time_ms=1_500, at_ms=10, partition=1)
    label(kafka, "a", time_ms=1_600, at_ms=20)
    stream = stream_of_topics(kafka, MONITOR)
    assert [(row.arrival_ms, row.prediction_id) for row in stream.rows] == [(10, "a"), (30, "b")]
    assert [(label.arrival_ms, label.prediction_id) for label in stream.labels] == [(20, "a")]
    assert stream.rows[0].output == {"label": "no", "score": 0.2}


def batch(kafka: MemoryBroker, columns: dict[str, Any], *, at_ms: int) -> None:
    table = table_of(columns, {"model": "m", "version": "1", "role": None}, now_ms=0)
    for piece in pieces(table, partitions=2):
        kafka.append(
            "predictions", piece.key.encode(), piece.value, partition=piece.partition,
            timestamp_ms=at_ms, headers=[("content-type", CONTENT_TYPE)],
        )  # fmt: skip


def test_rows_of_batches_are_predictions_like_single_events() -> None:
    names, values = [f"r-{i}" for i in range(20)], [0.5, None, 3.0, -1.5] * 5
    columns = {
        "prediction_id": names,
        "event_time_ms": [1_000 + i for i in range(20)],
        "features": {"x": values},
        "segments": {"country": ["NO", "SE"] * 10},
        "output": {"label": ["no", "yes"] * 10, "score": [0.25, 0.75] * 10},
        "role": ["champion", "shadow"] * 10,
    }
    batched, single = broker(), broker()
    batch(batched, columns, at_ms=7)
    batched.append("predictions", b"r", b"no Arrow", partition=0, timestamp_ms=7,
                   headers=[("content-type", CONTENT_TYPE)])  # fmt: skip
    # Each of these is put aside: a role that there is none, and a column nobody can read.
    batch(batched, {"prediction_id": ["bad"], "event_time_ms": [1], "role": ["boss"]}, at_ms=7)
    batch(batched, {"prediction_id": ["bad"], "event_time_ms": [1],
                    "features": {"x": pa.array([[1.0]])}}, at_ms=7)  # fmt: skip
    for i, name in enumerate(names):
        predict(
            single, name, time_ms=1_000 + i, at_ms=7, partition=request_partition(name, 2),
            features={"x": values[i]}, segments={"country": ["NO", "SE"][i % 2]},
            output={"label": ["no", "yes"][i % 2], "score": [0.25, 0.75][i % 2]},
            role=["champion", "shadow"][i % 2],
        )  # fmt: skip
    found = stream_of_topics(batched, MONITOR)
    assert [*found.rows] == [*stream_of_topics(single, MONITOR).rows]
    assert len(found.rows) == 20


def test_the_range_is_of_predictions_and_their_labels_follow() -> None:
    kafka = broker()
    for number in range(4):
        name = f"r{number}"
        predict(kafka, name, time_ms=number * 1_000, at_ms=number * 10)
        label(kafka, name, time_ms=number * 1_000, at_ms=500)
    stream = stream_of_topics(kafka, MONITOR, since_ms=10, until_ms=30)
    assert [row.prediction_id for row in stream.rows] == ["r1", "r2"]
    assert {found.prediction_id for found in stream.labels} == {"r1", "r2"}
    limited = stream_of_topics(kafka, MONITOR, since_ms=10, limit=1)
    assert [row.prediction_id for row in limited.rows] == ["r1"]


def test_other_models_and_what_cannot_be_read_are_passed_over() -> None:
    kafka = broker()
    predict(kafka, "mine", time_ms=5_000, at_ms=1)
    predict(kafka, "theirs", time_ms=5_000, at_ms=2, model="other")
    kafka.append("predictions", b"bad", b"{", partition=0, timestamp_ms=3)
    label(kafka, "mine", time_ms=5_000, at_ms=4, model="other")
    stream = stream_of_topics(kafka, MONITOR)
    assert [row.prediction_id for row in stream.rows] == ["mine"]
    assert stream.labels == []


def test_the_first_prediction_of_a_version_counts_and_shadows_are_rows_too() -> None:
    kafka = broker()
    predict(kafka, "r", time_ms=5_000, at_ms=1)
    predict(kafka, "r", time_ms=5_000, at_ms=2, output={"label": "yes"})
    predict(kafka, "r", time_ms=5_000, at_ms=3, version="2", role="shadow")
    stream = stream_of_topics(kafka, MONITOR)
    assert [(row.version, row.role) for row in stream.rows] == [("1", "champion"), ("2", "shadow")]
    assert stream.rows[0].output == {"label": "no", "score": 0.2}
    assert [row.version for row in stream.champions().rows] == ["1"]


def test_the_last_label_by_its_time_is_the_one_that_counts() -> None:
    kafka = broker()
    predict(kafka, "r", time_ms=5_000, at_ms=1)
    label(kafka, "r", time_ms=6_000, at_ms=2, label="no")
    label(kafka, "r", time_ms=7_000, at_ms=3, label="yes")
    assert stream_of_topics(kafka, MONITOR).label_of()["r"].label == "yes"


def test_late_records_are_put_aside_as_live() -> None:
    kafka = broker()
    predict(kafka, "new", time_ms=10_000, at_ms=1)
    predict(kafka, "old", time_ms=8_999, at_ms=2)
    stream = stream_of_topics(kafka, MONITOR)
    assert [late.row.prediction_id for late in stream.late] == ["old"]


def test_an_empty_range_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="no prediction of model m"):
        stream_of_topics(broker(), MONITOR)


def test_the_version_that_serves_is_the_champion_though_a_shadow_came_first(
    tmp_path: Path,
) -> None:
    kafka = broker()
    for number in range(300):
        name, at = f"r{number}", 1_000 + number * 1_000
        for version, role in (("2", "shadow"), ("1", "champion")):
            predict(kafka, name, time_ms=at, at_ms=at, version=version, role=role)
    label(kafka, "r7", time_ms=9_000, at_ms=9_000, label="no")
    label(kafka, "r7", time_ms=9_500, at_ms=9_500)
    flow, recorder = Flow.of(stream_of_topics(kafka, MONITOR)), Recorder(MONITOR, tmp_path)
    settings = Settings(artefacts=str(tmp_path))
    run = simulate(flow, MONITOR, settings, recorder, closed_loop=False, partitions=2)
    with run.cluster:
        results = recorder.finish(run, tmp_path)
    standing = [(v["version"], v["status"]) for v in results.model_versions]
    assert standing == [("1", "champion")]
    # Of the rows those of the champion are scored, against the label that counts in the end.
    assert (results.summary["rows"], results.summary["labelled"]) == (600, 1)
    assert results.summary["accuracy"] == 0
