"""Attribution: what a drift consists of, and where errors became more.

The features of a drift have shares of its size; that is not to say that they caused
anything.  A change of the mean loss is taken apart exactly: the parts of the segments
add up to it.

References
----------
Symmetric decomposition of a difference between two rates: Kitagawa 1955.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

from kedge import Measure

__all__ = [
    "CHANGES",
    "MOST_NAMED",
    "Losses",
    "attribution",
    "attribution_text",
    "change_text",
    "parts_of_change",
]

#: Features or segments that a window names.
MOST_NAMED: Final = 10
#: Of these a summary tells so many.
_TOLD: Final = 3
_NAME: Final = "attribution"
#: The measure of a rise: of the error rate, or for regression of the mean absolute error.
CHANGES: Final = ("error_rate_change", "mae_change")


class Losses(NamedTuple):
    """Labelled rows and the sum of their losses."""

    n: int
    total: int

    @property
    def mean(self) -> Fraction:
        """The mean loss."""
        return Fraction(self.total, self.n)


def attribution(effects: Mapping[str, float], *, rows: int) -> list[Measure]:
    """Give the largest shares of the features in a drift.

    Parameters
    ----------
    effects
        By feature: the lower bound of its change in units of the floor, squared.  Both
        are free of the window's size, and floors are what one size is to a distribution
        and to shares.
    rows
        Of the window.

    >>> [(m.feature, m.value) for m in attribution({"age": 1.0, "amount": 3.0}, rows=500)]
    [('amount', 0.75), ('age', 0.25)]
    """
    total = math.fsum(effects.values())
    if not total:
        return []
    ranked = sorted(effects, key=lambda name: -effects[name])[:MOST_NAMED]
    return [
        Measure(name=_NAME, feature=name, value=effects[name] / total, n=rows) for name in ranked
    ]


def attribution_text(measures: Sequence[Measure]) -> str | None:
    """Name the features that a window's drift mostly consists of; None where there is none.

    >>> attribution_text(attribution({"age": 1.0, "amount": 3.0}, rows=500))
    'amount (75 %), age (25 %)'
    """
    shares = [(m.feature, m.value) for m in measures if m.name == _NAME and m.value is not None]
    if not shares:
        return None
    told = ", ".join(f"{feature} ({100 * share:.0f} %)" for feature, share in shares[:_TOLD])
    more = len(shares) - _TOLD
    return told if more <= 0 else f"{told} and {more} more"


def change_text(measures: Sequence[Measure]) -> str | None:
    """Name the segments that a rise mostly comes from; None where there is none.

    >>> change_text([Measure(name="mae_change", value=2.0, n=500),
    ...              Measure(name="mae_change", feature="country=NO", value=1.5, n=500)])
    'country=NO (1.5 of 2)'
    """
    found = [m for m in measures if m.name in CHANGES and m.value is not None]
    total = next((m.value for m in found if m.feature is None), None)
    worse = [m for m in found if m.feature is not None and (m.value or 0.0) > 0]
    if not total or not worse:
        return None
    return ", ".join(f"{m.feature} ({m.value:.2g} of {total:.2g})" for m in worse[:_TOLD])


def parts_of_change(before: Mapping[str, Losses], now: Mapping[str, Losses]) -> dict[str, Fraction]:
    """Take the change of a mean loss apart into what groups of rows added to it.

    Parameters
    ----------
    before, now
        By group; together the groups are all rows, and each side has some.

    Returns
    -------
    dict
        The parts, which add up to the change exactly.

    Notes
    -----
    With shares of rows w and mean losses e, a group's part is ``(w + w')/2 (e' - e)``,
    because its own loss changed, and ``(w' - w) ((e + e')/2 - (E + E')/2)``, because there
    are more or fewer of it than of the others.  The loss of a group that was not there is
    what it is on the other side.
    """
    rows = [sum(losses.n for losses in side.values()) for side in (before, now)]
    sums = [sum(losses.total for losses in side.values()) for side in (before, now)]
    usual = sum((Fraction(t, n) for t, n in zip(sums, rows, strict=True)), Fraction()) / 2
    parts = {}
    for name in dict.fromkeys([*before, *now]):
        pair = [side.get(name, Losses(0, 0)) for side in (before, now)]
        known = [losses.mean for losses in pair if losses.n]
        if not known:
            continue
        first, last = known[0], known[-1]
        w, w_now = (Fraction(losses.n, n) for losses, n in zip(pair, rows, strict=True))
        own = (w + w_now) / 2 * (last - first)
        parts[name] = own + (w_now - w) * ((first + last) / 2 - usual)
    return parts
