"""Examples from their records to columns, a batch at a time.

Like :mod:`kedge_services.core.decoding`: a struct derived from the monitor takes
what is as it should be; whatever it refuses goes to the contract, which decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import structlog
from msgspec import Meta, Struct
from msgspec.structs import astuple

from kedge.base import SCHEMA_VERSION, Scalar
from kedge.codec import decode
from kedge.errors import DeadLetter
from kedge.events import Example
from kedge.versions import FeatureColumn
from kedge_services.core.decoding import OutputRow
from kedge_services.trainer.examples import Examples, Outputs, Places
from kedge_services.trainer.feature_rows import ABSENT, FeatureRows, column_of

__all__ = ["ExampleDecoder"]

_Scalar = bool | int | float | str
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Time = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
_Schema = Annotated[int, Meta(ge=1, le=SCHEMA_VERSION)]

_log = structlog.get_logger(__name__)


class _Peek(Struct):
    """What tells an example of the model from the others, at a tenth of the cost."""

    model: str = ""


_peek = msgspec.json.Decoder(_Peek).decode
_Found = tuple[list[Any], list[int]]


class ExampleDecoder:
    """Decodes the examples of one model.

    Parameters
    ----------
    columns
        Features that examples are expected to have; others are learnt as they come.
    version
        The version whose outputs are wanted.
    """

    def __init__(self, model: str, columns: Sequence[FeatureColumn], version: str | None) -> None:
        self._model, self._version = model, version
        # Examples as panes writes them name their model like this; a peek tells the others.
        self._mark = b'"model":' + msgspec.json.encode(model)
        self._is_number = {column.name: column.type == "numeric" for column in columns}
        self._derive()

    def _derive(self) -> None:
        unset = msgspec.UnsetType
        features = msgspec.defstruct(
            "Features",
            [
                (
                    f"f{i}",
                    (int | float | None | unset) if is_number else (_Scalar | None | unset),
                    msgspec.field(default=ABSENT, name=name),
                )
                for i, (name, is_number) in enumerate(self._is_number.items())
            ],
            forbid_unknown_fields=True,
            gc=False,
        )
        self._features: type[Any] = features
        self._row: type[Any] = msgspec.defstruct(
            "ExampleRow",
            [
                ("prediction_id", _Name),
                ("model", Literal[self._model]),
                ("features", features),
                ("label", _Scalar),
                ("outputs", dict[str, OutputRow]),
                ("event_time_ms", _Time),
                ("label_time_ms", _Time),
                ("served_by", str | None, None),
                ("segments", dict[str, _Scalar] | unset, ABSENT),
                ("revision", Annotated[int, Meta(ge=0)], 0),
                ("schema", _Schema, 1),
                ("schema_version", _Schema, 1),
            ],
            gc=False,
        )
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._row).decode

    def read(
        self, partition: int, offsets: Sequence[int], values: Sequence[bytes | None]
    ) -> Examples | None:
        """Give what a batch has of the model's examples; None if that is nothing."""
        rows, places = self._rows(offsets, values)
        if not rows:
            return None
        n = len(rows)
        names = list(self._is_number.items())
        cells = list(chain.from_iterable(map(astuple, map(attrgetter("features"), rows))))
        columns = {
            name: column_of(cells[i :: len(names)], is_number=is_number)
            for i, (name, is_number) in enumerate(names)
        }
        version = self._version
        return Examples(
            [row.prediction_id for row in rows],
            column_of([row.label for row in rows], is_number=False),
            np.fromiter(map(attrgetter("event_time_ms"), rows), np.int64, n),
            np.fromiter(map(attrgetter("label_time_ms"), rows), np.int64, n),
            np.fromiter(map(attrgetter("revision"), rows), np.int64, n),
            FeatureRows(columns, n),
            Outputs.of([None if version is None else row.outputs.get(version) for row in rows]),
            Places(np.full(n, partition, np.int32), np.array(places, np.int64)),
        )

    def _rows(self, offsets: Sequence[int], values: Sequence[bytes | None]) -> _Found:
        try:
            # The fast decoder does not look into what it skips.
            given = list(filter(None, values))
            b"\n".join(given).decode()
            if len(given) == len(values):
                return list(map(self._decode, given)), list(offsets)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            pass
        found: _Found = ([], [])
        names = len(self._is_number)
        for offset, value in zip(offsets, values, strict=True):
            row = self._one(offset, value)
            if row is not None:
                found[0].append(row)
                found[1].append(offset)
        if len(self._is_number) > names:
            # What came before a feature was met has one field less.
            return self._rows(offsets, values)
        return found

    def _one(self, offset: int, value: bytes | None) -> Any:
        if value is None:
            return None
        try:
            if self._mark in value:
                value.decode()
                return self._decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            pass
        try:
            if _peek(value).model != self._model:
                return None
            return self._by_contract(decode(Example, value))
        except (DeadLetter, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("an example was skipped", offset=offset, because=str(error))
            return None

    def _by_contract(self, example: Example) -> Any:
        new = {name: value for name, value in example.features.items()
               if name not in self._is_number}  # fmt: skip
        if new:
            self._is_number |= {name: _is_number(value) for name, value in new.items()}
            self._derive()
        version = self._version
        output = None if version is None else example.outputs.get(version)
        return self._row(
            prediction_id=example.prediction_id,
            model=example.model,
            features=self._features(
                *(example.features.get(name, ABSENT) for name in self._is_number)
            ),
            label=example.label,
            outputs={}
            if version is None or output is None
            else {version: OutputRow(output.label, output.score, output.scores, output.value)},
            event_time_ms=example.event_time_ms,
            label_time_ms=example.label_time_ms,
            revision=example.revision,
        )


def _is_number(value: Scalar | None) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
