"""What a window looks like, for people: moments of its numeric features, and latencies.

Nothing is decided by these; they come from the same integers as everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from kedge import FeatureReference, Measure, Reference
from kedge_services.core.measuring import trusted_measure
from kedge_services.core.pane_counts import PaneCounts

__all__ = ["measures"]

_LATENCIES = (("latency_p50_ms", 0.5), ("latency_p99_ms", 0.99))


def measures(window: PaneCounts, reference: Reference) -> list[Measure]:
    """Describe a window: mean, std, min and max by numeric feature, latency of its answers.

    Parameters
    ----------
    window
        Counted on the reference's bins.

    Returns
    -------
    list of Measure
        A feature without a finite value has none; std is that of a sample and needs two.
    """
    found: list[Measure] = []
    counts = window.features
    if counts is not None:
        places = counts.layout.places
        lows, highs = counts.extremes.tolist()
        totals, rows = counts.sums[0].tolist(), counts.valid.tolist()
        clipped = counts.counts[counts.layout.counter("clipped")].tolist()
        for name, feature in reference.features.items():
            at = places.get(name) if feature.kind == "numeric" else None
            if at is None or not rows[at] or lows[at] == math.inf or highs[at] == math.inf:
                continue
            found += _moments(
                name, feature, n=rows[at], total_z=totals[at], squares_z=counts.squares(at),
                clipped=clipped[at], low=lows[at], high=-highs[at],
            )  # fmt: skip
    for name, share in _LATENCIES:
        latency = window.latency.quantile_ms(share)
        if latency is not None:
            found.append(trusted_measure(name, None, latency, window.latency.n))
    return found


def _moments(
    name: str,
    feature: FeatureReference,
    *,
    n: int,
    total_z: int,
    squares_z: int,
    clipped: int,
    low: float,
    high: float,
) -> Iterator[Measure]:
    note = None
    if clipped:
        note = f"{clipped} values too far out were taken as if they were nearer"
    mean = feature.centre + feature.step * (total_z / n)
    yield trusted_measure("mean", name, mean, n, note=note)
    if n > 1:
        # Integers of any size: the difference of the two is exact.
        squares = n * squares_z - total_z**2
        std = feature.step * math.sqrt(squares / (n * (n - 1)))
        yield trusted_measure("std", name, std, n, note=note)
    yield trusted_measure("min", name, low, n)
    yield trusted_measure("max", name, high, n)
