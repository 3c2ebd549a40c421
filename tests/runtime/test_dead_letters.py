from __future__ import annotations

import pytest

from kedge.errors import Stop
from kedge_services.runtime.dead_letters import DeadLetterLimit, dead_letter, reason_of
from kedge_services.runtime.ports import Record

RECORD = Record("predictions", 3, 17, 1_000, b"key", b"\xff", [("trace", b"t")])


def test_the_bytes_are_kept_and_the_headers_say_where_they_came_from() -> None:
    letter = dead_letter(RECORD, "undecodable", "no JSON", service="panes")
    assert (letter.topic, letter.partition) == ("dead-letters", 3)
    assert (letter.key, letter.value) == (b"key", b"\xff")
    assert dict(letter.headers) == {
        "trace": b"t",
        "kedge-reason": b"undecodable",
        "kedge-detail": b"no JSON",
        "kedge-topic": b"predictions",
        "kedge-partition": b"3",
        "kedge-offset": b"17",
        "kedge-timestamp-ms": b"1000",
        "kedge-service": b"panes",
    }


def test_a_record_put_aside_twice_has_the_later_reason() -> None:
    first = dead_letter(RECORD, "late", "…", service="panes")
    again = dead_letter(RECORD._replace(headers=first.headers), "invalid", "…", service="panes")
    assert reason_of(again) == "invalid"


def test_a_bad_start_stops() -> None:
    limit = DeadLetterLimit(ratio=0.5, minimum=100)
    limit.count(0, 99, ["undecodable"] * 99)
    with pytest.raises(Stop, match="100 of the first 100 records"):
        limit.count(1, 1, ["undecodable"])


def test_reasons_that_say_nothing_about_the_producer_do_not_count() -> None:
    limit = DeadLetterLimit(ratio=0.5, minimum=100)
    limit.count(0, 1_000, ["late"] * 1_000)
    assert limit.exceeded() == []


def test_half_is_not_more_than_half() -> None:
    limit = DeadLetterLimit(ratio=0.5, minimum=100)
    limit.count(0, 100, ["invalid"] * 50)
    assert limit.exceeded() == []


def test_after_the_start_a_bad_partition_is_named_and_nothing_stops() -> None:
    limit = DeadLetterLimit(ratio=0.5, minimum=100)
    limit.count(0, 20_000, [])
    limit.count(1, 100, ["missing-field"] * 90)
    assert limit.exceeded() == [1]
    limit.count(1, 100, [])
    assert limit.exceeded() == []


def test_a_partition_that_is_given_up_is_forgotten() -> None:
    limit = DeadLetterLimit(ratio=0.5, minimum=100)
    limit.count(0, 20_000, [])
    limit.count(1, 100, ["missing-field"] * 90)
    limit.forget(1)
    assert limit.exceeded() == []
