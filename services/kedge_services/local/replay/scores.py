"""How good the answers were as they were given, beside the answers nobody has to learn for.

References
----------
.. [1] I. Žliobaitė et al., "Evaluation methods and decision theory for classification
   of streaming data with temporal dependence", Machine Learning 98 (2015): kappa_t.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kedge.base import Scalar, label_text
from kedge_services.core.performance import wilson
from kedge_services.local.replay.stream import Label, Stream

__all__ = ["Scores", "Step", "answers_of", "no_change", "score"]

_Z95 = 1.959963984540054


class Step(NamedTuple):
    """The score of an interval of event time, with its 95 % interval where there is one."""

    at_ms: int
    value: float
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy, or for regression the mean absolute error; None where nobody answered.

    ``given`` are the answers that were given, each before its label was known;
    ``static`` those of the first version, had it never been replaced;
    ``no_change`` repeats the last label known at the time.  ``over_time`` has
    the same three by name, pane by pane; ``whole`` is all of ``given`` as one step.
    """

    labelled: int
    is_error: bool
    given: float | None
    static: float | None
    no_change: float | None
    over_time: Mapping[str, Sequence[Step]] = field(default_factory=dict)
    whole: Step | None = None

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

    def losses(answers: Mapping[str, Scalar]) -> list[tuple[int, float]]:
        return [
            (row.time_ms, loss(answers[row.prediction_id], labels[row.prediction_id]))
            for row in rows
            if row.prediction_id in answers
        ]

    found = {
        "given": losses(given),
        "static": losses(static),
        "no_change": losses(no_change(stream)),
    }
    means = {
        name: _shown(statistics.fmean(loss for _, loss in pairs), regression=regression)
        if pairs
        else None
        for name, pairs in found.items()
    }
    every = [loss for _, loss in found["given"]]
    return Scores(
        labelled=len(rows),
        is_error=regression,
        given=means["given"],
        static=means["static"],
        no_change=means["no_change"],
        over_time={
            name: _steps(pairs, step_ms, is_error=regression) for name, pairs in found.items()
        },
        whole=_step(0, every, is_error=regression) if every else None,
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


def _steps(pairs: Iterable[tuple[int, float]], step_ms: int, *, is_error: bool) -> list[Step]:
    steps: dict[int, list[float]] = {}
    for at_ms, loss in pairs:
        steps.setdefault(at_ms - at_ms % step_ms, []).append(loss)
    return [_step(at_ms, losses, is_error=is_error) for at_ms, losses in sorted(steps.items())]


def _step(at_ms: int, losses: Sequence[float], *, is_error: bool) -> Step:
    """Give the mean with its interval: for shares by Wilson, else mean +- 1.96 s / sqrt(n)."""
    n, mean = len(losses), statistics.fmean(losses)
    if not is_error:
        interval = wilson(n - math.fsum(losses), n) or (None, None)
        return Step(at_ms, 1 - mean, n, *interval)
    if n < 2:
        return Step(at_ms, mean, n, None, None)
    half = _Z95 * statistics.stdev(losses) / math.sqrt(n)
    return Step(at_ms, mean, n, max(0.0, mean - half), mean + half)
