"""Columns of an Arrow batch: codes and numbers; nothing is done per row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.batch_schema import is_text
from kedge.batch_values import plain
from kedge_services.core.columns import Coded
from kedge_services.core.groups import Numbers

__all__ = ["Codes", "codes_of", "numbers_of", "scalars_of"]

_Ints = NDArray[np.int64]
_Flags = NDArray[np.bool_]


class Codes(NamedTuple):
    """A column with few values: int64 places in ``values``; -1 is null."""

    codes: _Ints
    values: list[Any]

    @classmethod
    def constant(cls, value: str, rows: int) -> Codes:
        """Give a column of one value."""
        return cls(np.zeros(rows, dtype=np.int64), [value])

    def where(self, wanted: _Flags) -> _Flags:
        """Give the rows whose value is wanted; shape of ``wanted``: (values + 1,), null last."""
        found: _Flags = wanted[self.codes]
        return found

    def scalars(self, rows: _Ints | slice = slice(None)) -> list[Any]:
        """Give the values of rows; equal ones are one object."""
        table = np.empty(len(self.values) + 1, dtype=object)
        table[:-1] = self.values
        found: list[Any] = table[self.codes[rows]].tolist()
        return found

    def answers(self, rows: _Ints | slice) -> Coded | None:
        """Give the values of rows as answers, null among them; None when there is no other."""
        codes = self.codes[rows]
        missing = codes < 0
        if not missing.any():
            return Coded(codes, self.values)
        if missing.all():
            return None
        return Coded(np.where(missing, len(self.values), codes), [*self.values, None])


def codes_of(array: pa.Array) -> Codes:
    """Give a column of any scalar type by its distinct values."""
    if pa.types.is_null(array.type):
        return Codes(np.full(len(array), -1, dtype=np.int64), [])
    if not pa.types.is_dictionary(array.type):
        array = plain(array).dictionary_encode()
    indices = array.indices
    codes = indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if indices.null_count:
        codes[indices.is_null().to_numpy(zero_copy_only=False)] = -1
    return Codes(codes, plain(array.dictionary).to_pylist())


def numbers_of(array: pa.Array, rows: _Ints | slice) -> Numbers:
    """Give numbers or booleans as floats, NaN where there are none; a view where possible."""
    if pa.types.is_null(array.type):
        nothing = np.full(len(array), np.nan)[rows]
        return Numbers(nothing, nothing.size)
    if not array.null_count:
        return Numbers(_floats(array)[rows])
    missing = array.is_null().to_numpy(zero_copy_only=False)[rows]
    zero: Scalar = False if pa.types.is_boolean(array.type) else 0
    values = np.array(_floats(array.fill_null(pa.scalar(zero, array.type)))[rows])
    values[missing] = np.nan
    return Numbers(values, int(missing.sum()))


def scalars_of(array: pa.Array, rows: _Ints | slice = slice(None)) -> list[Any]:
    """Give Python's own values; equal strings are one object."""
    if pa.types.is_dictionary(array.type) or is_text(array.type):
        return codes_of(array).scalars(rows)
    array = array[rows] if isinstance(rows, slice) else array.take(pa.array(rows))
    found: list[Any] = plain(array).to_pylist()
    return found


def _floats(array: pa.Array) -> NDArray[np.float64]:
    found: NDArray[np.float64] = array.to_numpy(zero_copy_only=False)
    return found.astype(np.float64, copy=False)
