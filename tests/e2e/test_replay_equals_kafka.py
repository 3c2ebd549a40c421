"""The same file through the replay and through a real Kafka gives the same final windows."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from kedge import Monitor
from kedge.codec import encode
from kedge.topics import request_partition
from kedge_services.local.broker import LocalBroker
from kedge_services.local.replay.flow import flow_of_file
from kedge_services.local.replay.results import final_windows, to_line
from kedge_services.local.replay.run import Options, Source, replay
from kedge_services.local.replay.simulation import Span
from kedge_services.local.replay.stream import (
    Label,
    Row,
    Stream,
    outcome_value,
    prediction_value,
)
from kedge_services.local.replay.versions import served_elsewhere
from kedge_services.panes.service import make as make_panes
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.admin import create_topics
from kedge_services.runtime.settings import KafkaSettings, Settings, TimeSettings
from kedge_services.windows.service import make as make_windows
from live import Live, wait_until

DATA = Path(__file__).parent.parent / "data" / "elec2.csv.gz"
MONITOR = Monitor.model_validate(
    {
        "model": "electricity",
        "task": "binary",
        "classes": ["DOWN", "UP"],
        # Long, so that two years of event time in seconds make few segments of the join.
        "label_horizon": "20d",
        "features": {
            "day": "categorical", "period": "numeric", "nswprice": "numeric",
            "nswdemand": "numeric", "vicprice": "numeric", "vicdemand": "numeric",
            "transfer": "numeric",
        },
        "windows": {"pane": "10d"},
        "replay": {"label": "class", "start": "1996-05-07T00:00:00Z", "every": "30m"},
    }
)  # fmt: skip


def streams(directory: Path) -> tuple[Stream, Stream]:
    """Give the warm-up and what follows it."""
    flow = flow_of_file(DATA, MONITOR, directory)
    return flow.take(1_000), flow.take(flow.total)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("replayed")
    replay(Source(DATA), MONITOR, Settings(), Options(), out)
    return (out / "windows.ndjson").read_bytes()


def sentinels(span: Span, partitions: int) -> list[tuple[Row, Label]]:
    """Give a pair for every partition that says: nothing before this will come."""
    found: dict[int, tuple[Row, Label]] = {}
    end_ms = span.last_ms + 30 * 86_400_000
    number = 0
    while len(found) < partitions:
        name = f"end-{number}"
        row = Row(name, end_ms, end_ms, {"period": 0.0})
        label = Label(name, "UP", end_ms + MONITOR.horizon_ms - 1, end_ms)
        found.setdefault(request_partition(name, partitions), (row, label))
        number += 1
    return list(found.values())


def through_kafka(kafka: LocalBroker, partitions: int, tmp_path: Path) -> list[dict[str, Any]]:
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap_servers),
        prefix=f"t{uuid.uuid4().hex[:8]}.",
        request_partitions=partitions,
        model_partitions=partitions,
        state_dir=tmp_path / "state",
        # Only data moves time: what the machine is busy with must not matter.
        time=TimeSettings(idle_after_ms=3_600_000),
    )
    create_topics(settings)
    warm_up, live = streams(tmp_path)
    times, label_times = ([what.time_ms for what in part] for part in (live.rows, live.labels))
    span = Span(min(times), max(times), max(label_times))
    offer = served_elsewhere(warm_up, MONITOR, version="file")
    services = [(make_registry, 0), (make_panes, 0), (make_windows, 0)]
    with Live(settings, services) as cluster:
        cluster.send_by_model("monitors", MONITOR.model, MONITOR.model, encode(MONITOR))
        cluster.send_by_model("candidates", MONITOR.model, offer.request_id, encode(offer))
        cluster.flush()
        wait_until(lambda: bool(cluster.events("model-versions")), "the registration")
        arrivals: list[Row | Label] = [*live.rows, *live.labels]
        # Predictions come before outcomes of the same time, and rows in their order.
        for what in sorted(arrivals, key=lambda what: what.arrival_ms):
            if isinstance(what, Row):
                value, topic = prediction_value(what, MONITOR.model), "predictions"
            else:
                value, topic = outcome_value(what, MONITOR.model), "outcomes"
            cluster.send_by_request(topic, what.prediction_id, value)
        for row, label in sentinels(span, partitions):
            name = row.prediction_id
            cluster.send_by_request("predictions", name, prediction_value(row, MONITOR.model))
            cluster.send_by_request("outcomes", name, outcome_value(label, MONITOR.model))
        cluster.flush()

        def found() -> list[dict[str, Any]]:
            events = sorted(cluster.events("windows"), key=lambda w: (w["end_ms"], w["window_id"]))
            lengths = {
                "pane_ms": MONITOR.pane_ms, "performance_pane_ms": MONITOR.performance_pane_ms
            }  # fmt: skip
            return list(final_windows(events, span, **lengths))

        pane_ms = MONITOR.performance_pane_ms
        last_ms = span.last_ms - span.last_ms % pane_ms + pane_ms
        wait_until(
            lambda: (
                cluster.broken
                or any(w["end_ms"] == last_ms and w["kind"] == "performance" for w in found())
            ),
            "the last performance window",
            seconds=120,
        )
        cluster.check()
        return found()


@pytest.mark.kafka
@pytest.mark.parametrize("partitions", [8, pytest.param(1, marks=pytest.mark.long)])
def test_final_windows_are_those_of_the_replay(
    kafka: LocalBroker, replayed: bytes, partitions: int, tmp_path: Path
) -> None:
    found = through_kafka(kafka, partitions, tmp_path)
    assert len(found) > 500
    assert b"".join(map(to_line, found)) == replayed
