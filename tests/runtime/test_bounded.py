"""A call that must end: its result, its error, or a time-out."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from kedge_services.runtime.bounded import bounded


def test_gives_what_the_function_gives() -> None:
    assert bounded(divmod, 5)(7, 2) == (3, 1)
    assert bounded([].append, 5)(1) is None


def test_raises_what_the_function_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        bounded(divmod, 5)(7, 0)


def test_what_never_returns_is_a_time_out_that_names_it() -> None:
    end = threading.Event()

    def wait() -> None:
        end.wait(60)

    with pytest.raises(KafkaException, match=r"no answer to wait within 0\.05 s") as raised:
        bounded(wait, 0.05)()
    assert raised.value.args[0].code() == KafkaError._TIMED_OUT  # noqa: SLF001
    end.set()
