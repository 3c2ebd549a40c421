"""One local Kafka for all tests, and a set of topics of its own for each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kedge_services.local.broker import LocalBroker
from kedge_services.runtime.admin import create_topics
from kedge_services.runtime.settings import KafkaSettings, Settings

# Speed is measured in benchmarks; a busy machine is no reason for a test to fail.
settings.register_profile(
    "shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """Give a running Kafka; ``kafka.bootstrap_servers`` is its address."""
    with LocalBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def topics_prefix() -> str:
    """Give a prefix that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
def kafka_settings(kafka: LocalBroker, topics_prefix: str, tmp_path: Path) -> Settings:
    """Give settings with all topics created under a prefix of this test's own (M = N = 2)."""
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap_servers),
        prefix=topics_prefix,
        request_partitions=2,
        model_partitions=2,
        state_dir=tmp_path / "state",
        artefacts=str(tmp_path / "artefacts"),
    )
    create_topics(settings)
    return settings
