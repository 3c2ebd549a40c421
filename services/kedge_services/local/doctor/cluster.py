"""The Kafka: does it answer, what can it do, are the topics right, does a transaction work."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from kedge.errors import BrokerUnavailable
from kedge_services.local.doctor.findings import Finding, failed, ok, warning
from kedge_services.runtime.admin import check_topics, client_properties, plan_topics
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Produce, Record, TopicPartition
from kedge_services.runtime.settings import Settings

__all__ = [
    "check_broker",
    "check_round_trip",
    "check_topics_of",
    "check_versions",
    "judge_clocks",
]

#: librdkafka tells what a broker speaks in its log only.
_SPEAKS = re.compile(r"ApiKey \S+ \((\d+)\) Versions \d+\.\.(\d+)")
_FETCH, _TXN_OFFSET_COMMIT = 1, 28
#: Commits in a transaction are fenced by the group's generation since Kafka 2.5.
_LEAST_TXN_OFFSET_COMMIT = 3
#: The release that brought a version of Fetch.
_FETCH_SINCE = {18: "4.1", 17: "3.9", 16: "3.7", 15: "3.5", 13: "3.1", 12: "2.7", 11: "2.3"}
_NOT_ALLOWED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.POLICY_VIOLATION,
}
_TIMEOUT_S = 10.0
_SMALL_SKEW_MS = 1_000
_SHOWN = 5


def check_broker(settings: Settings, timeout_s: float) -> Iterator[Finding]:
    """Ask for the cluster and what it speaks.

    Raises
    ------
    BrokerUnavailable
        Nobody answers: there is nothing else to be checked.
    """
    spoken: dict[int, int] = {}
    properties = client_properties(settings.kafka)
    address = properties["bootstrap.servers"]
    # Otherwise it is only this client's log that goes anywhere.
    listening = {**properties, "debug": "feature", "log_level": 7}
    try:
        admin = AdminClient(listening, logger=_Listener(spoken).logger)
        began = time.monotonic()
        metadata = admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise BrokerUnavailable(error.args[0].str()) from error
    took_ms = 1000 * (time.monotonic() - began)
    admin.poll(0)
    brokers = len(metadata.brokers)
    count = "1 broker" if brokers == 1 else f"{brokers} brokers"
    yield ok("Kafka", f"{address} answers in {took_ms:.0f} ms, {count}")
    yield from check_versions(spoken)
    replicas = settings.kafka.replication_factor
    if brokers > 1 and replicas < min(brokers, 3):
        what = f"topics get {replicas} replica(s) on {brokers} brokers"
        move = "set replication_factor under [kafka] to 3 before `kedge topics create`"
        yield warning("replication", what, move)


class _Listener(logging.Handler):
    """Takes from a client's log which version of which request its broker speaks."""

    def __init__(self, spoken: dict[int, int]) -> None:
        super().__init__()
        self._spoken = spoken
        self.logger = logging.Logger("kedge.doctor")  # noqa: LOG001 -- nobody else's business
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        if (found := _SPEAKS.search(record.getMessage())) is not None:
            self._spoken[int(found[1])] = int(found[2])


def check_versions(spoken: dict[int, int]) -> Iterator[Finding]:
    """Judge a broker by the highest version of each request, by its number, that it speaks."""
    if _TXN_OFFSET_COMMIT not in spoken or _FETCH not in spoken:
        yield warning("version", "it does not say what it speaks", "make sure it is Kafka 2.5+")
        return
    fetch = spoken[_FETCH]
    since = next((name for version, name in _FETCH_SINCE.items() if fetch >= version), "2.2")
    detail = f"Kafka {since} or newer (speaks Fetch {fetch})"
    if spoken[_TXN_OFFSET_COMMIT] < _LEAST_TXN_OFFSET_COMMIT:
        yield failed("version", detail, "Kedge's transactions need Kafka 2.5 or newer")
    else:
        yield ok("version", detail)


