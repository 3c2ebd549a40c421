"""Estimated performance: what metrics would be, if scores keep meaning what they meant.

Calibrated scores are shares of positives, so those of the rows that were answered
"positive" add up to the expected true positives, and so on (CBPE).  The labels
themselves are not needed, nor seen: a model whose scores have come to mean something
else (concept drift), or that is asked about regions the reference does not have, is
estimated wrongly.  :func:`objections` says when an estimate must not be believed.

References
----------
NannyML, confidence-based performance estimation; the errors by the delta method, rows
being independent given their scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kedge import Measure, Reference
from kedge.panes import Calibrator
from kedge_services.core.binning import calibrated
from kedge_services.core.calibration import LEAST_SCORED
from kedge_services.core.measuring import as_json, head, measures_text, trusted_measure
from kedge_services.core.ranking import area_under_curve
from kedge_services.core.sketches import FIXED_POINT, SCORE_BINS, ScoreCounts
from kedge_services.core.stacks import Stack

__all__ = [
    "LEAST_ROWS",
    "SIGMAS",
    "Estimate",
    "estimate",
    "estimated_measures",
    "estimates",
    "not_valid",
    "objections",
    "too_far",
]

#: Errors on either side of an estimate within which the realised value should lie.
SIGMAS: Final = 3.0
LEAST_ROWS: Final = 300
#: Largest calibration error of a reference.
MOST_ERROR: Final = 0.02
#: Largest share of rows outside the reference, beyond the reference's own.
MOST_OUTSIDE: Final = 0.05
#: Largest share of the rows by which a feature may have moved at least.
MOST_DRIFT: Final = 0.3
_BINARY: Final = ("accuracy", "precision", "recall", "f1", "auc")
_HEADS: Final = [head(f"estimated_{name}", None) for name in _BINARY]

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric as it should be, its standard error, and the rows it is of."""

    name: str
    value: float
    error: float
    n: int

    def encode(self) -> list[Any]:
        """Give JSON data."""
        return [self.name, self.value, self.error, self.n]

    def measure(self) -> Measure:
        """Give it with its band of three standard errors."""
        half = SIGMAS * self.error
        return Measure(
            name=f"estimated_{self.name}",
            value=self.value,
            low=max(0.0, self.value - half),
            high=min(1.0, self.value + half),
            n=self.n,
        )


def estimate(
    *,
    answers: Sequence[str],
    scores: Sequence[float] | _Floats,
    calibrator: Calibrator | None,
    positive: str | None,
) -> list[Estimate]:
    """Estimate from columns; see :func:`estimates`.

    >>> found = estimate(answers=["yes", "yes", "no"], scores=[0.9, 0.7, 0.2],
    ...                  calibrator=None, positive="yes")
    >>> [(e.name, round(e.value, 4)) for e in found][:4]
    [('accuracy', 0.8), ('precision', 0.8), ('recall', 0.8889), ('f1', 0.8421)]
    """
    shares = calibrated(calibrator, np.array(scores, dtype=np.float64))
    given = np.array(answers, dtype=object)
    return estimates(
        {answer: ScoreCounts.of(shares[given == answer]) for answer in sorted(set(answers))},
        positive=positive,
    )


def estimates(scores: Mapping[str, ScoreCounts], *, positive: str | None) -> list[Estimate]:
    """Estimate metrics from calibrated scores.

    Parameters
    ----------
    scores
        By the text of the answer.
    positive
        The positive class of a binary model, which all its scores are of; None of
        several classes, where a score is that of the answer: only accuracy then.

    Returns
    -------
    list of Estimate
        Without those that have no value: there is no recall where no positive is expected.
    """
    if positive is None:
        whole = _Side.of(scores.values())
        return _kept([_ratio("accuracy", whole.hits, whole.variance, whole.rows)])
    said_yes = _Side.of(counts for answer, counts in scores.items() if answer == positive)
    said_no = _Side.of(counts for answer, counts in scores.items() if answer != positive)
    tp, fn, n = said_yes.hits, said_no.hits, said_yes.rows + said_no.rows
    right = tp + said_no.rows - fn
    both = said_yes.variance + said_no.variance
    return _kept(
        [
            _ratio("accuracy", right, both, n),
            _ratio("precision", tp, said_yes.variance, said_yes.rows),
            _recall(said_yes, said_no),
            _f1(said_yes, said_no),
            _auc(said_yes, said_no),
        ]
    )


def estimated_measures(
    stack: Stack,
    window: int,
    reference: Reference,
    *,
    positive: str | None,
    far: tuple[str, float] | None,
    doubt: str | None = None,
) -> bytes:
    """Write the estimates of a window, or why they are not valid.

    Parameters
    ----------
    stack, window
        Merged panes of a classifier, and the window's number among them.
    far
        The feature that has moved most, and by how much of the rows at least.
    doubt
        Why no estimate of this series is believed at present, whatever the window.
    """
    if reference.score is None:
        return b""
    n, rows, outside = stack.scored(window), stack.rows[window], stack.outside[window]
    reasons = objections(reference, n=n, rows=rows, outside=outside, far=too_far(far))
    if doubt is not None:
        reasons.append(doubt)
    if not reasons:
        found = estimates(stack.scores(window), positive=positive)
        return measures_text(one.measure() for one in found)
    rest = b',"n":%d,"note":%b}' % (n, as_json(_note(reasons)))
    return b",".join(start + rest for start in (_HEADS if positive is not None else _HEADS[:1]))


