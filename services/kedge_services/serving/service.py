"""Serving as a process: the topic, and HTTP beside it."""

from __future__ import annotations

import contextlib
import threading
import time

import structlog

from kedge.client import Client
from kedge_services.runtime import metrics as m
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.garbage import rare_collections
from kedge_services.runtime.health import HealthServer, health_app
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.logs import configure_logs
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.ports import Service
from kedge_services.runtime.settings import Settings
from kedge_services.serving.http import HttpServer, make_app
from kedge_services.serving.lifetime import Lifetime, beside
from kedge_services.serving.parts import Serving
from kedge_services.serving.scorer import Outbox, Scorer
from kedge_services.serving.scoring import ORIGIN

__all__ = ["make", "run"]

#: A loop that has made no step for so long is stuck.
STUCK_S = 60.0

_log = structlog.get_logger(__name__)


def make(settings: Settings) -> Service:
    """Give the service without HTTP."""
    return Serving(settings).service


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve the topic and HTTP until ``stop`` is set.

    Raises
    ------
    KedgeError
        Going on is impossible; the message says why in one sentence.
    """
    serving = Serving(settings)
    configure_logs(settings, serving.service.name)
    metrics = m.Metrics(serving.service.name)
    loop = Loop(serving.service, KafkaBackend(settings), settings, wall_clock, metrics)

    def is_able() -> bool:
        # The loop is not, before it has read the tables to their end.
        return loop.is_ready and serving.models.is_settled

    def is_ready() -> bool:
        metrics.set(m.UNLOADED, serving.models.unloaded)
        return lifetime.is_ready and loop.is_ready

    def is_alive() -> bool:
        return http.is_alive and time.monotonic() - loop.stepped_s < STUCK_S

    client = Client(
        settings.kafka.bootstrap_servers or "",
        prefix=settings.prefix,
        properties=settings.kafka.properties,
        on_error=lambda _: metrics.add(m.UNSENT),
        headers={ORIGIN[0]: ORIGIN[1].decode()},
    )
    outbox = Outbox(client, metrics)
    limit = settings.serving.max_pending
    scorer = Scorer(
        serving.models, serving.monitors.get, outbox, metrics, clock=wall_clock, max_pending=limit
    )
    app = make_app(
        scorer, metrics, max_pending=limit,
        is_ready=lambda: lifetime.is_ready, is_draining=lambda: lifetime.is_draining,
    )  # fmt: skip
    http = HttpServer(app, settings.serving.host, settings.serving.port)
    lifetime = Lifetime(
        is_able=is_able,
        open_port=http.open,
        was_asked=lambda: scorer.was_asked,
        drain_s=settings.serving.drain_ms / 1_000,
    )
    health = health_app(metrics, is_alive=is_alive, is_ready=is_ready)
    with (
        contextlib.closing(outbox),
        beside(serving.models.run, wake=serving.models.wake),
        beside(scorer.follow),
        http,
        HealthServer(health, host=settings.host, port=settings.port) as server,
        beside(lambda done: lifetime.run(stop, done)),
        rare_collections(),
    ):
        url = f"http://{http.host}:{http.port}/v2"
        _log.info("started", http=url, health=f"http://{settings.host}:{server.port}")
        loop.run(lifetime.ended)
    _log.info("stopped")
