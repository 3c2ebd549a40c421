"""Columns of predictions on their way from a batch into the deltas.

A batch is read as *groups*, the rows of one model in offset order, and what a group
adds to one pane of one version is a *part* of a :class:`Slot`.  A part is either decoded
rows, which :class:`kedge_services.core.folding.Fold` turns into columns itself, or a
:class:`Table`, columns from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isnan
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge_services.core.columns import Coded
from kedge_services.core.decoding import ModelColumns, OutputRow, PredictionRow
from kedge_services.core.plans import Plan

__all__ = ["Answers", "Column", "Features", "Group", "Numbers", "Slot", "Table", "joined"]

#: Runs of so many rows are quicker to take as a whole than row by row.
_SHORTEST: Final = 4


@dataclass(slots=True)
class Group:
    """Rows of one model in one batch that one monitor holds for, in offset order.

    Attributes
    ----------
    rows
        Decoded; those of the type ``columns.row`` hold nothing but what is declared,
        those of ``columns.odd`` any value in any feature.
    at
        Positions in the batch.
    ids, versions
        Of the predictions.
    outputs, labels
        The answers, where there is none an empty one; and the labels in them.
    times_ms
        int64, event times.
    watermarks_ms
        int64, the watermark of the model's predictions that stood before each row.
    features
        Of all rows as columns, once somebody has made them; these are all usual.
    """

    plan: Plan
    columns: ModelColumns
    rows: Sequence[PredictionRow]
    at: Sequence[int]
    ids: list[str]
    versions: list[str]
    outputs: list[OutputRow]
    labels: Coded
    times_ms: NDArray[np.int64]
    watermarks_ms: NDArray[np.int64]
    features: Features | None = None

    def part(self, chosen: Sequence[int]) -> Group:
        """Give the rows at these positions."""
        places = np.fromiter(chosen, np.int64, len(chosen))
        taken = _taker(chosen, places)
        return Group(
            self.plan,
            self.columns,
            taken(self.rows),
            taken(self.at),
            taken(self.ids),
            taken(self.versions),
            taken(self.outputs),
            Coded(self.labels.codes[places], self.labels.names),
            self.times_ms[places],
            self.watermarks_ms[places],
        )


class Features(NamedTuple):
    """What :meth:`kedge_services.core.decoding.ModelColumns.arrays` makes of usual rows."""

    numeric: NDArray[np.float64]
    others: Mapping[str, Sequence[Scalar | None]]

    def part(self, chosen: NDArray[np.int64]) -> Features:
        """Give the rows at these positions."""
        others = {n: [v[k] for k in chosen.tolist()] for n, v in self.others.items()}
        return Features(self.numeric[chosen], others)


class Answers(NamedTuple):
    """The answers of rows as far as they have been looked at; see :class:`Group`."""

    outputs: Sequence[OutputRow]
    labels: Coded


class Slot(NamedTuple):
    """A pane of a version; the plan is compared by identity.

    ``reference_id`` is empty while the version is learning.
    """

    plan: Plan
    version: str
    reference_id: str
    start_ms: int


class Numbers(NamedTuple):
    """A column of float64: NaN where there is no number.

    ``null`` of the NaN are nulls; the others were NaN themselves.
    """

    values: NDArray[np.float64]
    null: int = 0


Column = Numbers | Sequence[Scalar | None]
"""Numbers, or whatever events may hold: numbers, strings, booleans and None."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one slot as columns of equal length; a column of None alone may be left out.

    Attributes
    ----------
    rows
        Their number.
    ids
        Of the predictions; needed while the version is learning.
    features
        By name; those that are not declared are left alone.
    labels, scores, values
        Of the outputs.
    outputs
        Instead of these three, where rows have a score for each class.
    latencies
        In ms, NaN where it is not known.
    """

    rows: int
    ids: Sequence[str] = ()
    features: Mapping[str, Column] = field(default_factory=dict)
    labels: Coded | None = None
    scores: Numbers | None = None
    values: Numbers | None = None
    outputs: Sequence[OutputRow | None] | None = None
    latencies: NDArray[np.float64] | None = None


def _taker(
    chosen: Sequence[int], places: NDArray[np.int64]
) -> Callable[[Sequence[Any]], list[Any]]:
    """Give what takes these positions out of a column."""
    edges = np.flatnonzero(np.diff(places) != 1) + 1
    if _SHORTEST * (edges.size + 1) > places.size:
        if places.size < 2:  # Of one, `itemgetter` gives no tuple.
            return lambda values: [values[k] for k in chosen]
        taken = itemgetter(*places.tolist())
        return lambda values: list(taken(values))
    # Some rows are left out of many: what lies between them is taken at once.
    firsts, lasts = places[np.append(0, edges)], places[np.append(edges - 1, -1)]
    runs = [slice(a, b + 1) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True)]
    return lambda values: list(chain.from_iterable([values[run] for run in runs]))


def joined(tables: Sequence[Table]) -> Table:
    """Put tables of one slot under each other; all have outputs, or none."""
    if len(tables) == 1:
        return tables[0]
    sizes = [table.rows for table in tables]
    names = dict.fromkeys(name for table in tables for name in table.features)
    labels, outputs = [table.labels for table in tables], tables[0].outputs
    return Table(
        sum(sizes),
        (),
        {name: _column([t.features.get(name) for t in tables], sizes) for name in names},
        labels=_labels(labels, sizes) if any(part is not None for part in labels) else None,
        scores=_under([table.scores for table in tables], sizes),
        values=_under([table.values for table in tables], sizes),
        outputs=None if outputs is None else [o for t in tables for o in t.outputs or ()],
        latencies=_latencies([table.latencies for table in tables], sizes),
    )


def _column(parts: Sequence[Column | None], sizes: Sequence[int]) -> Column:
    """Put columns of a feature under each other; a part without is null."""
    if all(part is None or isinstance(part, Numbers) for part in parts):
        return _under(parts, sizes) or Numbers(np.empty(0))  # type: ignore[arg-type]
    found: list[Scalar | None] = []
    for part, size in zip(parts, sizes, strict=True):
        if isinstance(part, Numbers):
            values = part.values.tolist()
            found += [None if isnan(value) and part.null else value for value in values]
        else:
            found += [None] * size if part is None else part
    return found


def _under(parts: Sequence[Numbers | None], sizes: Sequence[int]) -> Numbers | None:
    if not any(part is not None for part in parts):
        return None
    whole = [
        Numbers(np.full(size, np.nan), size) if part is None else part
        for part, size in zip(parts, sizes, strict=True)
    ]
    return Numbers(np.concatenate([p.values for p in whole]), sum(p.null for p in whole))


def _labels(parts: Sequence[Coded | None], sizes: Sequence[int]) -> Coded:
    """Put labels under each other; their names may repeat."""
    codes: list[NDArray[np.int64]] = []
    names: list[Any] = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            codes.append(np.full(size, -1))
        else:
            codes.append(np.where(part.codes < 0, -1, part.codes + len(names)))
            names += part.names
    return Coded(np.concatenate(codes), names)


def _latencies(
    parts: Sequence[NDArray[np.float64] | None], sizes: Sequence[int]
) -> NDArray[np.float64] | None:
    found = _under([None if part is None else Numbers(part) for part in parts], sizes)
    return None if found is None else found.values
