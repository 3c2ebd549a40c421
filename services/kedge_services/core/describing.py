"""What a window looks like, for people: moments of its numeric features, and latencies.

Nothing is decided by these; they come from the same integers as everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from kedge import FeatureReference, Measure, Reference
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.sketches import FeatureCounts

__all__ = ["measures"]

_LATENCIES = (("latency_p50_ms", 0.5), ("latency_p99_ms", 0.99))


def measures(window: DriftDelta, reference: Reference) -> list[Measure]:
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
    found = [
        measure
        for name, feature in reference.features.items()
        if feature.kind == "numeric" and (counts := window.features.get(name)) is not None
        for measure in _moments(name, feature, counts)
    ]
    for name, share in _LATENCIES:
        latency = window.latency.quantile_ms(share)
        if latency is not None:
            found.append(Measure(name=name, value=latency, n=window.latency.n))
    return found


def _moments(name: str, feature: FeatureReference, counts: FeatureCounts) -> Iterator[Measure]:
    n = int(counts.bins.sum())
    if not n or counts.min is None or counts.max is None:
        return
    note = None
    if counts.clipped:
        note = f"{counts.clipped} values too far out were taken as if they were nearer"
    mean = feature.centre + feature.step * (counts.total_z / n)
    yield Measure(name="mean", feature=name, value=mean, n=n, note=note)
    if n > 1:
        # Integers of any size: the difference of the two is exact.
        squares = n * counts.squares_z - counts.total_z**2
        std = feature.step * math.sqrt(squares / (n * (n - 1)))
        yield Measure(name="std", feature=name, value=std, n=n, note=note)
    yield Measure(name="min", feature=name, value=counts.min, n=n)
    yield Measure(name="max", feature=name, value=counts.max, n=n)
