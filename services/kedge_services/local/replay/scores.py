"""How good the answers were as they were given, beside the answers nobody has to learn for.

References
----------
.. [1] I. Žliobaitė et al., "Evaluation methods and decision theory for classification
   of streaming data with temporal dependence", Machine Learning 98 (2015): kappa_t.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kedge.base import Scalar, label_text
from kedge_services.local.replay.stream import Label, Stream

__all__ = ["Scores", "answers_of", "no_change", "score"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy, or for regression the mean absolute error; None where nobody answered.

    ``given`` are the answers that were given, each before its label was known;
    ``static`` those of the first version, had it never been replaced;
    ``no_change`` repeats the last label known at the time.
    """

    labelled: int
    is_error: bool
    given: float | None
    static: float | None
    no_change: float | None
    over_time: list[tuple[int, float, int]] = field(default_factory=list)

    @property
    def kappa_t(self) -> float | None:
        """How much of what repeating the last label gets wrong was got right [1]_."""
        if self.is_error or self.given is None or self.no_change in (None, 1.0):
            return None
        return (self.given - self.no_change) / (1 - self.no_change)

    def named(self) -> dict[str, float | None]:
        """Give the scores by the names they have in a summary."""
        names = ("mae", "mae_static", "mae_no_change") if self.is_error else (
            "accuracy", "accuracy_static", "accuracy_no_change",
        )  # fmt: skip
        scores = dict(zip(names, (self.given, self.static, self.no_change), strict=True))
        return scores if self.is_error else {**scores, "kappa_t": self.kappa_t}


def score(
    stream: Stream,
    given: Mapping[str, Scalar],
    static: Mapping[str, Scalar],
    *,
    regression: bool,
    step_ms: int,
) -> Scores:
    """Score the answers to the labelled rows of a stream.

    Parameters
    ----------
    given, static
        Answers by prediction id.
    step_ms
        Length of the intervals of event time of ``over_time``.
    """
    labels = {name: label.label for name, label in stream.label_of().items()}
    rows = [row for row in stream.rows if row.role == "champion" and row.prediction_id in labels]
    loss = _error if regression else _miss

    def mean(answers: Mapping[str, Scalar]) -> float | None:
        losses = [
            loss(answers[row.prediction_id], labels[row.prediction_id])
            for row in rows
            if row.prediction_id in answers
        ]
        return _shown(statistics.fmean(losses), regression=regression) if losses else None

    steps: dict[int, list[float]] = {}
    for row in rows:
        if row.prediction_id in given:
            found = loss(given[row.prediction_id], labels[row.prediction_id])
            steps.setdefault(row.time_ms - row.time_ms % step_ms, []).append(found)
    return Scores(
        labelled=len(rows),
        is_error=regression,
        given=mean(given),
        static=mean(static),
        no_change=mean(no_change(stream)),
        over_time=[
            (at_ms, _shown(statistics.fmean(losses), regression=regression), len(losses))
            for at_ms, losses in sorted(steps.items())
        ],
    )


def no_change(stream: Stream) -> dict[str, Scalar]:
    """Answer every row with the last label that had arrived before it."""
    answers: dict[str, Scalar] = {}
    last: Scalar | None = None
    for what in stream.arrivals():
        if isinstance(what, Label):
            last = what.label
        elif last is not None:
            answers[what.prediction_id] = last
    return answers


def answers_of(predictions: Iterable[tuple[str, Mapping[str, Any] | None]]) -> dict[str, Scalar]:
    """Give the answers by prediction id; of several to one id the first counts."""
    answers: dict[str, Scalar] = {}
    for name, output in predictions:
        if output is None:
            continue
        answer = output.get("value", output.get("label"))
        if answer is not None:
            answers.setdefault(name, answer)
    return answers


def _miss(answer: Scalar, label: Scalar) -> float:
    # The same text needs no comparison of how else it may be written.
    return 0.0 if answer is label else float(label_text(answer) != label_text(label))


def _error(answer: Scalar, label: Scalar) -> float:
    return abs(float(answer) - float(label))


def _shown(loss: float, *, regression: bool) -> float:
    return loss if regression else 1 - loss
