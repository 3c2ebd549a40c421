"""Decoders of the hot path, derived from the contract and from the monitors.

A prediction is decoded straight into a typed struct of its model that holds the
declared features and nothing else: an undeclared feature is an unknown field,
skipped unread.  Whatever the fast decoder refuses goes to the pydantic contract
(:func:`kedge.codec.decode`), which decides, and gives the reason; so the two
accept the same records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import astuple
from numpy.typing import NDArray

from kedge.base import SCHEMA_VERSION, Event, Scalar
from kedge.codec import decode
from kedge.errors import DeadLetter
from kedge.events import Outcome, Prediction
from kedge_services.core.decoded import Decoded

__all__ = [
    "NO_OUTPUT",
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
R = TypeVar("R")

_LONGEST_NAME: Final = 255
#: One for all rows without segments.
_NO_SEGMENTS: Final[Mapping[str, Scalar]] = MappingProxyType({})
#: Stands in for what the fast decoder refused.
_REFUSED: Final = DeadLetter("undecodable", "")
#: Of a batch in which not all is UTF-8, so many values are looked at together.
_TOGETHER: Final = 64


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
    segments: Mapping[str, Scalar]
    features: Struct
    latency_ms: float | None


#: The answer of a prediction without one.
NO_OUTPUT: Final = OutputRow()


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
    """The structs of one model's predictions and the way from their features to columns.

    Parameters
    ----------
    model
        Its name, the tag by which the decoder finds the struct.
    features
        Declared names, of all monitors in effect.
    numeric
        Those of them that are numbers in all these monitors.

    Attributes
    ----------
    row
        The struct that is decoded into: its numeric features are finite floats or None.
    odd
        The struct of what only the contract could read: any value may be anywhere.
    """

    __slots__ = ("_get", "_others", "_position", "features", "model", "numeric", "odd", "row",
                 "values")  # fmt: skip

    def __init__(self, model: str, features: Sequence[str], numeric: Collection[str] = ()) -> None:
        self.model = model
        self.features = tuple(features)
        self.numeric = tuple(name for name in self.features if name in numeric)
        self._position = {name: i for i, name in enumerate(self.features)}
        self._others = [name for name in self.features if name not in numeric]
        names = [f"f{self._position[name]}" for name in self.numeric]
        self._get = attrgetter(*names) if self._others and names else astuple
        typed = self._struct({name: float if name in numeric else _Scalar for name in features})
        self.values = self._struct(dict.fromkeys(features, _Scalar))
        self.row = self._row(typed)
        self.odd = self._row(self.values)

    def _struct(self, types: Mapping[str, Any]) -> type[Any]:
        return msgspec.defstruct(
            "Features",
            [
                (f"f{i}", types[name] | None, msgspec.field(default=None, name=name))
                for i, name in enumerate(self.features)
            ],
            gc=False,
            frozen=True,
        )

    def _row(self, features: type[Any]) -> type[Any]:
        return msgspec.defstruct(
            "PredictionRow",
            [
                # The length of names is looked at for a whole batch at once.
                ("prediction_id", str),
                ("version", str),
                ("event_time_ms", _Time),
                ("features", features),
                ("output", OutputRow | None, None),
                ("role", Literal["champion", "shadow"], "champion"),
                ("segments", dict[str, _Scalar], msgspec.field(default=_NO_SEGMENTS)),
                ("latency_ms", float | None, None),
                ("schema", _Schema, 1),
                ("schema_version", _Schema, 1),
            ],
            namespace={"model": self.model},
            tag_field="model",
            tag=self.model,
            gc=False,
        )

    def columns(self, features: Sequence[Struct]) -> dict[str, Sequence[Scalar | None]]:
        """Turn the features of rows into columns."""
        if not self.features:
            return {}
        columns = zip(*map(astuple, features), strict=True)
        return dict(zip(self.features, columns, strict=True))

    def arrays(
        self, features: Sequence[Struct]
    ) -> tuple[NDArray[np.float64], dict[str, Sequence[Scalar | None]]]:
        """Turn the features of many rows into numbers, and the other columns.

        Parameters
        ----------
        features
            Of rows of the type :attr:`row`.

        Returns
        -------
        tuple
            The :attr:`numeric` features as float64, shape (rows, features), NaN for
            None; and the columns of the others.
        """
        shape = len(features), len(self.numeric)
        found: NDArray[np.float64] = np.empty(shape)
        if len(self.numeric) == 1 and self._others:
            found[:, 0] = np.fromiter(map(self._get, features), np.float64, shape[0])
        elif self.numeric:
            flat = chain.from_iterable(map(self._get, features))
            found = np.fromiter(flat, np.float64, shape[0] * shape[1]).reshape(shape)
        others: dict[str, Sequence[Scalar | None]] = {
            name: list(map(attrgetter(f"f{self._position[name]}"), features))
            for name in self._others
        }
        return found, others

    def dictionary(self, features: Struct, names: Sequence[str]) -> dict[str, Scalar | None]:
        """Give some features of a row by name."""
        return {name: getattr(features, f"f{self._position[name]}") for name in names}

    def from_contract(self, event: Prediction) -> PredictionRow:
        """Convert what only the contract could read.

        Scores that are no finite number are left out: no class has them.
        """
        output = event.output
        row: PredictionRow = self.odd(
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
    numeric
        Those of them that are numbers.
    """

    __slots__ = ("_decode", "models")

    def __init__(
        self,
        features: Mapping[str, Sequence[str]],
        numeric: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self.models = {
            model: ModelColumns(model, names, numeric.get(model, ()))
            for model, names in features.items()
        }
        rows = tuple(columns.row for columns in self.models.values())
        union: Any = None
        for row in rows:
            union = row if union is None else union | row
        self._decode: Callable[[Any], PredictionRow] = msgspec.json.Decoder(
            msgspec.UnsetType if union is None else union
        ).decode

    def decode(self, values: Sequence[bytes | None]) -> list[PredictionRow | DeadLetter]:
        """Decode a batch; what cannot be read is its dead letter, in its place.

        A model without monitor is ``unknown-model``.
        """
        return list(self.read(values).rows)

    def read(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch, and give the columns that are needed of all its rows."""
        rows = _decode_all(self._decode, values, self._by_contract)
        found = Decoded.of(rows)
        if found.have_names():
            return found
        for i, row in zip(found.at, found.good, strict=True):
            if not (_is_name(row.prediction_id) and _is_name(row.version)):
                rows[i] = self._by_contract(values[i])
        return Decoded.of(rows)

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
        return _decode_all(self._decoder.decode, values, self._by_contract)

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
        # Its traceback holds the frames it came through, in a ring with all rows of the
        # batch: they would stay in memory until the garbage collector comes by.
        refused.__traceback__ = refused.__cause__ = refused.__context__ = None
        return refused


def _decode_all(
    decode_fast: Callable[[Any], R],
    values: Sequence[bytes | None],
    by_contract: Callable[[bytes | None], R | DeadLetter],
) -> list[R | DeadLetter]:
    """Decode a batch by the fast decoder, and what that refuses by the contract."""
    rows: list[R | DeadLetter] = []
    rest = iter(values)
    refused: list[int] = []
    while True:
        try:
            # What was decoded before an exception stays, so a bad value costs only itself.
            rows.extend(map(decode_fast, rest))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, TypeError):
            refused.append(len(rows))
            rows.append(_REFUSED)
        else:
            break
    # One after the other: between the others, each would find the processor full of them,
    # and take three times as long.
    for i in {*refused, *_not_utf8(values)}:
        rows[i] = by_contract(values[i])
    return rows


def _not_utf8(values: Sequence[bytes | None]) -> list[int]:
    """Find the values that are no UTF-8; the fast decoder does not look into what it skips."""
    try:
        if all(map(bytes.isascii, values)):  # type: ignore[arg-type]
            return []
    except TypeError:  # There is a record without value among them.
        pass
    return [
        i
        for at in range(0, len(values), _TOGETHER)
        if not _is_utf8(values[at : at + _TOGETHER])
        for i in range(at, min(at + _TOGETHER, len(values)))
        if not _is_utf8(values[i : i + 1])
    ]


def _is_utf8(values: Sequence[bytes | None]) -> bool:
    try:
        b"\n".join(filter(None, values)).decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= _LONGEST_NAME


def _finite(scores: Mapping[str, float] | None) -> dict[str, float] | None:
    if scores is None:
        return None
    return {name: score for name, score in scores.items() if math.isfinite(score)}
