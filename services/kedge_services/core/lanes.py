"""What almost every record of the join is, taken many at once.

A prediction whose id is new, and an outcome that is the first label of the only prediction
of its id, need no entry to be made, compared and encoded again: their columns are enough.
The result is what :class:`kedge_services.core.join.Join` gives record by record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar, label_text
from kedge_services.core.decoding import ModelColumns, OutputRow, PredictionRow
from kedge_services.core.groups import Features
from kedge_services.core.intake import answer, score_of
from kedge_services.core.kinds import Kind, Kinds, Shape
from kedge_services.core.label_folding import LabelFold, Rows
from kedge_services.core.packing import Tail, pack
from kedge_services.core.plans import Plan

__all__ = ["Codes", "NewPredictions", "fold_predicted", "spans"]

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]

_encode = msgspec.json.Encoder().encode
_get_output = attrgetter("output")
_get_version = attrgetter("version")
_get_role = attrgetter("role")
_get_parts = attrgetter("label", "score", "scores", "value")
_NO_OUTPUT = OutputRow()
_NO_COLUMNS: Mapping[str, Sequence[Scalar | None]] = {}


class Codes(dict[Any, int]):
    """Numbers things in the order they come."""

    def __missing__(self, key: Any) -> int:
        code = self[key] = len(self)
        return code


def spans(*codes: _Ints) -> Iterator[_Ints]:
    """Give the positions of rows that are equal in all columns of codes, group by group."""
    if not codes[0].size:
        return
    order = np.lexsort(codes)
    changes = np.zeros(order.size, dtype=np.bool_)
    for column in codes:
        sorted_column = column[order]
        changes[1:] |= sorted_column[1:] != sorted_column[:-1]
    yield from np.split(order, np.flatnonzero(changes))


class Said(NamedTuple):
    """What a prediction's output says, as kinds have it."""

    predicted: str | None
    output: str
    label: Scalar | None
    has_number: bool


@dataclass(slots=True)
class NewPredictions:
    """Predictions of one monitor, whose ids are new and for which no outcome waits.

    Attributes
    ----------
    shapes
        Their kinds.
    which
        int64, for each its position in ``shapes``.
    starts_ms
        int64, of their performance panes.
    numbers
        Scores or predicted values; NaN where there is none.
    values
        As they lie in the store.
    """

    rows: Sequence[PredictionRow]
    times_ms: _Ints
    shapes: list[Shape]
    which: _Ints
    starts_ms: _Ints
    numbers: _Floats
    values: list[bytes]

    @classmethod
    def of(
        cls,
        plan: Plan,
        columns: ModelColumns,
        rows: Sequence[PredictionRow],
        *,
        times_ms: _Ints,
        offsets: _Ints,
        reference_id: Any,
        kinds: Kinds,
        for_examples: bool,
        known: Features | None = None,
    ) -> NewPredictions:
        """Pack rows.

        Parameters
        ----------
        plan, columns
            Their monitor and the way to columns.
        rows
            Of the type ``columns.row``.
        times_ms, offsets
            Of each.
        reference_id
            Gives that of a version and a pane's start.
        kinds
            Those of the store.
        for_examples
            Whether features and outputs are kept.
        known
            The features as columns, where somebody has made them.
        """
        outputs = list(map(_get_output, rows))
        numbers, said, told = _said(plan, outputs, for_examples=for_examples)
        starts_ms = times_ms - times_ms % plan.performance_pane_ms
        written, codes = _told_apart(rows, said)
        features: tuple[str, ...] = columns.features
        numeric: tuple[int, ...] = ()
        if for_examples:
            matrix, others = known or columns.arrays([row.features for row in rows])
            position = {name: i for i, name in enumerate(columns.features)}
            numeric = tuple(position[name] for name in columns.numeric)
        else:
            features, matrix, others = (), np.empty((len(rows), 0)), _NO_COLUMNS
        shapes: list[Shape] = []
        which = np.empty(len(rows), dtype=np.int64)
        for at in spans(starts_ms, codes):
            version, role, code = written[codes[at[0]]]
            what = told[code]
            kind = Kind(
                plan.model, version, role == "champion", plan.horizon_ms, plan.wait_ms,
                plan.performance_pane_ms, plan.cell_ms,
                reference_id(plan.model, version, int(starts_ms[at[0]])), plan.positive or "",
                features, numeric, plan.regression, what.has_number, what.predicted,
                what.output, what.label,
            )  # fmt: skip
            which[at] = len(shapes)
            shapes.append(kinds.of(kind))
        tails = None
        if plan.segments or others or any(shape.kind.output == "tail" for shape in shapes):
            in_tail = [shape.kind.output == "tail" for shape in shapes]
            tails = _tails(plan, rows, outputs, others, [in_tail[k] for k in which.tolist()])
        numbers_of = np.array([shape.number for shape in shapes], dtype=np.int64)
        values = pack(
            numbers_of[which], times_ms=times_ms, offsets=offsets, numbers=numbers,
            features=matrix, tails=tails,
        )  # fmt: skip
        return cls(rows, times_ms, shapes, which, starts_ms, numbers, values)

    @property
    def kinds(self) -> _Ints:
        """The numbers of their kinds."""
        return np.array([shape.number for shape in self.shapes], dtype=np.int64)[self.which]


