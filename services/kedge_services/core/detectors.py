"""Drift: is this window like the reference, and is the difference worth an alarm.

An alarm needs both evidence (a p-value below its share of the budget of false
alarms) and size (a lower bound of the effect above a floor), so that neither
trifles in large windows nor noise in small ones fire.

References
----------
Kolmogorov-Smirnov p by the asymptotic bound of Smirnov 1939; effect floor w = .10:
Cohen 1988, "small".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from kedge import Detection, FeatureReference, Measure, Monitor, Reference
from kedge.base import AlertKind
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.integrity import (
    LEAST_LN_P,
    Z80,
    IntegrityJudge,
    rounded,
    valid_rows,
)
from kedge_services.core.sketches import FeatureCounts

__all__ = [
    "CATEGORICAL_FLOOR",
    "MIN_REFERENCE",
    "MIN_WINDOW",
    "NUMERIC_FLOOR",
    "Budget",
    "DriftJudge",
    "Verdict",
    "categorical_test",
]

NUMERIC_FLOOR: Final = 0.05
CATEGORICAL_FLOOR: Final = 0.10
MIN_WINDOW: Final = 100
MIN_REFERENCE: Final = 1_000
_SCALES: Final = 4
_WEEK_MS: Final = 604_800_000
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Budget:
    """How many false alarms a pane may have, over all that is tested for the model.

    Attributes
    ----------
    per_pane
        Expected false alarms in one pane.
    per_week
        The same in a week of panes.
    """

    per_pane: float
    per_week: float

    @classmethod
    def of(cls, monitor: Monitor) -> Budget:
        """Read ``"1 per week"`` or ``"1 per 1000 windows"``."""
        panes_per_week = _WEEK_MS / monitor.pane_ms
        text = monitor.drift.false_alarms
        number, per = float(text.split()[0]), re.search(r"per (\d+) windows", text)
        per_pane = number / int(per[1]) if per else number / panes_per_week
        return cls(per_pane, per_pane * panes_per_week)

    @property
    def drift(self) -> float:
        """Share of the distributions' tests in one pane."""
        return min(1e-3, 0.5 * self.per_pane)

    @property
    def integrity(self) -> float:
        """Share of the counters' tests in one pane."""
        return min(2.5e-4, 0.15 * self.per_pane)


