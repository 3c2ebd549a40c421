"""Integrity: nulls, wrong types and values the reference never had.

References
----------
Good 1953: the number of categories seen once estimates how often a new one comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import Detection, FeatureReference, Measure, Reference
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.measuring import trusted_measure
from kedge_services.core.overdispersion import counter_overdispersion
from kedge_services.core.sketches import FeatureCounts

__all__ = [
    "COUNTER_FLOOR",
    "LEAST_LN_P",
    "Z80",
    "Counted",
    "IntegrityJudge",
    "Suspect",
    "ln_hypergeometric",
    "ln_upper_tail",
    "rounded",
    "valid_rows",
]

#: A share that changed by less is not worth an alarm, whatever its p-value.
COUNTER_FLOOR: Final = 0.005
#: One-sided 80 % quantile of the normal distribution.
Z80: Final = 0.8416
#: ln p below this is not told apart; floats end at e**-745.
LEAST_LN_P: Final = -690.0
#: Of these, too few are as suspect as too many.
_BOTH_SIDES: Final = frozenset({"null"})
_Ints = NDArray[np.int64]


class _Counter(NamedTuple):
    """One counter of all features that have it: what does not depend on the window.

    Attributes
    ----------
    features
        Their numbers.
    is_of_valid
        Whether the values that could be judged are counted against, or all values.
    known, rows
        Of the reference: marked values, and all they are out of.
    phi
        Overdispersion.
    read
        Gives the marked values of one feature of a window.
    """

    name: str
    features: _Ints
    is_of_valid: bool
    known: _Ints
    rows: _Ints
    phi: NDArray[np.float64]
    read: Callable[[FeatureCounts], int]


class Suspect(NamedTuple):
    """A counter that moved by more than the floor, for sure; ``ln_p`` says how surprising."""

    feature: str
    name: str
    share: float
    before: float
    n: int
    ln_p: float

    def detection(self) -> Detection:
        """Say that it is an alarm."""
        what = self.name.replace("_", " ")
        return Detection(
            kind="integrity",
            detector=f"{self.name}_share",
            feature=self.feature,
            value=self.share,
            threshold=self.before,
            evidence=self.ln_p,
            summary=f"{self.feature}: {what} in {self.share:.1%} of {self.n} rows, "
            f"before {self.before:.1%}",
        )


class Counted(NamedTuple):
    """The counters of a window; ``tests`` is how many were tested."""

    measures: list[Measure]
    suspects: list[Suspect]
    tests: int


class IntegrityJudge:
    """Tests the counters of windows against their reference."""

    def __init__(self, reference: Reference) -> None:
        features = {name: f for name, f in reference.features.items() if f.total}
        self._names = list(features)
        self._columns = list(_columns(features, counter_overdispersion(reference)))

    def test(self, window: DriftDelta, valid: Mapping[str, int]) -> Counted:
        """Measure and test all counters.

        Parameters
        ----------
        window
            Merged panes, counted on the reference's bins.
        valid
            Values that could be judged, by feature.
        """
        nothing = FeatureCounts.zero(0)
        counts = [window.features.get(name, nothing) for name in self._names]
        judged = np.array([valid.get(name, 0) for name in self._names], dtype=np.int64)
        bad = np.array([c.null + c.nan + c.inf + c.type_error for c in counts], dtype=np.int64)
        measures: list[Measure] = []
        suspects: list[Suspect] = []
        for column in self._columns:
            n = (judged if column.is_of_valid else judged + bad)[column.features]
            k = np.array([column.read(counts[i]) for i in column.features.tolist()])
            measured, suspected = self._test(column, k, n)
            measures += measured
            suspects += suspected
        return Counted(measures, suspects, len(measures))

    def _test(self, column: _Counter, k: _Ints, n: _Ints) -> tuple[list[Measure], list[Suspect]]:
        fit = np.flatnonzero(n)
        k, n, known, rows = k[fit], n[fit], column.known[fit], column.rows[fit]
        phi, names = column.phi[fit], [self._names[i] for i in column.features[fit].tolist()]
        share, before = k / n, known / rows
        variance = phi * share * (1 - share) / n
        error = Z80 * np.sqrt(variance + phi * before * (1 - before) / rows)
        is_suspect = np.abs(share - before) - error >= COUNTER_FLOOR
        if column.name not in _BOTH_SIDES:
            is_suspect &= share > before
        # The exact tail costs most, so it is taken only where the effect is large enough.
        suspects = {}
        for i in np.flatnonzero(is_suspect).tolist():
            numbers = (int(k[i]), int(n[i]), int(known[i]), int(rows[i]))
            ln_p = ln_hypergeometric(
                *numbers, phi=float(phi[i]), is_both_sides=column.name in _BOTH_SIDES
            )
            suspects[i] = Suspect(
                names[i], column.name, float(share[i]), float(before[i]), numbers[1], ln_p
            )
        margin = Z80 * np.sqrt(variance)
        lows, highs = np.maximum(0.0, share - margin), np.minimum(1.0, share + margin)
        name = f"{column.name}_share"
        measures = [
            trusted_measure(name, f, v, rows, low=low, high=high, threshold=was)
            for f, v, low, high, rows, was in zip(
                names, *(a.tolist() for a in (share, lows, highs, n, before)), strict=True
            )
        ]
        for i, suspect in suspects.items():
            measures[i] = measures[i].model_copy(update={"evidence": suspect.ln_p})
        return measures, list(suspects.values())


def _columns(
    features: Mapping[str, FeatureReference], phi: Mapping[str, Mapping[str, float]]
) -> Iterator[_Counter]:
    numbered = list(enumerate(features.items()))

    def column(
        name: str,
        known: Mapping[int, int],
        read: Callable[[FeatureCounts], int],
        *,
        is_of_valid: bool = True,
    ) -> _Counter:
        mine = [item for i, item in numbered if i in known]
        rows = [valid_rows(f) if is_of_valid else f.total for _, f in mine]
        return _Counter(
            name,
            np.array(list(known), dtype=np.int64),
            is_of_valid,
            np.array(list(known.values()), dtype=np.int64),
            np.array(rows, dtype=np.int64),
            np.array([phi[feature][name] for feature, _ in mine]),
            read,
        )

    everything = [(i, f) for i, (_, f) in numbered]
    judged = [(i, f) for i, f in everything if valid_rows(f)]
    numeric = [(i, f) for i, f in judged if f.kind == "numeric"]
    yield column("null", {i: f.null for i, f in everything}, lambda c: c.null, is_of_valid=False)
    yield column(
        "type_error",
        {i: f.type_error for i, f in everything},
        lambda c: c.type_error,
        is_of_valid=False,
    )
    yield column(
        "not_finite",
        {i: f.nan + f.inf for i, f in everything},
        lambda c: c.nan + c.inf,
        is_of_valid=False,
    )
    unseen = {i: f.f1 for i, f in judged if f.kind == "categorical"}
    yield column("unseen", unseen, lambda c: c.unseen)
    yield column("below", {i: f.below for i, f in numeric}, lambda c: c.below)
    yield column("above", {i: f.above for i, f in numeric}, lambda c: c.above)
    for i, f in numeric:
        if (gaps := _gaps(f)) is not None:
            yield column("unseen", {i: f.f1}, partial(_in_gaps, gaps))


def _in_gaps(gaps: _Ints, counts: FeatureCounts) -> int:
    return int(counts.bins[gaps].sum()) if counts.bins.size else 0


def valid_rows(reference: FeatureReference) -> int:
    """Give N: the reference's values that could be judged."""
    bad = reference.null + reference.nan + reference.inf + reference.type_error
    return reference.total - bad


