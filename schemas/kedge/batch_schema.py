"""What the schema of a batch of predictions has to be; see ``docs/arrow.md``.

Imports pyarrow, which the light install does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from kedge.base import SCHEMA_VERSION
from kedge.batch_layout import CONSTANTS, SCHEMA_KEY
from kedge.errors import DeadLetter

__all__ = ["FEATURES", "NESTED", "SCORES", "SEGMENTS", "Layout", "is_number", "is_text"]

FEATURES: Final = "features."
SEGMENTS: Final = "segments."
SCORES: Final = "output.scores."
#: Structs whose fields are columns of their own, named with a dot.
NESTED = ("features", "output", "output.scores", "segments")
_NUMBERS = ("output.score", "output.value", "latency_ms")


def is_text(kind: pa.DataType) -> bool:
    """Say whether values of this type are strings, be they in a dictionary or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Say whether values of this type are numbers or booleans."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def is_scalar(kind: pa.DataType) -> bool:
    """Say whether a feature, segment or label may have this type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return is_number(kind) or is_text(kind) or pa.types.is_null(kind)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a batch's schema says.

    Attributes
    ----------
    constants
        Model, version and role, as far as the schema's metadata has them.
    names
        Of the columns that mean something, structs taken apart.
    unreadable
        Features and segments of a type that no JSON value could have, with that type; a
        model that declares one refuses the batch.
    repeats
        Whether there are strings that are kept once and may be meant many times.
    """

    constants: dict[str, str]
    names: frozenset[str]
    unreadable: dict[str, str]
    repeats: bool

    @classmethod
    def of(cls, schema: pa.Schema) -> Layout:
        """Read a schema.

        Raises
        ------
        DeadLetter
            ``unsupported-format``, ``missing-field`` or ``schema-mismatch``.
        """
        constants = _constants(schema)
        kinds: dict[str, pa.DataType] = {}
        for name, kind in _leaves(schema):
            if name in kinds:
                raise DeadLetter("schema-mismatch", f"two columns are called {name}")
            kinds[name] = kind
        for name in ("prediction_id", "event_time_ms", "model", "version"):
            if name not in kinds and name not in constants:
                where = f", and no kedge.{name} in the schema's metadata" * (name in CONSTANTS)
                raise DeadLetter("missing-field", f"there is no column {name}{where}")
            if name in kinds and name in constants:
                detail = f"{name} is a column and stands in the schema's metadata, too"
                raise DeadLetter("schema-mismatch", detail)
        _check_kinds(kinds)
        return cls(
            constants,
            frozenset(kinds),
            {
                name: str(kind)
                for name, kind in kinds.items()
                if name.startswith((FEATURES, SEGMENTS)) and not is_scalar(kind)
            },
            any(
                pa.types.is_dictionary(kind) or pa.types.is_string_view(kind)
                for kind in kinds.values()
            ),
        )


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    for column in schema:
        yield from _leaves_of(column.name, column.type)


def _leaves_of(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if name in NESTED and pa.types.is_struct(kind):
        for child in kind:
            yield from _leaves_of(f"{name}.{child.name}", child.type)
    else:
        yield name, kind


def _constants(schema: pa.Schema) -> dict[str, str]:
    told = schema.metadata or {}
    version = told.get(SCHEMA_KEY, b"1")
    if not version.isdigit() or not 1 <= int(version) <= SCHEMA_VERSION:
        detail = (
            f"schema {version.decode(errors='replace')} is not {SCHEMA_VERSION}, the one known here"
        )
        raise DeadLetter("unsupported-format", detail)
    constants = {}
    for name in CONSTANTS:
        value = told.get(f"kedge.{name}".encode())
        if value is not None:
            constants[name] = _text(name, value)
    if constants.get("role", "champion") not in ("champion", "shadow"):
        detail = f"kedge.role is {constants['role']!r}, it should be champion or shadow"
        raise DeadLetter("bad-value", detail)
    return constants


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise DeadLetter("bad-value", f"kedge.{name} is no UTF-8") from error
    if not 1 <= len(text) <= 255:
        detail = f"kedge.{name} has {len(text)} characters, it should have 1 to 255"
        raise DeadLetter("bad-value", detail)
    return text


def _check_kinds(kinds: dict[str, pa.DataType]) -> None:
    for name in ("features", "segments", "output"):
        if name in kinds and not pa.types.is_null(kinds[name]):
            raise _mismatch(name, kinds[name], f"a struct, or columns called {name}.…")
    for name in ("prediction_id", "model", "version", "role"):
        if name in kinds and not is_text(kinds[name]) and not pa.types.is_null(kinds[name]):
            raise _mismatch(name, kinds[name], "strings")
    time = kinds["event_time_ms"]
    if not (pa.types.is_integer(time) or pa.types.is_timestamp(time) or pa.types.is_null(time)):
        raise _mismatch("event_time_ms", time, "int64 or a timestamp")
    for name, kind in kinds.items():
        is_score = name in _NUMBERS or name.startswith(SCORES)
        if is_score and not is_number(kind) and not pa.types.is_null(kind):
            raise _mismatch(name, kind, "numbers")
    label = kinds.get("output.label")
    if label is not None and not is_scalar(label):
        raise _mismatch("output.label", label, "strings, numbers or booleans")
    scores = kinds.get("output.scores")
    if scores is not None and not _is_map_of_scores(scores):
        raise _mismatch("output.scores", scores, "a struct or a map from strings to numbers")


def _is_map_of_scores(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):
        return True
    return bool(
        pa.types.is_map(kind)
        and (pa.types.is_string(kind.key_type) or pa.types.is_large_string(kind.key_type))
        and is_number(kind.item_type)
    )


def _mismatch(name: str, kind: pa.DataType, wanted: str) -> DeadLetter:
    return DeadLetter("schema-mismatch", f"column {name} is {kind}; it should be {wanted}")
