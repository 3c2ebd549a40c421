"""What a new version is held to: honest answers to rows it has not learnt from, and features.

The losses of a reference calibrate the error-rate detector, so they must not
be those of rows the model was fitted on.  A batch family answers its window in
ten contiguous blocks, each by a model trained on the other nine; a window of
20,000 rows or more in one block, the newest tenth (at most 5,000 rows), by a
model trained on what was before.  Not fewer blocks: a model of four fifths of
the rows is noticeably less sure of itself, and its scores would make the
version that serves look as if it had drifted.  An incremental family answers every row
before it learns from it; the newest 5,000 of these answers count.

The newest 20 % of *all* rows would be simpler, but after a change of concept
they are rows of the old and the new one mixed, and a window of 500 would have
nothing to be trained on before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from kedge.base import Scalar, label_text
from kedge.events import Output, RetrainRequest
from kedge.panes import Calibrator, Reference
from kedge_services.core import selection
from kedge_services.core.binning import output_label, output_score
from kedge_services.core.calibration import fit_calibrator
from kedge_services.core.references import build_reference
from kedge_services.core.strata import RowTimes
from kedge_services.runtime.formats.columns import is_text
from kedge_services.trainer.examples import Examples
from kedge_services.trainer.families import Family, Shape, Table

__all__ = ["MOST", "Held", "make_reference"]

BLOCKS = 10
#: Rows from which one block is enough, and the rows it has at most.
MANY = 20_000
MOST = 5_000
#: Rows of the newest data the features are compared with, if there are so many.
FEATURE_ROWS = 5_000
#: Rows without which a reference allows no verdict.
LEAST = 1_000


@dataclass(frozen=True, slots=True)
class Held:
    """Answers to rows by models that had not learnt from them.

    ``indices`` are the rows', in the order of training.
    """

    indices: Sequence[int]
    outputs: Sequence[Output]

    @classmethod
    def of(
        cls, family: Family, table: Table, indices: Sequence[int], shape: Shape, *, seed: int
    ) -> Held:
        """Have a window's rows answered in blocks; ``indices`` are those of the table's rows."""
        n = len(table)
        edges = [k * n // BLOCKS for k in range(BLOCKS + 1)]
        if n >= MANY:
            edges = [n - min(MOST, n // BLOCKS), n]
        taken: list[int] = []
        outputs: list[Output] = []
        for start, end in pairwise(edges):
            try:
                fitted = family.fit(table.without(start, end), shape, seed=seed)
            except ValueError:
                continue  # without this block one class is left, nothing can be learnt
            taken += indices[start:end]
            outputs += fitted.predictor.predict(list(table.rows[start:end]))
        return cls(taken, outputs)


def make_reference(
    *,
    request: RetrainRequest,
    rows: Examples,
    taken: Sequence[int],
    held: Held,
    shape: Shape,
    is_window: bool,
    timezone: str | None = None,
) -> Reference:
    """Make the reference of a new version; the registry puts the version's name in.

    Parameters
    ----------
    rows
        All rows there are, in the order of training.
    taken
        Those the model was trained on.
    held
        Answers to some of them by models that had not seen them.
    is_window
        The rows are those since a known change: what was before it is no
        reference for the features, however few rows there are.
    timezone
        By whose clocks the hours of the week are told apart; None: they are not.
    """
    wanted = _feature_rows(taken, len(rows), is_window=is_window, is_seasonal=timezone is not None)
    features = _by_time(rows, wanted)
    answered = _by_time(rows, range(len(held.indices)), held.indices)
    outputs = [held.outputs[k] for k in answered]
    told = rows.take([held.indices[k] for k in answered])
    labels, shown = told.labels.values(), rows.take(features)
    kinds: dict[str, Literal["numeric", "categorical"]] = {
        column.name: "categorical" if is_text(column) else "numeric" for column in shape.columns
    }
    is_regression = not shape.classes
    # Counted as the panes will count what the version answers when it serves.
    counted = [output.model_dump(exclude_none=True) for output in outputs]
    predictions = list(map(output_label, counted))
    scores = list(map(output_score, counted))
    losses = [_loss(o, label, shape.classes) for o, label in zip(outputs, labels, strict=True)]
    return build_reference(
        model=request.model,
        version=request.request_id,
        columns={name: shown.features.column(name) for name in kinds},
        kinds=kinds,
        predictions=predictions,
        scores=None if is_regression else scores,
        labels=labels,
        losses=losses or None,
        calibrator=_calibrator(outputs, labels, shape.classes),
        origin="held-out",
        lineage={"request_id": request.request_id, "held_out_rows": len(labels)},
        regression=is_regression,
        times=None
        if timezone is None
        else RowTimes(
            timezone,
            shown.event_times_ms.tolist(),
            told.event_times_ms.tolist(),
        ),
    )


def _feature_rows(
    taken: Sequence[int], total: int, *, is_window: bool, is_seasonal: bool
) -> Sequence[int]:
    if is_window and len(taken) >= LEAST:
        return taken
    if is_seasonal:  # weeks of rows are needed, to know what each hour is like
        return range(total)
    return range(total - min(total, max(len(taken), FEATURE_ROWS)), total)


def _by_time(
    rows: Examples, keys: Sequence[int], indices: Sequence[int] | None = None
) -> list[int]:
    """Give the keys in the order of their rows' event times."""
    times_ms = rows.event_times_ms.tolist()

    def time_of(key: int) -> tuple[int, str]:
        place = key if indices is None else indices[key]
        return times_ms[place], rows.ids[place]

    return sorted(keys, key=time_of)


def _loss(output: Output, label: Scalar, classes: Sequence[Scalar]) -> float:
    said = selection.answer(output, classes)
    true = selection.target(label, classes)
    if said is None or true is None:
        raise ValueError("a row of the reference has no answer or no label")
    return abs(said - true) if not classes else float(said != true)


def _calibrator(
    outputs: Sequence[Output], labels: Sequence[Scalar], classes: Sequence[Scalar]
) -> Calibrator | None:
    """Fit the calibrator on what live rows' scores are compared with; None for regression."""
    if not classes:
        return None
    scores: list[float | None] = []
    rights: list[bool | None] = []
    for output, label in zip(outputs, labels, strict=True):
        said, true = selection.answer(output, classes), selection.target(label, classes)
        score, all_scores = output.score, output.scores or {}
        if len(classes) == 2:
            scores.append(all_scores.get(label_text(classes[1])) if score is None else score)
            rights.append(true == 1)
        else:
            scores.append(max(all_scores.values(), default=None) if score is None else score)
            rights.append(said == true)
    return fit_calibrator(scores, rights)
