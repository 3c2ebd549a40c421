"""Puts alerts that nobody can read, or nobody takes, into dead-letters."""

from __future__ import annotations

import asyncio

import structlog

from kedge.errors import Reason
from kedge_services.runtime.dead_letters import dead_letter
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Record

__all__ = ["PutAside"]

_log = structlog.get_logger(__name__)


class PutAside:
    """One dead letter a transaction: there are few, and each should be seen at once."""

    def __init__(self, backend: KafkaBackend, *, service: str, ordinal: int) -> None:
        self._backend = backend
        self._service = service
        self._producer = backend.producer(f"{service}-{ordinal}")
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, record: Record, reason: Reason, detail: str) -> None:
        """Send the record there; it is committed when this returns."""
        _log.warning("a record was put aside", reason=reason, detail=detail, offset=record.offset)
        letter = dead_letter(record, reason, detail, service=self._service)
        partition = record.partition % self._backend.partitions(letter.topic)

        def send() -> None:
            self._producer.begin()
            self._producer.produce(letter._replace(partition=partition))
            self._producer.commit()

        async with self._one_at_a_time:
            await asyncio.to_thread(send)

    def close(self) -> None:
        """Give up the connection."""
        self._producer.close()
