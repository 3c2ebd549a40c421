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
            (name, feature.centre, feature.step, [head(what, name) for what in _MOMENTS])
            for name, feature in reference.features.items()
            if feature.kind == "numeric"
        ]

    def text(self, window: PaneCounts) -> bytes:
        """Describe a window.

        A feature without a finite value has no measures; std is that of a sample and needs
        two.
        """
        texts = self._moments(window)
        for name, share in _LATENCIES:
            latency = window.latency.quantile_ms(share)
            if latency is not None:
                value = numbers([latency])[0]
                texts.append(_measure(head(name, None), value, window.latency.n))
        return b",".join(texts)

    def _moments(self, window: PaneCounts) -> list[bytes]:
        counts = window.features
        if counts is None:
            return []
        layout, rows = counts.layout, counts.valid.tolist()
        lows, highs = counts.extremes.tolist()
        totals, clipped = counts.sums[0].tolist(), counts.counts[layout.counter("clipped")].tolist()
        found: list[tuple[bytes, int, bytes]] = []
        values: list[float] = []
        for name, centre, step, (mean, std, low, high) in self._features:
            at = layout.places.get(name)
            if at is None or not rows[at] or lows[at] == math.inf or highs[at] == math.inf:
                continue
            n, total = rows[at], totals[at]
            note = b"}"
            if clipped[at]:
                why = f"{clipped[at]} values too far out were taken as if they were nearer"
                note = b',"note":' + as_json(why) + b"}"
            values.append(centre + step * (total / n))
            found.append((mean, n, note))
            if n > 1:
                # Integers of any size: the difference of the two is exact.
                squares = n * counts.squares(at) - total**2
                values.append(step * math.sqrt(squares / (n * (n - 1))))
                found.append((std, n, note))
            values += lows[at], -highs[at]
            found += (low, n, b"}"), (high, n, b"}")
        return [
            _measure(start, value, n, end)
            for (start, n, end), value in zip(found, numbers(values), strict=True)
        ]


def _measure(start: bytes, value: bytes, n: int, end: bytes = b"}") -> bytes:
    return b'%b,"value":%b,"n":%d%b' % (start, value, n, end)
