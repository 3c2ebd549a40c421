"""What serving reads and writes quickly is what the contract reads and writes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Artefact, ModelVersion, Output, Prediction, ScoringRequest
from kedge.codec import decode, encode
from kedge.errors import DeadLetter
from kedge_services.serving.models import Loaded
from kedge_services.serving.scoring import Rows, predictions
from kedge_services.serving.wire import read_request, write_predictions

TEXTS = st.text(max_size=5)
SCALARS = st.one_of(
    st.booleans(), st.integers(), st.integers(-(2**65), 2**65), st.floats(), TEXTS,
    st.sampled_from([2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 1e300, 5e-324, 1e22, -0.0]),
)  # fmt: skip
ROWS = st.lists(st.dictionaries(TEXTS, st.none() | SCALARS, max_size=4), max_size=3)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", 0, 1, 2, -1, True, 7.0, "7", [], {}, [[]], 2**63, "n" * 256]
)
VERSION = ModelVersion(
    model="m", version="k1", status="champion", sequence=1, changed_ms=0,
    artefact=Artefact(uri="k1", sha256="0" * 64, format="skops", size=1),
)  # fmt: skip


class Silent:
    """Stands where a predictor has to."""

    def predict(self, rows: Any) -> list[Output]:
        raise NotImplementedError


LOADED = Loaded(VERSION, Silent())


def plainly(value: bytes) -> tuple[Any, ...]:
    """Read a request by the contract."""
    request = decode(ScoringRequest, value)
    return (
        request.request_id, request.model, request.rows, request.event_time_ms, request.segments
    )  # fmt: skip


def quickly(value: bytes) -> tuple[Any, ...]:
    found = read_request(value)
    return found.request_id, found.model, found.rows, found.event_time_ms, found.segments


def fate(read: Any, value: bytes) -> str:
    """Give what was understood, with the types of all values, or what was said."""
    try:
        return repr(read(value))
    except DeadLetter as error:
        return f"{error.reason}: {error.detail}"


@given(
    rows=ROWS,
    segments=st.dictionaries(TEXTS, SCALARS, max_size=2),
    changes=st.dictionaries(
        st.sampled_from(
            ["request_id", "model", "rows", "event_time_ms", "segments", "schema",
             "schema_version", "new"]
        ),
        ODD, max_size=2,
    ),
)  # fmt: skip
def test_a_request_is_understood_or_refused_as_by_the_contract(
    rows: list[dict[str, Any]], segments: dict[str, Any], changes: dict[str, Any]
) -> None:
    event = {
        "request_id": "r", "model": "m", "rows": rows, "event_time_ms": 7, "segments": segments
    }  # fmt: skip
    value = json.dumps(event | changes).encode()
    assert fate(quickly, value) == fate(plainly, value)


@pytest.mark.parametrize(
    "value",
    [
        b"", b"{", b"\0x", b"[]", b"null", b'{"request_id":"r"}', b'"\xff"', b"[" * 100_000,
        b'{"request_id":"\xff","model":"m","rows":[{}],"event_time_ms":1}',
        b'{"request_id":"\\ud800","model":"m","rows":[{}],"event_time_ms":1}',
        b'{"request_id":"r","model":"m","rows":[{"x":1,"x":2}],"event_time_ms":1}',
        b'{"request_id":"r","model":"m","rows":[{"x":1e999}],"event_time_ms":1}',
        b'{"request_id":"r","request_id":"s","model":"m","rows":[{}],"event_time_ms":1}',
    ],
)  # fmt: skip
def test_bytes_are_understood_or_refused_as_by_the_contract(value: bytes) -> None:
    assert fate(quickly, value) == fate(plainly, value)


@given(
    rows=st.lists(st.dictionaries(TEXTS, st.none() | SCALARS, max_size=4), min_size=1, max_size=3),
    segments=st.dictionaries(TEXTS, SCALARS, max_size=2),
    output=st.builds(
        Output,
        label=st.none() | SCALARS, score=st.none() | st.floats(), value=st.none() | st.floats(),
        scores=st.none() | st.dictionaries(TEXTS, st.floats(), max_size=2),
    ),
)  # fmt: skip
def test_predictions_are_written_as_by_the_contract(
    rows: list[dict[str, Any]], segments: dict[str, Any], output: Output
) -> None:
    asked = {"request_id": "r#", "model": "m", "event_time_ms": 7}
    request = read_request(json.dumps({**asked, "rows": rows, "segments": segments}).encode())
    outputs = [output] * len(rows)
    found = write_predictions(request, LOADED, outputs, role="shadow", latency_ms=1.5)
    expected = predictions(request, LOADED, outputs, role="shadow", latency_ms=1.5)
    for value, event in zip(found, expected, strict=True):
        assert repr(json.loads(value)) == repr(json.loads(encode(event)))
        assert repr(decode(Prediction, value)) == repr(decode(Prediction, encode(event)))


def test_a_number_that_json_has_not_keeps_the_contracts_word() -> None:
    request = Rows("r", "m", [{"x": math.nan}], 7)
    (value,) = write_predictions(
        request, LOADED, [Output(value=1.0)], role="champion", latency_ms=0.0
    )
    assert json.loads(value)["features"] == {"x": pytest.approx(math.nan, nan_ok=True)}
