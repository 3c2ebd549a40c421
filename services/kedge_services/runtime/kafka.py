"""The ports on Kafka, by confluent-kafka; the only module that runs the hot path on it.

Every property that is not a default here has its reason beside it.  Errors
are mapped to what the loop does next: the same call again (here), restore
(``TransactionAborted``), leave (``Fenced``), or tell a person (``Stop``,
``BrokerUnavailable``); nothing of confluent-kafka gets out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import structlog
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from kedge.errors import BrokerUnavailable, Fenced, KedgeError, Misconfigured, Stop
from kedge_services.runtime import ports
from kedge_services.runtime.admin import client_properties
from kedge_services.runtime.bounded import bounded
from kedge_services.runtime.kafka_consumer import KafkaConsumer
from kedge_services.runtime.kafka_errors import FENCED, PASSING, next_move
from kedge_services.runtime.kafka_properties import COMMON, PRODUCER
from kedge_services.runtime.ports import Position, Produce, TransactionAborted
from kedge_services.runtime.settings import Settings

__all__ = ["KafkaBackend", "KafkaProducer"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

#: A call that takes longer counts as failed.  Those of a transaction stay together
#: below 20 % of max.poll.interval.ms (300 s), the budget of a revocation.
_PATIENCE_S = 15.0
#: How long it is waited for what is only shown.
_ENDS_S = 0.5
#: How often it is said that no broker answers.
_SAY_AGAIN_S = 10.0
#: How long Kafka, which is there, may take to end the former transaction of a slot.
_ENDING_S = 30.0


class KafkaBackend:
    """Kafka as the settings name it; connects when the first client is asked for something.

    Topics, groups and transactional ids get the settings' prefix here.
    ``patience_s`` is how long any answer is waited for; then nobody is there, or,
    in a transaction, nobody knows how it ended.
    """

    def __init__(self, settings: Settings, *, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._properties = {
            **COMMON,
            "error_cb": _say_unreachable(),
            **client_properties(settings.kafka),
        }
        self._prefix = settings.prefix
        self._probe: Consumer | None = None
        self._partitions: dict[str, int] = {}

    def consumer(self, *, group: str | None, instance: str | None = None) -> ports.Consumer:
        """Make a consumer; without a group it can only ``assign``."""
        return KafkaConsumer(
            self._properties,
            prefix=self._prefix,
            bounds=self.bounds,
            ends=self.ends,
            group=None if group is None else self._prefix + group,
            instance=None if instance is None else self._prefix + instance,
        )

    def producer(self, transactional_id: str) -> KafkaProducer:
        """Make a producer; an older one of this id is fenced, what it left open aborted."""
        return KafkaProducer(
            {**PRODUCER, **self._properties, "transactional.id": self._prefix + transactional_id},
            self.full_name,
            self.unavailable,
            self._patience_s,
        )

    def partitions(self, topic: str) -> int:
        """Give the number of partitions, which never changes.

        Raises
        ------
        Misconfigured
            The topic does not exist.
        BrokerUnavailable
            No broker answers.
        """
        if topic not in self._partitions:
            name = self._prefix + topic

            def ask() -> Any:
                found = self._metadata().list_topics(name, timeout=self._patience_s).topics[name]
                if found.error is not None and found.error.code() in PASSING:
                    raise KafkaException(found.error)
                return found

            found = self._answer(ask)
            if found.error is not None or not found.partitions:
                raise Misconfigured(
                    f"topic {name} does not exist; create all of them with `kedge topics create`"
                )
            self._partitions[topic] = len(found.partitions)
        return self._partitions[topic]

    def bounds(self, partition: ports.TopicPartition) -> tuple[int, int]:
        """Give the first offset and the read-uncommitted end offset.

        Raises
        ------
        BrokerUnavailable
            No broker answers.
        """
        wanted = TopicPartition(self._prefix + partition.topic, partition.partition)
        low, end = self._answer(
            lambda: self._metadata().get_watermark_offsets(wanted, timeout=self._patience_s)
        )
        return low, end

    def ends(self, partitions: Sequence[ports.TopicPartition]) -> dict[ports.TopicPartition, int]:
        """Give read-uncommitted end offsets; those that nobody knows just now are absent.

        On a connection of its own: on that of a reading consumer the question would
        wait behind the answer to a fetch.
        """
        asked = [
            TopicPartition(self._prefix + p.topic, p.partition, OFFSET_END) for p in partitions
        ]
        try:
            found = self._metadata().offsets_for_times(asked, timeout=_ENDS_S) if asked else []
        except KafkaException:
            return {}
        return {
            ports.TopicPartition(place.topic[len(self._prefix) :], place.partition): place.offset
            for place in found
            if place.error is None and place.offset >= 0
        }

    def _answer(self, ask: Callable[[], Any]) -> Any:
        """Ask until there is an answer: leaders move, and new topics have none at first."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return ask()
            except KafkaException as error:
                if error.args[0].code() not in PASSING or time.monotonic() > deadline:
                    raise self.unavailable(error) from error
                time.sleep(0.02)

    def full_name(self, topic: str) -> str:
        """Give the topic's name with its prefix, once it is known to exist.

        librdkafka finds out late that a topic is missing, and spoils the
        transaction; so the first record for a topic asks.
        """
        self.partitions(topic)
        return self._prefix + topic

    def unavailable(self, error: KafkaException) -> KedgeError:
        """Say in one sentence that nobody answers, and what to do."""
        address = self._properties["bootstrap.servers"]
        return BrokerUnavailable(
            f"no Kafka answers at {address} ({error.args[0].str()}): start one with `kedge up` or "
            "`kedge broker`, or name yours with --bootstrap-servers, "
            "KEDGE_KAFKA__BOOTSTRAP_SERVERS or [kafka] in kedge.toml"
        )

    def close(self) -> None:
        """Release the client that asks for metadata."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def _metadata(self) -> Consumer:
        """Give the client that asks for metadata.

        A consumer, as its end offsets follow ``isolation.level``: those of our
        reading consumers stop at the last stable offset.
        """
        if self._probe is None:
            self._probe = Consumer(
                {
                    **self._properties,
                    "group.id": f"{self._prefix}metadata",
                    "isolation.level": "read_uncommitted",
                    "enable.auto.commit": False,
                }
            )
        return self._probe


def _say_unreachable() -> Callable[[KafkaError], None]:
    """Make a client's error callback: it says now and then that nobody answers."""
    said_s = -math.inf

    def say(error: KafkaError) -> None:
        nonlocal said_s
        is_down = error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
        if is_down and time.monotonic() - said_s > _SAY_AGAIN_S:
            said_s = time.monotonic()
            _log.warning("no Kafka answers; trying again", error=error.str())

    return say


