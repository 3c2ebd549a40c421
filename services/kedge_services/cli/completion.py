"""What Tab offers: topics and services at once, names of models where Kafka tells them soon."""

from __future__ import annotations

import contextlib
import time

import structlog
import typer

from kedge.topics import CHANGELOGS, TOPICS
from kedge_services.local.broker import announced
from kedge_services.local.catalogue import SERVICES
from kedge_services.local.event_file import SENDABLE
from kedge_services.runtime.admin import wait_for_kafka
from kedge_services.runtime.settings import Settings

__all__ = [
    "complete_case",
    "complete_model",
    "complete_sendable",
    "complete_service",
    "complete_services",
    "complete_topic",
]

#: Longer nobody waits after a Tab.
_PATIENCE_S = 1.0


def complete_case(incomplete: str) -> list[tuple[str, str]]:
    """Give the cases of the benchmark that begin like this, with what they measure."""
    from kedge_services.local.bench.run import names
    from kedge_services.local.bench.sizes import FULL

    return [(name, what) for name, what in names(FULL).items() if name.startswith(incomplete)]


def complete_service(incomplete: str) -> list[tuple[str, str]]:
    """Give the services that begin like this, with what they do."""
    return [(name, does) for name, does in SERVICES.items() if name.startswith(incomplete)]


def complete_services(incomplete: str) -> list[str]:
    """Give the lists that a list of services, separated by commas, can go on to."""
    before, comma, last = incomplete.rpartition(",")
    chosen = before.split(",")
    return [
        f"{before}{comma}{name}"
        for name in SERVICES
        if name.startswith(last) and name not in chosen
    ]


def complete_topic(incomplete: str) -> list[str]:
    """Give the topics that begin like this."""
    names = [*TOPICS, *(log.name for log in CHANGELOGS.values())]
    return [name for name in names if name.startswith(incomplete)]


def complete_sendable(incomplete: str) -> list[str]:
    """Give the topics that begin like this and that anybody may write."""
    return [name for name in SENDABLE if name.startswith(incomplete)]


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Give the models that begin like this; none when Kafka does not answer soon."""
    # A shell shows what we print among what is typed.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    # Whatever is wrong is told by the command itself; Tab only has nothing to offer.
    with contextlib.suppress(Exception):
        models = _models(ctx.params.get("config"), ctx.params.get("bootstrap_servers"))
        return [name for name in models if name.startswith(incomplete)]
    return []


def _models(config: object, bootstrap_servers: object) -> list[str]:
    from pathlib import Path

    from kedge_services.runtime.kafka import KafkaBackend
    from kedge_services.runtime.reading import TableReader
    from kedge_services.runtime.tables import MonitorTable, VersionTable

    deadline = time.monotonic() + _PATIENCE_S
    settings = Settings.load(Path(str(config)) if config else None)
    address = bootstrap_servers or settings.kafka.bootstrap_servers or announced()
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": address})
    wait_for_kafka(kafka, timeout_s=_PATIENCE_S)
    backend = KafkaBackend(settings.model_copy(update={"kafka": kafka}), patience_s=_PATIENCE_S)
    monitors, versions = MonitorTable(), VersionTable()
    reader = TableReader(backend, (monitors, versions))
    while not reader.is_read and time.monotonic() < deadline:
        reader.poll(0.05)
    return sorted({*monitors.models(), *versions.models()})