def rounded(ln_p: float) -> float:
    """Round to 9 digits, so that the last bits of a library do not decide."""
    return float(f"{ln_p:.9g}")


def ln_hypergeometric(
    k: int, n: int, known: int, rows: int, *, phi: float = 1.0, is_both_sides: bool = False
) -> float:
    """Give ln p of so many (or so few) of the k + known marked rows falling into the window.

    Parameters
    ----------
    k, n
        Marked and all rows of the window.
    known, rows
        The same of the reference.
    phi
        Overdispersion: rows count for 1 / phi each, rounded against an alarm.
    is_both_sides
        Whether more and fewer were looked for.
    """
    fewer_n, fewer_rows = math.floor(n / phi), math.floor(rows / phi)
    if k * rows > known * n:
        ln_p = _ln_share(math.floor(k / phi), fewer_n, math.ceil(known / phi), fewer_rows)
    else:
        # As few marked rows are as many rows without the mark.
        few, before = math.ceil(k / phi), math.floor(known / phi)
        ln_p = _ln_share(fewer_n - few, fewer_n, fewer_rows - before, fewer_rows)
    if is_both_sides:
        ln_p += math.log(2)
    return rounded(min(0.0, max(ln_p, LEAST_LN_P)))


def _ln_share(k: int, n: int, known: int, rows: int) -> float:
    k, known = max(0, min(k, n)), max(0, min(known, rows))
    return ln_upper_tail(k, n, k + known, n + rows)


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
    cuts: Sequence[float] = feature.cuts
    if not cuts or len(cuts) % 2 or any(feature.counts[::2]):
        return None
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    if any(math.nextafter(atom, -math.inf) != gap for gap, atom in pairs):
        return None
    return np.arange(2, len(cuts), 2)
