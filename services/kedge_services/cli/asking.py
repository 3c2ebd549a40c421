"""What the commands do with Kafka: read a table whole, send, wait for the answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from kedge.base import Event
from kedge.codec import dead_letter_of
from kedge.errors import Retry, Stop, UsageError
from kedge_services.runtime.ports import (
    Backend,
    Consumer,
    Produce,
    Record,
    Table,
    TopicPartition,
    TransactionAborted,
)
from kedge_services.runtime.reading import TableReader

__all__ = ["Answers", "event_of", "read_tables", "send"]

E = TypeVar("E", bound=Event)
T = TypeVar("T")
_POLL_S = 0.1


def read_tables(backend: Backend, *tables: Table) -> None:
    """Feed the tables with everything that was committed before this call.

    Raises
    ------
    Misconfigured
        A topic does not exist.
    BrokerUnavailable
        Its end was not reached in time.
    """
    reader = TableReader(backend, tables)
    try:
        reader.refresh()
    finally:
        reader.close()


def event_of(cls: type[E], **fields: Any) -> E:
    """Make an event of what was typed.

    Raises
    ------
    UsageError
        A field cannot be so; the message names it.
    """
    for name, value in fields.items():
        # Bytes of the command line that are no UTF-8 come as what no encoder takes.
        if isinstance(value, str) and not _is_text(value):
            raise UsageError(f"{name}: {value!r} is no text in UTF-8")
    try:
        return cls(**fields)
    except ValidationError as error:
        raise UsageError(dead_letter_of(cls, error).detail) from error


def send(backend: Backend, records: Sequence[Produce]) -> None:
    """Send records, all or none; they are in Kafka when this returns.

    Raises
    ------
    Retry
        The transaction was aborted; nothing was sent.
    """
    # Nobody resumes a command's transaction, so its id need not be known to anybody.
    producer = backend.producer(f"command-{uuid.uuid4().hex}")
    try:
        producer.begin()
        for record in records:
            producer.produce(record)
        producer.commit()
    except TransactionAborted as error:
        raise Retry(f"nothing was sent, try again: {error}") from error
    finally:
        producer.close()


class Answers:
    """Records of some topics from now on: make it before asking.

    A dead letter whose key is that of the question is an answer, too: no.
    """

    def __init__(self, backend: Backend, *topics: str) -> None:
        self._consumer: Consumer = backend.consumer(group=None)
        self._consumer.assign(
            {
                place: self._consumer.bounds(place)[1]
                for topic in (*topics, "dead-letters")
                for place in (TopicPartition(topic, p) for p in range(backend.partitions(topic)))
            }
        )

    def wait(self, key: bytes, take: Callable[[Record], T | None], *, timeout_s: float) -> T:
        """Give what ``take`` makes of the first record it takes.

        Raises
        ------
        Stop
            The question with this key was refused; the message says why.
        Retry
            There was no answer in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            for batch in self._consumer.poll(1_000, _POLL_S):
                for record in batch.records():
                    if record.topic == "dead-letters":
                        _refusal(record, key)
                    elif (taken := take(record)) is not None:
                        return taken
            if time.monotonic() >= deadline:
                raise Retry(
                    f"no answer within {timeout_s:g} s: is the registry running? "
                    "What you asked for is in Kafka and will be dealt with when it is"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(record: Record, key: bytes) -> None:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    if record.key == key:
        raise Stop(f"refused: {headers.get('kedge-detail', 'no reason given')}")
