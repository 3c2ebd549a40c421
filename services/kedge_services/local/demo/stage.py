"""Everything the demo needs around the traffic: Kafka, services, on-call, first version."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException

from kedge.client import Client
from kedge.codec import encode
from kedge.errors import Retry, Stop
from kedge.events import Example, RetrainCause, RetrainRequest
from kedge.monitor import Monitor
from kedge.topics import TOPICS, model_partition
from kedge_services.local.broker import LocalBroker
from kedge_services.local.demo.scenario import Row
from kedge_services.local.demo.story import TOPICS as STORY_TOPICS
from kedge_services.local.demo.story import Entry, Story
from kedge_services.local.demo.webhook import OnCall
from kedge_services.local.recount.reading import KafkaLog
from kedge_services.local.recount.recount import Report, recount
from kedge_services.local.supervisor import Supervisor
from kedge_services.runtime.admin import create_topics
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Consumer, Produce, TopicPartition
from kedge_services.runtime.settings import Settings

__all__ = ["SERVICES", "WEBHOOK_ENV", "Stage"]

SERVICES = (
    "panes", "windows", "alerts", "triggers", "trainer", "registry", "serving", "notifier",
)  # fmt: skip
WEBHOOK_ENV = "KEDGE_DEMO_WEBHOOK_URL"
_READY_S = 90.0


@dataclass(slots=True)
class Stage:
    """A running Kedge with one model that serves; a context manager in all but name.

    ``close`` undoes what was started, in reverse order, whatever came of it.
    """

    settings: Settings
    supervisor: Supervisor
    client: Client
    on_call: OnCall
    story: Story
    broker: LocalBroker | None
    _reader: Consumer
    _stack: ExitStack

    @classmethod
    def set_up(cls, settings: Settings, *, work_dir: Path, monitor: Monitor, story: Story) -> Stage:
        """Start a local Kafka (unless one is given) and all services; publish the monitor."""
        with ExitStack() as stack:
            broker: LocalBroker | None = None
            if settings.kafka.bootstrap_servers is None:
                broker = LocalBroker(work_dir / "kafka", fresh=True)
                broker.start()
                stack.callback(broker.stop)
                kafka = settings.kafka.model_copy(
                    update={"bootstrap_servers": broker.bootstrap_servers}
                )
                settings = settings.model_copy(update={"kafka": kafka})
            create_topics(settings)
            on_call = OnCall()
            stack.callback(on_call.close)
            os.environ[WEBHOOK_ENV] = on_call.url
            stack.callback(os.environ.pop, WEBHOOK_ENV, None)
            client = Client(
                settings.kafka.bootstrap_servers or "",
                prefix=settings.prefix,
                properties=dict(settings.kafka.properties),
            )
            stack.callback(client.close)
            send(settings, [_monitor_record(settings, monitor)])
            supervisor = Supervisor(
                settings, SERVICES, work_dir / "logs", broker=broker,
                tell=lambda text: story.tell(_now("process", text)),
            )  # fmt: skip
            supervisor.start()
            stack.callback(supervisor.stop)
            backend = KafkaBackend(settings)
            reader = backend.consumer(group=None)
            stack.callback(reader.close)
            reader.assign(
                {
                    TopicPartition(topic, partition): 0
                    for topic in STORY_TOPICS
                    for partition in range(backend.partitions(topic))
                }
            )
            return cls(
                settings, supervisor, client, on_call, story, broker, reader, stack.pop_all()
            )

    def offer_first_version(self, monitor: Monitor, rows: Sequence[Row], *, seed: int) -> None:
        """Train the version that serves first on rows with labels, and offer it."""
        from kedge_services.trainer.training import train

        now_ms = time.time_ns() // 1_000_000
        examples = [
            Example(
                prediction_id=f"warm-up-{number}",
                model=monitor.model,
                features=row.features,
                label=row.label,
                outputs={},
                event_time_ms=now_ms - len(rows) + number,
                label_time_ms=now_ms - len(rows) + number,
            )
            for number, row in enumerate(rows)
        ]
        request = RetrainRequest(
            request_id=f"{monitor.model}/warm-up",
            model=monitor.model,
            mode="batch",
            cause=RetrainCause(kind="manual"),
            event_time_ms=now_ms,
        )
        trained = train(
            request, examples, monitor=monitor, parent=None, parent_data=None, seed=seed,
            allow=self.settings.trainer.allow,
        )  # fmt: skip
        candidate = trained.candidate
        if trained.data is not None and candidate.artefact is not None:
            artefact = ArtefactStore(self.settings.artefacts).put(
                trained.data, candidate.artefact.format
            )
            candidate = candidate.model_copy(update={"artefact": artefact})
        partition = model_partition(monitor.model, self.settings.model_partitions)
        send(
            self.settings,
            [Produce("candidates", candidate.request_id.encode(), encode(candidate), partition)],
        )

    def wait_ready(self) -> None:
        """Wait until every service is ready and a version serves.

        Raises
        ------
        Retry
            It took too long; the message names who was not ready.
        """
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            self.watch(0.1)
            waiting = [s.name for s in self.supervisor.states() if s.state != "ready"]
            if not waiting and self.story.champion is not None:
                return
        missing = ", ".join(waiting) or "the first model version"
        raise Retry(f"not ready after {_READY_S:.0f} s: {missing}; the logs tell more")

    def is_ready(self) -> bool:
        """Say whether all processes are up, as of the last :meth:`watch`."""
        return all(state.state == "ready" for state in self.supervisor.states())

    def watch(self, timeout_s: float) -> int:
        """Read what has happened; give the number of records read.

        Raises
        ------
        Stop
            A service has failed for good.
        """
        self.supervisor.poll()
        if failures := self.supervisor.failures():
            raise Stop(failures[0])
        batches = self._reader.poll(10_000, timeout_s)
        for batch in batches:
            self.story.apply(batch)
        return sum(map(len, batches))

    def tell(self, what: str, text: str) -> None:
        """Add a line of our own to the timeline."""
        self.story.tell(_now(what, text))

    def rss_mb(self) -> float:
        """Give the resident memory of the local Kafka and all services."""
        return sum(state.rss_bytes or 0 for state in self.supervisor.states()) / 1e6

    def recount(self, drift_started_ms: int | None) -> Report:
        """Count everything that was sent and published again.

        Raises
        ------
        Retry
            The topics cannot be read.
        """
        kafka = self.settings.kafka
        properties = {**kafka.properties, "bootstrap.servers": kafka.bootstrap_servers}
        try:
            with KafkaLog(properties, prefix=self.settings.prefix) as log:
                return recount(
                    log,
                    max_skew_ms=self.settings.time.max_skew_ms,
                    drift_started_ms=drift_started_ms,
                )
        except (KafkaException, LookupError, TimeoutError) as error:
            raise Retry(f"the topics cannot be counted again: {error}") from error

    def close(self) -> None:
        """Stop everything that was started."""
        self._stack.close()


def _now(what: str, text: str) -> Entry:
    return Entry(time.time_ns() // 1_000_000, what, text)


def send(settings: Settings, records: Sequence[Produce]) -> None:
    """Send records in one transaction of their own."""
    producer = KafkaBackend(settings).producer("demo-stage")
    try:
        producer.begin()
        for record in records:
            producer.produce(record)
        producer.commit()
    finally:
        producer.close()


def _monitor_record(settings: Settings, monitor: Monitor) -> Produce:
    partition = model_partition(monitor.model, settings.model_partitions)
    return Produce(TOPICS["monitors"].name, monitor.model.encode(), encode(monitor), partition)
