"""Reads retrain requests and hands them to the desk of their partition."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

from kedge_services.executors.desk import Board, Desk, Parts
from kedge_services.executors.desks import Desks
from kedge_services.executors.kinds import pipelines
from kedge_services.executors.ledger import Ledger
from kedge_services.executors.storing import Storing, in_child
from kedge_services.executors.surroundings import Surroundings
from kedge_services.runtime.faust_app import make_app, record_of, run_faust, serve
from kedge_services.runtime.http import Web
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.metrics import Metrics
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.times import RealTimes

__all__ = ["Executors", "run"]

NAME = "executors"


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the service, with its health pages, until ``stop`` is set."""
    run_faust(
        NAME, lambda metrics: Executors(settings, metrics, environ=os.environ), settings, stop
    )


class Executors:
    """The service; URLs and secrets come from ``environ``."""

    def __init__(self, settings: Settings, metrics: Metrics, *, environ: Mapping[str, str]) -> None:
        self.is_ready = False
        self.looked_s = time.monotonic()
        self._settings = settings
        self._environ = environ
        self._backend = KafkaBackend(settings)
        self._surroundings = Surroundings(self._backend, prefix=settings.prefix)
        self._board = Board(metrics)
        self._web, self._times = Web(), RealTimes()

    async def run(self, stop: threading.Event) -> None:
        """Run until ``stop`` is set."""
        app = make_app(self._settings, NAME)
        parts = self._parts(app)
        desks = Desks(lambda p: Desk(p, Ledger(self._backend, p), parts), app.crash)
        name = f"{self._settings.prefix}retrain-requests"
        topic = app.topic(name, key_serializer="raw", value_serializer="raw")

        async def agent(stream: Any) -> None:
            async for event in stream.noack().events():
                # Whatever is raised here Faust would log and go on; so stop instead.
                try:
                    record = record_of(event, prefix=self._settings.prefix)
                    desk = await desks.of(record.partition)
                    if desk is not None and await desk.take(record):
                        event.ack()
                except Exception as error:  # noqa: BLE001
                    await app.crash(error)
                    return

        async def assigned(_: Any, places: Collection[Any], **__: Any) -> None:
            await desks.assign({place.partition for place in places if place.topic == name})

        async def revoked(_: Any, places: Collection[Any], **__: Any) -> None:  # noqa: ARG001
            await desks.revoke()

        app.agent(topic, concurrency=1, name=NAME)(agent)
        app.on_partitions_assigned.connect(assigned)
        app.on_partitions_revoked.connect(revoked)
        try:
            await serve(
                app, stop, is_full=lambda: False, on_look=lambda ok: self._looked(ok, desks)
            )
        finally:
            await desks.revoke()
            await self._web.close()
            self._surroundings.close()
            self._backend.close()

    def _looked(self, is_settled: bool, desks: Desks) -> None:  # noqa: FBT001 -- a callback
        self.is_ready, self.looked_s = is_settled and desks.are_open, time.monotonic()

    def _parts(self, app: Any) -> Parts:
        return Parts(
            now=self._surroundings.now,
            pipeline_of=pipelines(self._environ, self._web, self._times),
            store=Storing(
                web=self._web,
                times=self._times,
                inspect=in_child,
                artefacts=self._settings.artefacts,
                incoming=self._settings.state_dir / NAME / f"incoming-{self._settings.ordinal}",
            ),
            candidate_partitions=self._backend.partitions("candidates"),
            times=self._times,
            board=self._board,
            on_crash=app.crash,
        )
