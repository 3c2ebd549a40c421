"""The sequential detector of a rise of the error rate: mixture e-SR.

It sees every label once, in cells of label time, and may alarm at any of
them; the mean number of labels between false alarms is at least its threshold.

References
----------
Shin, Ramdas, Rinaldo: E-detectors, arXiv 2203.03532 (e-SR procedure).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["ALTERNATIVES", "MIN_LOSSES", "ErrorRateDetector", "upper_rate"]

#: Rises of the error rate that are looked for.
ALTERNATIVES = (0.03, 0.05, 0.1, 0.2, 0.35)
#: Labelled rows that make a loss reference.
MIN_LOSSES = 1_000
_CAP = 1e300
_LEAST_THRESHOLD = 1e4
_WEEK_MS = 604_800_000


def upper_rate(n: float, errors: float) -> float:
    """Give p0: the error rate that counts as unchanged, two standard errors above the mean."""
    rate = errors / n
    return max(rate + 2 * math.sqrt(rate * (1 - rate) / n), 3 / n)


@dataclass(slots=True)
class ErrorRateDetector:
    """State of the detector of one version; floats survive a checkpoint bit for bit.

    Attributes
    ----------
    n, errors
        The loss reference: it grows with the first labels until it has
        :data:`MIN_LOSSES` rows.
    r
        R of each alternative.
    seen, since_ms
        Labels tested and when the first of them came, for the rate of labels.
    paused_until_ms
        Cells that start earlier are not tested: the alarm is known.
    """

    n: float = 0.0
    errors: float = 0.0
    r: list[float] = field(default_factory=lambda: [0.0] * len(ALTERNATIVES))
    seen: int = 0
    since_ms: int | None = None
    paused_until_ms: int | None = None

    @property
    def learning(self) -> bool:
        """The loss reference is not complete."""
        return self.n < MIN_LOSSES

    @property
    def p0(self) -> float:
        """The error rate held to be unchanged."""
        return upper_rate(self.n, self.errors)

    @property
    def evidence(self) -> float:
        """Mean R over the alternatives."""
        used = [r for d, r in zip(ALTERNATIVES, self.r, strict=True) if self.p0 + d < 1]
        return sum(used) / len(used) if used else 0.0

    def threshold(self, now_ms: int, false_alarms_per_week: float) -> float:
        """Give c: 10,000 labels, or more when they come faster than the budget allows.

        A quarter of the budget belongs to this detector; E[false alarms] <= labels / c.
        """
        if self.since_ms is None or now_ms <= self.since_ms:
            return _LEAST_THRESHOLD
        per_week = self.seen * _WEEK_MS / (now_ms - self.since_ms)
        return max(_LEAST_THRESHOLD, per_week / (0.25 * false_alarms_per_week))

    def update(
        self, *, labelled: int, errors: float, start_ms: int, end_ms: int, per_week: float
    ) -> float | None:
        """Take a closed cell ``[start_ms, end_ms)``; give the evidence when it alarms.

        Parameters
        ----------
        labelled, errors
            Labels of the cell and how many of them were errors.
        per_week
            Budget of false alarms, of which a quarter is used here.
        """
        if self.learning:
            self.n += labelled
            self.errors += errors
            return None
        if self.paused_until_ms is not None and start_ms < self.paused_until_ms:
            return None
        if self.since_ms is None:
            self.since_ms = start_ms
        self.seen += labelled
        p0 = self.p0
        for i, d in enumerate(ALTERNATIVES):
            if p0 + d < 1:
                # Likelihood ratio of p0 + d against p0; "+ n" keeps the mean number
                # of labels between false alarms, whatever the size of a cell.
                exponent = errors * math.log1p(d / p0) + (labelled - errors) * math.log1p(
                    -d / (1 - p0)
                )
                self.r[i] = min(_CAP, (self.r[i] + labelled) * math.exp(min(600.0, exponent)))
        evidence = self.evidence
        return evidence if evidence >= self.threshold(end_ms, per_week) else None

    def reset(self, until_ms: int) -> None:
        """Begin anew after an alarm, with the first cell from ``until_ms``."""
        self.r = [0.0] * len(ALTERNATIVES)
        self.paused_until_ms = until_ms

    def encode(self) -> dict[str, Any]:
        """Give JSON data; floats as hex, so that they come back exactly."""
        return {
            "n": self.n.hex(),
            "errors": self.errors.hex(),
            "r": [r.hex() for r in self.r],
            "seen": self.seen,
            "since_ms": self.since_ms,
            "paused_until_ms": self.paused_until_ms,
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(
            n=float.fromhex(data["n"]),
            errors=float.fromhex(data["errors"]),
            r=[float.fromhex(r) for r in data["r"]],
            seen=data["seen"],
            since_ms=data["since_ms"],
            paused_until_ms=data["paused_until_ms"],
        )
