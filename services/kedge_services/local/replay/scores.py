"""How good the answers were as they were given, beside the answers nobody has to learn for.

References
----------
.. [1] I. Žliobaitė et al., "Evaluation methods and decision theory for classification
   of streaming data with temporal dependence", Machine Learning 98 (2015): kappa_t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kedge.base import Scalar, label_text
from kedge_services.core.performance import wilson
from kedge_services.local.replay.exact import Exact

__all__ = ["Scorer", "Scores", "Step", "answer_of"]

_Z95 = 1.959963984540054
_NAMES = ("given", "static", "no_change")


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


class Scorer:
    """Scores answers to labelled rows as they come; what it keeps is a few numbers a pane.

    Parameters
    ----------
    regression
        Errors are absolute ones, not whether the class was missed.
    step_ms
        Length of the intervals of event time of ``over_time``.
    """

    def __init__(self, *, regression: bool, step_ms: int) -> None:
        self._is_error = regression
        self._step_ms = step_ms
        self._labelled = 0
        self._losses: dict[str, dict[int, Exact]] = {name: {} for name in _NAMES}

    def add(self, time_ms: int, label: Scalar, answers: Mapping[str, Scalar | None]) -> None:
        """Take a labelled row and the answers to it, by the names of ``over_time``."""
        self._labelled += 1
        at_ms = time_ms - time_ms % self._step_ms
        loss = _error if self._is_error else _miss
        for name, answer in answers.items():
            if answer is not None:
                steps = self._losses[name]
                losses = steps.get(at_ms)
                if losses is None:
                    losses = steps[at_ms] = Exact()
                losses.add(loss(answer, label))

    def scores(self) -> Scores:
        """Give the scores of all rows taken."""
        whole = {
            name: _step(0, Exact.of(steps.values()), is_error=self._is_error) if steps else None
            for name, steps in self._losses.items()
        }
        over_time = {
            name: [
                _step(at, losses, is_error=self._is_error) for at, losses in sorted(steps.items())
            ]
            for name, steps in self._losses.items()
        }
        means = {name: None if step is None else step.value for name, step in whole.items()}
        return Scores(
            self._labelled, self._is_error, **means, over_time=over_time, whole=whole["given"]
        )


def answer_of(output: Mapping[str, Any] | None) -> Scalar | None:
    """Give the answer of an output: its value, or its label."""
    found: Scalar | None = None if output is None else output.get("value", output.get("label"))
    return found


def _miss(answer: Scalar, label: Scalar) -> float:
    # The same text needs no comparison of how else it may be written.
    return 0.0 if answer is label else float(label_text(answer) != label_text(label))


def _error(answer: Scalar, label: Scalar) -> float:
    return abs(float(answer) - float(label))


def _step(at_ms: int, losses: Exact, *, is_error: bool) -> Step:
    """Give the mean with its interval: for shares by Wilson, else mean +- 1.96 s / sqrt(n)."""
    n, mean = losses.n, losses.mean
    if not is_error:
        interval = wilson(n - losses.total, n) or (None, None)
        return Step(at_ms, 1 - mean, n, *interval)
    if n < 2:
        return Step(at_ms, mean, n, None, None)
    half = _Z95 * losses.deviation / math.sqrt(n)
    return Step(at_ms, mean, n, max(0.0, mean - half), mean + half)
