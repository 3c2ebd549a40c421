"""Lines of a file of events: read, recognised, held against the contract."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Candidate, Command, Monitor, Outcome, Prediction, ScoringRequest
from kedge.errors import UsageError
from kedge.events import Alert, Example, RetrainRequest, Window
from kedge.panes import Reference
from kedge.topics import TOPICS
from kedge.versions import ModelVersion
from kedge_services.local.event_file import (
    SENDABLE,
    BadLine,
    EventFile,
    ReadyEvent,
    check_line,
    recognise,
    sendable,
)

PREDICTION = {
    "prediction_id": "r-1#3", "model": "m", "version": "1", "event_time_ms": 1,
    "features": {"a": 1.5},
}  # fmt: skip
OUTCOME = {"prediction_id": "r-1#3", "label": True, "event_time_ms": 2}
REQUEST = {"request_id": "q", "model": "m", "rows": [{"a": 1}], "event_time_ms": 1}
COMMAND = {"command_id": "c", "model": "m", "action": "pause", "by": "me", "event_time_ms": 1}


def check(event: Any, topic: str | None = None) -> ReadyEvent | BadLine:
    return check_line(7, json.dumps(event).encode(), topic)


@pytest.mark.parametrize(
    ("event", "topic", "key", "model"),
    [
        (PREDICTION, "predictions", "r-1", "m"),
        (OUTCOME, "outcomes", "r-1", None),
        ({**OUTCOME, "model": "m"}, "outcomes", "r-1", "m"),
        (REQUEST, "requests", "q", "m"),
        (COMMAND, "commands", "c", "m"),
    ],
)
def test_an_event_is_recognised_and_keyed(
    event: dict[str, Any], topic: str, key: str, model: str | None
) -> None:
    found = check(event)
    assert isinstance(found, ReadyEvent)
    assert (found.topic, found.key, found.model) == (topic, key, model)
    assert found.marks
    assert found.value == json.dumps(event).encode()
    assert check(event, topic) == found._replace(marks=())


@pytest.mark.parametrize("event", [
    Prediction, Outcome, ScoringRequest, Command, Example, Window, Alert, RetrainRequest,
    Candidate, ModelVersion, Reference, Monitor,
])  # fmt: skip
def test_no_event_is_taken_for_another(event: Any) -> None:
    """All the fields of an event are recognised as that event's topic."""
    fields = {field.alias or name: 0 for name, field in event.model_fields.items()}
    found = recognise(fields)
    assert found is not None
    assert event in TOPICS[found[0]].events


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"{nonsense", "undecodable", "no JSON"),
        (b"[1]", "undecodable", "one JSON object a line, this is a list"),
        (b'"text"', "undecodable", "this is 'text'"),
        (b"\xff\xfe", "undecodable", "no JSON"),
        (b"[" * 100_000, "undecodable", "no JSON"),
        (b'{"a": 1}', "unknown-topic", "no event has these fields: a; name the --topic"),
        (b"{}", "unknown-topic", "no fields"),
        (b'{"window_id": "w"}', "unknown-topic", "send predictions and outcomes"),
        (b'{"request_id": "q", "trainer": ""}', "unknown-topic", "`kedge models register`"),
        (b'{"prediction_id": "r", "features": {}}', "missing-field", "model"),
        (b'{"prediction_id": "r", "label": [1], "event_time_ms": 1}', "bad-value", "label"),
        (b'{"prediction_id": "#1", "label": 1, "event_time_ms": 1}', "bad-key", "before its `#`"),
        (b'{"prediction_id": "r", "label": 1, "event_time_ms": 1, "schema": 9}',
         "unsupported-format", "schema 9"),
        (b" " * 1_000_001, "too-large", "1,000,000 bytes"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)  # fmt: skip
def test_a_bad_line_has_a_reason(line: bytes, reason: str, detail: str) -> None:
    found = check_line(7, line, None)
    assert isinstance(found, BadLine)
    assert (found.line, found.reason) == (7, reason)
    assert detail in found.detail


def test_what_tail_wrote_is_an_event_again() -> None:
    tailed = {"topic": "outcomes", "partition": 1, "offset": 2, "timestamp_ms": 3, "key": "r-1",
              "headers": {}}  # fmt: skip
    found = check({**tailed, "value": OUTCOME})
    assert isinstance(found, ReadyEvent)
    assert (found.topic, found.key, found.marks) == ("outcomes", "r-1", ("topic",))
    assert json.loads(found.value) == OUTCOME
    assert isinstance(check({**tailed, "value_base64": "AA=="}), BadLine)
    assert isinstance(check({**tailed, "topic": "windows", "value": {}}), BadLine)
    assert isinstance(check({**tailed, "value": "\ud800"}), BadLine)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_bad_line(line: bytes) -> None:
    assert isinstance(check_line(1, line, None), ReadyEvent | BadLine)
    assert isinstance(check_line(1, line, "outcomes"), ReadyEvent | BadLine)


@given(st.dictionaries(st.sampled_from([*PREDICTION, "label", "topic", "value"]), st.none()))
def test_any_object_is_an_event_or_a_bad_line(event: dict[str, None]) -> None:
    assert isinstance(check(event), ReadyEvent | BadLine)


def test_every_topic_is_sendable_or_says_how_else() -> None:
    for name in TOPICS:
        if name in SENDABLE:
            assert sendable(name) == name
        else:
            with pytest.raises(UsageError, match=f"^{name} cannot be sent: "):
                sendable(name)


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\xef\xbb\xbf{1}\r\n\n  {3}  \n{4}")
    expected = [(1, b"{1}"), (3, b"{3}"), (4, b"{4}")]
    assert list(EventFile(path).lines()) == expected
    packed = tmp_path / "events"  # by its bytes, not by its name
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(EventFile(packed).lines()) == expected


def test_a_line_no_record_holds_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b'{"a":"' + b"x" * 5_000_000 + b'"}\n{"b":1}\n')
    (first, long), (second, short) = EventFile(path).lines()
    assert (first, second, short) == (1, 2, b'{"b":1}')
    assert len(long) < 1_000_010
    found = check_line(first, long, None)
    assert isinstance(found, BadLine)
    assert found.reason == "too-large"


def test_standard_input_is_a_stream() -> None:
    source = EventFile(Path("-"), io.BytesIO(b"{1}\n{2}"))
    assert source.is_stream
    assert list(source.lines()) == [(1, b"{1}"), (2, b"{2}")]


def test_a_file_cut_off_in_packing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1_000)[:-20])
    with pytest.raises(UsageError, match=r"events\.ndjson\.gz: cannot be read"):
        list(EventFile(path).lines())
