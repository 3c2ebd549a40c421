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
from kedge.panes import Calibrator
from kedge_services.core.calibration import fit_calibrator
from kedge_services.core.references import build_reference
from kedge_services.core.strata import LEAST_ROWS, LEAST_WEEKS, RowTimes
from kedge_services.local.cells import parse_ms
from kedge_services.local.files import feature_value, records

__all__ = [
    "Columns",
    "ReferenceRows",
    "beside",
    "columns_of",
    "make_reference",
    "read_reference",
    "read_reference_rows",
    "reference_of",
]

_DAY_MS = 86_400_000

Values = Sequence[Scalar | None]


class Columns(NamedTuple):
    """The columns beside the features; None where the file has none."""

    label: str | None = None
    prediction: str | None = None
    score: str | None = None
    timestamp: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """The rows of a file by column, in its order.

    Attributes
    ----------
    features
        By the names of the monitor.
    answers
        ``label``, ``prediction`` and ``score``, as far as there are any.
    times_ms
        Event times, where the file has them.
    """

    path: Path
    features: Mapping[str, Values]
    answers: Mapping[str, Values] = field(default_factory=dict)
    times_ms: Sequence[int] | None = None

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(next(iter(self.features.values())))

    def rows(self, start: int, end: int) -> list[dict[str, Scalar | None]]:
        """Give the features of the rows ``[start, end)``, as a model takes them."""
        names = list(self.features)
        parts = (values[start:end] for values in self.features.values())
        return [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]


def beside(monitor: Monitor, file: Path) -> Monitor:
    """Give the monitor with the path of its reference as seen from here.

    A relative path is relative to ``file``, the one the monitor was read from.
    """
    if monitor.reference.path is None:
        return monitor
    path = str(file.parent / monitor.reference.path)
    reference = monitor.reference.model_copy(update={"path": path})
    return monitor.model_copy(update={"reference": reference})


def read_reference(path: Path, monitor: Monitor, version: str, columns: Columns) -> Reference:
    """Build a version's reference from a file; see :func:`read_reference_rows`."""
    return make_reference(read_reference_rows(path, monitor, columns), monitor, version)


def read_reference_rows(path: Path, monitor: Monitor, columns: Columns) -> ReferenceRows:
    """Read the rows of a file in their declared types.

    Rows stay in the order of the file, which without a column of times should be that
    of event time.

    Raises
    ------
    UsageError
        The file cannot be read, a column is missing, or a value is not of its
        column's type or classes; the message names file, row and column.
    """
    features: dict[str, list[Scalar | None]] = {name: [] for name in monitor.features}
    readers = _readers(monitor)
    answers: dict[str, list[Scalar | None]] = {
        name: [] for name in readers if getattr(columns, name) is not None
    }
    times: list[int] = []
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
        if columns.timestamp is not None:
            cell = _cell(row, columns.timestamp, place)
            try:
                times.append(parse_ms(cell))
            except ValueError as error:
                raise UsageError(
                    f"{place}: {columns.timestamp}: expected a time, ISO 8601 or ms since 1970 "
                    f"(got {cell!r})"
                ) from error
    if not any(features.values()):
        raise UsageError(f"{path}: no rows")
    return ReferenceRows(path, features, answers, times or None)


def columns_of(path: Path, monitor: Monitor) -> Columns:
    """Give the columns a monitor's ``[replay]`` names, as far as the file has them.

    Raises
    ------
    UsageError
        The file cannot be read.
    """
    there = next(iter(records(path)), {})
    wanted = {name: getattr(monitor.replay, name, None) for name in Columns._fields}
    return Columns(**{name: column for name, column in wanted.items() if column in there})


