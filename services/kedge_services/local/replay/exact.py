"""Means and deviations of more numbers than fit, to the last bit as of all at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

__all__ = ["Exact"]

#: Every float is a whole multiple of 2 ** -1074.
_BITS = 1074
_UNIT = 1 << _BITS
#: Digits in which a variance is rooted, far more than a float has.
_CONTEXT = Context(prec=60)


@dataclass(slots=True)
class Exact:
    """The exact sum of floats and of their squares, as integers: no order matters.

    >>> total = Exact()
    >>> for value in (1e16, 1.0, -1e16):
    ...     total.add(value)
    >>> total.mean
    0.3333333333333333
    """

    n: int = 0
    total_units: int = 0
    square_units: int = 0
    infinite: float = 0.0

    @classmethod
    def of(cls, parts: Iterable[Exact]) -> Exact:
        """Put several together."""
        whole = cls()
        for part in parts:
            whole.n += part.n
            whole.total_units += part.total_units
            whole.square_units += part.square_units
            whole.infinite += part.infinite
        return whole

    def add(self, value: float) -> None:
        """Take a number."""
        self.n += 1
        if not value:
            return
        if not math.isfinite(value):
            self.infinite += value
            return
        top, bottom = value.as_integer_ratio()
        shift = _BITS + 1 - bottom.bit_length()
        self.total_units += top << shift
        self.square_units += (top * top) << 2 * shift

    @property
    def total(self) -> float:
        """Their sum, rounded once."""
        return self.infinite or float(Fraction(self.total_units, _UNIT))

    @property
    def mean(self) -> float:
        """Their mean, as :func:`statistics.fmean` gives it; there has to be one."""
        return self.total / self.n

    @property
    def deviation(self) -> float:
        """Their standard deviation, as :func:`statistics.stdev` gives it; of two or more."""
        if self.infinite:
            return math.nan
        spread = Fraction(
            self.n * self.square_units - self.total_units**2, self.n * (self.n - 1) * _UNIT**2
        )
        top, bottom = Decimal(spread.numerator), Decimal(spread.denominator)
        return float(_CONTEXT.sqrt(_CONTEXT.divide(top, bottom)))
