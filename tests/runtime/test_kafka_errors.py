# ruff: noqa: SLF001 -- names of librdkafka's own errors begin with an underscore
from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from kedge_services.runtime.kafka_errors import next_move


@pytest.mark.parametrize(
    ("error", "move"),
    [
        (KafkaError(KafkaError._FENCED, fatal=True), "leave"),
        (KafkaError(KafkaError.PRODUCER_FENCED, fatal=True), "leave"),
        (KafkaError(KafkaError.INVALID_PRODUCER_EPOCH, txn_requires_abort=True), "leave"),
        (KafkaError(KafkaError.FENCED_INSTANCE_ID, txn_requires_abort=True), "leave"),
        (KafkaError(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True), "restore"),
        (KafkaError(KafkaError.UNKNOWN_MEMBER_ID, txn_requires_abort=True), "restore"),
        (KafkaError(KafkaError.OFFSET_METADATA_TOO_LARGE, txn_requires_abort=True), "restore"),
        (KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, fatal=True), "replace"),
        # Nobody knows whether it was committed, though it could be asked again.
        (KafkaError(KafkaError._TIMED_OUT, retriable=True), "replace"),
        (KafkaError(KafkaError._TRANSPORT, retriable=True), "replace"),
        # By now the broker may have aborted it by itself, and would fence who asks for it.
        (KafkaError(KafkaError._TIMED_OUT, txn_requires_abort=True), "replace"),
        (KafkaError(KafkaError.CONCURRENT_TRANSACTIONS, retriable=True), "again"),
        (KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, retriable=True), "again"),
        (KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), "stop"),
        (KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED), "stop"),
        (KafkaError(KafkaError._STATE), "stop"),
    ],
    ids=str,
)
def test_every_error_of_a_transaction_has_its_next_move(error: KafkaError, move: str) -> None:
    assert next_move(error) == move
