"""Drift: is this window like the reference, and is the difference worth an alarm.

An alarm needs both evidence (a p-value below its share of the budget of false
alarms) and size (a lower bound of the effect above a floor), so that neither
trifles in large windows nor noise in small ones fire.

A window is tested alone (:meth:`DriftJudge.test`); the windows of several scales that
end with one pane are judged together (:meth:`DriftJudge.decide`), because which features
are named depends on all of them.

References
----------
Effect floor w = .10: Cohen 1988, "small".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import Detection, FeatureReference, Measure, Reference
from kedge.base import AlertKind
from kedge_services.core.budget import SCALES, Budget
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.integrity import Counted, IntegrityJudge, valid_rows
from kedge_services.core.naming import mean_e_value, named
from kedge_services.core.overdispersion import LABEL, PREDICTION, SCORE, distributions
from kedge_services.core.overdispersion import overdispersion as dispersions
from kedge_services.core.shifts import Shift, categorical_shifts, distances, numeric_shifts
from kedge_services.core.sketches import FeatureCounts

__all__ = [
    "CATEGORICAL_FLOOR",
    "MIN_REFERENCE",
    "MIN_WINDOW",
    "NEAR",
    "NUMERIC_FLOOR",
    "DriftJudge",
    "Trial",
    "Verdict",
    "is_near",
]

NUMERIC_FLOOR: Final = 0.05
CATEGORICAL_FLOOR: Final = 0.10
MIN_WINDOW: Final = 100
MIN_REFERENCE: Final = 1_000
#: A p-value up to so many times the threshold keeps an alert from ending.
NEAR: Final = 10.0
_FEATURES: Final = "data-drift"
_NAMES: Final[Mapping[str, tuple[str, float]]] = {
    "numeric": ("kolmogorov_smirnov", NUMERIC_FLOOR),
    "categorical": ("effect_w", CATEGORICAL_FLOOR),
}
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class _Distribution(NamedTuple):
    """Something that is tested: a feature, the prediction or its score."""

    kind: AlertKind
    prefix: str
    feature: str | None
    reference: FeatureReference

    @property
    def key(self) -> str:
        return self.feature if self.feature is not None else self.prefix


class _Test(NamedTuple):
    """A test that had rows enough on both sides."""

    distribution: _Distribution
    shift: Shift

    def detection(self, *, is_named: bool = False) -> Detection:
        """Say that it is an alarm, or named beside one."""
        name, floor = _NAMES[self.distribution.reference.kind]
        what = self.distribution.key.rstrip("_")
        moved = "moved with others" if is_named else "moved"
        return Detection(
            kind=self.distribution.kind,
            detector=self.distribution.prefix + name,
            feature=self.distribution.feature,
            value=self.shift.effect,
            threshold=floor,
            evidence=self.shift.ln_p,
            summary=f"{what} {moved}: {name.replace('_', ' ')} {self.shift.effect:.3f}, "
            f"at least {self.shift.low:.3f}, ln p {self.shift.ln_p:.1f}",
        )

    @property
    def is_large(self) -> bool:
        """Whether the effect is above its floor, for sure."""
        return self.shift.low >= _NAMES[self.distribution.reference.kind][1]


@dataclass(frozen=True, slots=True)
class Trial:
    """What the tests of one window found, before anything is decided."""

    rows: int
    measures: list[Measure]
    tests: Sequence[_Test]
    counted: Counted


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a window is.

    Attributes
    ----------
    measures
        That come of the decision.
    tested
        Distributions that could be tested.
    near
        Kinds of which a test passed, or almost: see :data:`NEAR`.
    """

    measures: list[Measure]
    detections: list[Detection]
    tested: int
    near: list[AlertKind] = field(default_factory=list)


class _Group:
    """The distributions of one kind, their counts side by side.

    Categorical rows begin with what has no category of its own.
    """

    def __init__(self, members: Sequence[_Distribution], phi: Mapping[str, float]) -> None:
        self.members = members
        is_numeric = bool(members) and members[0].reference.kind == "numeric"
        self._first = 0 if is_numeric else 1
        self._shifts = numeric_shifts if is_numeric else categorical_shifts
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


