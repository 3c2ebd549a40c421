"""Which columns are features, of which type; which are left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kedge.base import label_text
from kedge_services.local.init.answers import agreement, can_be_named
from kedge_services.local.init.classes import has_classes
from kedge_services.local.init.guess import Guess
from kedge_services.local.init.table import MOST_VALUES, Column, Table
from kedge_services.local.init.words import (
    CODE,
    COUNT,
    IDENTIFIER,
    SPLIT,
    SPLIT_NAME,
    flat,
    words,
)

__all__ = ["Features", "guess_features", "is_clock", "is_year", "reads_like_split"]

_FEW_CODES = 12
_LEAST_PAIRS = 50
_MOST_PAIRS = 2_000
_DETERMINED = 0.999


@dataclass(frozen=True, slots=True)
class Features:
    """Guessed types by name; what is left out, with the type it would have."""

    types: Mapping[str, Guess]
    left_out: Mapping[str, Guess]


def guess_features(
    table: Table, roles: Mapping[str, str], *, label: Column | None, score: Column | None
) -> Features:
    """Sort the columns that have no other role into features and others.

    Parameters
    ----------
    roles
        Columns that are no features, with the reason; those whose reason is
        empty have a place of their own in the monitor.

    Notes
    -----
    A monitor needs a feature: when none is left, what was left out for being
    constant, a clock or a leak is taken after all.
    """
    types: dict[str, Guess] = {}
    left_out: dict[str, Guess] = {}
    reserve: dict[str, Guess] = {}
    for name, column in table.columns.items():
        guess = _type(column, table)
        if name in roles:
            if roles[name] and can_be_named(name):
                left_out[name] = Guess(guess.value, roles[name], "likely")
            continue
        if why := _impossible(column):
            if can_be_named(name):
                left_out[name] = Guess(guess.value, why, "sure")
        elif why := _unwanted(column, table) or _leak(column, label, score):
            plain = column.distinct <= 1 or column.kind in ("time", "empty")
            left_out[name] = Guess(guess.value, why, "sure" if plain else "likely")
            reserve[name] = Guess(guess.value, f"no better column is left; {why}", "unsure")
        else:
            types[name] = guess
    if not types and reserve:
        types = reserve
        left_out = {name: guess for name, guess in left_out.items() if name not in reserve}
    return Features(types, left_out)


def is_clock(column: Column) -> bool:
    """Say whether a column only goes up, row by row: a clock or a counter."""
    numbers = [cell for cell in column.cells if cell is not None]
    if column.kind != "number" or len(numbers) < 100:
        return False
    steps = [after - before for before, after in pairwise(numbers)]
    down = sum(step < 0 for step in steps)
    # Many small steps up, hardly one down: a real quantity does not behave like that.
    return bool(down <= 0.001 * len(steps) and sum(step > 0 for step in steps) >= 50)


def reads_like_split(column: Column) -> bool:
    """Say whether a column tells which part of a data set a row is in."""
    if column.kind != "text" or not column.counts or len(column.counts) > 5:
        return False
    values = {text.lower() for text in column.counts}
    return values <= SPLIT and bool(len(values) > 1 or SPLIT_NAME & set(words(column.name)))


def _type(column: Column, table: Table) -> Guess:
    """Guess the type a column has as a feature."""
    noted = _notes(column, table)
    if column.kind == "boolean":
        return Guess("boolean", f"true or false{noted}", "sure")
    if column.kind != "number":
        return Guess("categorical", f"{_count(column)} texts{noted}", "sure")
    parts = set(words(column.name))
    if not column.is_whole or column.distinct > MOST_VALUES:
        return Guess("numeric", f"{_count(column)} numbers{noted}", "sure")
    if parts & CODE:
        return Guess(
            "categorical", f"{_count(column)} whole numbers, its name: codes{noted}", "likely"
        )
    if 2 < column.distinct <= _FEW_CODES and not parts & COUNT:
        why = f"only {column.distinct} whole numbers: codes, or an amount?{noted}"
        return Guess("categorical", why, "unsure")
    return Guess("numeric", f"{_count(column)} whole numbers{noted}", "likely")


def _notes(column: Column, table: Table) -> str:
    notes = []
    if column.empty:
        share = column.empty / table.rows
        notes.append(f"{share:.1%} empty" if share >= 0.001 else f"{column.empty:,} empty")
    if column.wrong:
        notes.append(f"{column.wrong / len(column.cells):.1%} are none")
    return "".join(f", {note}" for note in notes)


def _count(column: Column) -> str:
    return f"over {MOST_VALUES:,}" if column.distinct > MOST_VALUES else f"{column.distinct:,}"


def _impossible(column: Column) -> str | None:
    if not can_be_named(column.name):
        return "no name, or one that is too long"
    if column.kind == "nested":
        return "lists or objects; a feature is one number, text or boolean"
    return None


def _unwanted(column: Column, table: Table) -> str | None:
    """Say why a column would be a bad feature."""
    if column.kind in ("empty", "time"):
        return "no values" if column.kind == "empty" else "a time, no feature"
    if column.counts is not None and len(column.counts) == 1 and not column.empty:
        return f"always {_short(next(iter(column.counts)))}"
    if reads_like_split(column) or SPLIT_NAME & set(words(column.name)[-1:]):
        return "says which part of the data a row belongs to"
    if why := _identifier(column, table):
        return why
    if is_year(column):
        return "a year, it only goes up"
    return "goes up row by row like a clock: it would always drift" if is_clock(column) else None


def _identifier(column: Column, table: Table) -> str | None:
    numbers = column.cells
    if (
        column.is_whole
        and len(numbers) > 2
        and all(
            cell is not None and cell - numbers[0] == index * table.stride
            for index, cell in enumerate(numbers)
        )
    ):
        return "counts the rows"
    many = column.distinct > min(MOST_VALUES, max(20, table.rows // 2))
    named_so = not IDENTIFIER.isdisjoint(words(column.name)[-1:])
    named_so = named_so or flat(column.name).startswith("unnamed")
    if many and named_so and (column.kind == "text" or column.is_whole):
        return "its name, and nearly as many values as rows: an identifier"
    if many and column.kind == "text":
        return "too many different texts: names or free text"
    return None


def is_year(column: Column) -> bool:
    """Say whether a column holds years."""
    is_named = not {"year", "yr"}.isdisjoint(words(column.name))
    years = [cell for cell in column.cells if cell is not None]
    return is_named and column.is_whole and all(1900 <= year <= 2200 for year in years)


def _leak(column: Column, label: Column | None, score: Column | None) -> str | None:
    """Say how a column gives away the label, which no model may know when it predicts."""
    if score is not None and (agreement(column, score) or 0.0) > 0.99999 and not has_classes(score):
        return f"a copy of {score.name}"
    if label is None:
        return None
    if not has_classes(label):
        copies = column.kind == label.kind == "number" and not has_classes(column)
        correlated = copies and (agreement(column, label) or 0.0) > 0.99999
        return f"a copy of the label {label.name}" if correlated else None
    pairs = [
        (cell, label_text(known))
        for cell, known in zip(column.cells, label.cells, strict=True)
        if cell is not None and known is not None
    ]
    if len(pairs) < _LEAST_PAIRS:
        return None
    pairs = pairs[:: -(-len(pairs) // _MOST_PAIRS)]
    base = Counter(known for _, known in pairs).most_common(1)[0][1] / len(pairs)
    if base < 0.98 and _determined(column, pairs) >= _DETERMINED:
        return f"it tells the label {label.name} in advance: a copy, or known only afterwards?"
    return None


def _determined(column: Column, pairs: list[tuple[Any, str]]) -> float:
    """Give the share of labels that follow from the value, or from one threshold on it."""
    if column.distinct <= min(50, len(pairs) // 10):
        by_value: dict[str, Counter[str]] = {}
        for cell, known in pairs:
            by_value.setdefault(label_text(cell), Counter())[known] += 1
        return sum(c.most_common(1)[0][1] for c in by_value.values()) / len(pairs)
    if column.kind != "number":
        return 0.0
    ordered = sorted(pairs, key=lambda pair: float(pair[0]))
    above = Counter(known for _, known in ordered)
    below = Counter[str]()
    best = 0
    for position, (cell, known) in enumerate(ordered):
        below[known] += 1
        above[known] -= 1
        is_edge = position + 1 == len(ordered) or ordered[position + 1][0] != cell
        if is_edge:
            best = max(best, max(below.values()) + max(above.values()))
    return best / len(pairs)


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:29]}…"
