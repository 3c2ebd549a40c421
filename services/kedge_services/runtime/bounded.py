"""Calls of librdkafka that must end, whatever becomes of them.

``send_offsets_to_transaction`` takes a time-out and forgets it while it looks
for the group's coordinator: when the connection was lost, it may wait for ever
(librdkafka #5456, #5511).  A process that waits so is alive by every other sign.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

__all__ = ["bounded"]

T = TypeVar("T")


def bounded(function: Callable[..., T], limit_s: float) -> Callable[..., T]:
    """Give the same function, which raises when it has not returned after ``limit_s``.

    It runs in a thread of its own.  One that is overdue stays behind with all it
    holds: nobody can end it, and the process goes on with another client.

    Raises
    ------
    KafkaException
        ``_TIMED_OUT``, from the function that is returned.
    """

    def call(*arguments: Any) -> T:
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(function(*arguments))
            except BaseException as error:  # noqa: BLE001 -- raised again by whoever waits
                errors.append(error)

        thread = threading.Thread(target=run, name="bounded call", daemon=True)
        thread.start()
        thread.join(limit_s)
        if errors:
            raise errors[0]
        if not results:
            why = f"no answer to {function.__name__} within {limit_s:g} s"
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, why))  # noqa: SLF001
        return results[0]

    return call
