"""Reading is tolerant of what it does not know and exact about what it refuses."""

from __future__ import annotations

import json
import math
import types
from typing import Any, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from kedge import Event, Monitor, Outcome, Prediction, RetrainRequest
from kedge.codec import decode, encode
from kedge.errors import DeadLetter
from kedge.schemas import event_classes

LEAST: dict[str, Any] = {
    "prediction_id": "r-1",
    "model": "fraud",
    "version": "12",
    "event_time_ms": 1_795_220_224_624,
    "features": {"amount": 12.5, "country": "NO"},
    "output": {"label": "fraud", "score": 0.93},
}


def refused(cls: type[Event], value: bytes | dict[str, Any]) -> DeadLetter:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(DeadLetter) as raised:
        decode(cls, raw)
    return raised.value


def test_the_least_a_producer_sends_is_enough() -> None:
    event = decode(Prediction, json.dumps(LEAST).encode())
    assert (event.role, event.schema_version, event.segments) == ("champion", 1, {})
    decode(Outcome, b'{"prediction_id": "r-1", "label": "fraud", "event_time_ms": 1795306624000}')


def test_unknown_fields_are_ignored_at_every_depth() -> None:
    newer = {**LEAST, "brand_new": [1], "output": {**LEAST["output"], "explanation": "why"}}
    assert decode(Prediction, json.dumps(newer).encode()) == decode(
        Prediction, json.dumps(LEAST).encode()
    )
    request = {
        "request_id": "r", "model": "m", "event_time_ms": 1, "new": 1,
        "cause": {"kind": "manual", "new": 1}, "budget": {"gpus": 8},
    }  # fmt: skip
    assert decode(RetrainRequest, json.dumps(request).encode()).cause.kind == "manual"


def test_a_monitor_forbids_unknown_fields_in_files_but_not_on_the_wire() -> None:
    newer = {
        "model": "m", "task": "regression", "features": {"x": {"type": "numeric", "unit": "kg"}},
        "windows": {"pane": "1m", "jitter": 1}, "owner": "team",
    }  # fmt: skip
    assert decode(Monitor, json.dumps(newer).encode()).pane_ms == 60_000


@pytest.mark.parametrize("value", [b"", b"{", b"\xff\xfe", b'{"a": 1}}', b"[" * 9_999, b"nul"])
def test_no_json_is_undecodable(value: bytes) -> None:
    assert refused(Prediction, value).reason == "undecodable"


def test_framed_formats_and_newer_schemas_are_unsupported() -> None:
    framed = refused(Prediction, b"\0\0\0\0\1rest")
    assert framed.reason == "unsupported-format"
    newer = refused(Prediction, {"schema": 2, "something": "else"})
    assert newer.reason == "unsupported-format"
    assert "schema 2 is newer than 1" in newer.detail


@pytest.mark.parametrize("value", [b"[]", b"null", b"3", b'"text"'])
def test_json_that_is_no_object_is_invalid(value: bytes) -> None:
    assert refused(Prediction, value).reason == "invalid"