def not_valid(n: int, reasons: Iterable[str], *, positive: str | None) -> list[Measure]:
    """Give measures that say instead of a value why there is none."""
    note = _note(reasons)
    names = _BINARY if positive is not None else _BINARY[:1]
    return [trusted_measure(f"estimated_{name}", None, None, n, note=note) for name in names]


def _note(reasons: Iterable[str]) -> str:
    return "not valid: " + "; ".join(reasons)


def objections(
    reference: Reference, *, n: int, rows: int, outside: int, far: tuple[str, float] | None
) -> list[str]:
    """Say in words what speaks against estimates of a window.

    Parameters
    ----------
    n
        Its rows with a score.
    rows, outside
        All its rows, and those that lie outside the reference.
    far
        What :func:`too_far` gave.
    """
    reasons = []
    if reference.calibrator is None:
        reasons.append(_uncalibrated(reference))
    elif (error := reference.calibrator.error) > MOST_ERROR:
        reasons.append(
            f"scores are off by {error:.3f} in the reference, more than {MOST_ERROR:.2f}"
        )
    if n < LEAST_ROWS:
        reasons.append(f"{n} rows with a score, fewer than {LEAST_ROWS}")
    share, usual = outside / max(1, rows), reference.outside / max(1, reference.rows)
    if share > usual + MOST_OUTSIDE:
        reasons.append(
            f"{share:.1%} of the rows lie outside the reference, whose own share is {usual:.1%}"
        )
    if far is not None:
        name, low = far
        reasons.append(f"{name} has moved by at least {low:.2f}, more than {MOST_DRIFT:.1f}")
    return reasons


def too_far(far: tuple[str, float] | None) -> tuple[str, float] | None:
    """Give the feature that has moved most if it has moved too far.

    >>> too_far(("region", 0.4)), too_far(("region", 0.3))
    (('region', 0.4), None)
    """
    return far if far is not None and far[1] > MOST_DRIFT else None


def _uncalibrated(reference: Reference) -> str:
    if reference.label is None:
        return "the reference has no labels"
    return f"the reference has fewer than {LEAST_SCORED} rows with score and label, or one class"


@dataclass(frozen=True, slots=True)
class _Side:
    """The rows with one answer: float64 arrays by score bin, shape (100,).

    Attributes
    ----------
    n
        Rows.
    expected
        Expected positives (of several classes: right answers) among them.
    spread
        The variance of their number.
    """

    n: _Floats
    expected: _Floats
    spread: _Floats

    @classmethod
    def of(cls, parts: Iterable[ScoreCounts]) -> _Side:
        whole = ScoreCounts()
        for part in parts:
            whole.add(part)
        n, expected = whole.n.astype(np.float64), whole.total / FIXED_POINT
        share = np.divide(expected, n, out=np.zeros(SCORE_BINS), where=n > 0)
        return cls(n, expected, n * share * (1.0 - share))

    @property
    def rows(self) -> int:
        return int(self.n.sum())

    @property
    def hits(self) -> float:
        return math.fsum(self.expected)

    @property
    def variance(self) -> float:
        return math.fsum(self.spread)


def _ratio(name: str, hits: float, variance: float, rows: int) -> Estimate | None:
    if not rows:
        return None
    return Estimate(name, hits / rows, math.sqrt(variance) / rows, rows)


def _recall(yes: _Side, no: _Side) -> Estimate | None:
    """Estimate TP / (TP + FN), of two independent sums."""
    tp, fn = yes.hits, no.hits
    if tp + fn <= 0:
        return None
    error = math.sqrt(fn * fn * yes.variance + tp * tp * no.variance) / (tp + fn) ** 2
    return Estimate("recall", tp / (tp + fn), error, yes.rows + no.rows)


def _f1(yes: _Side, no: _Side) -> Estimate | None:
    """Estimate 2 TP / (rows answered positive + TP + FN)."""
    tp, whole = yes.hits, yes.rows + yes.hits + no.hits
    if whole <= 0:
        return None
    error = 2 * math.sqrt((whole - tp) ** 2 * yes.variance + tp * tp * no.variance) / whole**2
    return Estimate("f1", 2 * tp / whole, error, yes.rows + no.rows)


def _auc(yes: _Side, no: _Side) -> Estimate | None:
    """Estimate the area over all rows; its error from what one more positive in a bin changes."""
    up = yes.expected + no.expected
    n = yes.n + no.n
    down = np.maximum(0.0, n - up)
    area = area_under_curve(up.tolist(), down.tolist())
    if area is None:
        return None
    positives, negatives = math.fsum(up), math.fsum(down)
    under = np.cumsum(down) - down / 2
    over = positives - np.cumsum(up) + up / 2
    slope = under - over - area.value * (negatives - positives)
    variance = math.fsum((yes.spread + no.spread) * slope * slope)
    error = math.sqrt(variance) / (positives * negatives)
    return Estimate("auc", area.value, error, int(n.sum()))


def _kept(found: Iterable[Estimate | None]) -> list[Estimate]:
    return [one for one in found if one is not None]
