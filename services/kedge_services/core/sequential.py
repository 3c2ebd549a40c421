"""The sequential detector of a rise of losses: mixture e-SR.

It sees every label once, in cells of label time, and may alarm at any of
them; the mean number of labels between false alarms is at least its threshold.
A loss is 0 or 1, or the rank of an error among the reference's, in [0, 1].

References
----------
Shin, Ramdas, Rinaldo: E-detectors, arXiv 2203.03532 (e-SR procedure).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Self

__all__ = ["ALTERNATIVES", "MIN_LOSSES", "LossDetector", "Losses", "mid_ranks", "threshold"]

#: Rises of the mean loss that are looked for.
ALTERNATIVES = (0.03, 0.05, 0.1, 0.2, 0.35)
#: Labelled rows that make a loss reference.
MIN_LOSSES = 1_000
_CAP = 1e300
_LEAST_THRESHOLD = 1e4
#: Part of the budget of false alarms.
_SHARE = 0.25
_WEEK_MS = 604_800_000

Losses = Sequence[tuple[float, int]]
"""Losses in [0, 1] in ascending order, each with its number."""


def threshold(losses_per_week: float, false_alarms_per_week: float) -> float:
    """Give c: 10,000 labels, or more when losses come faster than the budget allows.

    A quarter of the budget belongs to the detectors of a version, which share it by
    the losses they see: E[false alarms] <= losses / c.
    """
    if false_alarms_per_week <= 0:
        return math.inf
    return max(_LEAST_THRESHOLD, losses_per_week / (_SHARE * false_alarms_per_week))


def mid_ranks(counts: Sequence[int]) -> list[float]:
    """Give the loss that each bin of the reference's errors stands for.

    That is the share of the reference below the bin and half of its own: the mean is
    one half whatever the bins hold, also where one value has a bin of its own.

    >>> mid_ranks([2, 6, 0, 2])
    [0.1, 0.5, 0.8, 0.9]
    """
    n = sum(counts)
    if n <= 0:
        return [0.5] * len(counts)
    return [
        (2 * below - count) / (2 * n)
        for below, count in zip(accumulate(counts), counts, strict=True)
    ]


@dataclass(slots=True)
class _Stretch:
    """The newest labels in which the evidence for an alternative grew, as a CUSUM has them.

    ``ln`` is the logarithm of their likelihood ratio; at zero a new stretch begins.
    """

    ln: float = 0.0
    n: int = 0
    total: float = 0.0

    def add(self, ln: float, n: int, total: float) -> None:
        if self.ln + ln <= 0:
            self.ln, self.n, self.total = 0.0, 0, 0.0
        else:
            self.ln, self.n, self.total = self.ln + ln, self.n + n, self.total + total

    def encode(self) -> list[Any]:
        return [self.ln.hex(), self.n, self.total.hex()]

    @classmethod
    def decode(cls, data: Sequence[Any]) -> Self:
        return cls(float.fromhex(data[0]), data[1], float.fromhex(data[2]))


@dataclass(slots=True)
class LossDetector:
    """State of one detector of one version; floats survive a checkpoint bit for bit.

    Attributes
    ----------
    n, total, squares
        The loss reference, as sums of u and u**2: it grows with the first labels until it
        has :data:`MIN_LOSSES` of them.
    is_ranked
        The losses are ranks, not 0 and 1.
    r, stretches
        R of each alternative, and the labels in which it grew.
    seen, since_ms
        Losses tested and when the first of them came, for the rate of losses.
    paused_until_ms
        Cells that start earlier are not tested: the alarm is known.
    """

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    is_ranked: bool = False
    r: list[float] = field(default_factory=lambda: [0.0] * len(ALTERNATIVES))
    stretches: list[_Stretch] = field(default_factory=lambda: [_Stretch() for _ in ALTERNATIVES])
    seen: int = 0
    since_ms: int | None = None
    paused_until_ms: int | None = None

    @classmethod
    def of_errors(cls, n: float, errors: float) -> Self:
        """Hold losses of 0 and 1 to so many errors among the reference's rows."""
        return cls(n, errors, errors)

    @classmethod
    def of_ranks(cls, counts: Sequence[int]) -> Self:
        """Hold ranks to the reference's, given its errors by bin."""
        ranks = list(zip(mid_ranks(counts), counts, strict=True))
        total = math.fsum(u * count for u, count in ranks)
        squares = math.fsum(u * u * count for u, count in ranks)
        return cls(float(sum(counts)), total, squares, is_ranked=True)

    @property
    def learning(self) -> bool:
        """The loss reference is not complete."""
        return self.n < MIN_LOSSES

    @property
    def mean(self) -> float:
        """Mean loss of the reference."""
        return self.total / self.n

    @property
    def p0(self) -> float:
        """The mean loss held to be unchanged: two standard errors above the reference's."""
        error = math.sqrt(self._variance / self.n)
        if self.is_ranked:
            # Equal errors have no variance; three rows in n may still be larger ones.
            return self.mean + max(2 * error, 1.5 / self.n)
        return max(self.mean + 2 * error, 3 / self.n)

    @property
    def _variance(self) -> float:
        return max(0.0, self.squares / self.n - self.mean * self.mean)

    @property
    def evidence(self) -> float:
        """Mean R over the alternatives."""
        used = [r for bet, r in zip(self._bets(), self.r, strict=True) if bet is not None]
        return sum(used) / len(used) if used else 0.0

    @property
    def stretch(self) -> tuple[int, float]:
        """The labels in which the strongest evidence grew, and their mean loss."""
        best = self.stretches[max(range(len(self.r)), key=lambda i: self.r[i])]
        return best.n, best.total / best.n if best.n else 0.0

    def per_week(self, now_ms: int) -> float:
        """Give how many losses a week are tested."""
        if self.since_ms is None or now_ms <= self.since_ms:
            return 0.0
        return self.seen * _WEEK_MS / (now_ms - self.since_ms)

    def update(self, losses: Losses, *, start_ms: int) -> float | None:
        """Take a closed cell that starts at ``start_ms``.

        Returns
        -------
        float or None
            The evidence, to be held to :func:`threshold`; None when nothing was tested.
        """
        n = sum(count for _, count in losses)
        if n <= 0:
            return None
        total = math.fsum(u * count for u, count in losses)
        if self.learning:
            self.n += n
            self.total += total
            self.squares += math.fsum(u * u * count for u, count in losses)
            return None
        if self.paused_until_ms is not None and start_ms < self.paused_until_ms:
            return None
        if self.since_ms is None:
            self.since_ms = start_ms
        self.seen += n
        p0 = self.p0
        for i, bet in enumerate(self._bets()):
            if bet is not None:
                ln = math.fsum(count * math.log1p(bet * (u - p0)) for u, count in losses)
                # "+ n" keeps the mean number of labels between false alarms, whatever
                # the size of a cell.
                self.r[i] = min(_CAP, (self.r[i] + n) * math.exp(min(600.0, ln)))
                self.stretches[i].add(ln, n, total)
        return self.evidence

    def _bets(self) -> Iterable[float | None]:
        """Give lambda of each alternative; None where it is no chance of an error."""
        p0 = self.p0
        for d in ALTERNATIVES:
            if self.is_ranked:
                variance = self._variance
                yield min(d / variance, 0.9 / p0) if variance else 0.9 / p0
            else:
                # The likelihood ratio of p0 + d against p0.
                yield d / (p0 * (1 - p0)) if p0 + d < 1 else None

    def reset(self, until_ms: int) -> None:
        """Begin anew after an alarm, with the first cell from ``until_ms``."""
        self.r = [0.0] * len(ALTERNATIVES)
        self.stretches = [_Stretch() for _ in ALTERNATIVES]
        self.paused_until_ms = until_ms

    def encode(self) -> dict[str, Any]:
        """Give JSON data; floats as hex, so that they come back exactly."""
        return {
            "n": self.n.hex(),
            "total": self.total.hex(),
            "squares": self.squares.hex(),
            "is_ranked": self.is_ranked,
            "r": [r.hex() for r in self.r],
            "stretches": [stretch.encode() for stretch in self.stretches],
            "seen": self.seen,
            "since_ms": self.since_ms,
            "paused_until_ms": self.paused_until_ms,
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(
            n=float.fromhex(data["n"]),
            total=float.fromhex(data["total"]),
            squares=float.fromhex(data["squares"]),
            is_ranked=data["is_ranked"],
            r=[float.fromhex(r) for r in data["r"]],
            stretches=[_Stretch.decode(stretch) for stretch in data["stretches"]],
            seen=data["seen"],
            since_ms=data["since_ms"],
            paused_until_ms=data["paused_until_ms"],
        )
