"""Rows of features as columns of numbers and of texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar, label_text
from kedge.events import Output
from kedge.versions import FeatureColumn

__all__ = [
    "LARGEST",
    "class_outputs",
    "is_text",
    "known_numbers",
    "matrix",
    "number_columns",
    "numbers",
    "texts",
    "texts_first",
]

#: The largest number a tree sees.
BOUND = 1e300
#: Beyond it a number counts as missing wherever it is squared: no finite variance is left.
LARGEST = 1e100

_NUMBERS = frozenset({float, int, bool, type(None)})
_TEXTS = frozenset({str, type(None)})


def is_text(column: FeatureColumn) -> bool:
    """Say whether a column holds categories; a boolean is the category true or false."""
    return column.type != "numeric"


def numbers(values: Sequence[Scalar | None]) -> NDArray[np.float64]:
    """Give a numeric column, shape (n,); NaN is missing, and so is what is no number.

    What is beyond :data:`BOUND`, infinities too, is put on it: the mean of two
    neighbours must stay finite, as trees are cut there.

    >>> numbers([1, None, "7", True, float("-inf")]).tolist()
    [1.0, nan, nan, 1.0, -1e+300]
    """
    return np.clip(_floats(values), -BOUND, BOUND)


def number_columns(
    rows: Sequence[Mapping[str, Scalar | None]], names: Sequence[str]
) -> NDArray[np.float64]:
    """Give the numeric columns of these names, shape (n, columns); each as :func:`numbers` does.

    >>> number_columns([{"x": 1, "y": None}, {"x": True, "y": "7"}], ["x", "y"]).tolist()
    [[1.0, nan], [1.0, nan]]
    """
    if len(names) > 1:
        try:
            values = list(chain.from_iterable(map(itemgetter(*names), rows)))
        except KeyError:
            values = [row.get(name) for row in rows for name in names]
    else:
        values = [row.get(name) for row in rows for name in names]
    return numbers(values).reshape(len(rows), len(names))


def known_numbers(values: Sequence[Scalar | None]) -> NDArray[np.float64]:
    """Give a numeric column, shape (n,); NaN is missing, and so is what is beyond :data:`LARGEST`.

    >>> known_numbers([1, None, "7", 1e200, float("inf")]).tolist()
    [1.0, nan, nan, nan, nan]
    """
    column = _floats(values)
    column[~(np.abs(column) <= LARGEST)] = math.nan
    return column


def _floats(values: Sequence[Scalar | None]) -> NDArray[np.float64]:
    # A text is not parsed: NumPy would read "7" as 7, which training never saw.
    if _NUMBERS.issuperset(map(type, values)):
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Scalar | None) -> float:
    if value is None or isinstance(value, str):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def texts(values: Sequence[Scalar | None]) -> Sequence[str | None]:
    """Give a column of categories as texts; None is missing.

    >>> texts(["NO", True, 3.0, None, float("nan")])
    ['NO', 'true', '3', None, None]
    """
    if _TEXTS.issuperset(map(type, values)):
        return values  # type: ignore[return-value]  # checked in the line before
    return [
        None if value is None or value != value else label_text(value)  # noqa: PLR0124 -- NaN
        for value in values
    ]


def texts_first(columns: Sequence[FeatureColumn]) -> list[FeatureColumn]:
    """Give the columns of categories, then those of numbers, each in their order."""
    return sorted(columns, key=is_text, reverse=True)


def matrix(
    rows: Sequence[Mapping[str, Scalar | None]],
    columns: Sequence[FeatureColumn],
    *,
    read: Callable[[Sequence[Scalar | None]], NDArray[np.float64]] = known_numbers,
) -> NDArray[Any]:
    """Give an array, shape (n, columns); a missing value is NaN, of a category, too.

    Without categories it is one of floats, else one of objects.
    """
    kind = object if any(map(is_text, columns)) else np.float64
    result: NDArray[Any] = np.empty((len(rows), len(columns)), dtype=kind)
    for index, column in enumerate(columns):
        values = [row.get(column.name) for row in rows]
        if is_text(column):
            # None would become a category of its own; NaN stays missing.
            result[:, index] = [math.nan if text is None else text for text in texts(values)]
        else:
            result[:, index] = read(values)
    return result


def class_outputs(probabilities: NDArray[np.float64], classes: Sequence[Scalar]) -> list[Output]:
    """Give outputs for probabilities of shape (n, len(classes)).

    Of two classes the second is the positive one; a tie goes to the first.
    """
    if len(classes) == 2:
        negative, positive = classes
        return [
            Output(label=positive if score > 0.5 else negative, score=score)
            for score in probabilities[:, 1].tolist()
        ]
    names = [label_text(label) for label in classes]
    best: Iterable[int] = probabilities.argmax(axis=1).tolist()
    return [
        Output(label=classes[index], scores=dict(zip(names, row, strict=True)))
        for index, row in zip(best, probabilities.tolist(), strict=True)
    ]
