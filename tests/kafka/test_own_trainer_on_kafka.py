"""A function of the user's own is imported by the training's subprocess, and nowhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedge import Candidate, Example, Monitor, RetrainRequest
from kedge.base import Event
from kedge.codec import decode, encode
from kedge.events import RetrainCause
from kedge.topics import model_partition, request_partition
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.ports import Produce, TopicPartition
from kedge_services.runtime.settings import Settings, TrainerSettings
from kedge_services.trainer.service import make

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
MODULE = "a_trainer_that_is_allowed"
SOURCE = """
from sklearn.linear_model import LogisticRegression

def train(data, seed):
    return LogisticRegression().fit(data.matrix(), data.labels)

def answering(data, seed):
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    return make_pipeline(SimpleImputer(), LogisticRegression()).fit(data.matrix(), data.labels)
"""


def until(look: Callable[[], Any]) -> None:
    deadline, pause = time.monotonic() + WAIT_S, threading.Event()
    while not look():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.02)


def test_only_the_child_imports_what_the_setting_allows(
    kafka_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = kafka_settings.model_copy(update={"trainer": TrainerSettings(allow=[MODULE])})
    backend = KafkaBackend(settings)
    models = {"good": f"{MODULE}:answering", "bad": f"{MODULE}:train", "ugly": "os:system"}
    n = settings.model_partitions
    producer = backend.producer("a-test")
    producer.begin()

    def send(topic: str, key: str, event: Event, partition: int) -> None:
        producer.produce(Produce(topic, key.encode(), encode(event), partition))

    for model, trainer in models.items():
        here = model_partition(model, n)
        monitor = Monitor.model_validate(
            {"model": model, "task": "binary", "classes": ["no", "yes"],
             "features": {"a": "numeric"}, "retrain": {"trainer": trainer}}
        )  # fmt: skip
        send("monitors", model, monitor, here)
        for i in range(150):
            a = (i * 7919 % 1000) / 1000
            example = Example(
                prediction_id=f"{model}-{i}", model=model, features={"a": a},
                label="yes" if a > 0.5 else "no", outputs={}, event_time_ms=i, label_time_ms=i,
            )  # fmt: skip
            partition = request_partition(example.prediction_id, settings.request_partitions)
            send("examples", example.prediction_id, example, partition)
        request = RetrainRequest(
            request_id=model, model=model, mode="batch", cause=RetrainCause(kind="manual"),
            event_time_ms=1,
        )  # fmt: skip
        send("retrain-requests", model, request, here)
    producer.commit()

    found: dict[str, Candidate] = {}
    consumer = backend.consumer(group=None)
    consumer.assign({TopicPartition("candidates", p): 0 for p in range(n)})

    def look() -> bool:
        for batch in consumer.poll(100, 0.05):
            found.update({c.model: c for v in batch.values if (c := decode(Candidate, v or b""))})
        return found.keys() == models.keys()

    loop = Loop(make(settings), backend, settings, lambda: time.time_ns() // 1_000_000)
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        until(look)
    finally:
        stop.set()
        thread.join()
    assert found["good"].failure is None
    assert found["good"].trainer == models["good"]
    assert found["good"].metrics["accuracy"] > 0.8
    assert "NaN" in (found["bad"].failure or "")
    assert "setting trainer.allow" in (found["ugly"].failure or "")
    assert MODULE not in sys.modules