def fold_predicted(fold: LabelFold, plan: Plan, new: NewPredictions) -> None:
    """Count new predictions in their performance panes and segments."""
    for at in spans(new.starts_ms, new.which):
        rows = Rows(new.shapes[new.which[at[0]]].kind, new.numbers[at])
        fold.many_predicted(rows, "", int(new.starts_ms[at[0]]))
    if plan.segments:
        segments = [_kept(plan, row.segments) for row in new.rows]
        for text, of_segment in in_segments(segments):
            for part in spans(new.starts_ms[of_segment], new.which[of_segment]):
                at = of_segment[part]
                rows = Rows(new.shapes[new.which[at[0]]].kind, new.numbers[at])
                fold.many_predicted(rows, text, int(new.starts_ms[at[0]]))


def in_segments(segments: Iterable[Mapping[str, Scalar]]) -> list[tuple[str, _Ints]]:
    """Give, by the text of each segment, the positions of its rows."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, values in enumerate(segments):
        for name, value in values.items():
            text = value if type(value) is str else label_text(value)
            found.setdefault((name, text), []).append(i)
    return [(f"{n}={text}", np.array(at, dtype=np.int64)) for (n, text), at in found.items()]


def _kept(plan: Plan, segments: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {name: segments[name] for name in plan.segments if name in segments}


def _told_apart(
    rows: Sequence[PredictionRow], said: Sequence[int]
) -> tuple[list[tuple[str, str, int]], _Ints]:
    """Give the distinct versions, roles and what was said, and for each row which it has."""
    versions, roles = list(map(_get_version, rows)), list(map(_get_role, rows))
    # Mostly all rows have one of each: to compare them is quicker than to number them.
    if versions.count(versions[0]) == len(rows) == roles.count(roles[0]):
        written = [(versions[0], roles[0], k) for k in range(max(said) + 1)]
        return written, np.array(said, dtype=np.int64)
    known = Codes()
    keys = zip(versions, roles, said, strict=True)
    codes = np.fromiter(map(known.__getitem__, keys), np.int64, len(rows))
    return list(known), codes


def _said(
    plan: Plan, outputs: Sequence[OutputRow | None], *, for_examples: bool
) -> tuple[_Floats, list[int], list[Said]]:
    """Give the number of every output, and which of the last what else it says."""
    plain = None if plan.regression or None in outputs else _said_plainly(outputs)
    if plain is None:
        return _said_one_by_one(plan, outputs, for_examples=for_examples)
    numbers, codes, known = plain
    form = "plain" if for_examples else "none"
    return numbers, codes, [
        Said(label, form, label if for_examples else None, has_number)
        for label, has_number in known
    ]  # fmt: skip


def _said_plainly(
    outputs: Sequence[Any],
) -> tuple[_Floats, list[int], list[tuple[str, bool]]] | None:
    """Give score and label where these are all there is; the labels are text."""
    n = len(outputs)
    for attribute in ("scores", "value"):
        if list(map(attrgetter(attribute), outputs)).count(None) < n:
            return None
    labels, scores = (list(map(attrgetter(name), outputs)) for name in ("label", "score"))
    if set(map(type, labels)) != {str}:
        return None
    numbers = np.array(scores, dtype=np.float64)
    missing = scores.count(None)
    if np.isfinite(numbers).sum() != n - missing:
        return None
    known = Codes()
    there = [score is not None for score in scores] if missing else repeat(True, n)
    codes = list(map(known.__getitem__, zip(labels, there, strict=True)))
    return numbers, codes, list(known)


def _said_one_by_one(
    plan: Plan,
    outputs: Sequence[OutputRow | None],
    *,
    for_examples: bool,
) -> tuple[_Floats, list[int], list[Said]]:
    numbers: list[float | None] = []
    known: dict[tuple[type, Said], int] = Codes()
    codes = []
    for output in outputs:
        label, score, classes, value = _get_parts(output or _NO_OUTPUT)
        answered = answer(plan, output)
        number = answered if plan.regression else score_of(plan, output)
        # What is in the output, and cannot be made of the label and the number again.
        if output is None or not for_examples:
            form = "none"
        elif plan.regression:
            is_whole = label is None and score is None and classes is None and value == number
            form = "plain" if is_whole else "tail"
        else:
            is_whole = value is None and classes is None and score == number
            form = "plain" if is_whole else "tail"
        predicted = None if plan.regression or answered is None else str(answered)
        kept = label if form == "plain" and not plan.regression else None
        numbers.append(None if number is None else float(number))
        # True and 1 and 1.0 are equal, and not the same.
        codes.append(known[type(kept), Said(predicted, form, kept, number is not None)])
    return np.array(numbers, dtype=np.float64), codes, [said for _, said in known]


def _tails(
    plan: Plan,
    rows: Sequence[PredictionRow],
    outputs: Sequence[OutputRow | None],
    others: Mapping[str, Sequence[Scalar | None]],
    in_tail: Sequence[bool],
) -> list[bytes]:
    """Encode what not every prediction has."""
    columns = zip(*others.values(), strict=True) if others else repeat((), len(rows))
    tails = []
    for row, output, values, says in zip(rows, outputs, columns, in_tail, strict=True):
        tail = Tail(_kept(plan, row.segments), list(values))
        if says:
            tail.output = msgspec.Raw(_encode(output))
        tails.append(_encode(tail))
    return tails
