"""Columns of values as they come in events: numbers, strings, booleans and None."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar

__all__ = [
    "FLOATS",
    "SCALARS",
    "Coded",
    "Values",
    "aligned",
    "clean",
    "coded",
    "numbers",
    "tally",
]

Values = Sequence[Scalar | None] | NDArray[np.float64]

SCALARS = frozenset({float, int, bool, str, type(None)})
_NUMBERS = frozenset({float, int, bool, type(None)})
FLOATS = _NUMBERS - {type(None)}
_TEXTS = frozenset({str, type(None)})


class Coded(NamedTuple):
    """A column of few distinct values: ``names[codes[i]]`` is the value of row i.

    A code of -1 says that there is none.
    """

    codes: NDArray[np.int64]
    names: list[Any]

    def values(self) -> list[Scalar | None]:
        """Give the values one by one."""
        names = [*self.names, None]
        return [names[code] for code in self.codes.tolist()]


def coded(values: Sequence[Scalar | None]) -> Coded:
    """Tell the distinct values of a column apart, None among them, by their types, too.

    >>> coded(["a", None, "a"])
    Coded(codes=array([0, 1, 0]), names=['a', None])
    """
    names = list(dict.fromkeys(values))
    # True, 1 and 1.0 are equal to Python, so where names are numbers all values are looked at.
    is_text = set(map(type, names)) <= _TEXTS
    if not is_text and bool in (kinds := set(map(type, values))) and kinds & {int, float}:
        typed = list(zip(map(type, values), values, strict=True))
        apart = {key: i for i, key in enumerate(dict.fromkeys(typed))}
        found = map(apart.__getitem__, typed)
        names = [value for _, value in apart]
    else:
        found = map({value: i for i, value in enumerate(names)}.__getitem__, values)
    return Coded(np.fromiter(found, np.int64, len(values)), names)


def clean(values: Values) -> Values:
    """Give an array where every value is a number, so that this is found out only once."""
    if isinstance(values, np.ndarray) or not set(map(type, values)) <= FLOATS:
        return values
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return values


def numbers(values: Values) -> tuple[NDArray[np.float64], int, int, int]:
    """Give numbers as float64, and the numbers of nulls, wrong types and beyond-float integers."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64), 0, 0, 0
    null = type_error = too_large = 0
    found: Sequence[Any] = values
    kinds = set(map(type, values))
    if type(None) in kinds:
        found = [value for value in found if value is not None]
        null = len(values) - len(found)
    if not kinds <= _NUMBERS:
        present = len(found)
        found = [value for value in found if type(value) in _NUMBERS]
        type_error = present - len(found)
    try:
        array = np.array(found, dtype=np.float64)
    except OverflowError:
        kept = [value for value in found if not isinstance(value, int) or _fits(value)]
        too_large = len(found) - len(kept)
        array = np.array(kept, dtype=np.float64)
    return array, null, type_error, too_large


def aligned(values: Values) -> NDArray[np.float64]:
    """Give one float for every value, in place; NaN for what is no float."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    if set(map(type, values)) <= _NUMBERS:
        try:
            return np.array(values, dtype=np.float64)  # None becomes NaN
        except OverflowError:
            pass
    return np.array(
        [v if type(v) in FLOATS and _fits(v) else math.nan for v in values],  # type: ignore[arg-type]
        dtype=np.float64,
    )


def tally(values: Values | Coded) -> Iterable[tuple[Any, int]]:
    """Count equal values; True, 1 and 1.0 are equal to Python, so booleans are kept apart."""
    if isinstance(values, Coded):
        counts = np.bincount(values.codes + 1, minlength=1 + len(values.names)).tolist()
        return [(v, n) for v, n in zip([None, *values.names], counts, strict=True) if n]
    if isinstance(values, np.ndarray):
        return Counter(values.tolist()).items()
    if bool in (kinds := set(map(type, values))) and kinds & {int, float}:
        apart = Counter(zip(map(type, values), values, strict=True))
        return [(value, number) for (_, value), number in apart.items()]
    return Counter(values).items()


def _fits(value: float) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True
