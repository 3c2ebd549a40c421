"""Task and classes from the columns of labels, predictions and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from kedge.base import Scalar, label_text
from kedge.errors import UsageError
from kedge_services.local.init.guess import Certainty, Guess
from kedge_services.local.init.table import MOST_VALUES, Column
from kedge_services.local.init.words import NEGATIVE, POSITIVE

__all__ = ["binary_order", "class_values", "guess_task", "has_classes", "no_answer"]

_MOST_NUMBERS = 20
_MOST_TEXTS = 100


def has_classes(column: Column) -> bool:
    """Say whether the values of a column look like those of classes."""
    if column.kind == "number":
        return column.is_whole and column.distinct <= _MOST_NUMBERS
    return column.kind in ("boolean", "text") and column.distinct <= _MOST_TEXTS


def no_answer(column: Column) -> str | None:
    """Say why a column can be neither label nor prediction."""
    if column.kind == "empty":
        return "has no values"
    is_one = column.kind == "number" or (column.kind in ("boolean", "text") and column.counts)
    return None if is_one else "holds neither classes nor numbers"


def class_values(*columns: Column) -> list[Scalar]:
    """Give the distinct values of columns as classes, in order; no two have the same text."""
    texts: dict[str, int] = {}
    for column in columns:
        texts.update(column.counts or {})
    kinds = {column.kind for column in columns}
    if kinds == {"number"}:
        return _numbers(texts)
    if kinds == {"boolean"}:
        return [text == "true" for text in ("false", "true") if text in texts]
    return sorted(texts)


def guess_task(asked: str | None, label: Column | None, prediction: Column | None) -> Guess:
    """Tell the task.

    Raises
    ------
    UsageError
        The task that was asked for does not fit the values.
    """
    columns = [column for column in (label, prediction) if column is not None]
    if asked is not None:
        _must_fit(asked, columns)
        return Guess(asked, "--task", "given")
    if not columns:
        return Guess(
            "regression", "no label and no prediction: only features are watched", "unsure"
        )
    guess = _by_classes(columns) or _by_numbers(columns)
    if guess is None:
        _must_fit("multiclass", columns)
        guess = Guess("multiclass", f"{columns[0].name} holds texts", "unsure")
    return guess


def binary_order(
    values: Sequence[Scalar], label: Column | None, prediction: Column | None, score: Column | None
) -> Guess:
    """Order two classes, the positive one last: a score is that of the last class."""
    if len(values) == 1:
        return _with_another(values[0])
    first, second = values
    for column, certainty in ((prediction, "sure"), (label, "likely")):
        if column is None or score is None:
            continue
        means = _mean_scores(column, score)
        low, high = means.get(label_text(first)), means.get(label_text(second))
        if low is not None and high is not None and abs(high - low) > 0.02:
            order = [first, second] if high > low else [second, first]
            why = f"{score.name} is higher where {column.name} is {label_text(order[1])}"
            return Guess(order, why, certainty)  # type: ignore[arg-type]
    return _by_words(first, second) or _by_size(first, second, label or prediction)


def _by_words(first: Scalar, second: Scalar) -> Guess | None:
    for pair in ([first, second], [second, first]):
        low, high = (label_text(value).lower() for value in pair)
        if high in POSITIVE and low not in POSITIVE:
            sure: Certainty = "likely" if low in NEGATIVE else "unsure"
            return Guess(pair, f"{label_text(pair[1])} reads like the positive class", sure)
        if low in NEGATIVE and high not in NEGATIVE:
            return Guess(pair, f"{label_text(pair[0])} reads like the negative class", "unsure")
    return None


def _by_size(first: Scalar, second: Scalar, column: Column | None) -> Guess:
    texts = (label_text(first), label_text(second))
    if set(texts) <= {"-1", "0", "1"}:
        order = sorted((first, second), key=lambda value: int(label_text(value)))
        return Guess(order, f"{label_text(order[1])} is the larger", "likely")
    if column is None or column.kind != "text" or not column.counts:
        return Guess([first, second], f"{texts[1]} is the larger", "unsure")
    counts = [column.counts.get(text, 0) for text in texts]
    order = [first, second] if counts[1] <= counts[0] else [second, first]
    return Guess(order, f"{label_text(order[1])} is the rarer class", "unsure")


def _by_classes(columns: Sequence[Column]) -> Guess | None:
    column, values = columns[0], class_values(*columns)
    if not all(map(has_classes, columns)) or not values:
        return None
    if len(values) == 1:
        if column.kind == "number" and values[0] not in (0, 1):
            return None
        return Guess("binary", f"{column.name} has one value only", "unsure")
    if len(values) == 2:
        return Guess("binary", f"{column.name} has two values", "sure")
    if column.kind == "number":
        why = f"{column.name} has {len(values)} values, all whole numbers; or a regression?"
        return Guess("multiclass", why, "unsure")
    return Guess("multiclass", f"{column.name} has {len(values)} values", "likely")


def _by_numbers(columns: Sequence[Column]) -> Guess | None:
    column = columns[0]
    if any(column.kind != "number" for column in columns):
        return None
    if not column.is_whole:
        return Guess("regression", f"{column.name} holds fractions", "sure")
    is_much = column.distinct > _MOST_NUMBERS
    what = "many whole numbers" if is_much else "one whole number only"
    return Guess("regression", f"{column.name} holds {what}", "likely" if is_much else "unsure")


def _must_fit(task: str, columns: Sequence[Column]) -> None:
    """Refuse a task that the values of label and prediction cannot be of."""
    names = " and ".join(column.name for column in columns)
    if task == "regression":
        if any(column.kind not in ("number", "empty") for column in columns):
            raise UsageError(f"a regression model, but {names} does not hold numbers")
        return
    if not columns:
        raise UsageError(f"a {task} model needs --label or --prediction: no column looks like one")
    if any(column.counts is None for column in columns):
        raise UsageError(f"a {task} model, but {names} has more than {MOST_VALUES:,} values")
    values = class_values(*columns)
    least, most = (1, 2) if task == "binary" else (2, MOST_VALUES)
    if not least <= len(values) <= most:
        some = ", ".join(map(label_text, values[:5])) + (", …" if len(values) > 5 else "")
        raise UsageError(f"a {task} model, but {names} has {len(values)} values: {some or 'none'}")


def _with_another(value: Scalar) -> Guess:
    """Give two classes where only one was seen."""
    why = f"only {label_text(value)} was seen; what is the other one called?"
    if isinstance(value, bool):
        return Guess([False, True], f"only {label_text(value)} was seen", "likely")
    if value in (0, 1):
        return Guess([0, 1], why, "unsure")
    return Guess(["other" if value != "other" else "another", value], why, "unsure")


def _numbers(texts: Mapping[str, int]) -> list[Scalar]:
    numbers: list[Scalar] = []
    for text in texts:
        try:
            number: Any = float(text)
        except ValueError:
            continue  # one of the few cells that are no number
        if not math.isfinite(number):
            continue
        whole = int(text) if text.lstrip("-").isdecimal() else None
        if label_text(number if whole is None else whole) != text:
            return sorted(texts)
        numbers.append(number if whole is None else whole)
    return sorted(numbers, key=float)


def _mean_scores(column: Column, score: Column) -> dict[str, float]:
    """Give the mean score where a column has a value, by the value's text."""
    scores: dict[str, list[float]] = {}
    for cell, value in zip(column.cells, score.cells, strict=True):
        if cell is not None and value is not None:
            scores.setdefault(label_text(cell), []).append(value)
    return {text: fmean(values) for text, values in scores.items()}
