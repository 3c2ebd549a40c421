"""Commands run in the process, on topics of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from kedge import Monitor
from kedge.codec import encode
from kedge.monitor import Feature
from kedge.topics import model_partition
from kedge_services.cli import main
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Produce, Record, TopicPartition
from kedge_services.runtime.reading import RangeReader
from kedge_services.runtime.settings import Settings


class Told(NamedTuple):
    """What a command said."""

    status: int
    out: str
    error: str

    @property
    def data(self) -> Any:
        """Give the JSON it wrote."""
        return json.loads(self.out)


Kedge = Callable[..., Told]


class Cluster:
    """The topics of a test, to write and to read without the commands."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.backend = KafkaBackend(settings)
        self._writer = self.backend.producer("test-writer")

    def write(self, *records: Produce) -> None:
        """Commit records."""
        self._writer.begin()
        for record in records:
            self._writer.produce(record)
        self._writer.commit()

    def watch(self, *models: str) -> None:
        """Publish a monitor for each model."""
        for model in models:
            monitor = Monitor(
                model=model, task="regression", features={"a": Feature(type="numeric")}
            )
            where = model_partition(model, self.settings.model_partitions)
            self.write(Produce("monitors", model.encode(), encode(monitor), where))

    def read(self, topic: str) -> list[Record]:
        """Give all committed records of a topic, by partition in order."""
        places = [TopicPartition(topic, p) for p in range(self.backend.partitions(topic))]
        found: list[Record] = []
        with closing(RangeReader(self.backend)) as reader:
            for place in places:
                low, end = self.backend.bounds(place)
                reader.add(place, low, end)
            while not all(map(reader.is_done, places)):
                for batch in reader.poll(1_000, 0.05):
                    found += batch.records()
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def close(self) -> None:
        """Give up the connections."""
        self._writer.close()
        self.backend.close()


@pytest.fixture
def cluster(kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give this test's topics, and let commands find them."""
    address = kafka_settings.kafka.bootstrap_servers
    monkeypatch.setenv("KEDGE_KAFKA__BOOTSTRAP_SERVERS", str(address))
    monkeypatch.setenv("KEDGE_PREFIX", kafka_settings.prefix)
    monkeypatch.setenv("KEDGE_REQUEST_PARTITIONS", str(kafka_settings.request_partitions))
    monkeypatch.setenv("KEDGE_MODEL_PARTITIONS", str(kafka_settings.model_partitions))
    monkeypatch.setenv("KEDGE_STATE_DIR", str(kafka_settings.state_dir))
    monkeypatch.setenv("KEDGE_ARTEFACTS", kafka_settings.artefacts)
    with closing(Cluster(kafka_settings)) as made:
        yield made


@pytest.fixture
def kedge(capsys: pytest.CaptureFixture[str]) -> Kedge:
    """Run a command; an exception that gets out of it fails the test."""

    def run(*arguments: str) -> Told:
        capsys.readouterr()
        status = main(list(arguments))
        shown = capsys.readouterr()
        return Told(status, shown.out, shown.err)

    return run