class KafkaProducer:
    """A transactional producer; one that fails beyond repair is replaced inside.

    Parameters
    ----------
    properties
        Of librdkafka, with the transactional id.
    full_name
        Gives a topic's name in the cluster.
    unavailable
        Makes the error that says that nobody answers.
    patience_s
        How long any answer is waited for.

    Raises
    ------
    BrokerUnavailable
        No broker answers.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        full_name: Callable[[str], str],
        unavailable: Callable[[KafkaException], KedgeError],
        patience_s: float,
    ) -> None:
        self._properties = dict(properties)
        self._full_name = full_name
        self._unavailable = unavailable
        self._patience_s = patience_s
        self._names: dict[str, str] = {}
        self._is_open = False
        self._producer = self._make()

    def begin(self) -> None:
        """Open a transaction."""
        self._call(self._producer.begin_transaction)
        self._is_open = True

    def produce(self, record: Produce) -> None:
        """Send a record; waits while the local queue is full."""
        topic, key, value, partition, headers = record
        name = self._names.get(topic)
        if name is None:
            name = self._names[topic] = self._full_name(topic)
        number = -1 if partition is None else partition
        while True:
            try:
                if headers:
                    self._producer.produce(name, value, key, number, headers=[*headers])
                else:
                    # An empty list would cost more than all the rest.
                    self._producer.produce(name, value, key, number)
            except BufferError:
                self._producer.poll(0.01)
            except KafkaException as error:
                self._fail(self._cause_of(error), f" a record for {name}")
            else:
                return

    def send_offsets(
        self, offsets: Mapping[ports.TopicPartition, Position], group_metadata: Any
    ) -> None:
        """Put consumed offsets into the open transaction."""
        positions = [
            TopicPartition(self._full_name(p.topic), p.partition, at.offset, metadata=at.metadata)
            for p, at in offsets.items()
        ]
        # It forgets its own time-out; what takes longer than a transaction is for nothing.
        limit_s = 1 + float(self._properties["transaction.timeout.ms"]) / 1000
        send = bounded(self._producer.send_offsets_to_transaction, limit_s)
        self._call(send, positions, group_metadata, self._patience_s)

    def commit(self) -> None:
        """Commit; after a time-out nobody knows, so the producer is replaced."""
        self._call(self._producer.commit_transaction, self._patience_s)
        self._is_open = False

    def abort(self) -> None:
        """Abort the open transaction, if there is one."""
        if not self._is_open:
            return
        self._is_open = False
        failing = self._producer
        try:
            # An abort must not overtake what is still on its way (librdkafka #4849).
            self._call(failing.purge, True, False)
            self._call(failing.flush, self._patience_s)
            self._call(failing.abort_transaction, self._patience_s)
        except TransactionAborted:
            if self._producer is failing:
                self._replace()

    def close(self) -> None:
        """Abort what is open and give up the connection."""
        if self._is_open:
            self._is_open = False
            try:
                self._producer.abort_transaction(self._patience_s)
            except KafkaException:
                return  # the next producer of this id, or the time-out, ends it

    def _make(self) -> Producer:
        producer = Producer(self._properties)
        began = time.monotonic()
        while True:
            try:
                # Connected first, as otherwise the first attempt fails and sleeps 0.5 s.
                producer.list_topics("__transaction_state", timeout=self._patience_s)
                producer.init_transactions(self._patience_s)
            except KafkaException as error:
                cause = error.args[0]
                is_ending = cause.code() == KafkaError.CONCURRENT_TRANSACTIONS
                patience_s = max(self._patience_s, _ENDING_S) if is_ending else self._patience_s
                if (cause.retriable() or is_ending) and time.monotonic() < began + patience_s:
                    continue
                if cause.code() in FENCED:
                    self._fail(error)
                raise self._unavailable(error) from error
            else:
                return producer

    def _replace(self) -> None:
        """Begin anew with the same id, which ends the former transaction one way or the other."""
        self._is_open = False
        self._producer = self._make()

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call; the same call again while the error is passing."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return function(*arguments)
            except KafkaException as error:
                if next_move(error.args[0]) != "again" or time.monotonic() > deadline:
                    self._fail(error)

    def _cause_of(self, error: KafkaException) -> KafkaException:
        """Say why a record is refused after a fatal error: only other calls are told."""
        if error.args[0].code() == KafkaError._FATAL:  # noqa: SLF001
            try:
                self._producer.begin_transaction()
            except KafkaException as cause:
                return cause
        return error

    def _fail(self, error: KafkaException, what: str = "") -> NoReturn:
        """Raise what the loop understands."""
        cause = error.args[0]
        move = next_move(cause)
        if move == "leave":
            raise Fenced(
                f"another process has taken the slot {self._properties['transactional.id']} "
                f"({cause.str()}): give this one another --ordinal; or it was stopped for longer "
                "than a transaction may take: start it again"
            ) from error
        if move == "stop":
            raise Stop(f"Kafka refuses{what}: {cause.str()}") from error
        if move != "restore":
            self._replace()
        raise TransactionAborted(cause.str()) from error
