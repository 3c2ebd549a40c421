"""The ``river-json`` format: models of River as plain JSON numbers.

Holds all that learning goes on from.  JSON's shortest floats read back as the
same floats, so a model that is written, read and taught further is the model
that was never written.  The first field says of which shape a file is:
``kedge-linear-1`` (:mod:`~kedge_services.runtime.formats.river_linear`) or
``kedge-tree-1`` (:mod:`~kedge_services.runtime.formats.river_tree`).

Reading a file and predicting need neither River nor its start-up time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from kedge.base import Scalar, label_text
from kedge.errors import UnsafeArtefact
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Predictor
from kedge_services.runtime.formats.columns import LARGEST

__all__ = [
    "LIMIT",
    "Z_BOUND",
    "Moments",
    "decode",
    "encode",
    "kind_of",
    "load",
    "number_of",
    "text_of",
]

#: Scaled numbers are put on this bound: one far outlier must not throw a model off.
Z_BOUND = 10.0
#: Bytes a file may have.
LIMIT = 1 << 26

State = TypeVar("State", bound=msgspec.Struct)


class Moments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Running count, mean and population variance of a column."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0


class _Head(msgspec.Struct):
    """What every file has, whatever else is in it."""

    kind: str = ""
    format: str = ""


def number_of(value: Scalar | None) -> float | None:
    """Give the number of a numeric column; None is missing, and so is what is no number."""
    if value is None or isinstance(value, str) or not abs(value) <= LARGEST:
        return None
    return float(value)


def text_of(value: Scalar | None) -> str | None:
    """Give the category of a categorical column; None is missing."""
    if value is None or value != value:  # noqa: PLR0124 -- only NaN differs from itself
        return None
    return label_text(value)


def encode(state: msgspec.Struct) -> bytes:
    """Write a state; equal states give equal bytes.

    Raises
    ------
    ValueError
        It is larger than what is read back.
    """
    data = msgspec.json.encode(state)
    if len(data) > LIMIT:
        raise ValueError(f"the model takes {len(data)} bytes, more than {LIMIT}")
    return data


def decode(data: bytes, shape: type[State]) -> State:
    """Read a state of this shape.

    Raises
    ------
    UnsafeArtefact
        The bytes are no such state.
    """
    if len(data) > LIMIT:
        raise UnsafeArtefact(f"a river-json file has {len(data)} bytes, more than {LIMIT}")
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UnsafeArtefact(f"a river-json file cannot be read: {error}") from error


def kind_of(data: bytes) -> str:
    """Give the kind of model a file says it holds.

    Raises
    ------
    UnsafeArtefact
        It says nothing.
    """
    return decode(data, _Head).kind


def load(data: bytes, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]) -> Predictor:
    """Read a file and make it ready to predict.

    Raises
    ------
    UnsafeArtefact
        The bytes are no model, or one of other columns or classes.
    """
    if decode(data, _Head).format == "kedge-tree-1":
        from kedge_services.runtime.formats import river_tree

        return river_tree.load(data, schema, classes)
    from kedge_services.runtime.formats import river_linear

    return river_linear.load(data, schema, classes)
