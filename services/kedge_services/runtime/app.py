"""A service as a process: backend, loop, health pages and logs put together."""

from __future__ import annotations

import contextlib
import threading
import time

import structlog

from kedge_services.runtime.garbage import rare_collections
from kedge_services.runtime.health import HealthServer, health_app
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.logs import configure_logs
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.metrics import Metrics
from kedge_services.runtime.ports import Service
from kedge_services.runtime.settings import Settings

__all__ = ["run_service", "wall_clock"]

#: A loop that has made no step for so long is stuck.
_STUCK_S = 60.0

_log = structlog.get_logger(__name__)


def wall_clock() -> int:
    """Give the time in ms since the epoch."""
    return time.time_ns() // 1_000_000


def run_service(service: Service, settings: Settings, stop: threading.Event) -> None:
    """Run a service until ``stop`` is set; whoever calls turns signals into that.

    Raises
    ------
    KedgeError
        Going on is impossible; the message says why in one sentence.
    """
    configure_logs(settings, service.name)
    metrics = Metrics(service.name)
    backend = KafkaBackend(settings)
    loop = Loop(service, backend, settings, wall_clock, metrics)
    app = health_app(
        metrics,
        is_alive=lambda: time.monotonic() - loop.stepped_s < _STUCK_S,
        is_ready=lambda: loop.is_ready,
    )
    with (
        contextlib.closing(backend),
        HealthServer(app, host=settings.host, port=settings.port) as server,
        rare_collections(),
    ):
        _log.info("started", health=f"http://{settings.host}:{server.port}")
        loop.run(stop)
    _log.info("stopped")