class DriftJudge:
    """Tests windows of one series against its reference.

    Parameters
    ----------
    reference
        Counted; everything that does not depend on the window is prepared here.

    Attributes
    ----------
    distributions
        How many distributions are tested; the label is tested in performance windows.
    """

    def __init__(self, reference: Reference) -> None:
        everything = list(distributions(reference))
        self.distributions = len(everything)
        phi = dispersions(reference)
        tested = [_distribution(name, part) for name, part in everything if name != LABEL]
        self._groups = [
            _Group([d for d in tested if d.reference.kind == kind], phi) for kind in _NAMES
        ]
        self._integrity = IntegrityJudge(reference)

    def judge(self, window: DriftDelta, *, budget: Budget, scales: int = SCALES) -> Verdict:
        """Test and judge a window by itself; the verdict has all its measures."""
        trial = self.test(window)
        verdict = self.decide({1: trial}, budget=budget, scales=scales)[1]
        return replace(verdict, measures=trial.measures + verdict.measures)

    def test(self, window: DriftDelta) -> Trial:
        """Measure and test a window.

        Parameters
        ----------
        window
            Merged panes, counted on the reference's bins.
        """
        if not window.rows:
            return Trial(0, [], [], Counted([], [], 0))
        measures: list[Measure] = []
        tests: list[_Test] = []
        valid: dict[str, int] = {}
        for group in self._groups:
            current = group.current(window)
            rows = current.sum(axis=1).tolist()
            valid |= {d.feature: n for d, n in zip(group.members, rows, strict=True) if d.feature}
            lack = dict(enumerate(map(_lack, rows, group.known)))
            for i, shift, psi, js in group.test(current):
                d, note = group.members[i], lack.pop(i)
                measures += _measures(d, rows[i], shift, psi, js, note)
                if note is None:
                    tests.append(_Test(d, shift))
            measures += [_nothing(group.members[i], rows[i], note) for i, note in lack.items()]
        counted = self._integrity.test(window, valid)
        return Trial(window.rows, measures + counted.measures, tests, counted)

    def decide(
        self, trials: Mapping[int, Trial], *, budget: Budget, scales: int = SCALES
    ) -> dict[int, Verdict]:
        """Judge windows that end with the same pane.

        Parameters
        ----------
        trials
            By scale.
        budget
            Of the monitor.
        scales
            Number of scales at which the same panes are tested.
        """
        scales = max(SCALES, scales)
        alpha = budget.drift / (scales * max(1, self.distributions))
        # One window that alarms is rare; only then is it asked which others to name.
        clear: set[str] | None = None
        verdicts = {}
        for scale, trial in trials.items():
            found = [t for t in trial.tests if t.is_large and _passes(t.shift.ln_p, alpha)]
            near = {
                t.distribution.kind
                for t in trial.tests
                if t.is_large and _passes(t.shift.ln_p, NEAR * alpha)
            }
            detections = [test.detection() for test in found]
            if any(test.distribution.kind == _FEATURES for test in found):
                if clear is None:
                    clear = self._clear(trials.values())
                alone = {test.distribution.key for test in found}
                detections += [
                    test.detection(is_named=True)
                    for test in trial.tests
                    if test.is_large and test.distribution.feature in clear - alone
                ]
            counters = budget.integrity / (scales * max(1, trial.counted.tests))
            suspects = trial.counted.suspects
            broken = [s.detection() for s in suspects if _passes(s.ln_p, counters)]
            if any(_passes(s.ln_p, NEAR * counters) for s in suspects):
                near.add("integrity")
            verdicts[scale] = _verdict(trial, detections, broken, sorted(near))
        return verdicts

    def _clear(self, trials: Iterable[Trial]) -> set[str]:
        """Give the features that e-BH names over all scales."""
        ln_ps: dict[str, list[float]] = {}
        for trial in trials:
            for test in trial.tests:
                ln_ps.setdefault(test.distribution.key, []).append(test.shift.ln_p)
        e_values = {key: mean_e_value(found) for key, found in ln_ps.items()}
        return named(e_values, tested=self.distributions)


def _verdict(
    trial: Trial, drifted: list[Detection], broken: list[Detection], near: list[AlertKind]
) -> Verdict:
    measures = []
    if trial.tests:
        features = sum(d.kind == _FEATURES for d in drifted)
        measures.append(Measure(name="drifted_features", value=features, n=trial.rows))
    return Verdict(measures, drifted + broken, len(trial.tests), near)


def _passes(ln_p: float, alpha: float) -> bool:
    # A budget of nothing alarms never.
    return alpha > 0 and ln_p < math.log(alpha)


def is_near(measure: Measure, alpha: float) -> bool:
    """Say whether a test passed or came close: ``low`` at the floor, ln p near ln alpha."""
    if measure.evidence is None or measure.low is None or measure.threshold is None:
        return False
    return measure.low >= measure.threshold and _passes(measure.evidence, NEAR * alpha)


def _distribution(name: str, reference: FeatureReference) -> _Distribution:
    if name in {PREDICTION, SCORE}:
        return _Distribution("prediction-drift", name, None, reference)
    return _Distribution(_FEATURES, "", name, reference)


def _counts(window: DriftDelta, distribution: _Distribution) -> FeatureCounts | None:
    if distribution.feature is not None:
        return window.features.get(distribution.feature)
    return window.prediction if distribution.prefix == PREDICTION else window.score


def _lack(rows: int, known: int) -> str | None:
    """Say what is missing for a test; None when nothing is."""
    if rows < MIN_WINDOW:
        return f"not enough data: {rows} values in the window, a test takes {MIN_WINDOW}"
    if known < MIN_REFERENCE:
        return f"not enough data: {known} values in the reference, a test takes {MIN_REFERENCE}"
    return None


def _measures(
    distribution: _Distribution, n: int, shift: Shift, psi: float, js: float, note: str | None
) -> list[Measure]:
    """Give the measures of one distribution."""
    prefix, feature = distribution.prefix, distribution.feature
    name, floor = _NAMES[distribution.reference.kind]
    return [
        Measure(name=f"{prefix}psi", feature=feature, value=psi, n=n),
        Measure(name=f"{prefix}jensen_shannon", feature=feature, value=js, n=n),
        Measure(
            name=prefix + name,
            feature=feature,
            value=shift.effect,
            low=shift.low,
            n=n,
            threshold=floor,
            evidence=shift.ln_p if note is None else None,
            note=note,
        ),
    ]


def _nothing(distribution: _Distribution, n: int, note: str | None) -> Measure:
    """Give the measure of a test that has no value at all on one side."""
    name, floor = _NAMES[distribution.reference.kind]
    return Measure(
        name=distribution.prefix + name,
        feature=distribution.feature,
        n=n,
        threshold=floor,
        note=note,
    )
