"""Fairness: how the answers for one value of a segment differ from those for the others.

References
----------
Newcombe 1998, method 10, for the difference of two proportions; the interval of a
ratio on the log scale (Katz et al. 1978).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Final

from scipy import special

from kedge import Detection, Measure
from kedge.base import AlertKind
from kedge.monitor import Segment
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.performance import coverage, wilson

__all__ = ["MEASURES", "Group", "difference", "judge", "ratio"]

#: What is measured of each value; together they are this many tests.
MEASURES: Final = (
    "statistical_parity_difference",
    "disparate_impact",
    "equal_opportunity_difference",
)
#: Part of the budget of false alarms.
SHARE: Final = 0.10
MIN_ROWS: Final = 100
MIN_POSITIVES: Final = 30
_Z95: Final = 1.959963984540054
_LEAST_ALPHA: Final = 1e-300
#: Why there is no number, where there is none.
_MISSING: Final = {
    "disparate_impact": "no positive answer on either side",
    "equal_opportunity_difference": "too few labels, or none of them positive",
}
_KIND: Final[AlertKind] = "fairness"

Interval = tuple[float, float]
#: Rows with the property, and all rows.
Part = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Group:
    """What the fairness of a binary model needs of some rows, as counts that add.

    Attributes
    ----------
    chosen, answered
        Rows that were answered with the positive class, and with any.
    found, positives
        The same among rows whose label is positive: answered so, and all.
    predicted, labelled
        All rows, and those with a label.
    """

    chosen: int = 0
    answered: int = 0
    found: int = 0
    positives: int = 0
    predicted: int = 0
    labelled: int = 0

    @classmethod
    def of(cls, counts: PerformanceDelta, positive: str) -> Group:
        """Read the counts of a window."""
        row = counts.confusion.get(positive, {})
        return cls(
            counts.answers.get(positive, 0),
            sum(counts.answers.values()),
            row.get(positive, 0),
            sum(row.values()),
            counts.predicted,
            counts.labelled,
        )

    def __add__(self, other: Group) -> Group:
        """Give both together."""
        return Group(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: Group) -> Group:
        """Give these without the other's, which are among them."""
        return Group(*map(operator.sub, astuple(self), astuple(other)))

    @property
    def parity(self) -> Part:
        """Rows answered positive, of those answered; what is below zero counts as none."""
        return _part(self.chosen, self.answered)

    @property
    def opportunity(self) -> Part:
        """Positives found, of all; none while too few labels have come for a verdict."""
        known = coverage(PerformanceDelta(predicted=self.predicted, labelled=self.labelled))
        return _part(self.found, self.positives) if known.is_enough else (0, 0)


@dataclass(frozen=True, slots=True)
class _Compared:
    """One measure: its interval at 95 % and at the level of an alarm, and its limits."""

    name: str
    value: float
    interval: Interval
    wide: Interval
    limits: Interval
    text: str

    @property
    def broken(self) -> float | None:
        """The limit beyond which the whole interval lies."""
        if self.wide[1] < self.limits[0]:
            return self.limits[0]
        return self.limits[1] if self.wide[0] > self.limits[1] else None


def difference(one: Part, other: Part, z: float = _Z95) -> Interval:
    """Give Newcombe's interval of the first share minus the second; both have rows.

    >>> [round(x, 5) for x in difference((30, 100), (60, 300))]
    [0.00533, 0.20438]
    """
    (p1, l1, u1), (p2, l2, u2) = _share(one, z), _share(other, z)
    d = p1 - p2
    return d - math.hypot(p1 - l1, u2 - p2), d + math.hypot(u1 - p1, p2 - l2)


def ratio(one: Part, other: Part, z: float = _Z95) -> tuple[float, Interval]:
    """Give the first share over the second and its interval; both have rows.

    A count of zero stands for one half, so that there is always a number.

    >>> value, (low, high) = ratio((30, 100), (60, 300))
    >>> round(value, 6), round(low, 6), round(high, 6)
    (1.5, 1.03062, 2.183152)
    """
    (k1, n1), (k2, n2) = one, other
    x1, x2 = max(k1, 0.5), max(k2, 0.5)
    value = (x1 / n1) / (x2 / n2)
    half = z * math.sqrt(max(0.0, 1 / x1 - 1 / n1 + 1 / x2 - 1 / n2))
    return value, (value * math.exp(-half), value * math.exp(half))