@pytest.mark.parametrize(
    "field", ["prediction_id", "model", "version", "event_time_ms", "features"]
)
def test_a_missing_field_is_named(field: str) -> None:
    error = refused(Prediction, {k: v for k, v in LEAST.items() if k != field})
    assert (error.reason, error.detail) == ("missing-field", f"{field}: this field is required")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"prediction_id": 7}, "prediction_id: expected a text (got 7)"),
        ({"prediction_id": ""}, "prediction_id: expected a text that is not empty (got '')"),
        ({"event_time_ms": "now"}, "event_time_ms: expected a whole number (got 'now')"),
        ({"event_time_ms": 1.5}, "event_time_ms: expected a whole number (got 1.5)"),
        ({"event_time_ms": -1}, "event_time_ms: expected greater than or equal to 0 (got -1)"),
        (
            {"features": {"amount": [1]}},
            "features.amount: expected a number, a text, true or false (got a list of 1)",
        ),
        ({"features": []}, "features: expected an object (got a list, empty)"),
        ({"role": "boss"}, "role: expected 'champion' or 'shadow' (got 'boss')"),
        ({"output": {"score": "high"}}, "output.score: expected a number (got 'high')"),
        (
            {"output": {"scores": {"float": "x"}}},
            "output.scores.float: expected a number (got 'x')",
        ),
        ({"schema": "one"}, "schema: expected a whole number (got 'one')"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_expected(change: dict[str, Any], detail: str) -> None:
    error = refused(Prediction, {**LEAST, **change})
    assert (error.reason, error.detail) == ("bad-value", detail)


def test_a_missing_field_outweighs_a_wrong_value_and_all_are_told() -> None:
    error = refused(Prediction, {"prediction_id": 1, "model": "m", "version": "1", "features": {}})
    assert error.reason == "missing-field"
    assert error.detail == (
        "event_time_ms: this field is required; prediction_id: expected a text (got 1)"
    )


def test_long_values_do_not_make_long_details() -> None:
    error = refused(Prediction, dict.fromkeys(LEAST, "x" * 10_000))
    assert len(error.detail) < 500


@pytest.mark.parametrize("cls", event_classes(), ids=lambda cls: cls.__name__)
def test_no_required_field_can_be_null_as_nulls_are_not_written(cls: type[Event]) -> None:
    for model in _models(cls):
        for name, field in model.model_fields.items():
            nullable = get_origin(field.annotation) in (Union, types.UnionType) and (
                types.NoneType in get_args(field.annotation)
            )
            assert not (nullable and field.is_required()), f"{model.__name__}.{name}"


def _models(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = (_models(field.annotation) for field in annotation.model_fields.values())
        return {annotation}.union(*fields)
    return set().union(*map(_models, get_args(annotation)))


SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)  # fmt: skip
CLASSES = st.sampled_from(event_classes())


@given(CLASSES, st.binary(max_size=60))
def test_decoding_any_bytes_gives_an_event_or_a_dead_letter(cls: type[Event], value: bytes) -> None:
    _decode_or_dead_letter(cls, value)


@given(CLASSES, st.data())
def test_decoding_any_json_gives_an_event_or_a_dead_letter(
    cls: type[Event], data: st.DataObject
) -> None:
    names = [field.alias or name for name, field in cls.model_fields.items()]
    drawn = data.draw(st.dictionaries(st.sampled_from(names), JSON))
    _decode_or_dead_letter(cls, json.dumps(drawn).encode())


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_decoding_damaged_bytes_gives_an_event_or_a_dead_letter(at: int, damage: bytes) -> None:
    good = json.dumps(LEAST).encode()
    _decode_or_dead_letter(Prediction, good[:at] + damage + good[at + len(damage) :])


def _decode_or_dead_letter(cls: type[Event], value: bytes) -> None:
    try:
        event = decode(cls, value)
    except DeadLetter as error:
        assert error.detail  # noqa: PT017 -- either way is right
    else:
        assert encode(decode(cls, encode(event))) == encode(event)


@given(
    st.dictionaries(st.text(max_size=5), SCALAR, max_size=5),
    st.text(min_size=1, max_size=255),
    st.integers(0, 253_402_300_799_999),
)
def test_what_is_written_is_read_back(
    features: dict[str, Any], prediction_id: str, time_ms: int
) -> None:
    event = Prediction(
        prediction_id=prediction_id, model="m", version="1", event_time_ms=time_ms,
        features=features,
    )  # fmt: skip
    read = decode(Prediction, encode(event))
    assert read.prediction_id == prediction_id
    assert read.event_time_ms == time_ms
    assert read.features.keys() == features.keys()
    for name, value in features.items():
        got = read.features[name]
        assert type(got) is type(value)
        assert got == value or (isinstance(value, float) and math.isnan(value))
