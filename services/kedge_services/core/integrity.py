"""Integrity: nulls, wrong types and values the reference never had.

References
----------
Good 1953: the number of categories seen once estimates how often a new one comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import Detection, FeatureReference, Measure, Reference
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.sketches import FeatureCounts

__all__ = ["COUNTER_FLOOR", "LEAST_LN_P", "Z80", "IntegrityJudge", "rounded", "valid_rows"]

#: A share that changed by less is not worth an alarm, whatever its p-value.
COUNTER_FLOOR: Final = 0.005
#: One-sided 80 % quantile of the normal distribution.
Z80: Final = 0.8416
#: ln p below this is not told apart; floats end at e**-745.
LEAST_LN_P: Final = -690.0


class _Counter(NamedTuple):
    """A counter of a feature: ``k`` of ``n`` rows, in the reference ``known`` of ``rows``."""

    name: str
    k: int
    n: int
    known: int
    rows: int
    both_sides: bool = False


class IntegrityJudge:
    """Tests the counters of windows against their reference."""

    def __init__(self, reference: Reference) -> None:
        self._features = reference.features
        self._gaps = {
            name: gaps
            for name, feature in reference.features.items()
            if feature.kind == "numeric" and (gaps := _gaps(feature)) is not None
        }

    def judge(self, window: DriftDelta, *, alpha: float) -> tuple[list[Measure], list[Detection]]:
        """Measure and test all counters.

        Parameters
        ----------
        window
            Merged panes, counted on the reference's bins.
        alpha
            For all counters of this window together; each gets an equal part.
        """
        counters = [
            (name, counter)
            for name, before in self._features.items()
            if (now := window.features.get(name)) is not None and now.total and before.total
            for counter in self._counters(name, now, before)
        ]
        least = math.log(alpha / max(1, len(counters)))
        judged = [_judge(name, counter, least) for name, counter in counters]
        return [m for m, _ in judged], [d for _, d in judged if d is not None]

    def _counters(
        self, name: str, now: FeatureCounts, before: FeatureReference
    ) -> Iterator[_Counter]:
        n, rows = now.total, before.total
        yield _Counter("null_share", now.null, n, before.null, rows, both_sides=True)
        yield _Counter("type_error_share", now.type_error, n, before.type_error, rows)
        yield _Counter("not_finite_share", now.nan + now.inf, n, before.nan + before.inf, rows)
        n, rows = now.valid, valid_rows(before)
        if not n or not rows:
            return
        if before.kind == "categorical":
            yield _Counter("unseen_share", now.unseen, n, before.f1, rows)
            return
        yield _Counter("below_share", now.below, n, before.below, rows)
        yield _Counter("above_share", now.above, n, before.above, rows)
        if (gaps := self._gaps.get(name)) is not None:
            yield _Counter("unseen_share", int(now.bins[gaps].sum()), n, before.f1, rows)


def valid_rows(reference: FeatureReference) -> int:
    """Give N: the reference's values that could be judged."""
    bad = reference.null + reference.nan + reference.inf + reference.type_error
    return reference.total - bad


def rounded(ln_p: float) -> float:
    """Round to 9 digits, so that the last bits of a library do not decide."""
    return float(f"{ln_p:.9g}")


def _judge(feature: str, counter: _Counter, least: float) -> tuple[Measure, Detection | None]:
    share, before = counter.k / counter.n, counter.known / counter.rows
    variance = share * (1 - share) / counter.n
    error = Z80 * math.sqrt(variance + before * (1 - before) / counter.rows)
    measure = Measure(
        name=counter.name,
        feature=feature,
        value=share,
        low=max(0.0, share - Z80 * math.sqrt(variance)),
        high=min(1.0, share + Z80 * math.sqrt(variance)),
        n=counter.n,
        threshold=before,
    )
    # The exact tail costs most, so it is taken only where the effect is large enough.
    is_small = abs(share - before) - error < COUNTER_FLOOR
    if is_small or (share < before and not counter.both_sides):
        return measure, None
    ln_p = _hypergeometric(counter)
    measure = measure.model_copy(update={"evidence": ln_p})
    if ln_p >= least:
        return measure, None
    what = counter.name.removesuffix("_share").replace("_", " ")
    return measure, Detection(
        kind="integrity",
        detector=counter.name,
        feature=feature,
        value=share,
        threshold=before,
        evidence=ln_p,
        summary=f"{feature}: {what} in {share:.1%} of {counter.n} rows, before {before:.1%}",
    )


def _hypergeometric(counter: _Counter) -> float:
    """Give ln p of so many (or so few) of the k + K marked rows falling into the window."""
    k, n = counter.k, counter.n
    marked, total = k + counter.known, n + counter.rows
    if k * counter.rows > counter.known * n:
        ln_p = ln_upper_tail(k, n, marked, total)
    else:
        # As few marked rows are as many rows without the mark.
        ln_p = ln_upper_tail(n - k, n, total - marked, total)
    if counter.both_sides:
        ln_p += math.log(2)
    return rounded(min(0.0, max(ln_p, LEAST_LN_P)))


def ln_upper_tail(k: int, n: int, marked: int, total: int) -> float:
    """Give ln P(at least k of n rows drawn from ``total`` are among the ``marked``).

    The first term from log factorials, the others by their ratio to the one
    before; beyond the mode, where this is used, they fall fast.

    >>> round(ln_upper_tail(7, 500, 7, 5_500), 6)
    -16.82363
    """
    if k <= max(0, n + marked - total):
        return 0.0
    first = _ln_choose(marked, k) + _ln_choose(total - marked, n - k) - _ln_choose(total, n)
    rest, term = 1.0, 1.0
    for i in range(k, min(n, marked)):
        term *= (marked - i) * (n - i) / ((i + 1) * (total - marked - n + i + 1))
        rest += term
        if term < rest * 1e-17:
            break
    return min(0.0, first + math.log(rest))


def _ln_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _gaps(feature: FeatureReference) -> NDArray[np.int64] | None:
    """Give the inner gap bins of a few-valued feature; None for any other."""
    cuts = feature.cuts
    if not cuts or len(cuts) % 2 or any(feature.counts[::2]):
        return None
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    if any(math.nextafter(atom, -math.inf) != gap for gap, atom in pairs):
        return None
    return np.arange(2, len(cuts), 2)
