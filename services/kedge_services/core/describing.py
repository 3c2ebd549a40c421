"""What a window looks like, for people: moments of its numeric features, and latencies.

Nothing is decided by these; they come from the same integers as everything else.
"""

from __future__ import annotations

import math
from typing import Final

from kedge import Reference
from kedge_services.core.measuring import as_json, head, numbers
from kedge_services.core.pane_counts import PaneCounts

__all__ = ["Describer"]

_LATENCIES: Final = (("latency_p50_ms", 0.5), ("latency_p99_ms", 0.99))
_MOMENTS: Final = ("mean", "std", "min", "max")


class Describer:
    """Writes mean, std, min and max by numeric feature, and the latency of answers.

    Parameters
    ----------
    reference
        On whose bins windows are counted.
    """

    def __init__(self, reference: Reference) -> None:
        self._features = [
            (name, feature.centre, feature.step, [_start(head(what, name)) for what in _MOMENTS])
            for name, feature in reference.features.items()
            if feature.kind == "numeric"
        ]
        self._latencies = [(_start(head(name, None)), share) for name, share in _LATENCIES]

    def text(self, window: PaneCounts) -> bytes:
        """Describe a window.

        A feature without a finite value has no measures; std is that of a sample and needs
        two.
        """
        texts = self._moments(window)
        n = window.latency.n
        for start, share in self._latencies:
            latency = window.latency.quantile_ms(share)
            if latency is not None:
                texts.append(start + numbers([latency])[0] + b',"n":%d}' % n)
        return b",".join(texts)

    def _moments(self, window: PaneCounts) -> list[bytes]:
        counts = window.features
        if counts is None:
            return []
        layout, rows = counts.layout, counts.valid.tolist()
        lows, highs = counts.extremes.tolist()
        totals, clipped = counts.sums[0].tolist(), counts.counts[layout.counter("clipped")].tolist()
        found: list[tuple[bytes, bytes]] = []
        values: list[float] = []
        for name, centre, step, (mean, std, low, high) in self._features:
            at = layout.places.get(name)
            if at is None or not rows[at] or lows[at] == math.inf or highs[at] == math.inf:
                continue
            n, total = rows[at], totals[at]
            end = noted = b',"n":%d}' % n
            if clipped[at]:
                why = f"{clipped[at]} values too far out were taken as if they were nearer"
                noted = b',"n":%d,"note":%b}' % (n, as_json(why))
            values.append(centre + step * (total / n))
            found.append((mean, noted))
            if n > 1:
                # Integers of any size: the difference of the two is exact.
                squares = n * counts.squares(at) - total**2
                values.append(step * math.sqrt(squares / (n * (n - 1))))
                found.append((std, noted))
            values += lows[at], -highs[at]
            found += (low, end), (high, end)
        return [
            start + value + end for (start, end), value in zip(found, numbers(values), strict=True)
        ]


def _start(of: bytes) -> bytes:
    return of + b',"value":'