class Shift(NamedTuple):
    """The outcome of one test: the effect with its lower bound, and the evidence."""

    effect: float
    low: float
    ln_p: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a window is: ``tested`` says how many distributions could be tested."""

    measures: list[Measure]
    detections: list[Detection]
    tested: int


class _Distribution(NamedTuple):
    """Something that is tested: a feature, the prediction or its score."""

    kind: AlertKind
    prefix: str
    feature: str | None
    reference: FeatureReference


class DriftJudge:
    """Tests windows of one series against its reference.

    Parameters
    ----------
    reference
        Counted; everything that does not depend on the window is prepared here.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        everything = list(_distributions(reference))
        self._numeric = [d for d in everything if d.reference.kind == "numeric"]
        self._categorical = [d for d in everything if d.reference.kind == "categorical"]
        #: How many distributions are tested; the label is tested in performance windows.
        self.distributions = len(everything) + (reference.label is not None)
        self._bins = _padded([d.reference.counts for d in self._numeric])
        self._integrity = IntegrityJudge(reference)

    def judge(self, window: DriftDelta, *, budget: Budget, scales: int = _SCALES) -> Verdict:
        """Measure and test a window.

        Parameters
        ----------
        window
            Merged panes, counted on the reference's bins.
        budget
            Of the monitor.
        scales
            Number of scales at which the same panes are tested.
        """
        measures: list[Measure] = []
        detections: list[Detection] = []
        scales = max(_SCALES, scales)
        least = math.log(budget.drift / (scales * max(1, self.distributions)))
        tested = 0
        for distribution, n, test, psi, js in self._tests(window):
            prefix, feature = distribution.prefix, distribution.feature
            measures.append(Measure(name=f"{prefix}psi", feature=feature, value=psi, n=n))
            measures.append(Measure(name=f"{prefix}jensen_shannon", feature=feature, value=js, n=n))
            name, floor = _NAMES[distribution.reference.kind]
            enough = n >= MIN_WINDOW and valid_rows(distribution.reference) >= MIN_REFERENCE
            measures.append(
                Measure(
                    name=prefix + name,
                    feature=feature,
                    value=test.effect,
                    low=test.low,
                    n=n,
                    threshold=floor,
                    evidence=test.ln_p if enough else None,
                )
            )
            tested += enough
            if enough and test.ln_p < least and test.low >= floor:
                detections.append(_drift(distribution, name, test, floor))
        drifted = sum(d.kind == "data-drift" for d in detections)
        if tested:
            measures.append(Measure(name="drifted_features", value=drifted, n=window.rows))
        counted, broken = self._integrity.judge(window, alpha=budget.integrity / scales)
        measures += counted
        detections += broken
        return Verdict(measures, detections, tested)

    def _tests(
        self, window: DriftDelta
    ) -> Iterator[tuple[_Distribution, int, Shift, float, float]]:
        found = [(i, c) for i, d in enumerate(self._numeric) if (c := _counts(window, d))]
        found = [(i, c) for i, c in found if c.bins.sum() and self._bins[i].sum()]
        if found:
            rows = self._bins[[i for i, _ in found]]
            current = _padded([c.bins for _, c in found], width=rows.shape[1])
            tests, distances = _numeric_tests(rows, current), _distances(rows, current)
            for (i, counts), test, (psi, js) in zip(found, tests, distances, strict=True):
                yield self._numeric[i], int(counts.bins.sum()), test, psi, js
        pairs = [
            (d, now, *_with_unseen(d.reference, now))
            for d in self._categorical
            if (now := _counts(window, d)) is not None and now.valid and valid_rows(d.reference)
        ]
        if pairs:
            distances = _distances(_padded([p[2] for p in pairs]), _padded([p[3] for p in pairs]))
            for (distribution, now, before, current), (psi, js) in zip(
                pairs, distances, strict=True
            ):
                yield distribution, now.valid, categorical_test(before, current), psi, js


_NAMES: Mapping[str, tuple[str, float]] = {
    "numeric": ("kolmogorov_smirnov", NUMERIC_FLOOR),
    "categorical": ("effect_w", CATEGORICAL_FLOOR),
}


def categorical_test(reference: _Ints, current: _Ints) -> Shift:
    """Test shares by the two-sample chi-square; the effect is Cohen's w.

    Parameters
    ----------
    reference, current
        Counts by category; the last one is everything else (other and unseen).

    Notes
    -----
    Categories with fewer than 5 expected in either sample join the last one;
    if that is still too few, it joins the smallest of the others, because the
    tail of chi-square is wrong for rare cells.
    """
    n, big_n = int(current.sum()), int(reference.sum())
    m = n * big_n / (n + big_n)
    pooled = reference + current
    least = 5 * (n + big_n) / min(n, big_n)
    kept = (pooled >= least) & (np.arange(pooled.size) < pooled.size - 1)
    r = [int(x) for x in reference[kept]]
    c = [int(x) for x in current[kept]]
    rest_r, rest_c = big_n - sum(r), n - sum(c)
    if rest_r + rest_c >= least or not r:
        r, c = [*r, rest_r], [*c, rest_c]
    elif rest_r + rest_c:
        smallest = min(range(len(r)), key=lambda i: r[i] + c[i])
        r[smallest] += rest_r
        c[smallest] += rest_c
    shares = [(a / big_n, b / n, (a + b) / (n + big_n)) for a, b in zip(r, c, strict=True)]
    w2 = math.fsum((p - q) ** 2 / pool for p, q, pool in shares)
    df = len(r) - 1
    if not df:
        return Shift(0.0, 0.0, 0.0)
    statistic = m * w2
    tail = float(special.chdtrc(df, statistic))
    d = statistic - df
    bound = d - Z80 * math.sqrt(2 * (df + 2 * max(d, 0.0)))
    return Shift(math.sqrt(w2), math.sqrt(max(0.0, bound) / m), _ln(tail))


