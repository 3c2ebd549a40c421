"""Kafka's errors, by what follows from them."""

from __future__ import annotations

from typing import Literal

from confluent_kafka import KafkaError

__all__ = ["FENCED", "MISSING", "PASSING", "next_move"]

#: What the user has to put right.
MISSING = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}
#: Passing states of a cluster; librdkafka marks errors as retriable only in transactions.
PASSING = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError._WAIT_COORD,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
}
#: Somebody else has the slot.
FENCED = {
    KafkaError._FENCED,  # noqa: SLF001 -- its public name begins like that
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.FENCED_INSTANCE_ID,
}
#: Nobody answers, or not in time.
_NO_ANSWER = {
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._RESOLVE,  # noqa: SLF001
}


def next_move(error: KafkaError) -> Literal["again", "restore", "replace", "leave", "stop"]:
    """Say what follows from an error of a transactional call.

    ``again``: the same call.  ``restore``: abort, and back to what is committed.
    ``replace``: the same, with a new producer, as this one is broken or nobody
    knows how its transaction ended.  ``leave``: the slot has another owner.
    ``stop``: a person has to look.
    """
    if error.code() in FENCED:
        return "leave"
    if error.fatal() or error.code() in _NO_ANSWER:
        return "replace"
    if error.txn_requires_abort():
        return "restore"
    return "again" if error.retriable() else "stop"
