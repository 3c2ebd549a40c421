"""Rows of features as the input tensors of an ONNX graph."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.errors import UnsafeArtefact
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Row
from kedge_services.runtime.formats.columns import numbers, texts

__all__ = ["Inputs", "Tensor", "match_inputs"]

Array = NDArray[Any]
_Values = Sequence[Scalar | None]


class Tensor(Protocol):
    """An input or output as onnxruntime describes it; a free dimension is no number."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column on its way into a tensor; ``sample`` is a value that fits."""

    name: str
    sample: Scalar
    convert: Callable[[_Values], Array]


@dataclass(frozen=True, slots=True)
class _Input:
    name: str
    dimensions: int
    columns: Sequence[_Column]

    def of(self, rows: Sequence[Row]) -> Array:
        made = [column.convert([row.get(column.name) for row in rows]) for column in self.columns]
        return made[0] if self.dimensions == 1 else np.column_stack(made)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Makes the tensors of a batch."""

    inputs: Sequence[_Input]

    def of(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Give the tensors by name.

        Raises
        ------
        ValueError
            A value has no place in its tensor; the message names the column.
        """
        return {each.name: each.of(rows) for each in self.inputs}

    def sample(self) -> dict[str, Scalar]:
        """Give a row of zeros, false and empty texts that fits into the tensors."""
        return {column.name: column.sample for each in self.inputs for column in each.columns}

    @property
    def takes_text(self) -> bool:
        """Whether some column goes in as text."""
        return "" in self.sample().values()


def match_inputs(tensors: Sequence[Tensor], schema: Sequence[FeatureColumn]) -> Inputs:
    """Find out which column goes where.

    Either one tensor takes all columns, in their order, or there is one tensor
    for a column, of its name; then the graph may leave columns out.

    Raises
    ------
    UnsafeArtefact
        The graph takes something else; the message says what.
    """
    for tensor in tensors:
        _check(tensor)
    known = {column.name: column for column in schema}
    if len(tensors) == 1 and (tensors[0].name not in known or len(schema) == 1):
        return Inputs([_matrix(tensors[0], schema)])
    unknown = [tensor.name for tensor in tensors if tensor.name not in known]
    if unknown:
        raise UnsafeArtefact(
            f"an ONNX file has an input {unknown[0]!r}, which is none of the features "
            f"{', '.join(known)}; it has to take one tensor of all of them, or one for each by name"
        )
    wide = [tensor.name for tensor in tensors if _width(tensor) not in (None, 1)]
    if wide:
        raise UnsafeArtefact(
            f"an ONNX file's input {wide[0]!r} is wider than the one column of that name"
        )
    return Inputs([_input(tensor, [known[tensor.name]]) for tensor in tensors])


def _matrix(tensor: Tensor, schema: Sequence[FeatureColumn]) -> _Input:
    if _width(tensor) not in (None, len(schema)):
        raise UnsafeArtefact(
            f"an ONNX file's input {tensor.name!r} has {_width(tensor)} columns where the version "
            f"has {len(schema)}: {', '.join(column.name for column in schema)}"
        )
    return _input(tensor, schema)


def _input(tensor: Tensor, columns: Sequence[FeatureColumn]) -> _Input:
    return _Input(tensor.name, len(tensor.shape), [_column(tensor, each) for each in columns])


def _check(tensor: Tensor) -> None:
    shape = [size if isinstance(size, int) and size > 0 else None for size in tensor.shape]
    if len(shape) not in (1, 2):
        raise UnsafeArtefact(
            f"an ONNX file's input {tensor.name!r} is neither [rows] nor [rows, columns] but "
            f"{list(tensor.shape)}"
        )
    if shape[0] is not None:
        raise UnsafeArtefact(
            f"an ONNX file's input {tensor.name!r} takes exactly {shape[0]} row(s) at a time; "
            "export the model with a free first dimension"
        )


def _width(tensor: Tensor) -> int | None:
    if len(tensor.shape) == 1:
        return 1
    width = tensor.shape[1]
    return width if isinstance(width, int) and width > 0 else None


# ------------------------------------------------------------------ one column

_FLOATS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
_INTEGERS = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
_WHOLE = re.compile(r"-?\d{1,19}")


def _column(tensor: Tensor, column: FeatureColumn) -> _Column:
    number = False if column.type == "boolean" else 0
    if tensor.type in _FLOATS:
        dtype = np.dtype(_FLOATS[tensor.type])
        return _Column(column.name, number, partial(_floats, column, dtype))
    if tensor.type in _INTEGERS:
        dtype = np.dtype(_INTEGERS[tensor.type])
        return _Column(column.name, number, partial(_integers, column, dtype))
    if tensor.type == "tensor(bool)" and column.type == "boolean":
        return _Column(column.name, sample=False, convert=partial(_booleans, column))
    if tensor.type == "tensor(string)" and column.type != "numeric":
        return _Column(column.name, sample="", convert=_strings)
    raise UnsafeArtefact(
        f"an ONNX file's input {tensor.name!r} is a {tensor.type}, which cannot take the "
        f"{column.type} feature {column.name!r}"
    )


def _floats(column: FeatureColumn, dtype: np.dtype[Any], values: _Values) -> Array:
    if column.type == "categorical":
        values = [None if text is None else _code(column, text) for text in texts(values)]
    # A number too large for the tensor would become an infinity, and two of them no number.
    bound = float(np.finfo(dtype).max)
    return np.clip(numbers(values), -bound, bound).astype(dtype)


def _code(column: FeatureColumn, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{column.name}: {text!r} is a text where the model takes a number")
    return number


def _integers(column: FeatureColumn, dtype: np.dtype[Any], values: _Values) -> Array:
    try:
        return np.array([_integer(column, value) for value in values], dtype=dtype)
    except OverflowError as error:
        raise ValueError(f"{column.name}: a number is too large for {dtype}") from error


def _integer(column: FeatureColumn, value: Scalar | None) -> int:
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, str) and column.type == "categorical" and _WHOLE.fullmatch(value):
        return int(value)
    is_missing = value is None or value != value  # noqa: PLR0124 -- NaN
    shown = "a missing value" if is_missing else repr(value)
    raise ValueError(f"{column.name}: {shown} where the model takes a whole number")


def _booleans(column: FeatureColumn, values: _Values) -> Array:
    if wrong := [value for value in values if not isinstance(value, bool)]:
        raise ValueError(f"{column.name}: {wrong[0]!r} where the model takes true or false")
    return np.array(values, dtype=np.bool_)


def _strings(values: _Values) -> Array:
    return np.array(["" if text is None else text for text in texts(values)], dtype=np.object_)
