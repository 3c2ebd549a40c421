"""What is counted of the answers of rows: the prediction, its score, and the class it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar, label_text
from kedge.panes import Reference
from kedge_services.core.binning import PREDICTION, SCORE
from kedge_services.core.columns import Coded, Values
from kedge_services.core.decoding import OutputRow
from kedge_services.core.groups import Numbers, Table
from kedge_services.core.intake import answer, score_of
from kedge_services.core.plans import Plan

__all__ = ["GivenAnswers", "given_answers"]


class GivenAnswers(NamedTuple):
    """The answers of rows, as they are counted."""

    predictions: Values | Coded | None = None
    scores: Values | None = None
    answers: Sequence[str | float | None] | Coded | None = None
    answer_scores: Values | None = None
    nulls: Mapping[Any, int] = {}


def given_answers(plan: Plan, reference: Reference, table: Table) -> GivenAnswers:
    """Find out what is counted of the outputs of rows."""
    told_apart = reference.score is not None and not plan.regression
    if table.outputs is not None:
        outputs = table.outputs
        return GivenAnswers(
            list(map(_answer, outputs)),
            None if reference.score is None else list(map(_score, outputs)),
            [answer(plan, output) for output in outputs] if told_apart else None,
            _compared(plan, outputs),
        )
    rows, nulls = table.rows, {}
    labels, values, scores = table.labels, table.values, table.scores
    predictions: Values | Coded | None = None
    if labels is None:
        predictions = Coded(np.zeros(rows, dtype=np.int64), [None])
        if values is not None:
            predictions, nulls[PREDICTION] = values
    elif values is not None and bool(_without(labels).any()):
        predictions = [
            (None if isnan(value) and values.null else value) if label is None else label
            for label, value in zip(labels.values(), values.values.tolist(), strict=True)
        ]
    else:
        predictions = labels
    given: Values | None = None
    if reference.score is not None:
        given = [None] * rows
        if scores is not None:
            given, nulls[SCORE] = scores
    answers = _texts(plan, labels, scores, rows) if told_apart else None
    return GivenAnswers(predictions, given, answers, None, nulls)


def _texts(plan: Plan, labels: Coded | None, scores: Numbers | None, rows: int) -> Coded:
    """Give the classes that are compared with labels, as :func:`answer` finds them."""
    if labels is not None:
        texts = [None if label is None else label_text(label) for label in labels.names]
        is_without = _without(labels)
        if not is_without.any():
            return Coded(labels.codes, texts)
    by_score = np.full(rows, -1)
    names: list[Any] = []
    if plan.positive is not None and scores is not None:
        negative = next(text for text in plan.classes if text != plan.positive)
        names = [plan.positive, negative]
        by_score = np.where(scores.values >= 0.5, 0, np.where(scores.values < 0.5, 1, -1))
    if labels is None:
        return Coded(by_score, names)
    codes = np.where(is_without, by_score, labels.codes + len(names))
    return Coded(codes, [*names, *texts])


def _without(labels: Coded) -> NDArray[np.bool_]:
    """Say which rows have no label."""
    found: NDArray[np.bool_] = np.array([*(name is None for name in labels.names), True])[
        labels.codes
    ]
    return found


def _answer(output: OutputRow | None) -> Scalar | None:
    if output is None:
        return None
    return output.value if output.label is None else output.label


def _score(output: OutputRow | None) -> float | None:
    if output is None:
        return None
    if output.score is None and output.scores:
        return max(output.scores.values())
    return output.score


def _compared(plan: Plan, outputs: Sequence[OutputRow | None]) -> list[float | None] | None:
    """Give the scores that labels are compared with, where those are not the drift test's.

    Of two classes' scores that is the positive's, and not the higher one.
    """
    if plan.positive is None or not any(o is not None and o.scores for o in outputs):
        return None
    return [score_of(plan, output) for output in outputs]
