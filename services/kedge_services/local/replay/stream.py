"""What arrives, and when: predictions and labels in the order a replay releases them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from kedge.base import Role, Scalar

__all__ = [
    "FILE_VERSION",
    "Arrived",
    "Label",
    "Late",
    "Row",
    "Stream",
    "outcome_value",
    "prediction_value",
    "request_value",
]

#: The version whose predictions a file holds.
FILE_VERSION = "file"
_encode = msgspec.json.encode


class Row(NamedTuple):
    """A prediction: of a file its row, with an answer where the file has one."""

    prediction_id: str
    time_ms: int
    arrival_ms: int
    features: Mapping[str, Scalar | None]
    output: Mapping[str, Any] | None = None
    version: str = FILE_VERSION
    role: Role = "champion"
    segments: Mapping[str, Scalar] = MappingProxyType({})


class Label(NamedTuple):
    """A label of a prediction; of several the one with the highest time counts."""

    prediction_id: str
    label: Scalar
    time_ms: int
    arrival_ms: int


class Arrived(NamedTuple):
    """What arrived together: rows, what will turn out to be true of each, and labels.

    ``truths`` has the label of each row that counts in the end, None where none ever comes.
    """

    rows: Sequence[Row]
    truths: Sequence[Scalar | None]
    labels: Sequence[Label]


class Late(NamedTuple):
    """A row that arrived behind the watermark, and by how much."""

    row: Row
    behind_ms: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows and labels, each in the order of arrival.

    Attributes
    ----------
    late
        Rows that were put aside, because they came behind the watermark; whether
        they did is judged here, before partitioning, so that the number of
        partitions does not matter.
    """

    rows: Sequence[Row]
    labels: Sequence[Label]
    late: Sequence[Late] = ()

    @classmethod
    def of(cls, rows: Iterable[Row], labels: Iterable[Label], *, grace_ms: int) -> Stream:
        """Order what arrives, and put the late rows and their labels aside."""
        newest_ms: int | None = None
        kept: list[Row] = []
        late: list[Late] = []
        for row in sorted(rows, key=lambda row: row.arrival_ms):
            behind_ms = 0 if newest_ms is None else newest_ms - grace_ms - row.time_ms
            newest_ms = row.time_ms if newest_ms is None else max(newest_ms, row.time_ms)
            if behind_ms > 0:
                late.append(Late(row, behind_ms))
            else:
                kept.append(row)
        refused = {row.prediction_id for row, _ in late}
        known = [label for label in labels if label.prediction_id not in refused]
        return cls(kept, sorted(known, key=lambda label: label.arrival_ms), late)

    def __len__(self) -> int:
        """Give the number of rows that take part."""
        return len(self.rows)

    def champions(self) -> Stream:
        """Give it without the predictions made in the shadow."""
        return Stream([row for row in self.rows if row.role == "champion"], self.labels, self.late)

    def label_of(self) -> dict[str, Label]:
        """Give the label that counts in the end, by prediction id."""
        found: dict[str, Label] = {}
        for label in self.labels:
            known = found.get(label.prediction_id)
            if known is None or label.time_ms >= known.time_ms:
                found[label.prediction_id] = label
        return found


def prediction_value(row: Row, model: str) -> bytes:
    """Give the event of a prediction that was made elsewhere."""
    event: dict[str, Any] = {
        "prediction_id": row.prediction_id,
        "model": model,
        "version": row.version,
        "role": row.role,
        "event_time_ms": row.time_ms,
        "features": row.features,
    }
    if row.output is not None:
        event["output"] = row.output
    if row.segments:
        event["segments"] = dict(row.segments)
    return _encode(event)


def request_value(row: Row, model: str) -> bytes:
    """Give the event that asks Kedge's own model for the prediction."""
    return _encode(
        {
            "request_id": row.prediction_id,
            "model": model,
            "rows": [row.features],
            "event_time_ms": row.time_ms,
            "segments": dict(row.segments),
        }
    )


def outcome_value(label: Label, model: str) -> bytes:
    """Give the event of a label."""
    return _encode(
        {
            "prediction_id": label.prediction_id,
            "model": model,
            "label": label.label,
            "event_time_ms": label.time_ms,
        }
    )
