"""The one catalogue of metrics: each is named here once, with its type and meaning."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

__all__ = ["CATALOGUE", "Metric", "Metrics"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as it is shown on ``/metrics``; all carry the label ``service`` too."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


CONSUMED = Metric("kedge_consumed_records_total", "counter", "Records handed to tasks.", ("topic",))
PRODUCED = Metric(
    "kedge_produced_records_total", "counter", "Records committed, by topic.", ("topic",)
)
DEAD_LETTERS = Metric(
    "kedge_dead_letter_records_total", "counter", "Records put aside, by reason.", ("reason",)
)
FATES = Metric(
    "kedge_records_total",
    "counter",
    "Input records by topic and fate; every record has one, but outcomes that still wait.",
    ("topic", "fate"),
)
DECISIONS = Metric(
    "kedge_registry_decisions_total",
    "counter",
    "What came of candidates, commands and comparisons of versions.",
    ("decision",),
)
LOST = Metric(
    "kedge_lost_records_total",
    "counter",
    "Records deleted before they were read, where the loss was accepted.",
    ("topic",),
)
COMMITS = Metric("kedge_committed_transactions_total", "counter", "Transactions committed.")
ABORTS = Metric(
    "kedge_aborted_transactions_total",
    "counter",
    "Transactions given up; the tasks went back to what is committed.",
)
COMMIT_SECONDS = Metric("kedge_commit_seconds", "histogram", "From begin to commit.")
RESTORE_SECONDS = Metric(
    "kedge_restore_seconds", "histogram", "From the assignment of a partition to its first record."
)
RESTORED = Metric("kedge_restored_records_total", "counter", "Records read to restore tasks.")
LAG = Metric(
    "kedge_lag_records",
    "gauge",
    "Offsets between the next record and the end; one may remain for ever, a transaction marker.",
    ("topic", "partition"),
)
LAG_SECONDS = Metric(
    "kedge_lag_seconds",
    "gauge",
    "How long ago the last record read was appended, while there is lag; else 0.",
    ("topic", "partition"),
)
TASKS = Metric("kedge_tasks", "gauge", "Partitions owned: running, or restoring.", ("state",))
OVER_LIMIT = Metric(
    "kedge_dead_letter_limit_partitions",
    "gauge",
    "Partitions of which lately more records than the limit could not be processed.",
)

HTTP_REQUESTS = Metric(
    "kedge_http_requests_total", "counter", "Requests answered by HTTP, by status.", ("code",)
)
HTTP_SECONDS = Metric("kedge_http_seconds", "histogram", "From an HTTP request to its answer.")
UNSENT = Metric(
    "kedge_unsent_predictions_total",
    "counter",
    "Predictions answered by HTTP that Kafka did not get.",
)
SKIPPED_SHADOWS = Metric(
    "kedge_skipped_shadow_predictions_total",
    "counter",
    "Shadow predictions not made: too many waited, they would be late, or the version failed.",
)
ELSEWHERE = Metric(
    "kedge_answers_elsewhere_total",
    "counter",
    "Answers given elsewhere in whose shadow versions predicted here, by who gave them.",
    ("model", "version"),
)
UNLOADED = Metric(
    "kedge_unloaded_versions", "gauge", "Versions that should predict and cannot be loaded."
)
NOTIFICATIONS = Metric(
    "kedge_notifications_total",
    "counter",
    "Notifications by what became of them: delivered, or put aside as undeliverable.",
    ("result",),
)
RUNS = Metric(
    "kedge_runs_total",
    "counter",
    "Runs of pipelines elsewhere by what became of them: succeeded, failed, cancelled, late, "
    "refused, or unusable.",
    ("result",),
)
OPEN_RUNS = Metric(
    "kedge_open_runs",
    "gauge",
    "Runs of pipelines elsewhere that are not over: waiting, starting, queued, running.",
    ("status",),
)

CATALOGUE: tuple[Metric, ...] = (
    CONSUMED,
    PRODUCED,
    DEAD_LETTERS,
    FATES,
    DECISIONS,
    LOST,
    COMMITS,
    ABORTS,
    COMMIT_SECONDS,
    RESTORE_SECONDS,
    RESTORED,
    LAG,
    LAG_SECONDS,
    TASKS,
    OVER_LIMIT,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    UNSENT,
    NOTIFICATIONS,
    RUNS,
    OPEN_RUNS,
    SKIPPED_SHADOWS,
    ELSEWHERE,
    UNLOADED,
)

_KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._metrics = {
            metric: _KINDS[metric.kind](
                metric.name,
                metric.meaning,
                labelnames=("service", *metric.labels),
                registry=self._registry,
            )
            for metric in CATALOGUE
        }

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Raise a counter."""
        self._metrics[metric].labels(service=self._service, **labels).inc(amount)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._metrics[metric].labels(service=self._service, **labels).set(value)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Take a value into a histogram."""
        self._metrics[metric].labels(service=self._service, **labels).observe(value)

    def forget(self, metric: Metric, **labels: str) -> None:
        """Show a gauge no longer: what it measured is not ours any more."""
        with contextlib.suppress(KeyError):  # it was never shown
            self._metrics[metric].remove(self._service, *(labels[n] for n in metric.labels))

    def value(self, metric: Metric, **labels: str) -> float:
        """Give the present value of a counter or gauge, or a histogram's count."""
        name = metric.name + ("_count" if metric.kind == "histogram" else "")
        found = self._registry.get_sample_value(name, {"service": self._service, **labels})
        return 0.0 if found is None else found

    def render(self) -> bytes:
        """Give everything in the format Prometheus reads."""
        return generate_latest(self._registry)
