"""Where errors became more: a window's losses against those of the time before, by segment.

A window is held against the window of the same length just before it.  Only a rise that
chance does not explain is taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

from kedge import Measure
from kedge_services.core.attribution import CHANGES, MOST_NAMED, Losses, parts_of_change
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.sketches import FIXED_POINT

__all__ = ["change_measures", "has_risen"]

#: Labels that each side needs, and standard errors that a rise has to exceed.
_LEAST: Final = 100
_CLEAR: Final = 3.0


def has_risen(before: PerformanceDelta, now: PerformanceDelta) -> bool:
    """Say whether the mean loss rose by more than three standard errors."""
    sides = [_losses(delta) for delta in (before, now)]
    if min(losses.n for losses in sides) < _LEAST:
        return False
    first, last = (float(losses.mean) for losses in sides)
    variance = sum(
        max(0.0, square - mean * mean) / losses.n
        for square, mean, losses in zip(
            map(_mean_square, (before, now)), (first, last), sides, strict=True
        )
    )
    return last - first > _CLEAR * math.sqrt(variance)


def change_measures(
    before: Mapping[str, PerformanceDelta],
    now: Mapping[str, PerformanceDelta],
    segments: Sequence[str],
) -> list[Measure]:
    """Give how much the mean loss changed, and the parts of the segments in it.

    Parameters
    ----------
    before, now
        By ``name=value``; the whole under the empty name.
    segments
        Names of segments.  The parts of the values of each add up to the whole change;
        rows that are in none of them are ``no <name>``.

    Returns
    -------
    list of Measure
        The whole change without ``feature``, then the largest parts, the worst first.
    """
    whole = [_losses(side[""]) for side in (before, now)]
    is_regression = not now[""].confusion
    name, unit = CHANGES[is_regression], FIXED_POINT if is_regression else 1
    parts: dict[str, Fraction] = {}
    for segment in segments:
        groups = [
            _groups(side, segment, losses)
            for side, losses in zip((before, now), whole, strict=True)
        ]
        # Where all rows are in one group, it says nothing that the whole does not.
        if len(groups[0].keys() | groups[1].keys()) > 1:
            parts |= parts_of_change(*groups)
    ranked = sorted(parts, key=lambda group: (-abs(parts[group]), group))[:MOST_NAMED]
    ranked.sort(key=lambda group: (-parts[group], group))
    n = whole[1].n
    total = whole[1].mean - whole[0].mean
    return [
        Measure(name=name, value=float(total / unit), n=n),
        *(
            Measure(name=name, feature=group, value=float(parts[group] / unit), n=n)
            for group in ranked
        ),
    ]


def _groups(side: Mapping[str, PerformanceDelta], segment: str, whole: Losses) -> dict[str, Losses]:
    groups = {
        name: _losses(delta)
        for name, delta in side.items()
        if name.partition("=")[0] == segment and name
    }
    rest = Losses(
        whole.n - sum(losses.n for losses in groups.values()),
        whole.total - sum(losses.total for losses in groups.values()),
    )
    return {**groups, f"no {segment}": rest} if rest.n > 0 else groups


def _losses(delta: PerformanceDelta) -> Losses:
    if delta.confusion:
        n = sum(sum(row.values()) for row in delta.confusion.values())
        return Losses(n, n - sum(row.get(label, 0) for label, row in delta.confusion.items()))
    return Losses(delta.labelled, delta.absolute_error)


def _mean_square(delta: PerformanceDelta) -> float:
    if delta.confusion:
        return float(_losses(delta).mean)  # a loss of 0 or 1 is its own square
    return delta.squared_error * FIXED_POINT / delta.labelled
