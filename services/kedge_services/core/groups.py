"""Columns of predictions on their way from a batch into the deltas.

A batch is read as *groups*, the rows of one model in offset order, and what a group
adds to one pane of one version is a *part* of a :class:`Slot`.  A part is either decoded
rows, which :class:`kedge_services.core.folding.Fold` turns into columns itself, or a
:class:`Table`, columns from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge_services.core.decoding import ModelColumns, OutputRow, PredictionRow
from kedge_services.core.plans import Plan

__all__ = ["Column", "Group", "Numbers", "Slot", "Table"]


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
    ids
        Of the predictions.
    times_ms
        int64, event times.
    watermarks_ms
        int64, the watermark of the model's predictions that stood before each row.
    """

    plan: Plan
    columns: ModelColumns
    rows: list[PredictionRow]
    at: list[int]
    ids: list[str]
    times_ms: NDArray[np.int64]
    watermarks_ms: NDArray[np.int64]


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
    ids
        Of the predictions.
    features
        By name; those that are not declared are left alone.
    labels, scores, values
        Of the outputs.
    outputs
        Instead of these three, where rows have a score for each class.
    latencies
        In ms, NaN where it is not known.
    """

    ids: Sequence[str]
    features: Mapping[str, Column] = field(default_factory=dict)
    labels: Sequence[Scalar | None] | None = None
    scores: Numbers | None = None
    values: Numbers | None = None
    outputs: Sequence[OutputRow | None] | None = None
    latencies: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.ids)