def judge(
    one: Group, other: Group, *, names: tuple[str, str], segment: Segment, alpha: float
) -> tuple[list[Measure], list[Detection], bool]:
    """Measure a value of a segment against the rest, and test it.

    Parameters
    ----------
    one, other
        The value, and the rest or the base.
    names
        What to call the two: ``("region=NO", "the rest")``.
    segment
        Its limits, and whether it may alarm.
    alpha
        Chance of a false alarm that each of :data:`MEASURES` may take.

    Returns
    -------
    measures, detections, tested
        An alarm needs the whole interval at level 1 - alpha beyond the limit.
    """
    rows = one.parity[1]
    if not rows or not other.parity[1]:
        note = f"no answered row of {names[1 if rows else 0]}"
        return [Measure(name=name, n=rows, note=note) for name in MEASURES], [], False
    wide = -float(special.ndtri(max(alpha, _LEAST_ALPHA) / 2))
    measures: list[Measure] = []
    detections: list[Detection] = []
    enough: dict[str, bool] = {}
    for compared, n, enough_rows in _compared(one, other, segment=segment, z=wide):
        limit = compared.broken
        enough[compared.name] = enough_rows
        low, high = compared.interval
        measures.append(
            Measure(
                name=compared.name, value=compared.value, low=low, high=high, n=n,
                threshold=compared.limits[1],
            )
        )  # fmt: skip
        if limit is None or not enough_rows or not segment.alarm:
            continue
        detections.append(
            Detection(
                kind=_KIND,
                detector=compared.name,
                value=compared.value,
                threshold=limit,
                summary=f"{compared.text.format(*names)} {compared.value:.3g}, "
                f"surely between {compared.wide[0]:.3g} and {compared.wide[1]:.3g}, "
                f"the limit is {limit:g}",
            )
        )
    measures += [Measure(name=m, n=0, note=_MISSING[m]) for m in MEASURES if m not in enough]
    return measures, detections, any(enough.values())


def _compared(
    one: Group, other: Group, *, segment: Segment, z: float
) -> Iterator[tuple[_Compared, int, bool]]:
    """Give each measure, the rows it is of and whether they are enough for a verdict."""
    mine, theirs = one.parity, other.parity
    (k1, n1), (k2, n2) = mine, theirs
    enough = min(n1, n2) >= MIN_ROWS
    shares = f"answered positive: {{0}} {k1 / n1:.1%}, {{1}} {k2 / n2:.1%}"
    limit = segment.statistical_parity_difference
    yield (
        _Compared(
            MEASURES[0], k1 / n1 - k2 / n2, difference(mine, theirs),
            difference(mine, theirs, z), (-limit, limit), f"{shares}; difference",
        ),
        n1, enough,
    )  # fmt: skip
    if k1 or k2:
        value, interval = ratio(mine, theirs)
        yield (
            _Compared(
                MEASURES[1], value, interval, ratio(mine, theirs, z)[1],
                segment.disparate_impact, f"{shares}; ratio",
            ),
            n1, enough,
        )  # fmt: skip
    mine, theirs = one.opportunity, other.opportunity
    (k1, n1), (k2, n2) = mine, theirs
    if not (n1 and n2):
        return
    limit = segment.equal_opportunity_difference
    yield (
        _Compared(
            MEASURES[2], k1 / n1 - k2 / n2, difference(mine, theirs),
            difference(mine, theirs, z), (-limit, limit),
            f"positives found: {{0}} {k1 / n1:.1%}, {{1}} {k2 / n2:.1%}; difference",
        ),
        n1, enough and min(n1, n2) >= MIN_POSITIVES,
    )  # fmt: skip


def _part(k: int, n: int) -> Part:
    n = max(0, n)
    return min(n, max(0, k)), n


def _share(part: Part, z: float) -> tuple[float, float, float]:
    k, n = part
    interval = wilson(k, n, z)
    if interval is None:
        raise ValueError("a share of no rows")
    return k / n, *interval
