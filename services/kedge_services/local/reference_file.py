"""Reference data from a file: what a model from elsewhere is held to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kedge import Monitor, Reference
from kedge.base import Scalar, label_text
from kedge.errors import UsageError
from kedge_services.core.references import build_reference
from kedge_services.local.files import feature_value, records

__all__ = [
    "Columns",
    "ReferenceRows",
    "make_reference",
    "read_reference",
    "read_reference_rows",
    "reference_of",
]

Values = Sequence[Scalar | None]


class Columns(NamedTuple):
    """The columns beside the features; None where the file has none."""

    label: str | None = None
    prediction: str | None = None
    score: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """The rows of a file by column, in its order.

    Attributes
    ----------
    features
        By the names of the monitor.
    answers
        ``label``, ``prediction`` and ``score``, as far as there are any.
    """

    path: Path
    features: Mapping[str, Values]
    answers: Mapping[str, Values] = field(default_factory=dict)

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(next(iter(self.features.values())))

    def rows(self, start: int, end: int) -> list[dict[str, Scalar | None]]:
        """Give the features of the rows ``[start, end)``, as a model takes them."""
        names = list(self.features)
        parts = (values[start:end] for values in self.features.values())
        return [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]


def read_reference(path: Path, monitor: Monitor, version: str, columns: Columns) -> Reference:
    """Build a version's reference from a file; see :func:`read_reference_rows`."""
    return make_reference(read_reference_rows(path, monitor, columns), monitor, version)


def read_reference_rows(path: Path, monitor: Monitor, columns: Columns) -> ReferenceRows:
    """Read the rows of a file in their declared types.

    Rows are taken in the order of the file, which should be that of event time.

    Raises
    ------
    UsageError
        The file cannot be read, a column is missing, or a value is not of its
        column's type or classes; the message names file, row and column.
    """
    features: dict[str, list[Scalar | None]] = {name: [] for name in monitor.features}
    answers: dict[str, list[Scalar | None]] = {
        name: [] for name in Columns._fields if getattr(columns, name) is not None
    }
    readers = _readers(monitor)
    for number, row in enumerate(records(path), start=1):
        place = f"{path}: row {number}"
        for name, feature in monitor.features.items():
            value = feature_value(_cell(row, name, place), feature.type)
            if feature.type == "numeric" and isinstance(value, str):
                raise UsageError(f"{place}: {name}: expected a number (got {value!r})")
            features[name].append(value)
        for name, values in answers.items():
            column = getattr(columns, name)
            cell = _cell(row, column, place)
            try:
                values.append(None if _is_missing(cell) else readers[name](cell))
            except ValueError as error:
                raise UsageError(f"{place}: {column}: {error}") from error
    if not any(features.values()):
        raise UsageError(f"{path}: no rows")
    return ReferenceRows(path, features, answers)


def make_reference(read: ReferenceRows, monitor: Monitor, version: str) -> Reference:
    """Build the reference of a version from the rows of a file."""
    digest = hashlib.sha256(read.path.read_bytes()).hexdigest()
    lineage = {"file": read.path.name, "sha256": digest}
    return reference_of(read.features, read.answers, monitor, version, lineage=lineage)


def reference_of(
    features: Mapping[str, Values],
    answers: Mapping[str, Values],
    monitor: Monitor,
    version: str,
    *,
    lineage: Mapping[str, Any],
) -> Reference:
    """Build the reference of a version that was made elsewhere.

    With labels and predictions it holds the loss, too: the version's model
    should not have been fitted on these rows.

    Parameters
    ----------
    features
        By the names of the monitor, rows in the order of event time.
    answers
        ``label``, ``prediction`` and ``score``, as far as there are any.
    lineage
        Where the rows are from.
    """
    kinds: dict[str, Literal["numeric", "categorical"]] = {
        name: "numeric" if feature.type == "numeric" else "categorical"
        for name, feature in monitor.features.items()
    }
    scores = [None if s is None else float(s) for s in answers.get("score", ())]
    return build_reference(
        model=monitor.model,
        version=version,
        columns=features,
        kinds=kinds,
        predictions=answers.get("prediction"),
        scores=scores if any(score is not None for score in scores) else None,
        labels=answers.get("label"),
        losses=_losses(monitor, answers),
        origin="file",
        lineage=dict(lineage),
        regression=monitor.task == "regression",
    )


def _readers(monitor: Monitor) -> dict[str, Callable[[Any], Scalar]]:
    answer = _finite if monitor.task == "regression" else _class_of(monitor)
    return {"label": answer, "prediction": answer, "score": _finite}


def _class_of(monitor: Monitor) -> Callable[[Any], Scalar]:
    classes = {label_text(label): label for label in monitor.classes}

    def read(cell: Any) -> Scalar:
        text = label_text(cell)
        if text not in classes:
            raise ValueError(f"expected one of {', '.join(classes)} (got {text!r})")
        return classes[text]

    return read


def _finite(cell: Any) -> float:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number (got {cell!r})")
    return number


def _losses(monitor: Monitor, answers: Mapping[str, Values]) -> list[float] | None:
    if "label" not in answers or "prediction" not in answers:
        return None
    pairs = zip(answers["label"], answers["prediction"], strict=True)
    known = [(y, p) for y, p in pairs if y is not None and p is not None]
    if monitor.task == "regression":
        return [abs(float(y) - float(p)) for y, p in known] or None
    return [float(label_text(y) != label_text(p)) for y, p in known] or None


def _is_missing(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _cell(row: Mapping[str, Any], column: str, place: str) -> Any:
    if column not in row:
        raise UsageError(f"{place}: no column {column!r}; there are: {', '.join(map(str, row))}")
    return row[column]
