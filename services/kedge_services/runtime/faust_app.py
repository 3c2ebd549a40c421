"""Faust, where it is good: what leaves Kafka, at a low rate, with timers and HTTP.

Faust commits at least once, so handlers have to be harmless when repeated.
What is switched off here is switched off for a reason: its topics would get
defaults of their own, its web server listens without a password, its
``exactly_once`` does not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from kedge.errors import BrokerUnavailable, Stop
from kedge_services.runtime.admin import client_properties
from kedge_services.runtime.faust_auth import faust_options
from kedge_services.runtime.health import HealthServer, health_app
from kedge_services.runtime.logs import configure_logs
from kedge_services.runtime.metrics import Metrics
from kedge_services.runtime.ports import Record
from kedge_services.runtime.settings import Settings

__all__ = ["PrefixAcks", "StallWatch", "make_app", "record_of", "run_faust", "serve"]

_SESSION_S = 10.0
_STALL_S = 120.0
_LOOK_S = 0.2
_ANSWER_S = 30.0
_STOP_S = 10.0
_STUCK_S = 60.0

_log = structlog.get_logger(__name__)


class FaustService(Protocol):
    """A service that runs in an event loop of its own.

    Attributes
    ----------
    is_ready
        Whether it works.
    looked_s
        When it was last seen to go on, by a clock that never goes back.
    """

    is_ready: bool
    looked_s: float

    async def run(self, stop: threading.Event) -> None:
        """Run until ``stop`` is set."""


def run_faust(
    name: str,
    make: Callable[[Metrics], FaustService],
    settings: Settings,
    stop: threading.Event,
) -> None:
    """Run a service, with its health pages, until ``stop`` is set.

    Raises
    ------
    KedgeError
        Going on is impossible; the message says why in one sentence.
    """
    configure_logs(settings, name)
    metrics = Metrics(name)
    service = make(metrics)
    app = health_app(
        metrics,
        is_alive=lambda: time.monotonic() - service.looked_s < _STUCK_S,
        is_ready=lambda: service.is_ready,
    )
    with HealthServer(app, host=settings.host, port=settings.port) as server:
        _log.info("started", health=f"http://{settings.host}:{server.port}")
        asyncio.run(service.run(stop))
    _log.info("stopped")


def make_app(settings: Settings, name: str) -> Any:
    """Make a Faust app that reads committed records only; to be called in its event loop.

    Topics are to be opened with ``value_serializer="raw"``, agents with
    ``concurrency=1`` and ``stream.noack().events()``; see :class:`PrefixAcks`.

    Raises
    ------
    UsageError
        A property of Kafka has no counterpart in aiokafka.
    BrokerUnavailable
        No address is known.
    """
    import faust

    options = faust_options(settings.kafka.properties)
    servers = str(client_properties(settings.kafka)["bootstrap.servers"]).split(",")
    # Faust makes this directory, though not its parents, and keeps nothing in it.
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        settings.prefix + name,
        broker=[f"kafka://{server.strip()}" for server in servers],
        autodiscover=False,
        broker_commit_interval=1.0,
        broker_heartbeat_interval=_SESSION_S / 3,
        broker_session_timeout=_SESSION_S,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=f"{settings.prefix}{name}-{settings.ordinal}",
        datadir=settings.state_dir / name,
        loop=asyncio.get_running_loop(),
        processing_guarantee="at_least_once",
        store="memory://",
        # A stop, or a rebalance, must not wait for a receiver that is down.
        stream_wait_empty=False,
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        **options,
    )
    app.transport = _committed_transport()(url=app.conf.broker, app=app)
    return app


def _committed_transport() -> Any:
    """Give Faust's transport, changed to read committed records.

    Faust sets the isolation level from ``in_transaction`` alone, which is only
    true with its ``exactly_once``; so it is made true for just the moment in
    which the consumer is made.
    """
    from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport

    class CommittedThread(AIOKafkaConsumerThread):
        def _create_worker_consumer(self, transport: Any) -> Any:
            self.consumer.in_transaction = True
            try:
                return super()._create_worker_consumer(transport)
            finally:
                self.consumer.in_transaction = False

    class CommittedConsumer(Consumer):
        def _new_consumer_thread(self) -> Any:
            return CommittedThread(self, loop=self.loop, beacon=self.beacon)

    class CommittedTransport(Transport):
        Consumer = CommittedConsumer

    return CommittedTransport


def record_of(event: Any, *, prefix: str) -> Record:
    """Give the record of an event whose key and value were left raw."""
    message = event.message
    return Record(
        message.topic.removeprefix(prefix),
        message.partition,
        message.offset,
        round(message.timestamp * 1000),
        message.key,
        message.value,
        list(message.headers or ()),
    )


class PrefixAcks:
    """Acknowledges events of a partition in their order, whatever order they are done in.

    Faust commits the end of the first run of acknowledged offsets, also when
    an earlier record is not done yet.  With acknowledgements in order that is
    right, and up to ``limit`` records may be in work at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[tuple[str, int], deque[tuple[Any, list[bool]]]] = {}
        self._room = asyncio.Event()

    def __len__(self) -> int:
        """Give the number of events in work, or done behind one in work."""
        return sum(map(len, self._waiting.values()))

    @property
    def is_full(self) -> bool:
        """Whether enough is in work."""
        return len(self) >= self._limit

    async def wait_for_room(self) -> None:
        """Return when less than ``limit`` events are in work."""
        while self.is_full:
            self._room.clear()
            await self._room.wait()

    def add(self, event: Any) -> Callable[[], None]:
        """Take an event into work; call what is given back when it is done."""
        message = event.message
        queue = self._waiting.setdefault((message.topic, message.partition), deque())
        is_done = [False]
        queue.append((event, is_done))

        def done() -> None:
            is_done[0] = True
            while queue and queue[0][1][0]:
                queue.popleft()[0].ack()
            self._room.set()

        return done


