"""Decoders of the hot path, derived from the contract and from the monitors.

A prediction is decoded straight into a typed struct of its model that holds the
declared features and nothing else: an undeclared feature is an unknown field,
skipped unread.  Whatever the fast decoder refuses goes to the pydantic contract
(:func:`kedge.codec.decode`), which decides, and gives the reason; so the two
accept the same records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from kedge.base import SCHEMA_VERSION, Event, Scalar
from kedge.codec import decode
from kedge.errors import DeadLetter
from kedge.events import Outcome, Prediction

__all__ = [
    "ModelColumns",
    "OutcomeDecoder",
    "OutcomeRow",
    "OutputRow",
    "PredictionDecoder",
    "PredictionRow",
]

_Scalar = bool | int | float | str
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Time = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
_Schema = Annotated[int, Meta(ge=1, le=SCHEMA_VERSION)]

E = TypeVar("E", bound=Event)


class OutputRow(Struct, gc=False, omit_defaults=True, frozen=True):
    """A model's answer, as in the contract."""

    label: _Scalar | None = None
    score: float | None = None
    scores: dict[str, float] | None = None
    value: float | None = None


class PredictionRow(Protocol):
    """What is common to the derived structs; ``features`` is a struct of its own."""

    model: str
    prediction_id: str
    version: str
    event_time_ms: int
    role: Literal["champion", "shadow"]
    output: OutputRow | None
    segments: dict[str, Scalar]
    features: Struct
    latency_ms: float | None


class OutcomeRow(Struct, gc=False):
    """A decoded outcome."""

    prediction_id: _Name
    label: _Scalar
    event_time_ms: _Time
    model: _Name | None = None
    source: str | None = None
    schema: _Schema = 1
    schema_version: _Schema = 1


class ModelColumns:
    """The struct of one model's predictions and the way from its features to columns.

    Parameters
    ----------
    model
        Its name, the tag by which the decoder finds the struct.
    features
        Declared names, of all monitors in effect.
    """

    __slots__ = ("_position", "features", "model", "row", "values")

    def __init__(self, model: str, features: Sequence[str]) -> None:
        self.model = model
        self.features = tuple(features)
        self._position = {name: i for i, name in enumerate(self.features)}
        attributes = [f"f{i}" for i in range(len(self.features))]
        self.values = msgspec.defstruct(
            "Features",
            [
                (attribute, _Scalar | None, msgspec.field(default=None, name=name))
                for attribute, name in zip(attributes, self.features, strict=True)
            ],
            gc=False,
            frozen=True,
        )
        self.row: type[Any] = msgspec.defstruct(
            "PredictionRow",
            [
                ("prediction_id", _Name),
                ("version", _Name),
                ("event_time_ms", _Time),
                ("features", self.values),
                ("output", OutputRow | None, None),
                ("role", Literal["champion", "shadow"], "champion"),
                ("segments", dict[str, _Scalar], msgspec.field(default_factory=dict)),
                ("latency_ms", float | None, None),
                ("schema", _Schema, 1),
                ("schema_version", _Schema, 1),
            ],
            namespace={"model": model},
            tag_field="model",
            tag=model,
            gc=False,
        )

    def columns(self, features: Sequence[Struct]) -> dict[str, Sequence[Scalar | None]]:
        """Turn the features of rows into columns."""
        if not self.features:
            return {}
        if len(self.features) == 1:
            return {self.features[0]: [row.f0 for row in features]}  # type: ignore[attr-defined]
        get = attrgetter(*(f"f{i}" for i in range(len(self.features))))
        columns = zip(*map(get, features), strict=True)
        return dict(zip(self.features, columns, strict=True))

    def dictionary(self, features: Struct, names: Sequence[str]) -> dict[str, Scalar | None]:
        """Give some features of a row by name."""
        return {name: getattr(features, f"f{self._position[name]}") for name in names}

    def from_contract(self, event: Prediction) -> PredictionRow:
        """Convert what only the contract could read.

        Scores that are no finite number are left out: no class has them.
        """
        output = event.output
        row: PredictionRow = self.row(
            prediction_id=event.prediction_id,
            version=event.version,
            event_time_ms=event.event_time_ms,
            features=self.values(*(event.features.get(name) for name in self.features)),
            output=None
            if output is None
            else OutputRow(output.label, output.score, _finite(output.scores), output.value),
            role=event.role,
            segments=dict(event.segments),
            latency_ms=event.latency_ms,
        )
        return row


class PredictionDecoder:
    """Decodes predictions of all models.

    Parameters
    ----------
    features
        Declared feature names by model.
    """

    __slots__ = ("_decoder", "models")

    def __init__(self, features: Mapping[str, Sequence[str]]) -> None:
        self.models = {model: ModelColumns(model, names) for model, names in features.items()}
        rows = tuple(columns.row for columns in self.models.values())
        union: Any = None
        for row in rows:
            union = row if union is None else union | row
        self._decoder = None if union is None else msgspec.json.Decoder(union)

    def decode(self, values: Sequence[bytes | None]) -> list[PredictionRow | DeadLetter]:
        """Decode a batch; what cannot be read is its dead letter, in its place.

        A model without monitor is ``unknown-model``.
        """
        rows: list[PredictionRow | DeadLetter] = []
        text_is_valid = _is_utf8(values)
        decode_fast = self._decoder.decode if self._decoder is not None else None
        for value in values:
            try:
                if decode_fast is not None and value and (text_is_valid or _is_utf8([value])):
                    rows.append(decode_fast(value))
                    continue
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                pass
            rows.append(self._by_contract(value))
        return rows

    def _by_contract(self, value: bytes | None) -> PredictionRow | DeadLetter:
        event = _contract(Prediction, value)
        if isinstance(event, DeadLetter):
            return event
        columns = self.models.get(event.model)
        if columns is None:
            return DeadLetter("unknown-model", f"model {event.model} has no monitor")
        return columns.from_contract(event)


class OutcomeDecoder:
    """Decodes outcomes; they look the same for all models."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(OutcomeRow)

    def decode(self, values: Sequence[bytes | None]) -> list[OutcomeRow | DeadLetter]:
        """Decode a batch; what cannot be read is its dead letter, in its place."""
        rows: list[OutcomeRow | DeadLetter] = []
        text_is_valid = _is_utf8(values)
        decode_fast = self._decoder.decode
        for value in values:
            try:
                if value and (text_is_valid or _is_utf8([value])):
                    rows.append(decode_fast(value))
                    continue
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                pass
            rows.append(self._by_contract(value))
        return rows

    def _by_contract(self, value: bytes | None) -> OutcomeRow | DeadLetter:
        event = _contract(Outcome, value)
        if isinstance(event, DeadLetter):
            return event
        return OutcomeRow(
            event.prediction_id, event.label, event.event_time_ms, event.model, event.source
        )


def _contract(cls: type[E], value: bytes | None) -> E | DeadLetter:
    if value is None:
        return DeadLetter("missing-field", "the record has no value")
    try:
        return decode(cls, value)
    except DeadLetter as refused:
        return refused


def _is_utf8(values: Sequence[bytes | None]) -> bool:
    """Say whether all values are UTF-8; the fast decoder does not look into what it skips."""
    try:
        b"\n".join(filter(None, values)).decode()
    except UnicodeDecodeError:
        return False
    return True


def _finite(scores: Mapping[str, float] | None) -> dict[str, float] | None:
    if scores is None:
        return None
    return {name: score for name, score in scores.items() if math.isfinite(score)}
