"""The rows a reference is learnt from: those with the smallest hashes of their ids.

Such a sample does not depend on the order of rows, and samples of parts merge into that of
the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from heapq import nsmallest
from math import isnan
from typing import Any

import msgspec

from kedge.base import Scalar
from kedge_services.core.decoding import ModelColumns, OutputRow, PredictionRow
from kedge_services.core.deltas import SAMPLE_ROWS, LearningDelta
from kedge_services.core.groups import Column, Numbers, Table

__all__ = ["id_hash", "sample_rows", "sample_table"]

_NO_OUTPUT = OutputRow()


def id_hash(prediction_id: str) -> int:
    """Give the 64-bit hash by which a learning sample is drawn."""
    return int.from_bytes(blake2b(prediction_id.encode(), digest_size=8).digest())


def _smallest(ids: Sequence[str]) -> list[tuple[int, int]]:
    """Give hash and position of the rows that are sampled."""
    return nsmallest(SAMPLE_ROWS, [(id_hash(name), i) for i, name in enumerate(ids)])


def sample_rows(
    names: Sequence[str], columns: ModelColumns, rows: Sequence[PredictionRow]
) -> LearningDelta:
    """Sample decoded rows, with the features of these names."""
    sample = {}
    for key, i in _smallest([row.prediction_id for row in rows]):
        features = columns.dictionary(rows[i].features, names)
        sample[key] = [features, _plain(rows[i].output)]
    return LearningDelta(len(rows), sample)


def sample_table(names: Sequence[str], table: Table) -> LearningDelta:
    """Sample rows that are columns, with the features of these names."""
    sample = {}
    for key, i in _smallest(table.ids):
        features = {
            name: None if (column := table.features.get(name)) is None else _value(column, i)
            for name in names
        }
        sample[key] = [features, _plain(_output(table, i))]
    return LearningDelta(table.rows, sample)


def _value(column: Column, i: int) -> Scalar | None:
    if not isinstance(column, Numbers):
        return column[i]
    value = float(column.values[i])
    return None if isnan(value) and column.null else value


def _output(table: Table, i: int) -> OutputRow | None:
    if table.outputs is not None:
        return table.outputs[i]
    code = -1 if table.labels is None else int(table.labels.codes[i])
    label = None if table.labels is None or code < 0 else table.labels.names[code]
    score, value = (
        None if column is None else _value(column, i) for column in (table.scores, table.values)
    )
    output = OutputRow(label, score, None, value)  # type: ignore[arg-type]
    return None if output == _NO_OUTPUT else output


def _plain(output: OutputRow | None) -> Any:
    return None if output is None else msgspec.to_builtins(output)
