"""The derived decoders and the contract accept the same records with the same values."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kedge import Outcome, Prediction
from kedge.codec import decode
from kedge.errors import DeadLetter
from kedge_services.core.decoding import OutcomeDecoder, PredictionDecoder

DECLARED = ("amount", "country")
DECODER = PredictionDecoder({"fraud": DECLARED, "other": ()})
MINIMAL = {
    "prediction_id": "r-1",
    "model": "fraud",
    "version": "12",
    "event_time_ms": 1_795_220_224_624,
    "features": {"amount": 12.5, "country": "NO"},
}
OUTCOME = {"prediction_id": "r-1", "label": "fraud", "event_time_ms": 1_795_306_624_000}


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


def contract(cls: type[Any], value: bytes) -> Any:
    """Read by the contract, without the features nobody declared: they are unknown fields."""
    try:
        data = json.loads(value)
        if isinstance(data.get("features"), dict) and cls is Prediction:
            declared = {k: v for k, v in data["features"].items() if k in DECLARED}
            value = json.dumps(data | {"features": declared}).encode()
    except (ValueError, AttributeError, RecursionError):
        pass
    try:
        return decode(cls, value)
    except DeadLetter as refused:
        return refused


def assert_equal_predictions(value: bytes) -> None:
    row, event = DECODER.decode([value])[0], contract(Prediction, value)
    if isinstance(event, DeadLetter) or isinstance(row, DeadLetter):
        known = not isinstance(event, Prediction) or event.model not in DECODER.models
        assert isinstance(row, DeadLetter)
        assert known
        return
    columns = DECODER.models[event.model]
    assert (row.prediction_id, row.model, row.version) == (
        event.prediction_id, event.model, event.version,
    )  # fmt: skip
    assert (row.event_time_ms, row.role) == (event.event_time_ms, event.role)
    for name, read in columns.dictionary(row.features, columns.features).items():
        assert same(read, event.features.get(name))
    assert row.segments == event.segments
    if event.output is None:
        assert row.output is None
    else:
        assert row.output is not None
        for field in ("label", "score", "value"):
            assert same(getattr(row.output, field), getattr(event.output, field))
        assert set(row.output.scores or {}) <= set(event.output.scores or {})


def assert_equal_outcomes(value: bytes) -> None:
    row, event = OutcomeDecoder().decode([value])[0], contract(Outcome, value)
    if isinstance(event, DeadLetter) or isinstance(row, DeadLetter):
        assert isinstance(event, DeadLetter)
        assert isinstance(row, DeadLetter)
        assert row.reason == event.reason
        return
    assert same(row.label, event.label)
    assert (row.prediction_id, row.event_time_ms, row.model) == (
        event.prediction_id, event.event_time_ms, event.model,
    )  # fmt: skip


SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)
)
VALUES: st.SearchStrategy[Any] = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=2),
    st.dictionaries(st.sampled_from(["label", "score", "scores", "value", "x"]), SCALARS),
)
FIELDS = st.sampled_from(
    [*MINIMAL, "output", "role", "segments", "latency_ms", "schema", "schema_version", "extra"]
)
CHANGES = st.dictionaries(FIELDS, VALUES, max_size=3)


@given(CHANGES, st.sets(st.sampled_from(sorted(MINIMAL)), max_size=1))
@example({"schema": 2}, set())
@example({"schema_version": 2}, set())
@example({"schema": "1"}, set())
@example({"output": {"score": "0.5"}}, set())
@example({"output": {"scores": {"a": math.nan}}}, set())
@example({"event_time_ms": 1.0}, set())
@example({"event_time_ms": 253_402_300_800_000}, set())
@example({"prediction_id": "é" * 255}, set())
@example({"prediction_id": "é" * 256}, set())
@example({"prediction_id": ""}, set())
@example({"features": {"amount": [1]}}, set())
@example({"features": {"undeclared": [1]}}, set())
@example({"features": {"amount": 10**400}}, set())
@example({"segments": {"region": None}}, set())
@example({"role": "challenger"}, set())
@example({"model": "unheard-of"}, set())
def test_predictions_are_read_as_the_contract_reads_them(
    changes: dict[str, Any], missing: set[str]
) -> None:
    fields = {k: v for k, v in (MINIMAL | changes).items() if k not in missing}
    assert_equal_predictions(json.dumps(fields).encode())


@given(
    st.dictionaries(
        st.sampled_from([*OUTCOME, "model", "source", "schema", "extra"]), VALUES, max_size=3
    ),
    st.sets(st.sampled_from(sorted(OUTCOME)), max_size=1),
)
def test_outcomes_are_read_as_the_contract_reads_them(
    changes: dict[str, Any], missing: set[str]
) -> None:
    fields = {k: v for k, v in (OUTCOME | changes).items() if k not in missing}
    assert_equal_outcomes(json.dumps(fields).encode())


@given(st.data())
def test_broken_bytes_are_refused_by_both(data: st.DataObject) -> None:
    source = json.dumps(MINIMAL | {"extra": {"nested": ["text"]}}).encode()
    at = data.draw(st.integers(0, len(source) - 1))
    value = source[:at] + data.draw(st.binary(max_size=3)) + source[at + 1 :]
    assert_equal_predictions(value)
    assert_equal_outcomes(value)


GOLDEN: list[tuple[bytes | None, str]] = [
    (None, "missing-field"),
    (b"", "undecodable"),
    (b"not json", "undecodable"),
    (b"\0\0\0\0\x01abc", "unsupported-format"),
    (b'{"a":' + b"[" * 100_000, "undecodable"),
    (b'{"prediction_id":"r","x":"\xff"}', "undecodable"),
    (b'{"prediction_id":"\\ud800"}', "undecodable"),
    (b"[]", "invalid"),
    (b"{}", "missing-field"),
    (json.dumps(MINIMAL | {"schema": 2}).encode(), "unsupported-format"),
    (json.dumps(MINIMAL | {"event_time_ms": "now"}).encode(), "bad-value"),
    (json.dumps(MINIMAL | {"features": {"amount": {}}}).encode(), "bad-value"),
    (json.dumps(MINIMAL | {"model": "nobody"}).encode(), "unknown-model"),
]


@pytest.mark.parametrize(("value", "reason"), GOLDEN)
def test_each_refusal_has_its_reason_and_harms_no_neighbour(
    value: bytes | None, reason: str
) -> None:
    good = json.dumps(MINIMAL).encode()
    before, refused, after = DECODER.decode([good, value, good])
    assert isinstance(refused, DeadLetter)
    assert refused.reason == reason
    assert not isinstance(before, DeadLetter)
    assert not isinstance(after, DeadLetter)


def test_undeclared_features_do_not_leave_the_decoder() -> None:
    secret = MINIMAL | {"features": {"amount": 1, "name": "secret"}}
    row = DECODER.decode([json.dumps(secret).encode()])[0]
    assert "secret" not in repr(row)


def test_a_decoder_without_models_knows_none() -> None:
    row = PredictionDecoder({}).decode([json.dumps(MINIMAL).encode()])[0]
    assert isinstance(row, DeadLetter)
    assert row.reason == "unknown-model"


def test_columns_follow_the_declared_order_and_missing_is_null() -> None:
    values = [json.dumps(MINIMAL | {"features": f}).encode() for f in ({"amount": 1}, {}, {"x": 2})]
    rows = DECODER.decode(values)
    columns = DECODER.models["fraud"].columns([row.features for row in rows])  # type: ignore[union-attr]
    assert columns == {"amount": (1, None, None), "country": (None, None, None)}


def test_what_is_refused_stands_in_its_place_and_holds_nothing_of_the_batch() -> None:
    good = json.dumps(MINIMAL).encode()
    bad = [b"{", good.replace(b"12.5", b"[]"), None, good.replace(b'"fraud"', b'"no"'), b"\xff"]
    rows = DECODER.decode([good, *bad, good])
    letters = [row for row in rows[1:-1] if isinstance(row, DeadLetter)]
    assert [letter.reason for letter in letters] == [
        "undecodable", "bad-value", "missing-field", "unknown-model", "undecodable",
    ]  # fmt: skip
    for letter in letters:
        # A traceback would keep all rows, and they it.
        assert (letter.__traceback__, letter.__cause__, letter.__context__) == (None, None, None)
    assert not any(isinstance(row, DeadLetter) for row in (rows[0], rows[-1]))