def _numeric_tests(reference: _Ints, current: _Ints) -> list[Shift]:
    """Kolmogorov-Smirnov row by row; both shape (features, bins)."""
    big_n, n = reference.sum(axis=1), current.sum(axis=1)
    big_f, f = np.cumsum(reference, axis=1), np.cumsum(current, axis=1)
    # Integers: the place of the maximum must not depend on rounding.
    differences = np.abs(f * big_n[:, None] - big_f * n[:, None])
    at = differences.argmax(axis=1)
    rows = np.arange(at.size)
    d = differences[rows, at] / (n * big_n)
    q = (f[rows, at] + big_f[rows, at]) / (n + big_n)
    m = n * big_n / (n + big_n)
    low = np.maximum(0.0, d - Z80 * np.sqrt(q * (1 - q) / m))
    ln_p = np.minimum(0.0, math.log(2) - 2 * m * d * d)
    return [
        Shift(float(effect), float(bound), rounded(float(p)))
        for effect, bound, p in zip(d, low, ln_p, strict=True)
    ]


def _distances(reference: _Ints, current: _Ints) -> list[tuple[float, float]]:
    """PSI and Jensen-Shannon row by row, as in :mod:`kedge_services.core.distances`."""
    used = (reference + current) > 0
    bins = used.sum(axis=1, keepdims=True)
    big_n, n = reference.sum(axis=1, keepdims=True), current.sum(axis=1, keepdims=True)
    p, q = (reference + 0.5) / (big_n + bins / 2), (current + 0.5) / (n + bins / 2)
    psi = np.where(used, (p - q) * np.log(p / q), 0.0).sum(axis=1)
    p, q = reference / big_n, current / n
    middle = (p + q) / 2
    divergence = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(axis=1) / 2
    js = np.sqrt(np.maximum(0.0, divergence))
    return [(float(a), float(b)) for a, b in zip(psi, js, strict=True)]


def _drift(distribution: _Distribution, name: str, test: Shift, floor: float) -> Detection:
    what = distribution.feature or distribution.prefix.rstrip("_")
    return Detection(
        kind=distribution.kind,
        detector=distribution.prefix + name,
        feature=distribution.feature,
        value=test.effect,
        threshold=floor,
        evidence=test.ln_p,
        summary=f"{what} moved: {name.replace('_', ' ')} {test.effect:.3f}, "
        f"at least {test.low:.3f}, ln p {test.ln_p:.1f}",
    )


def _distributions(reference: Reference) -> Iterator[_Distribution]:
    for name, feature in reference.features.items():
        yield _Distribution("data-drift", "", name, feature)
    if reference.prediction is not None:
        yield _Distribution("prediction-drift", "prediction_", None, reference.prediction)
    if reference.score is not None:
        yield _Distribution("prediction-drift", "score_", None, reference.score)


def _counts(window: DriftDelta, distribution: _Distribution) -> FeatureCounts | None:
    if distribution.feature is not None:
        return window.features.get(distribution.feature)
    return window.prediction if distribution.prefix == "prediction_" else window.score


def _with_unseen(reference: FeatureReference, counts: FeatureCounts) -> tuple[_Ints, _Ints]:
    r = np.array(reference.counts, dtype=np.int64)
    c = counts.bins.copy()
    r[-1] += valid_rows(reference) - int(r.sum())
    c[-1] += counts.unseen
    return r, c


def _padded(rows: Sequence[Sequence[int] | _Ints], width: int | None = None) -> _Ints:
    width = width if width is not None else max((len(row) for row in rows), default=1)
    matrix = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


def _ln(p: float) -> float:
    return rounded(math.log(p) if p > 0 else LEAST_LN_P)
