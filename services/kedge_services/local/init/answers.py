"""Which columns hold labels, predictions and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import StatisticsError, correlation
from typing import Any

from kedge.base import label_text
from kedge.errors import UsageError
from kedge.monitor_checks import suggestion
from kedge_services.local.init.classes import has_classes, no_answer
from kedge_services.local.init.guess import Certainty, Given, Guess, given
from kedge_services.local.init.table import Column, Table
from kedge_services.local.init.words import (
    LABEL,
    LABEL_FLAT,
    PREDICTION,
    PROBABILITY,
    SCORE,
    flat,
    words,
)

__all__ = ["Answers", "agreement", "can_be_named", "find_answers", "named"]


_LONGEST_NAME = 255
_MOST_PAIRS = 5_000


@dataclass(frozen=True, slots=True)
class Answers:
    """The columns of what was answered and of what was right.

    ``others`` are columns that look like answers or labels as well: no features;
    with the reason.
    """

    label: Guess
    prediction: Guess
    score: Guess
    others: Mapping[str, str]


def find_answers(table: Table, said: Given) -> Answers:
    """Find the columns.

    Raises
    ------
    UsageError
        A column that was named does not exist.
    """
    columns = table.columns
    taken = {name for name in (said.label, said.prediction, said.score, said.timestamp) if name}
    free = {
        name: column
        for name, column in columns.items()
        if name not in taken and can_be_named(name) and not no_answer(column)
    }
    scores = [c for c in free.values() if _is_score(c)]
    predictions = [
        c for c in free.values() if _has(c, PREDICTION) and not _has(c, PROBABILITY)
        and c not in scores
    ]  # fmt: skip
    score = _score(columns, said, scores)
    prediction = _prediction(columns, said, predictions)
    rest = [c for c in free.values() if c not in scores and c not in predictions]
    label = _label(columns, said, rest, prediction.value)
    others = {c.name: "looks like another answer of a model" for c in [*scores, *predictions]}
    others |= {
        c.name: "looks like another label"
        for c in rest
        if label.value and flat(c.name) in LABEL_FLAT
    }
    found = {label.value, prediction.value, score.value}
    return Answers(
        label, prediction, score, {name: why for name, why in others.items() if name not in found}
    )


def agreement(left: Column, right: Column) -> float | None:
    """Say how well two columns agree, from 0 to 1: share of equal classes, or correlation."""
    pairs = [
        (a, b) for a, b in zip(left.cells, right.cells, strict=True) if None not in (a, b)
    ]  # fmt: skip
    if not pairs:
        return None
    pairs = pairs[:: -(-len(pairs) // _MOST_PAIRS)]
    if has_classes(left) and has_classes(right):
        return sum(label_text(a) == label_text(b) for a, b in pairs) / len(pairs)
    if left.kind != "number" or right.kind != "number":
        return None
    try:
        return max(0.0, correlation([float(a) for a, _ in pairs], [float(b) for _, b in pairs]))
    except (StatisticsError, OverflowError, ValueError):
        return None


def can_be_named(name: str) -> bool:
    """Say whether a monitor can name this column."""
    return 0 < len(name) <= _LONGEST_NAME


def named(columns: Mapping[str, Any], name: str, option: str) -> str:
    """Give the name of a column that must exist.

    Raises
    ------
    UsageError
        There is none of this name.
    """
    if not can_be_named(name):
        raise UsageError(f"{option}: a name has 1 to {_LONGEST_NAME} characters")
    if name not in columns:
        raise UsageError(f"{option}: no column {name!r}; {suggestion(name, list(columns))}")
    return name


def _has(column: Column, known: Iterable[str]) -> bool:
    parts = words(column.name)
    return not {*parts, "".join(parts)}.isdisjoint(known)


def _is_score(column: Column) -> bool:
    """Say whether a column looks like a probability: by its name and within [0, 1]."""
    if column.kind != "number" or not all(c is None or 0 <= c <= 1 for c in column.cells):
        return False
    return _has(column, SCORE) or (_has(column, PREDICTION) and not column.is_whole)


def _score(columns: Mapping[str, Column], said: Given, candidates: list[Column]) -> Guess:
    if said.score is not None:
        return given(named(columns, said.score, "--score"), "--score")
    if not candidates:
        return Guess(None, "no column is named like a score and within 0 and 1", "likely")

    def rank(column: Column) -> tuple[int, int]:
        parts = {*words(column.name)}
        return -bool(parts & PROBABILITY) - bool(parts & {*PREDICTION, "y"}), len(column.name)

    best = min(candidates, key=rank)
    certainty: Certainty = "likely" if rank(best)[0] else "unsure"
    return Guess(best.name, "its name, and all values lie within 0 and 1", certainty)


def _prediction(columns: Mapping[str, Column], said: Given, candidates: list[Column]) -> Guess:
    if said.prediction is not None:
        return given(named(columns, said.prediction, "--prediction"), "--prediction")
    if not candidates:
        return Guess(None, "no column is named like a prediction", "likely")
    best = min(candidates, key=lambda column: len(column.name))
    return Guess(best.name, "its name", "likely" if len(candidates) == 1 else "unsure")


def _label(
    columns: Mapping[str, Column], said: Given, candidates: list[Column], prediction: str | None
) -> Guess:
    if said.label is not None:
        return given(named(columns, said.label, "--label"), "--label")
    answer = columns[prediction] if prediction is not None else None
    candidates = [c for c in candidates if c.distinct > 1]
    by_name = _best(candidates, _label_rank)
    if answer is not None:
        fitting = [c for c in candidates if _is_like(c, answer)]
        best = _best(fitting, lambda c: (agreement(c, answer) or 0.0) + _label_rank(c))
        if best is not None and (share := agreement(best, answer)) is not None:
            is_named = _label_rank(best) > 0
            if is_named or share > 0.5:
                how = f"its values are those of {answer.name}, and {share:.0%} agree"
                if not has_classes(answer):
                    how = f"its correlation with {answer.name} is {share:.2f}"
                why = f"its name; {how}" if is_named else how
                return Guess(best.name, why, "sure" if is_named and share > 0.5 else "likely")
    if by_name is not None and _label_rank(by_name) > 0:
        return Guess(by_name.name, "its name", "sure" if _label_rank(by_name) > 1 else "unsure")
    if answer is None and candidates:
        last = list(columns.values())[-1]
        if last in candidates and has_classes(last) and last.distinct <= 10:
            return Guess(
                last.name, f"it is the last column and has {last.distinct} values", "unsure"
            )
    return Guess(None, "no column is named like a label or agrees with a prediction", "unsure")


def _best(columns: Iterable[Column], rank: Callable[[Column], float]) -> Column | None:
    return max(columns, key=rank, default=None)


def _label_rank(column: Column) -> float:
    if flat(column.name) in LABEL_FLAT:
        return 3
    parts = words(column.name)
    if parts and parts[-1] in LABEL and (has_classes(column) or column.kind == "number"):
        return 2 if parts[-1] not in ("class", "default") else 1
    return 1 if not LABEL.isdisjoint(parts) and has_classes(column) else 0


def _is_like(column: Column, answer: Column) -> bool:
    """Say whether a column can be the label of what was answered."""
    if has_classes(answer) and has_classes(column):
        left, right = set(column.counts or ()), set(answer.counts or ())
        return left <= right or right <= left
    return not has_classes(answer) and column.kind == answer.kind == "number"
