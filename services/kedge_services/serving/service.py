"""Serving on Kafka, and by HTTP beside it."""

from __future__ import annotations

import threading
import time

from kedge import ModelVersion
from kedge.client import Client
from kedge.errors import UnsafeArtefact
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import Predictor, load_predictor
from kedge_services.runtime.ports import Service, Task, TaskContext
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import MonitorTable, VersionTable
from kedge_services.serving.http import HttpServer, make_app
from kedge_services.serving.models import Models, WatchedVersions
from kedge_services.serving.scorer import Outbox, Scorer
from kedge_services.serving.task import SERVICE, ServingTask

__all__ = ["Serving", "make", "run"]

#: A request on the topic is answered when it is committed.
COMMIT_INTERVAL_MS = 100


class Serving:
    """The parts that the topic and HTTP share."""

    def __init__(self, settings: Settings) -> None:
        store = ArtefactStore(settings.artefacts)

        def load(version: ModelVersion) -> Predictor:
            if version.artefact is None:
                raise UnsafeArtefact("it has no artefact, it is served elsewhere")
            return load_predictor(version, store.get(version.artefact))

        self.models = Models(load)
        self.monitors = MonitorTable()
        self._tables_read = threading.Event()
        self.service = Service(
            name=SERVICE,
            inputs=("requests",),
            tables=(self.monitors, WatchedVersions(VersionTable(), self.models)),
            make_task=self._make_task,
            changelog=False,
            commit_interval_ms=COMMIT_INTERVAL_MS,
        )

    @property
    def is_ready(self) -> bool:
        """Say whether all versions are known and what could be loaded is loaded."""
        return self._tables_read.is_set() and self.models.is_settled

    def _make_task(self, context: TaskContext) -> Task:
        # The loop makes no task before it has read the tables to their end.
        self._tables_read.set()
        return ServingTask(context, self.models, self.monitors.get)


def make(settings: Settings) -> Service:
    """Give the service without HTTP."""
    return Serving(settings).service


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve the topic and HTTP until ``stop`` is set."""
    from kedge_services.runtime.app import run_service

    serving, limit = Serving(settings), settings.serving.max_pending
    kafka = settings.kafka
    client = Client(
        kafka.bootstrap_servers or "", prefix=settings.prefix, properties=kafka.properties
    )
    outbox = Outbox(client)
    scorer = Scorer(
        serving.models, serving.monitors.get, outbox,
        clock=lambda: time.time_ns() // 1_000_000, max_pending=limit,
    )  # fmt: skip
    app = make_app(scorer, is_ready=lambda: serving.is_ready, max_pending=limit)
    server = HttpServer(app, settings.serving.host, settings.serving.port)
    done = threading.Event()
    beside = [
        threading.Thread(target=serving.models.run, args=(done,), name="load"),
        threading.Thread(target=scorer.follow, args=(done,), name="shadows"),
    ]
    for thread in beside:
        thread.start()
    server.start()
    try:
        run_service(serving.service, settings, stop)
    finally:
        server.stop()
        done.set()
        serving.models.wake()
        for thread in beside:
            thread.join()
        outbox.close()