@dataclass(slots=True)
class StallWatch:
    """Notices a consumer that stands still although there is something to read."""

    limit_s: float = _STALL_S
    _since: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)

    def look(
        self, now_s: float, positions: Mapping[tuple[str, int], tuple[int, int]]
    ) -> list[tuple[str, int]]:
        """Give the partitions that have stood still for too long.

        Parameters
        ----------
        now_s
            A clock that never goes back, in seconds.
        positions
            By partition: the next offset to be read, and the end.
        """
        self._since = {
            place: (position, before[1])
            if (before := self._since.get(place)) and before[0] == position and position < end
            else (position, now_s)
            for place, (position, end) in positions.items()
        }
        return [place for place, (_, since) in self._since.items() if now_s - since > self.limit_s]


async def serve(
    app: Any,
    stop: threading.Event,
    *,
    is_full: Callable[[], bool],
    on_look: Callable[[bool], None] = lambda _: None,
) -> None:
    """Run the app until ``stop`` is set.

    Parameters
    ----------
    app
        From :func:`make_app`, in the same event loop.
    stop
        Set from anywhere.
    is_full
        Says that reading rests because enough is in work, which is no stall.
    on_look
        Told several times a second whether the app is a settled member of its group.

    Raises
    ------
    Stop
        The app has crashed; the message tells the reason.
    BrokerUnavailable
        Nothing was read for two minutes although there was something to read.
    """
    watch, looking, asked_s = StallWatch(), None, 0.0
    await app.start()
    try:
        while not stop.is_set() and not app.should_stop and app.crash_reason is None:
            on_look(bool(app.rebalancing_count) and not app.rebalancing)
            now_s = time.monotonic()
            if looking is None:
                # In a task of its own: a consumer that has crashed never answers.
                looking, asked_s = asyncio.create_task(_positions(app)), now_s
            elif looking.done():
                stalled = [] if is_full() else watch.look(now_s, looking.result())
                looking = None
                if stalled:
                    topic, partition = stalled[0]
                    raise BrokerUnavailable(
                        f"{topic} {partition} was not read on for {watch.limit_s:.0f} s, "
                        "although it goes on"
                    )
            elif now_s - asked_s > _ANSWER_S:
                raise BrokerUnavailable(f"the consumer gave no answer for {_ANSWER_S:.0f} s")
            await asyncio.sleep(_LOOK_S)
    finally:
        if looking is not None:
            looking.cancel()
        # What has crashed may never come to rest by itself; the process ends anyway.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(app.stop(), _STOP_S)
    if not stop.is_set():
        reason = app.crash_reason
        raise Stop(f"the Faust app stopped: {reason!r}") from reason


async def _positions(app: Any) -> dict[tuple[str, int], tuple[int, int]]:
    if app.rebalancing:
        return {}
    positions = {}
    for tp in app.consumer.assignment():
        position, end = await app.consumer.position(tp), app.consumer.highwater(tp)
        if position is not None and end is not None:
            positions[tp.topic, tp.partition] = (int(position), int(end))
    return positions
