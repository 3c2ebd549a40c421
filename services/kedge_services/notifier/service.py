"""Reads alerts and has them delivered; acknowledges what is done."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from kedge.codec import decode
from kedge.errors import DeadLetter
from kedge.events import Alert
from kedge_services.notifier.delivery import Deliveries
from kedge_services.notifier.http import HttpPost
from kedge_services.notifier.put_aside import PutAside
from kedge_services.notifier.routing import Router
from kedge_services.notifier.webhook import notification
from kedge_services.runtime.faust_app import PrefixAcks, make_app, record_of, run_faust, serve
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.metrics import NOTIFICATIONS, Metrics
from kedge_services.runtime.ports import Record
from kedge_services.runtime.reading import TableReader
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import MonitorTable
from kedge_services.runtime.times import RealTimes

__all__ = ["Notifier", "run"]

NAME = "notifier"
#: Alerts in work at once; beyond, reading rests.
_MOST_IN_WORK = 1_000


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the notifier, with its health pages, until ``stop`` is set."""
    run_faust(NAME, lambda metrics: Notifier(settings, metrics, environ=os.environ), settings, stop)


class Notifier:
    """The service; URLs and secrets come from ``environ``."""

    def __init__(self, settings: Settings, metrics: Metrics, *, environ: Mapping[str, str]) -> None:
        self.is_ready = False
        self.looked_s = time.monotonic()
        self._settings = settings
        self._metrics = metrics
        backend = KafkaBackend(settings)
        self._monitors = MonitorTable()
        self._tables = TableReader(backend, [self._monitors])
        self._put_aside = PutAside(backend, service=NAME, ordinal=settings.ordinal)
        self._router = Router(environ)

    async def run(self, stop: threading.Event) -> None:
        """Run until ``stop`` is set."""
        app, acks, post = make_app(self._settings, NAME), PrefixAcks(_MOST_IN_WORK), HttpPost()
        deliveries = Deliveries(post=post, times=RealTimes(), on_crash=app.crash)
        name = f"{self._settings.prefix}alerts"
        topic = app.topic(name, key_serializer="raw", value_serializer="raw")

        async def agent(stream: Any) -> None:
            async for event in stream.noack().events():
                # Whatever is raised here Faust would log and go on; so stop instead.
                try:
                    record = record_of(event, prefix=self._settings.prefix)
                    await self._take(record, deliveries, acks.add(event))
                    await acks.wait_for_room()
                except Exception as error:  # noqa: BLE001
                    await app.crash(error)
                    return

        app.agent(topic, concurrency=1, name=NAME)(agent)
        try:
            await serve(app, stop, is_full=lambda: acks.is_full, on_look=self._looked)
        finally:
            await deliveries.close()
            await post.close()
            self._tables.close()
            self._put_aside.close()

    def _looked(self, is_settled: bool) -> None:  # noqa: FBT001 -- a callback
        self.is_ready, self.looked_s = is_settled, time.monotonic()

    async def _take(
        self, record: Record, deliveries: Deliveries, acknowledge: Callable[[], None]
    ) -> None:
        try:
            alert = decode(Alert, record.value or b"")
        except DeadLetter as error:
            await self._put_aside(record, error.reason, error.detail)
            acknowledge()
            return
        # What the monitor said when the alert was committed, or something newer.
        await asyncio.to_thread(self._tables.refresh)
        destinations = self._router.destinations(alert, self._monitors.get(alert.model))

        async def done(problem: str | None) -> None:
            result = "delivered" if problem is None else "undeliverable"
            self._metrics.add(NOTIFICATIONS, result=result)
            if problem is not None:
                await self._put_aside(record, "undeliverable", problem)

        deliveries.send_all(destinations, notification(alert), each=done, after_all=acknowledge)
