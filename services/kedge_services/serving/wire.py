"""Requests from the topic and predictions to it, without the contract's own classes.

Building a pydantic event costs several times what scoring its row does.  So both
are read and written as typed structs; what these refuse, or would write otherwise,
goes through :mod:`kedge.codec`, which decides and gives the reason.  Both ways
read and write the same events.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct

from kedge import Output, ScoringRequest
from kedge.base import SCHEMA_VERSION, Role
from kedge.codec import decode, encode
from kedge_services.serving.models import Loaded
from kedge_services.serving.scoring import Rows, prediction_ids, predictions

__all__ = ["read_request", "write_predictions"]

_Scalar = bool | int | float | str
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Time = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
_Schema = Annotated[int, Meta(ge=1, le=SCHEMA_VERSION)]


class _Request(Struct, gc=False):
    request_id: _Name
    model: _Name
    rows: Annotated[list[dict[str, _Scalar | None]], Meta(min_length=1)]
    event_time_ms: _Time
    segments: dict[str, _Scalar] = {}
    schema: _Schema = 1
    schema_version: _Schema = 1


class _Output(Struct, gc=False):
    """What is UNSET is left out, as the contract leaves out what is None."""

    label: Any = UNSET
    score: Any = UNSET
    scores: Any = UNSET
    value: Any = UNSET


class _Prediction(Struct, gc=False):
    schema: int
    prediction_id: str
    model: str
    version: str
    role: Role
    event_time_ms: int
    features: Any
    output: _Output
    segments: Any
    latency_ms: float


_read: Final = msgspec.json.Decoder(_Request).decode
_write: Final = msgspec.json.Encoder().encode


def read_request(value: bytes) -> Rows:
    """Read a request.

    Raises
    ------
    DeadLetter
        It is none; see :func:`kedge.codec.decode`.
    """
    try:
        if not value.isascii():
            # msgspec takes bytes that are no UTF-8 for text.
            value.decode()
        request: _Request | ScoringRequest = _read(value)
        is_plain = True
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        request, is_plain = decode(ScoringRequest, value), False
    return Rows(
        request.request_id,
        request.model,
        request.rows,
        request.event_time_ms,
        request.segments,
        is_plain=is_plain,
    )


def write_predictions(
    request: Rows, loaded: Loaded, outputs: Sequence[Output], *, role: Role, latency_ms: float
) -> list[bytes]:
    """Give the events that say what a version answered, as they lie on Kafka."""
    if request.is_plain and all(map(_is_plain, outputs)):
        names, of_request = prediction_ids(request), (request.model, loaded.version.version, role)
        every = zip(names, request.rows, outputs, strict=True)
        # A whole number of more than 64 bits is none for msgspec.
        with contextlib.suppress(OverflowError):
            return [
                _write(
                    _Prediction(
                        SCHEMA_VERSION, name, *of_request, request.event_time_ms, row,
                        _given(output), request.segments, latency_ms,
                    )
                )
                for name, row, output in every
            ]  # fmt: skip
    events = predictions(request, loaded, outputs, role=role, latency_ms=latency_ms)
    return list(map(encode, events))


def _given(output: Output) -> _Output:
    return _Output(
        UNSET if output.label is None else output.label,
        UNSET if output.score is None else output.score,
        UNSET if output.scores is None else output.scores,
        UNSET if output.value is None else output.value,
    )


def _is_plain(output: Output) -> bool:
    """Say whether all numbers are finite: JSON has no others, the contract's words for them."""
    return (
        (output.score is None or math.isfinite(output.score))
        and (output.value is None or math.isfinite(output.value))
        and (output.scores is None or all(map(math.isfinite, output.scores.values())))
        and (not isinstance(output.label, float) or math.isfinite(output.label))
    )
