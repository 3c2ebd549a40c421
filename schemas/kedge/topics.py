"""The one table of topics: what lies where, how it is partitioned and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kedge.base import Event
from kedge.events import (
    Alert,
    Command,
    Example,
    Outcome,
    Prediction,
    RetrainRequest,
    ScoringRequest,
    Window,
)
from kedge.monitor import Monitor
from kedge.panes import Pane, Progress, Reference
from kedge.versions import Candidate, ModelVersion

__all__ = [
    "CHANGELOGS",
    "DEFAULT_PREFIX",
    "MODEL_PARTITIONS",
    "REQUEST_PARTITIONS",
    "TOPICS",
    "Partitioning",
    "Topic",
    "changelog",
    "model_partition",
    "murmur2",
    "request_id",
    "request_partition",
]

DEFAULT_PREFIX = "kedge."
REQUEST_PARTITIONS = 8
MODEL_PARTITIONS = 4
DAY_MS = 86_400_000
LARGE_MESSAGE = 8 * 1024 * 1024

Partitioning = Literal["request", "model", "source"]


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic, named without its prefix.

    ``partitioned_by`` is ``request`` (M partitions, by request id), ``model``
    (N partitions, by model) or ``source`` (M partitions, that of the record it
    is about).  ``retention_ms`` is None for a topic that is only compacted.
    ``compression`` is what the broker stores; None leaves it to the producer.
    """

    name: str
    events: tuple[type[Event], ...]
    partitioned_by: Partitioning
    key: str
    retention_ms: int | None = None
    compacted: bool = False
    log_append_time: bool = False
    large: bool = False
    internal: bool = False
    compression: str | None = None

    def partitions(self, *, requests: int, models: int) -> int:
        """Give the number of partitions for M = ``requests`` and N = ``models``."""
        return models if self.partitioned_by == "model" else requests

    def config(self) -> dict[str, str]:
        """Give the topic's Kafka configuration."""
        policies = ["compact"] if self.compacted else []
        if self.retention_ms is not None or not self.compacted:
            policies.append("delete")
        config = {
            "cleanup.policy": ",".join(policies),
            "retention.ms": str(-1 if self.retention_ms is None else self.retention_ms),
        }
        if self.log_append_time:
            config["message.timestamp.type"] = "LogAppendTime"
        if self.large:
            config["max.message.bytes"] = str(LARGE_MESSAGE)
        if self.compression is not None:
            config["compression.type"] = self.compression
        return config


def _topic(
    name: str,
    events: type[Event] | tuple[type[Event], ...],
    partitioned_by: Partitioning,
    key: str,
    *,
    days: int | None = None,
    compacted: bool = False,
    log_append_time: bool = False,
    large: bool = False,
    internal: bool = False,
    compression: str | None = None,
) -> Topic:
    return Topic(
        name=name,
        events=events if isinstance(events, tuple) else (events,),
        partitioned_by=partitioned_by,
        key=key,
        retention_ms=None if days is None else days * DAY_MS,
        compacted=compacted,
        log_append_time=log_append_time,
        large=large,
        internal=internal,
        compression=compression,
    )


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        _topic("requests", ScoringRequest, "request", "request id", days=1, log_append_time=True),
        _topic("predictions", Prediction, "request", "request id", days=32, log_append_time=True),
        _topic("outcomes", Outcome, "request", "request id", days=32, log_append_time=True),
        _topic("examples", Example, "request", "request id", days=32, large=True),
        _topic("panes", (Pane, Progress), "model", "model", days=32, large=True, internal=True),
        _topic("references", Reference, "model", "model/reference_id", compacted=True, large=True),
        _topic("windows", Window, "model", "window_id", days=90, compacted=True, large=True),
        # These leave Kafka through asyncio clients, which read zstd only with another library.
        _topic("alerts", Alert, "model", "alert_id/status", days=90, compression="gzip"),
        _topic(
            "retrain-requests", RetrainRequest, "model", "request_id", days=90, compression="gzip"
        ),
        _topic("candidates", Candidate, "model", "request_id", days=90, large=True),
        _topic(
            "model-versions", ModelVersion, "model", "model/version", compacted=True, large=True
        ),
        _topic("monitors", Monitor, "model", "model", compacted=True),
        _topic("commands", Command, "model", "command_id", days=90, log_append_time=True),
        _topic("dead-letters", (), "source", "the record's own key", days=30, large=True),
    )
}


def changelog(service: str, partitioned_by: Partitioning) -> Topic:
    """Give the compacted topic that holds the state of a service's tasks."""
    return _topic(
        f"{service}-changelog", (), partitioned_by, "state key", compacted=True, large=True,
        internal=True,
    )  # fmt: skip


_STATEFUL: dict[str, Partitioning] = {
    "panes": "request",
    "windows": "model",
    "alerts": "model",
    "triggers": "model",
    "trainer": "model",
    "registry": "model",
    "executors": "model",
}

#: Changelogs of the services that have state of their own.
CHANGELOGS: dict[str, Topic] = {name: changelog(name, by) for name, by in _STATEFUL.items()}


def murmur2(data: bytes) -> int:
    """Hash like the Java clients' default partitioner (MurmurHash2, seed 0x9747b28c)."""
    length = len(data)
    h = (0x9747B28C ^ length) & 0xFFFFFFFF
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * 0x5BD1E995 & 0xFFFFFFFF
        k = (k ^ (k >> 24)) * 0x5BD1E995 & 0xFFFFFFFF
        h = (h * 0x5BD1E995 & 0xFFFFFFFF) ^ k
    if length & 3:
        h = (h ^ int.from_bytes(data[whole:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    h = (h ^ (h >> 13)) * 0x5BD1E995 & 0xFFFFFFFF
    return h ^ (h >> 15)


def request_id(prediction_id: str) -> str:
    """Give the id of the request a prediction belongs to: all before the first ``#``."""
    return prediction_id.partition("#")[0]


def request_partition(prediction_id: str, partitions: int) -> int:
    """Give the partition on which a prediction and its outcome meet."""
    return (murmur2(request_id(prediction_id).encode()) & 0x7FFFFFFF) % partitions


def model_partition(model: str, partitions: int) -> int:
    """Give the partition that holds everything of a model."""
    return (murmur2(model.encode()) & 0x7FFFFFFF) % partitions
