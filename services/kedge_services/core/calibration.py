"""Calibrators: the map from a model's score to the share of rows for which it is right.

References
----------
Zadrozny, Elkan 2002: isotonic regression as a calibrator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kedge.panes import Calibrator
from kedge_services.core.binning import calibrated
from kedge_services.core.calibration_error import calibration_error
from kedge_services.core.sketches import LabelledScores

__all__ = ["LEAST_SCORED", "fit_calibrator", "isotonic_map"]

#: Rows of a reference without which nobody can say how well its scores are calibrated.
LEAST_SCORED: Final = 1_000

_Floats = NDArray[np.float64]


def fit_calibrator(
    scores: Sequence[float | None], positives: Sequence[bool | None]
) -> Calibrator | None:
    """Fit the calibrator of a reference, if it is any good.

    A map is fitted on the earlier half of the rows and kept only if it lowers the
    calibration error of the later half; then it is fitted again, on all rows.

    Parameters
    ----------
    scores
        Of the positive class, or of several classes of the one that was answered; rows
        in event-time order.
    positives
        Whether that class was right.  Rows without score or label are left out.

    Returns
    -------
    Calibrator or None
        None where fewer than :data:`LEAST_SCORED` rows are left, or all are alike.
    """
    known = [
        (s, p)
        for s, p in zip(scores, positives, strict=True)
        if s is not None and p is not None and math.isfinite(s)
    ]
    x = np.array([s for s, _ in known], dtype=np.float64)
    y = np.array([p for _, p in known], dtype=np.bool_)
    half = x.size // 2
    if x.size < LEAST_SCORED or y.all() or not y.any():
        return None
    first = Calibrator(**_points(x[:half], y[:half]), error=0.0)
    plain = _error(x[half:], y[half:])
    mapped = _error(calibrated(first, x[half:]), y[half:])
    if mapped >= plain:
        return Calibrator(error=plain)
    return Calibrator(**_points(x, y), error=mapped)


def isotonic_map(scores: _Floats, positives: NDArray[np.bool_]) -> tuple[_Floats, _Floats]:
    """Fit the monotone map with the least squared error.

    Parameters
    ----------
    scores, positives
        Shape (n,), finite; n > 0.

    Returns
    -------
    tuple of float64 arrays
        Scores, ascending, and the share each stands for: both ends of every flat part.
        In between the map is linear, beyond them constant.
    """
    # Imported here: who only applies a map, as `windows` does, is spared 25 MB.
    from scipy import optimize

    distinct, at, rows = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(at, weights=positives) / rows
    fitted = optimize.isotonic_regression(shares, weights=rows).x
    corner = np.ones(distinct.size, dtype=np.bool_)
    corner[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    return distinct[corner] + 0.0, fitted[corner]


def _points(scores: _Floats, positives: NDArray[np.bool_]) -> dict[str, list[float]]:
    x, y = isotonic_map(scores, positives)
    return {"x": x.tolist(), "y": y.tolist()}


def _error(scores: _Floats, positives: Iterable[bool]) -> float:
    """Give the expected calibration error of scores, clipped to [0, 1]."""
    inside = np.clip(scores, 0.0, 1.0).tolist()
    counted = LabelledScores.of([(s, bool(p), 1) for s, p in zip(inside, positives, strict=True)])
    return calibration_error(counted) or 0.0
