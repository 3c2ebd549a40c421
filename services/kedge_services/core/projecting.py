"""How pairs of features go together in a reference: sums, and how much those vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from kedge.panes import FeatureReference, Projection
from kedge_services.core.columns import Values
from kedge_services.core.rank_pairs import (
    CRUMBS,
    EXACT_ROWS,
    Projector,
    correlations,
    order_of,
    pair_sums,
    pairs_of,
)

__all__ = ["project"]

_Floats = NDArray[np.float64]


def project(
    features: Mapping[str, FeatureReference], columns: Mapping[str, Values], *, blocks: int
) -> Projection | None:
    """Count how pairs of features go together in the rows of a reference.

    Parameters
    ----------
    features
        Counted from the columns.
    columns
        Rows in event-time order.
    blocks
        Contiguous parts, between which correlations vary more than those of independent
        rows would where rows depend on those before them.

    Returns
    -------
    Projection or None
        None when there are not two features, or fewer rows than blocks.

    Notes
    -----
    The variance of a correlation r of n rows is t/n, where t is the mean of
    (ab - r (a**2 + b**2) / 2)**2 over the rows' scores a and b in standard units.
    """
    names = order_of(list(features))
    rows = len(columns[names[0]]) if names else 0
    if len(names) < 2 or rows < blocks:
        return None
    projector = Projector(names, features)
    sums = [_Sums.of(projector, columns, k * rows // blocks, (k + 1) * rows // blocks)
            for k in range(blocks)]  # fmt: skip
    whole = _Sums(*(sum(parts) for parts in zip(*sums, strict=True)))
    variance = whole.variance()
    usable = variance > CRUMBS
    by_block = np.array([part.correlation() for part in sums])
    expected = np.where(usable, variance, 1.0) * blocks / rows
    raw = np.var(by_block, axis=0, ddof=1) / expected
    known = usable & np.isfinite(raw)
    pooled = float(raw[known].mean()) if known.any() else 1.0
    dispersion = np.maximum(1.0, (np.where(known, raw, pooled) + pooled) / 2)
    return Projection(
        features=names,
        sums=[rows, *whole.products.astype(np.int64).tolist()],
        variances=_rounded(np.where(usable, variance, 0.0)),
        dispersions=_rounded(dispersion),
    )


class _Sums(NamedTuple):
    """Sums over rows of the scores a and b of pairs, and of powers of single ones."""

    rows: Any
    products: Any
    totals: Any
    squares: Any
    fourths: Any
    aabb: Any
    aaab: Any
    abbb: Any

    @classmethod
    def of(cls, projector: Projector, columns: Mapping[str, Values], start: int, stop: int) -> Self:
        """Add up the rows from ``start`` to ``stop``; integers, exact in 64-bit floats."""
        parts = []
        for at in range(start, stop, EXACT_ROWS):
            end = min(stop, at + EXACT_ROWS)
            a = projector.scores(columns, at, end).astype(np.float64)
            square, cube = a * a, a * a * a
            parts.append((
                end - at, pair_sums(a, a), a.sum(axis=1), square.sum(axis=1),
                (square * square).sum(axis=1), pair_sums(square, square),
                pair_sums(cube, a), pair_sums(a, cube),
            ))  # fmt: skip
        return cls(*(sum(part) for part in zip(*parts, strict=True)))

    def correlation(self) -> _Floats:
        return correlations(self.rows, self.products, self.totals, self.squares)

    def variance(self) -> _Floats:
        """Give the variance of a pair's correlation, times the number of rows; NaN for none."""
        first, second = pairs_of(self.totals.size)
        r = self.correlation()
        # The scores' means are about zero by construction.
        power = self.squares / self.rows
        power[power < CRUMBS] = np.nan
        peak = self.fourths / self.rows / (power * power)
        pair = power[first] * power[second]
        both = self.aabb / self.rows / pair
        skew = self.aaab / (power[first] * np.sqrt(pair)) + self.abbb / (
            power[second] * np.sqrt(pair)
        )
        found: _Floats = (
            both - r * skew / self.rows + r * r / 4 * (peak[first] + peak[second] + 2 * both)
        )
        return found


def _rounded(values: _Floats) -> list[float]:
    """Round to 6 digits: enough for a variance, and short in a reference."""
    return [float(f"{value:.6g}") for value in values.tolist()]
