"""Which training wins: rows in order, windows to try, scores on held-out labels, the choice.

The newest labelled rows are held out.  Candidates trained on the last 500,
1,000, 2,000, 8,000 and all rows before them are scored on the held-out rows,
and so is the champion; the best is nominated if it is better by more than
:data:`MARGIN`, and, where no paired test follows, by more than noise would make it
(:func:`is_sure`).  After a change of concept a short window wins, while nothing
changes a long one does, and mostly nothing wins at all.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from kedge.base import Scalar, label_text
from kedge.events import Output

__all__ = [
    "HOLD_OUT",
    "LENGTHS",
    "MARGIN",
    "MINIMUM",
    "SURE",
    "Choice",
    "Seen",
    "Window",
    "answer",
    "choose",
    "digest",
    "gain",
    "hold_out",
    "is_sure",
    "losses",
    "metrics",
    "naive",
    "target",
    "windows",
]

#: Rows held out; a quarter of them all when there are few.
HOLD_OUT = 200
#: Lengths of the windows tried, beside all rows.
LENGTHS = (500, 1_000, 2_000, 8_000)
#: What a candidate must be better by: accuracy, or the share of the absolute error.
MARGIN = 0.02
#: Standard errors of the paired difference that a gain must have where it alone decides:
#: the one-sided 95 % quantile of the normal distribution.
SURE = 1.6449
#: Rows below which nothing is trained.
MINIMUM = 100


class Seen(Protocol):
    """What a training sees of an example, as :class:`kedge.events.Example`."""

    @property
    def prediction_id(self) -> str:
        """Of what was answered."""

    @property
    def revision(self) -> int:
        """The highest one."""

    @property
    def event_time_ms(self) -> int:
        """Of the prediction."""

    @property
    def label_time_ms(self) -> int:
        """Of the label."""

    @property
    def label(self) -> Scalar:
        """What was true."""

    @property
    def features(self) -> Mapping[str, Scalar | None]:
        """What the answer was given to."""


@dataclass(frozen=True, slots=True)
class Window:
    """Rows to train on: the newest ``length``, or those predicted at or after ``since_ms``."""

    length: int
    since_ms: int | None = None

    @property
    def name(self) -> str:
        """Give the name under which its score is reported."""
        return f"since {self.since_ms}" if self.since_ms is not None else f"last {self.length}"

    def of(self, event_times_ms: Sequence[int]) -> list[int]:
        """Give the indices it takes of these rows, in their order."""
        if self.since_ms is None:
            return list(range(max(0, len(event_times_ms) - self.length), len(event_times_ms)))
        return [i for i, time_ms in enumerate(event_times_ms) if time_ms >= self.since_ms]


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate's standing: its metrics and the number of rows it was trained on.

    ``losses`` are those of the held-out rows, in their order.
    """

    name: str
    metrics: dict[str, float]
    rows: int
    losses: tuple[float, ...] = ()


def digest(examples: Iterable[Seen]) -> str:
    """Give the sha256 of what a training sees of its rows, in their order."""
    result = hashlib.sha256()
    for e in examples:
        seen = [e.prediction_id, e.revision, e.event_time_ms, e.label_time_ms, e.label, e.features]
        result.update(msgspec.json.encode(seen, order="sorted") + b"\n")
    return result.hexdigest()


