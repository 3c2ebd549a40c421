"""The paired test, which asks whether the challenger's loss is the smaller one.

Both versions answered the same prediction ids.  Of every labelled pair only
d = loss(champion) - loss(challenger) in [-1, 1] is kept, quantised to
1/:data:`LOSS_STEPS` and counted, so the evidence is a histogram of integers
that adds, whatever the order in which the pairs came.

The test is a betting e-process: under H0, E[d | past] <= m, its expectation
never exceeds 1, so P(it ever reaches 1/alpha) <= alpha (Ville).  It may hence
be looked at after every commit, as often as one likes.

References
----------
Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting,
arXiv 2010.09686.  Choe, Ramdas: Comparing sequential forecasters, arXiv
2110.00115.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from kedge_services.core.deltas import LOSS_STEPS

__all__ = [
    "CHALLENGE",
    "WATCH",
    "Decision",
    "Differences",
    "PairedTest",
    "Verdict",
    "confidence_interval",
    "e_value",
    "verdict",
]

Differences = Mapping[int, int]
"""Pairs by loss difference in 1/:data:`LOSS_STEPS`; negative counts are taken as none."""

Decision = Literal["promote", "drop", "keep", "undecided"]

#: Fractions of the capital that are bet; the e-process is the mean over them.
FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
#: An e-value is capped here, where it is beyond every threshold and still a float.
LARGEST = 1e300


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What a challenger has to show.

    Attributes
    ----------
    margin
        The advantage in mean loss that is not worth a change of versions.
    alpha
        Probability that a challenger without that advantage is ever promoted.
    least, most
        No decision before ``least`` pairs; at ``most`` the champion is kept.
    """

    margin: float = 0.005
    alpha: float = 0.05
    least: int = 200
    most: int = 20_000


#: A challenger against the champion.
CHALLENGE = PairedTest()
#: After a promotion: the old champion against the one that took its place.
WATCH = PairedTest(margin=0.0, alpha=0.01)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and what it rests on; ``wins`` are pairs with d > 0."""

    decision: Decision
    n: int
    wins: int
    losses: int
    e_value: float


def e_value(differences: Differences, margin: float = 0.0) -> float:
    """Give the evidence against "the mean difference is at most ``margin``".

    Parameters
    ----------
    differences
        The pairs.
    margin
        m, greater than -1.

    Returns
    -------
    float
        mean over g of exp(sum over d of c_d ln(1 - g + g (1 + d)/(1 + m))), at
        most :data:`LARGEST`.

    Examples
    --------
    >>> round(e_value({32: 60, -32: 40, 0: 900}), 7)
    2.7726971
    """
    terms = [(1 + d / LOSS_STEPS, count) for d, count in sorted(differences.items()) if count > 0]
    logs = [
        math.fsum(count * math.log1p(g * (wealth / (1 + margin) - 1)) for wealth, count in terms)
        for g in FRACTIONS
    ]
    top = max(logs)
    mean = top + math.log(math.fsum(math.exp(x - top) for x in logs) / len(logs))
    return min(LARGEST, math.exp(min(mean, math.log(LARGEST))))


def confidence_interval(differences: Differences, alpha: float = 0.05) -> tuple[float, float]:
    """Enclose the mean difference: {x : E(x) < 2/alpha} and its mirror image.

    The intervals of all times at once hold with probability 1 - alpha.

    Returns
    -------
    tuple of float
        Lower and upper bound in [-1, 1]; (-1, 1) when there is no pair.
    """
    return _lower(differences, 2 / alpha), -_lower(_reversed(differences), 2 / alpha)


def verdict(differences: Differences, test: PairedTest = CHALLENGE) -> Verdict:
    """Judge the pairs seen so far; may be asked again after every pair."""
    n = _count(differences, lambda _: True)
    advantage = e_value(differences, test.margin)
    decision: Decision = "undecided"
    if n >= test.least:
        if advantage >= 1 / test.alpha:
            decision = "promote"
        elif e_value(_reversed(differences)) >= 1 / test.alpha:
            decision = "drop"
        elif n >= test.most:
            decision = "keep"
    return Verdict(
        decision=decision,
        n=n,
        wins=_count(differences, lambda d: d > 0),
        losses=_count(differences, lambda d: d < 0),
        e_value=advantage,
    )


def _count(differences: Differences, wanted: Callable[[int], bool]) -> int:
    return sum(count for d, count in differences.items() if count > 0 and wanted(d))


def _reversed(differences: Differences) -> dict[int, int]:
    return {-d: count for d, count in differences.items()}


def _lower(differences: Differences, threshold: float) -> float:
    # E falls in m, so the smallest mean not refuted is found by bisection; the
    # lower end is kept refuted, hence the bound is on the safe side.
    low, high = -1.0, 1.0
    if e_value(differences, high) >= threshold:
        return high
    for _ in range(50):
        middle = (low + high) / 2
        if e_value(differences, middle) >= threshold:
            low = middle
        else:
            high = middle
    return low