def make_reference(read: ReferenceRows, monitor: Monitor, version: str) -> Reference:
    """Build the reference of a version from the rows of a file.

    Raises
    ------
    UsageError
        The hours of the week cannot be told apart by these rows.
    """
    digest = hashlib.sha256(read.path.read_bytes()).hexdigest()
    lineage = {"file": read.path.name, "sha256": digest}
    if monitor.timezone is not None and read.times_ms is None:
        raise UsageError(
            f'{read.path}: the monitor compares with the same hour of the week (from = "same-hour")'
            ", so its rows need a column of times (--timestamp)"
        )
    return reference_of(
        read.features, read.answers, monitor, version, times_ms=read.times_ms, lineage=lineage
    )


def reference_of(
    features: Mapping[str, Values],
    answers: Mapping[str, Values],
    monitor: Monitor,
    version: str,
    *,
    lineage: Mapping[str, Any],
    times_ms: Sequence[int] | None = None,
) -> Reference:
    """Build the reference of a version that was made elsewhere.

    With labels and predictions it holds the loss, too: the version's model
    should not have been fitted on these rows.

    Parameters
    ----------
    features
        By the names of the monitor; rows in the order of event time, unless ``times_ms``
        tells it.
    answers
        ``label``, ``prediction`` and ``score``, as far as there are any.
    lineage
        Where the rows are from.

    Raises
    ------
    UsageError
        The hours of the week are to be told apart, and there are too few rows.
    """
    if times_ms is not None:
        order = sorted(range(len(times_ms)), key=times_ms.__getitem__)
        times_ms = [times_ms[i] for i in order]
        features, answers = (
            {name: [values[i] for i in order] for name, values in columns.items()}
            for columns in (features, answers)
        )
    kinds: dict[str, Literal["numeric", "categorical"]] = {
        name: "numeric" if feature.type == "numeric" else "categorical"
        for name, feature in monitor.features.items()
    }
    scores = [None if s is None else float(s) for s in answers.get("score", ())]
    timezone = monitor.timezone
    times = None if timezone is None or not times_ms else RowTimes(timezone, times_ms)
    made = build_reference(
        model=monitor.model,
        version=version,
        columns=features,
        kinds=kinds,
        predictions=answers.get("prediction"),
        scores=scores if any(score is not None for score in scores) else None,
        labels=answers.get("label"),
        losses=_losses(monitor, answers),
        calibrator=_calibrator(monitor, answers, scores),
        origin="file",
        lineage=dict(lineage),
        regression=monitor.task == "regression",
        times=times,
    )
    if times is not None:
        _check_seasons(made, times_ms or ())
    return made


def _check_seasons(made: Reference, times_ms: Sequence[int]) -> None:
    """Refuse a seasonal reference that tells no hour from another."""
    if made.seasons is not None and len({*made.seasons.hours}) == 1:
        days = (times_ms[-1] - times_ms[0]) / _DAY_MS
        raise UsageError(
            f"{made.rows} rows of {days:.0f} days are too few to compare with the same hour of the "
            f"week: an hour of the day needs {LEAST_ROWS} rows in {LEAST_WEEKS} weeks"
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


def _calibrator(
    monitor: Monitor, answers: Mapping[str, Values], scores: Sequence[float | None]
) -> Calibrator | None:
    """Fit the calibrator, if the rows say whether the class that the score is of was right."""
    labels, said = answers.get("label"), answers.get("prediction")
    if not labels or not scores or monitor.task == "regression":
        return None
    if monitor.task == "binary":
        positive = label_text(monitor.classes[1] if monitor.positive is None else monitor.positive)
        return fit_calibrator(
            scores, [None if y is None else label_text(y) == positive for y in labels]
        )
    return fit_calibrator(
        scores,
        [
            None if y is None or p is None else label_text(y) == label_text(p)
            for y, p in zip(labels, said or [None] * len(labels), strict=True)
        ],
    )


def _is_missing(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _cell(row: Mapping[str, Any], column: str, place: str) -> Any:
    if column not in row:
        raise UsageError(f"{place}: no column {column!r}; there are: {', '.join(map(str, row))}")
    return row[column]
