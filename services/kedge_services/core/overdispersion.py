"""Overdispersion: how much more counts vary in time than those of independent rows would.

Rows that come in batches or are autocorrelated say less than their number.  phi is that
factor, measured between contiguous parts (blocks) of the reference; every test divides
its numbers of rows by it.  The value of one feature is noisy, so it is drawn half way to
the mean over all of its kind.

References
----------
Rao, Scott 1984 (Annals of Statistics 12) for :func:`unevenness`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kedge.panes import FeatureReference, Reference

__all__ = [
    "COUNTERS",
    "LABEL",
    "PREDICTION",
    "SCORE",
    "counter_overdispersion",
    "distributions",
    "is_constant",
    "overdispersion",
    "unevenness",
]

#: What is tested beside features goes by these names, which start its measures' names too.
PREDICTION, SCORE, LABEL = "prediction_", "score_", "label_"
#: Counters of a feature; the first three are out of all its values, the others of the valid.
COUNTERS: Final = ("null", "type_error", "not_finite", "unseen", "below", "above")
#: Cuts in the tails vary too much to measure by.
_TAIL: Final = 0.1
#: Categories with fewer rows expected in a block, likewise.
_LEAST_EXPECTED: Final = 5
#: A counter with fewer rows in the reference has no phi of its own.
_OWN_COUNTER: Final = 50
_MOST_BORROWED: Final = 4.0
_TAIL_EXCESS: Final = 1.5

_Floats = NDArray[np.float64]


def distributions(reference: Reference) -> Iterator[tuple[str, FeatureReference]]:
    """Give all that is tested, by name: features, prediction, score and label."""
    yield from reference.features.items()
    for name, part in (
        (PREDICTION, reference.prediction),
        (SCORE, reference.score),
        (LABEL, reference.label),
    ):
        if part is not None:
            yield name, part


def overdispersion(reference: Reference) -> dict[str, float]:
    """Give phi by the names of :func:`distributions`.

    Notes
    -----
    ``phi = max(1, raw / 2 + pool / 2)``, where raw is the mean over the cuts (or
    categories) of the variance of their share between blocks over what it is for
    independent rows, and pool the mean of raw over what is not constant of the same kind.
    Constants have 1.  A ``dispersion`` that was given beforehand stands.
    """
    found = {}
    for kind in ("numeric", "categorical"):
        mine = {name: f for name, f in distributions(reference) if f.kind == kind}
        raws = {name: _raw(f) for name, f in mine.items() if not is_constant(f)}
        pool = _mean([raw for raw in raws.values() if raw is not None])
        for name, feature in mine.items():
            raw = raws.get(name)
            if feature.dispersion is not None:
                found[name] = feature.dispersion
            elif name not in raws:
                found[name] = 1.0
            else:
                found[name] = max(1.0, pool if raw is None else (raw + pool) / 2)
    return found


def unevenness(reference: Reference) -> float:
    """Give r >= 1: how unevenly the overdispersion of categories lies on their contrasts.

    Notes
    -----
    With D the covariance between blocks of ``sqrt(n) (share_i - p_i) / sqrt(p_i)`` and D0
    that of independent rows, ``r = (tr D^2 / tr D0^2) / ((tr D)^2 / (tr D0)^2)``, numerator and
    denominator averaged over all categorical distributions: the value of one is too noisy.
    From S, the covariance of K blocks (v = K - 1 degrees of freedom), tr D^2 is estimated
    without bias by ``v^2 / ((v - 1)(v + 2)) (tr S^2 - (tr S)^2 / v)``, and (tr D)^2 by
    ``(tr S)^2 - (2 / v) tr D^2``.

    r is a mean of what the contrasts vary by, but far out in the tail, where alarms are
    decided, only the contrast that varies most counts.  So its excess over 1 is taken half
    as much again: with 10 categorical features of 6 ordered levels, each an AR(1) behind a
    copula, clean panes that alarm fall from 4.2 to 2.5 in 1,000 (.7) and from 4.0 to 1.3
    (.9); where r is 1 nothing changes.
    """
    squares, traces = [], []
    for _, feature in distributions(reference):
        moments = _moments(feature) if feature.kind == "categorical" else None
        if moments is not None:
            squares.append(moments[0])
            traces.append(moments[1])
    if not squares or math.fsum(traces) <= 0:
        return 1.0
    mean = math.fsum(squares) / math.fsum(traces)
    return max(1.0, 1 + _TAIL_EXCESS * (mean - 1))


def counter_overdispersion(reference: Reference) -> dict[str, dict[str, float]]:
    """Give phi by feature and counter.

    A counter with 50 rows or more has its own; others borrow that of numeric features, as
    far as 4; those of a constant, which no batch can move, have 1.
    """
    borrowed = min(_MOST_BORROWED, max(1.0, _borrowed(reference)))
    found = {}
    for name, feature in reference.features.items():
        usual = 1.0 if is_constant(feature) else borrowed
        found[name] = dict.fromkeys(COUNTERS, usual) | _own(feature)
    return found


def is_constant(feature: FeatureReference) -> bool:
    """Say whether all values lie in one bin."""
    return sum(count > 0 for count in feature.counts) <= 1


def _raw(feature: FeatureReference) -> float | None:
    """Give the mean factor over what is frequent enough; None where nothing is."""
    if feature.dispersion is not None:
        return feature.dispersion
    blocks = np.array([block for block in feature.blocks if sum(block)], dtype=np.int64)
    if len(blocks) < 2:
        return None
    marked = np.cumsum(blocks, axis=1)[:, :-1] if feature.kind == "numeric" else blocks
    sizes = blocks.sum(axis=1)
    shares = marked.sum(axis=0) / sizes.sum()
    if feature.kind == "numeric":
        fit = (shares >= _TAIL) & (shares <= 1 - _TAIL)
    else:
        fit = (shares * sizes.mean() >= _LEAST_EXPECTED) & (shares < 1)
    if not fit.any():
        return None
    return math.fsum(_factors(marked[:, fit], sizes).tolist()) / int(fit.sum())


def _factors(marked: NDArray[np.int64], sizes: NDArray[np.int64]) -> _Floats:
    """Give the variance of shares between blocks over that of independent rows.

    Parameters
    ----------
    marked
        Shape (blocks, shares): marked rows of each block.
    sizes
        Shape (blocks,): rows.  A block weighs as many rows as it has, since its share
        varies by 1 / rows.
    """
    whole = marked.sum(axis=0) / sizes.sum()
    deviations = (marked / sizes[:, None] - whole) ** 2 * sizes[:, None]
    factors: _Floats = deviations.sum(axis=0) / ((len(sizes) - 1) * whole * (1 - whole))
    return factors


def _moments(feature: FeatureReference) -> tuple[float, float] | None:
    """Give tr D^2 and (tr D)^2 over what they are for independent rows; see `unevenness`."""
    blocks = np.array([block for block in feature.blocks if sum(block)], dtype=np.int64)
    v = len(blocks) - 1
    if v < 2:
        return None
    sizes = blocks.sum(axis=1)
    shares = blocks.sum(axis=0) / sizes.sum()
    fit = (shares * sizes.mean() >= _LEAST_EXPECTED) & (shares < 1)
    p = shares[fit]
    independent = np.diag(np.ones(p.size)) - np.sqrt(np.outer(p, p))
    # Two categories have one contrast between them, which cannot be uneven.
    if p.size <= 2:
        return None
    y = (blocks[:, fit] / sizes[:, None] - p) * np.sqrt(sizes[:, None] / p)
    s = y.T @ y / v
    trace, square = float(np.trace(s)), float((s * s).sum())
    d2 = v * v / ((v - 1) * (v + 2)) * (square - trace * trace / v)
    d1 = trace * trace - 2 / v * d2
    return d2 / float((independent**2).sum()), d1 / float(np.trace(independent)) ** 2


def _own(feature: FeatureReference) -> dict[str, float]:
    """Give phi of the counters that are frequent enough to have one of their own."""
    own = {}
    totals = np.array(feature.counter_blocks.get("total", []), dtype=np.int64)
    valid = np.array([sum(block) for block in feature.blocks], dtype=np.int64)
    for name, counts in feature.counter_blocks.items():
        if name not in COUNTERS or sum(counts) < _OWN_COUNTER:
            continue
        sizes = totals if COUNTERS.index(name) < COUNTERS.index("unseen") else valid
        marked = np.array(counts, dtype=np.int64)
        used = sizes > 0
        if used.sum() < 2 or marked.sum() >= sizes.sum():
            continue
        [raw] = _factors(marked[used, None], sizes[used]).tolist()
        own[name] = max(1.0, (raw + 1) / 2)
    return own


def _borrowed(reference: Reference) -> float:
    parts = [f for _, f in distributions(reference) if not is_constant(f)]
    raws = [(f.kind, raw) for f in parts if (raw := _raw(f)) is not None]
    return _mean([raw for kind, raw in raws if kind == "numeric"] or [raw for _, raw in raws])


def _mean(raws: Sequence[float]) -> float:
    return math.fsum(raws) / len(raws) if raws else 1.0