def hold_out(rows: int) -> int:
    """Give how many of so many rows are held out."""
    return min(HOLD_OUT, rows // 4)


def windows(event_times_ms: Sequence[int], since_ms: int | None) -> list[Window]:
    """Give the windows to try on the rows before the held-out ones, shortest first.

    Parameters
    ----------
    event_times_ms
        Of those rows, in their order.
    since_ms
        Event time from which the data is believed to have changed.
    """
    rows = len(event_times_ms)
    found = [Window(length) for length in (*(n for n in LENGTHS if n < rows), rows)]
    if since_ms is not None:
        since = Window(rows, since_ms)
        if MINIMUM <= len(since.of(event_times_ms)) < rows:
            found.append(since)
    return found


# -------------------------------------------------------------------- scores


def target(label: Scalar, classes: Sequence[Scalar]) -> float | None:
    """Give a label's class as index, or for regression its number; None: no such label.

    >>> target("UP", ["DOWN", "UP"]), target(1.0, [0, 1]), target("x", []), target(2, [])
    (1.0, 1.0, None, 2.0)
    """
    if classes:
        texts = [label_text(known) for known in classes]
        text = label_text(label)
        return float(texts.index(text)) if text in texts else None
    if isinstance(label, bool | str) or not math.isfinite(label):
        return None
    return float(label)


def answer(output: Output | None, classes: Sequence[Scalar]) -> float | None:
    """Give the class an output says, as index, or its number; None: it says nothing."""
    if output is None:
        return None
    if not classes:
        value = output.value if output.value is not None else output.label
        return None if value is None else target(value, classes)
    if output.label is not None:
        return target(output.label, classes)
    if output.scores:
        texts = [label_text(known) for known in classes]
        best = max(output.scores, key=lambda name: (output.scores or {})[name])
        return float(texts.index(best)) if best in texts else None
    if output.score is not None and len(classes) == 2:
        return float(output.score > 0.5)
    return None


def metrics(
    answers: Sequence[float], targets: Sequence[float], classes: Sequence[Scalar]
) -> dict[str, float]:
    """Score answers on labelled rows.

    Returns
    -------
    dict
        ``n``, and ``accuracy`` (of two classes also ``precision``, ``recall``
        and ``f1`` of the second, where they are defined), or ``mae`` and
        ``rmse`` for regression.
    """
    n = len(targets)
    pairs = list(zip(answers, targets, strict=True))
    if not classes:
        errors = [a - t for a, t in pairs]
        return {
            "n": float(n),
            "mae": math.fsum(map(abs, errors)) / n,
            "rmse": math.sqrt(math.fsum(error * error for error in errors) / n),
        }
    result = {"n": float(n), "accuracy": sum(a == t for a, t in pairs) / n}
    if len(classes) == 2:
        said = sum(a == 1 for a, _ in pairs)
        true = sum(t == 1 for _, t in pairs)
        both = sum(a == t == 1 for a, t in pairs)
        for name, of in (("precision", said), ("recall", true), ("f1", (said + true) / 2)):
            if of:
                result[name] = both / of
    return result


def naive(targets: Sequence[float], classes: Sequence[Scalar]) -> float:
    """Give what a model without features would answer: the commonest class, or the median."""
    if classes:
        counts = Counter(targets)
        return max(sorted(counts), key=lambda value: counts[value])
    return sorted(targets)[len(targets) // 2]


def gain(mine: dict[str, float], other: dict[str, float]) -> float:
    """Give by how much the first metrics are better: accuracy, or share of the absolute error."""
    if "accuracy" in mine:
        return mine["accuracy"] - other["accuracy"]
    if other["mae"] == 0:
        return 0.0 if mine["mae"] == 0 else -math.inf
    return 1.0 - mine["mae"] / other["mae"]


def losses(
    answers: Sequence[float], targets: Sequence[float], classes: Sequence[Scalar]
) -> tuple[float, ...]:
    """Give the loss of every answer: 0 or 1, or for regression the absolute error."""
    pairs = zip(answers, targets, strict=True)
    return tuple(float(a != t) if classes else abs(a - t) for a, t in pairs)


def is_sure(mine: Sequence[float], other: Sequence[float]) -> bool:
    """Say whether the first losses are lower by :data:`SURE` standard errors.

    Parameters
    ----------
    mine, other
        Losses of two models on the same rows; what makes both err says nothing, so the
        error is that of the paired difference.
    """
    differences = [b - a for a, b in zip(mine, other, strict=True)]
    n = len(differences)
    mean = math.fsum(differences) / n
    variance = math.fsum((d - mean) ** 2 for d in differences) / n
    return mean > 0 and mean >= SURE * math.sqrt(variance / n)


def choose(choices: Sequence[Choice], *, slack: float = 0.0) -> Choice:
    """Give the best; among those at most ``slack`` worse the one of most rows, then the first."""
    best = max(choices, key=lambda choice: gain(choice.metrics, choices[0].metrics))
    near = [choice for choice in choices if gain(best.metrics, choice.metrics) <= slack]
    return max(near, key=lambda choice: choice.rows)