def check_topics_of(settings: Settings) -> Iterator[Finding]:
    """Compare the topics with the table."""
    problems = check_topics(settings)
    total = len(plan_topics(settings))
    if not problems:
        yield ok("topics", f"all {total} are there, with their partitions and settings")
        return
    missing = [problem for problem in problems if problem.endswith(" is missing")]
    if len(missing) == total:
        yield failed("topics", f"none of the {total} is there", "`kedge topics create`")
        return
    for problem in problems[:_SHOWN]:
        yield failed("topics", problem, _move_for(problem))
    if (more := len(problems) - _SHOWN) > 0:
        yield failed("topics", f"and {more} more differences", "`kedge topics check` names all")


def _move_for(problem: str) -> str:
    if problem.endswith(" is missing"):
        return "`kedge topics create`"
    if " partitions, must have " in problem:
        return (
            "partitions never change: set request_partitions and model_partitions to what is "
            "there, or use another prefix"
        )
    return "alter the topic's configuration with the tools of your Kafka"


def check_round_trip(settings: Settings) -> Iterator[Finding]:
    """Commit a transaction on a topic of its own, read it back, compare the clocks.

    The topic is named ``<prefix>doctor-<id>`` and deleted at the end.
    """
    name = f"doctor-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({**client_properties(settings.kafka), "log_level": 2})
    topic = NewTopic(
        settings.prefix + name,
        num_partitions=1,
        replication_factor=settings.kafka.replication_factor,
        config={"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"},
    )
    if (refused := _ask(lambda: admin.create_topics([topic]))) is not None:
        what = f"not tried: a topic for it cannot be created ({refused.str()})"
        if refused.code() in _NOT_ALLOWED:
            yield warning(
                "round trip", what, f"allow this user to create {settings.prefix}doctor-*"
            )
        else:
            yield failed("round trip", what, "look into the broker's log")
        return
    try:
        yield from _round_trip(settings, name)
    finally:
        refused = _ask(lambda: admin.delete_topics([settings.prefix + name]))
    if refused is not None:
        what = f"{settings.prefix}{name} was made for it and cannot be deleted ({refused.str()})"
        yield warning("round trip", what, "delete it with the tools of your Kafka")


def _ask(act: Callable[[], dict[str, Any]]) -> KafkaError | None:
    try:
        for future in act().values():
            future.result(timeout=_TIMEOUT_S)
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        return cause
    return None


def _round_trip(settings: Settings, topic: str) -> Iterator[Finding]:
    backend = KafkaBackend(settings)
    producer, consumer = backend.producer(topic), backend.consumer(group=None)
    try:
        began, before_ms = time.monotonic(), wall_clock()
        producer.begin()
        producer.produce(Produce(topic, b"doctor", b"{}", 0))
        producer.commit()
        after_ms = wall_clock()
        consumer.assign({TopicPartition(topic, 0): 0})
        record = _first(consumer.poll)
    finally:
        producer.close()
        consumer.close()
        backend.close()
    if record is None:
        what = f"a committed record was not read within {_TIMEOUT_S:.0f} s"
        yield failed("round trip", what, "look into the broker's log for its transactions")
        return
    took_ms = 1000 * (time.monotonic() - began)
    yield ok("round trip", f"a transaction was committed and read in {took_ms:.0f} ms")
    yield judge_clocks(record.timestamp_ms, before_ms, after_ms, settings.time.max_skew_ms)


def _first(poll: Callable[[int, float], list[Any]]) -> Record | None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        for batch in poll(1, 0.1):
            for record in batch.records():
                found: Record = record
                return found
    return None


def judge_clocks(append_ms: int, before_ms: int, after_ms: int, max_skew_ms: int) -> Finding:
    """Judge the time the broker gave between two looks at our clock."""
    ahead_ms = max(0, append_ms - after_ms) - max(0, before_ms - append_ms)
    if abs(ahead_ms) <= _SMALL_SKEW_MS:
        return ok("clocks", "the broker's and this machine's agree within 1 s")
    word = "ahead of" if ahead_ms > 0 else "behind"
    detail = f"the broker's is {abs(ahead_ms) / 1000:,.1f} s {word} this machine's"
    move = "let both follow the same time servers (NTP)"
    # Behind us, it finds our event times to lie in its future: they are put aside.
    if -ahead_ms > max_skew_ms:
        detail += "; events stamped here are put aside as bad-time"
        return failed("clocks", detail, move)
    return warning("clocks", detail, move)
