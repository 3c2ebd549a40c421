"""What is tested of a reference: features, the prediction and its score, side by side.

References
----------
Effect floor w = .10: Cohen 1988, "small".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import FeatureReference
from kedge.base import AlertKind
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.integrity import valid_rows
from kedge_services.core.overdispersion import PREDICTION, SCORE
from kedge_services.core.shifts import Shift, categorical_shifts, distances, numeric_shifts
from kedge_services.core.sketches import FeatureCounts

__all__ = [
    "CATEGORICAL_FLOOR",
    "FEATURES",
    "NUMERIC_FLOOR",
    "TESTS",
    "Distribution",
    "Group",
    "distribution_of",
]

NUMERIC_FLOOR: Final = 0.05
CATEGORICAL_FLOOR: Final = 0.10
FEATURES: Final = "data-drift"
#: By kind: the test and its floor.
TESTS: Final[Mapping[str, tuple[str, float]]] = {
    "numeric": ("kolmogorov_smirnov", NUMERIC_FLOOR),
    "categorical": ("effect_w", CATEGORICAL_FLOOR),
}
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class Distribution(NamedTuple):
    """Something that is tested: a feature, the prediction or its score."""

    kind: AlertKind
    prefix: str
    feature: str | None
    reference: FeatureReference

    @property
    def key(self) -> str:
        """Its name in :func:`kedge_services.core.overdispersion.distributions`."""
        return self.feature if self.feature is not None else self.prefix


class Group:
    """The distributions of one kind, their counts side by side.

    Categorical rows begin with what has no category of its own.
    """

    def __init__(
        self, members: Sequence[Distribution], phi: Mapping[str, float], unevenly: float
    ) -> None:
        self.members = members
        is_numeric = bool(members) and members[0].reference.kind == "numeric"
        self._first = 0 if is_numeric else 1
        self._shifts = (
            numeric_shifts if is_numeric else partial(categorical_shifts, unevenness=unevenly)
        )
        width = max((len(d.reference.counts) for d in members), default=1)
        self._reference = np.zeros((len(members), width), dtype=np.int64)
        for row, d in zip(self._reference, members, strict=True):
            self._put(row, np.array(d.reference.counts, dtype=np.int64))
            row[0] += valid_rows(d.reference) - int(row.sum())
        self._phi = np.array([phi[d.key] for d in members])
        self.known = self._reference.sum(axis=1).tolist()

    def _put(self, row: _Ints, bins: _Ints) -> None:
        if self._first:
            row[0] = bins[-1]
            row[1 : bins.size] = bins[:-1]
        else:
            row[: bins.size] = bins

    def current(self, window: DriftDelta) -> _Ints:
        """Give the window's counts, as those of the reference lie."""
        rows = np.zeros_like(self._reference)
        for row, d in zip(rows, self.members, strict=True):
            counts = _counts(window, d)
            if counts is not None:
                self._put(row, counts.bins)
                if self._first:
                    row[0] += counts.unseen
        return rows

    def test(self, current: _Ints) -> Iterator[tuple[int, Shift, float, float]]:
        """Give the number, test, PSI and Jensen-Shannon of all that have a row on both sides."""
        found = np.flatnonzero((current.sum(axis=1) > 0) & (self._reference.sum(axis=1) > 0))
        if not found.size:
            return
        before, now = self._reference[found], current[found]
        shifts = self._shifts(before, now, self._phi[found])
        for i, shift, (psi, js) in zip(found.tolist(), shifts, distances(before, now), strict=True):
            yield i, shift, psi, js


def distribution_of(name: str, reference: FeatureReference) -> Distribution:
    """Give what goes by a name of :func:`kedge_services.core.overdispersion.distributions`."""
    if name in {PREDICTION, SCORE}:
        return Distribution("prediction-drift", name, None, reference)
    return Distribution(FEATURES, "", name, reference)


def _counts(window: DriftDelta, distribution: Distribution) -> FeatureCounts | None:
    if distribution.feature is not None:
        return window.features.get(distribution.feature)
    return window.prediction if distribution.prefix == PREDICTION else window.score
