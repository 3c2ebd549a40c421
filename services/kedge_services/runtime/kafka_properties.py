"""What librdkafka is told, in one place; what was measured stands beside it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kedge_services.runtime.ports import RECORD_BYTES

__all__ = ["COMMON", "CONSUMER", "PRODUCER", "manner_of"]

COMMON: dict[str, Any] = {
    # librdkafka prints every refused connection; we say it once.
    "log_level": 2,
    # Kafka's defaults let a client sleep for 10 s when a broker comes back.
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
}

CONSUMER: dict[str, Any] = {
    "isolation.level": "read_committed",
    # `earliest` jumps silently over what retention deleted.
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    # Two topics get the same partitions only so; cooperative ones do not promise it.
    "partition.assignment.strategy": "range",
    # A static member that died holds its partitions for this long.
    "session.timeout.ms": 6_000,
    "heartbeat.interval.ms": 2_000,
    "max.poll.interval.ms": 300_000,
    # At its default of 1,000 a full local queue stops fetching for a second.
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 100,
    # Memory is bounded by what is queued and one answer more, however many
    # partitions there are: a queue that is full is not asked for more, and an
    # answer holds at most `fetch.max.bytes` (as stored: unpacked it is a few times
    # that).  Partitions take turns in being first, so each comes up though one
    # answer cannot hold all of them.
    "queued.max.messages.kbytes": 32_768,
    "queued.min.messages": 100_000,
    "fetch.max.bytes": 8_388_608,
    "max.partition.fetch.bytes": 1_048_576,
}
#: Where somebody waits for the answer.
_QUICK: dict[str, Any] = {"fetch.wait.max.ms": 20}
#: Where records come one by one and are gathered until a commit anyway: an answer waits
#: for so many bytes, at most `fetch.wait.max.ms`.  At one byte there are hundreds of
#: answers a second, and they cost Kafka more than taking the records did.
_GATHERING: dict[str, Any] = {"fetch.min.bytes": 131_072}
#: What services commit comes in bursts, and each is asked for at once.
_IN_BURSTS: dict[str, Any] = {}

PRODUCER: dict[str, Any] = {
    # Java's default; librdkafka's own would send keys elsewhere.
    "partitioner": "murmur2_random",
    # A dead process holds the last stable offset back no longer than this.
    "transaction.timeout.ms": 6_000,
    # Of JSON of 330 bytes a record costs 2.0 µs of CPU with lz4, 3.4 with zstd, 1.3 bare.
    "compression.type": "lz4",
    # Nobody asks for the fate of a record: a transaction has one.  Reports of
    # those that went well would fill the queue until somebody polls.
    "delivery.report.only.error": True,
    "message.max.bytes": RECORD_BYTES,
    # Transactions are sent whole: nothing is gained by sending the first bytes early.
    "linger.ms": 5,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
}


def manner_of(topics: Collection[str]) -> dict[str, Any]:
    """Give how a group's topics are fetched."""
    if "requests" in topics:
        return _QUICK
    return _GATHERING if {"predictions", "outcomes"} & set(topics) else _IN_BURSTS
