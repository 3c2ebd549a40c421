"""A model from elsewhere on its reference rows, before anybody hears of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from kedge import Monitor, Output
from kedge.base import Scalar
from kedge.errors import UnsafeArtefact
from kedge_services.core import selection
from kedge_services.core.binning import output_label, output_score
from kedge_services.local.reference_file import ReferenceRows
from kedge_services.runtime.formats import Predictor

__all__ = ["answered", "measured", "try_model"]

#: Rows asked at once.
BATCH = 1_000
#: The share of rows that may be answered otherwise than the file says: models are
#: converted to single precision, and a row may lie on the edge.
FLIPS = 0.01
#: What numbers may differ by, relatively.
PRECISION = 1e-3


def try_model(predictor: Predictor, read: ReferenceRows, name: str) -> list[Output]:
    """Have a model answer every row of a file; ``name`` is what messages call it.

    Raises
    ------
    UnsafeArtefact
        It cannot answer a row; the message names it.
    """
    outputs: list[Output] = []
    for start in range(0, len(read), BATCH):
        rows = read.rows(start, min(start + BATCH, len(read)))
        try:
            outputs += predictor.predict(rows)
        except Exception:  # noqa: BLE001 -- whichever row it was is asked alone, and says why
            outputs += [
                _alone(predictor, read, number, name) for number in range(start, start + len(rows))
            ]
    return outputs


def _alone(predictor: Predictor, read: ReferenceRows, number: int, name: str) -> Output:
    (row,) = read.rows(number, number + 1)
    try:
        (output,) = predictor.predict([row])
    except Exception as error:
        missing = [column for column, value in row.items() if value is None]
        hint = f" (missing there: {', '.join(missing)})" if missing else ""
        raise UnsafeArtefact(
            f"{name}: cannot answer row {number + 1} of {read.path}{hint}: {error}"
        ) from error
    return output


def answered(
    read: ReferenceRows, outputs: Sequence[Output], monitor: Monitor, name: str
) -> ReferenceRows:
    """Give the rows with the model's answers where the file has none of its own.

    Raises
    ------
    UnsafeArtefact
        The file has, and the model answers otherwise: it is another model, or
        its columns or classes are in another order.
    """
    counted = [output.model_dump(exclude_none=True) for output in outputs]
    made: dict[str, Sequence[Scalar | None]] = {"prediction": list(map(output_label, counted))}
    if monitor.task != "regression":
        made["score"] = list(map(output_score, counted))
    for what, theirs in read.answers.items():
        if what in made:
            _check_same(read, monitor, what, theirs, made[what], name)
    return replace(read, answers={**made, **read.answers})


def measured(read: ReferenceRows, monitor: Monitor) -> dict[str, float]:
    """Score the answers on the rows that have a label; empty when none has."""
    labels, answers = read.answers.get("label", ()), read.answers.get("prediction", ())
    pairs = [
        (selection.target(answer, monitor.classes), selection.target(label, monitor.classes))
        for answer, label in zip(answers, labels, strict=False)
        if answer is not None and label is not None
    ]
    known = [(said, true) for said, true in pairs if said is not None and true is not None]
    if not known:
        return {}
    said, true = zip(*known, strict=True)
    return selection.metrics(said, true, monitor.classes)


def _check_same(
    read: ReferenceRows,
    monitor: Monitor,
    what: str,
    theirs: Sequence[Scalar | None],
    ours: Sequence[Scalar | None],
    name: str,
) -> None:
    is_number = what == "score" or monitor.task == "regression"
    both = [(number, a, b) for number, (a, b) in enumerate(zip(theirs, ours, strict=True), start=1)
            if a is not None and b is not None]  # fmt: skip
    differ = [each for each in both if not _is_same(each[1], each[2], is_number=is_number)]
    if len(differ) > FLIPS * len(both):
        number, expected, found = differ[0]
        raise UnsafeArtefact(
            f"{name}: is not the model that answered {read.path}: its {what} differs in "
            f"{len(differ)} of {len(both)} rows, first in row {number} ({found!r}, the file says "
            f"{expected!r}); are its columns and classes in this order?"
        )


def _is_same(a: Scalar, b: Scalar, *, is_number: bool) -> bool:
    if is_number:
        return math.isclose(float(a), float(b), rel_tol=PRECISION, abs_tol=PRECISION)
    return a == b
