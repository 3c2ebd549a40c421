"""Realised performance: metrics of labelled predictions, with 95 % intervals.

References
----------
Wilson 1927 for proportions; F1 by Wilson on J = TP / (TP + FP + FN), F1 = 2J / (1 + J).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from kedge import Detection, FeatureReference, Measure
from kedge_services.core.calibration_error import brier, calibration_error, merged_bins
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.detectors import CATEGORICAL_FLOOR, MIN_REFERENCE, MIN_WINDOW
from kedge_services.core.integrity import Z80
from kedge_services.core.ranking import area_under_curve
from kedge_services.core.shifts import categorical_shift
from kedge_services.core.sketches import FIXED_POINT, SCORE_BINS, LabelledScores

__all__ = [
    "Coverage",
    "coverage",
    "label_drift",
    "performance_measures",
    "selection_measures",
    "wilson",
]

_Z95: Final = 1.959963984540054
ENOUGH_LABELS: Final = 100
_LEAST_COVERAGE: Final = 0.5
_WHOLE_COVERAGE: Final = 0.95
#: Effect from which labelled rows are not like all rows.
_LEAST_SELECTION: Final = 0.1

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a window is labelled, and whether that is enough for a verdict."""

    share: float | None
    is_enough: bool
    is_whole: bool


def wilson(k: float, n: float, z: float = _Z95) -> Interval | None:
    """Give the interval of a proportion of k in n, by default of 95 %; None without rows.

    >>> [round(x, 5) for x in wilson(30, 100)]
    [0.21895, 0.39585]
    """
    if n <= 0:
        return None
    z2 = z * z
    centre = (k + z2 / 2) / (n + z2)
    half = z / (n + z2) * math.sqrt(max(0.0, k * (n - k) / n + z2 / 4))
    return max(0.0, centre - half), min(1.0, centre + half)


def coverage(counts: PerformanceDelta) -> Coverage:
    """Judge how far the labels of a window have come in."""
    if counts.predicted <= 0:
        return Coverage(None, is_enough=False, is_whole=False)
    share = counts.labelled / counts.predicted
    return Coverage(
        share,
        is_enough=share >= _LEAST_COVERAGE and counts.labelled >= ENOUGH_LABELS,
        is_whole=share >= _WHOLE_COVERAGE,
    )


def performance_measures(
    counts: PerformanceDelta, *, classes: Sequence[str], positive: str | None
) -> list[Measure]:
    """Compute the metrics of a window; what has no rows is left out.

    Parameters
    ----------
    counts
        Labelled predictions; counts below zero, of a correction that is only half
        seen, are taken for none.
    classes
        The labels' texts as declared; empty for regression.
    positive
        The text of the positive class of a binary model; None averages
        precision, recall and F1 over the classes.
    """
    if not classes:
        return _regression(counts)
    table = {
        label: {answer: max(0, n) for answer, n in row.items()}
        for label, row in counts.confusion.items()
    }
    total = sum(sum(row.values()) for row in table.values())
    right = sum(row.get(label, 0) for label, row in table.items())
    measures = _proportion("accuracy", right, total)
    measures += _proportion("error_rate", total - right, total)
    if positive is not None:
        tp, fp, fn = _hits(table, positive)
        measures += _proportion("precision", tp, tp + fp)
        measures += _proportion("recall", tp, tp + fn)
        return [*measures, *_f1(tp, fp, fn), *_scored(counts.scores)]
    if not total:
        return measures
    hits = [_hits(table, name) for name in classes]
    for name, values in (
        ("precision", [tp / (tp + fp) for tp, fp, _ in hits if tp + fp]),
        ("recall", [tp / (tp + fn) for tp, _, fn in hits if tp + fn]),
        ("f1", [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in hits if tp + fp + fn]),
    ):
        if values:
            mean = math.fsum(values) / len(values)
            measures.append(Measure(name=f"macro_{name}", value=mean, n=total))
    return [*measures, *_calibration(counts.scores)]


def selection_measures(counts: PerformanceDelta) -> list[Measure]:
    """Compare the scores of the labelled rows with those of all rows of the window.

    Where labels come for some scores rather than others (only for loans that were
    granted), metrics are those of another population.  The bins are merged into
    tenths; w is Cohen's effect size with all rows as the expectation, and its lower
    80 % bound, not w itself, is held to the threshold: of few rows w is large by chance.
    """
    everything = [max(0, counts.offered.get(i, 0)) for i in range(SCORE_BINS)]
    rows = counts.scores.positive + counts.scores.negative
    labelled = [min(n, max(0, int(k))) for n, k in zip(everything, rows, strict=True)]
    n, k = sum(everything), sum(labelled)
    if k < ENOUGH_LABELS or k >= n:
        return []
    groups = [(sum(everything[a:b]), sum(labelled[a:b])) for a, b in merged_bins(everything)]
    w2 = math.fsum((part / k - whole / n) ** 2 * n / whole for whole, part in groups)
    df, m = len(groups) - 1, k * n / (n - k)
    d = m * w2 - df
    low = math.sqrt(max(0.0, d - Z80 * math.sqrt(2 * (df + 2 * max(0.0, d)))) / m)
    return [
        Measure(
            name="label_selection_w",
            value=math.sqrt(w2),
            low=low,
            n=k,
            threshold=_LEAST_SELECTION,
            note="labels not representative" if low > _LEAST_SELECTION else None,
        )
    ]


