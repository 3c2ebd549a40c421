"""Naming: which features are said to drift once a window alarms.

An alarm is decided test by test; which features to name is a question over all of them,
answered by e-BH, which holds its false discovery rate whatever the dependence.

References
----------
Wang, Ramdas: False discovery rate control with e-values, JRSS-B 2022, arXiv 2009.02824.
Vovk, Wang: E-values, Ann. Stat. 2021, arXiv 1912.06116 (the calibrator h).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

__all__ = ["FALSE_DISCOVERIES", "e_value", "mean_e_value", "named"]

T = TypeVar("T")

#: Share of the named that may be named wrongly, on average.
FALSE_DISCOVERIES: Final = 0.05
#: p is clipped to [1e-300, 1 - 1e-9].
_LEAST_LN_P: Final = math.log(1e-300)
_MOST_LN_P: Final = math.log1p(-1e-9)
#: Below this -ln p the series is more exact than the formula, whose terms cancel.
_SERIES: Final = 1e-3


def e_value(ln_p: float) -> float:
    """Turn a p-value into an e-value: h(p) = (1 - p + p ln p) / (p ln(p)**2).

    The mean of h over a uniform p is one, so h is at most 1 on average without drift.

    >>> round(e_value(math.log(5e-6)), 2)
    1342.3
    """
    x = -min(max(ln_p, _LEAST_LN_P), _MOST_LN_P)
    if x < _SERIES:
        return (0.5 - x / 3 + x * x / 8) * math.exp(x)
    return (math.expm1(x) - x) / (x * x)


def mean_e_value(ln_ps: Sequence[float]) -> float:
    """Average the e-values of the tests of one feature; an average of e-values is one."""
    return math.fsum(map(e_value, ln_ps)) / len(ln_ps)


def named(e_values: Mapping[T, float], *, tested: int) -> set[T]:
    """Give those whose e-value is among the k largest, which are all at least tested / (.05 k).

    Parameters
    ----------
    e_values
        By feature.
    tested
        F, the number of distributions tested, also those without an e-value here.
    """
    ranked = sorted(e_values.values(), reverse=True)
    for k in range(len(ranked), 0, -1):
        if ranked[k - 1] >= tested / (FALSE_DISCOVERIES * k):
            return {key for key, e in e_values.items() if e >= ranked[k - 1]}
    return set()