def label_drift(
    counts: PerformanceDelta,
    reference: FeatureReference,
    *,
    alpha: float,
    dispersion: float = 1.0,
    unevenness: float = 1.0,
) -> tuple[Measure | None, Detection | None]:
    """Test the labels of a window against the reference's.

    Parameters
    ----------
    alpha
        Threshold of this one test, already divided by the number of tests.
    dispersion, unevenness
        The label's overdispersion phi, and how unevenly it lies on the classes.
    """
    if reference.kind != "categorical" or counts.labelled < MIN_WINDOW:
        return None, None
    labels = {label: sum(row.values()) for label, row in counts.confusion.items()}
    known = [labels.get(name, 0) for name in reference.categories]
    current = np.array([*known, sum(labels.values()) - sum(known)], dtype=np.int64)
    before = np.array(reference.counts, dtype=np.int64)
    n = int(current.sum())
    if n < MIN_WINDOW or before.sum() < MIN_REFERENCE:
        return None, None
    test = categorical_shift(before, current, dispersion, unevenness)
    measure = Measure(
        name="label_effect_w",
        value=test.effect,
        low=test.low,
        n=n,
        threshold=CATEGORICAL_FLOOR,
        evidence=test.ln_p,
    )
    if test.ln_p >= math.log(alpha) or test.low < CATEGORICAL_FLOOR:
        return measure, None
    return measure, Detection(
        kind="label-drift",
        detector="label_effect_w",
        value=test.effect,
        threshold=CATEGORICAL_FLOOR,
        evidence=test.ln_p,
        summary=f"labels moved: effect w {test.effect:.3f}, at least {test.low:.3f}",
    )


def _proportion(name: str, k: int, n: int) -> list[Measure]:
    interval = wilson(k, n)
    if interval is None:
        return []
    return [Measure(name=name, value=k / n, low=interval[0], high=interval[1], n=n)]


def _f1(tp: int, fp: int, fn: int) -> list[Measure]:
    union = tp + fp + fn
    interval = wilson(tp, union)
    if interval is None:
        return []
    low, high = (2 * j / (1 + j) for j in interval)
    return [Measure(name="f1", value=2 * tp / (tp + union), low=low, high=high, n=union)]


def _scored(scores: LabelledScores) -> list[Measure]:
    """Measure how the scores of a binary model rank and what they promise."""
    n = int(scores.positive.sum() + scores.negative.sum())
    if n <= 0:
        return []
    area = area_under_curve(scores.positive.tolist(), scores.negative.tolist())
    if area is None:
        ranking = [Measure(name="auc", n=n, note="the labels are all of one class")]
    else:
        low, high = area.interval or (None, None)
        ranking = [
            Measure(name="auc", value=area.value, low=low, high=high, n=n),
            Measure(name="auc_binning_bound", value=area.bound, n=n),
        ]
    loss = brier(scores)
    if loss is not None:
        ranking.append(Measure(name="brier", value=loss.value, low=loss.low, high=loss.high, n=n))
    return [*ranking, *_calibration(scores)]


def _calibration(scores: LabelledScores) -> list[Measure]:
    error = calibration_error(scores)
    n = int(scores.positive.sum() + scores.negative.sum())
    return [] if error is None else [Measure(name="ece", value=error, n=n)]


def _hits(table: Mapping[str, Mapping[str, int]], name: str) -> tuple[int, int, int]:
    """Give true positives, false positives and false negatives of one class."""
    tp = table.get(name, {}).get(name, 0)
    fn = sum(table.get(name, {}).values()) - tp
    fp = sum(row.get(name, 0) for row in table.values()) - tp
    return tp, fp, fn


def _regression(counts: PerformanceDelta) -> list[Measure]:
    n = counts.labelled
    if n <= 0:
        return []
    mae = max(0, counts.absolute_error) / FIXED_POINT / n
    mean_square = max(0.0, counts.squared_error / FIXED_POINT / n)
    spread = math.sqrt(max(0.0, mean_square - mae * mae))
    half = _Z95 * spread / math.sqrt(n)
    return [
        Measure(name="mae", value=mae, low=max(0.0, mae - half), high=mae + half, n=n),
        Measure(name="rmse", value=math.sqrt(mean_square), n=n),
    ]
