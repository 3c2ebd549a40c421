"""Drift: is this window like the reference, and is the difference worth an alarm.

An alarm needs both evidence (a p-value below its share of the budget of false
alarms) and size (a lower bound of the effect above a floor), so that neither
trifles in large windows nor noise in small ones fire.

A window is tested alone (:meth:`DriftJudge.test`); the windows of several scales that
end with one pane are judged together (:meth:`DriftJudge.decide`), because which features
are named depends on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from kedge import Detection, Measure, Reference
from kedge.base import AlertKind
from kedge_services.core.attribution import attribution
from kedge_services.core.budget import SCALES, Budget
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.distributions import (
    CATEGORICAL_FLOOR,
    FEATURES,
    NUMERIC_FLOOR,
    TESTS,
    Distribution,
    Group,
    distribution_of,
)
from kedge_services.core.integrity import Counted, IntegrityJudge
from kedge_services.core.measuring import trusted_measure
from kedge_services.core.multivariate import PairJudge, PairTrial
from kedge_services.core.naming import mean_e_value, named
from kedge_services.core.overdispersion import LABEL, distributions, unevenness
from kedge_services.core.overdispersion import overdispersion as dispersions
from kedge_services.core.shifts import Shift

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

MIN_WINDOW: Final = 100
MIN_REFERENCE: Final = 1_000
#: A p-value up to so many times the threshold keeps an alert from ending.
NEAR: Final = 10.0


class _Test(NamedTuple):
    """A test that had rows enough on both sides."""

    distribution: Distribution
    shift: Shift

    def detection(self, *, is_named: bool = False) -> Detection:
        """Say that it is an alarm, or named beside one."""
        name, floor = TESTS[self.distribution.reference.kind]
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
    def size(self) -> float:
        """The effect, at least, in units of its floor."""
        return self.shift.low / TESTS[self.distribution.reference.kind][1]

    @property
    def is_large(self) -> bool:
        """Whether the effect is above its floor, for sure."""
        return self.size >= 1


@dataclass(frozen=True, slots=True)
class Trial:
    """What the tests of one window found, before anything is decided."""

    rows: int
    measures: list[Measure]
    tests: Sequence[_Test]
    counted: Counted
    pairs: PairTrial


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
        All pairs of features together are one more.
    """

    def __init__(self, reference: Reference) -> None:
        everything = list(distributions(reference))
        self._pairs = PairJudge(reference)
        self.distributions = len(everything) + self._pairs.tests
        phi, uneven = dispersions(reference), unevenness(reference)
        tested = [distribution_of(name, part) for name, part in everything if name != LABEL]
        self._groups = [
            Group([d for d in tested if d.reference.kind == kind], phi, uneven) for kind in TESTS
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
            return Trial(0, [], [], Counted([], [], 0), PairTrial())
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
        pairs = self._pairs.test(window)
        measures += [*counted.measures, *pairs.measures]
        return Trial(window.rows, measures, tests, counted, pairs)

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
            if trial.pairs.detection(NEAR * alpha) is not None:
                near.add(FEATURES)
            beside: list[_Test] = []
            if any(test.distribution.kind == FEATURES for test in found):
                if clear is None:
                    clear = self._clear(trials.values())
                alone = {test.distribution.key for test in found}
                beside = [
                    test
                    for test in trial.tests
                    if test.is_large and test.distribution.feature in clear - alone
                ]
            detections = [test.detection() for test in found]
            detections += [test.detection(is_named=True) for test in beside]
            together = trial.pairs.detection(alpha)
            if together is not None:
                detections.append(together)
            counters = budget.integrity / (scales * max(1, trial.counted.tests))
            suspects = trial.counted.suspects
            broken = [s.detection() for s in suspects if _passes(s.ln_p, counters)]
            if any(_passes(s.ln_p, NEAR * counters) for s in suspects):
                near.add("integrity")
            verdict = _verdict(trial, detections, broken, sorted(near))
            effects = _effects([*found, *beside], trial.pairs.effects(alpha))
            verdict.measures.extend(attribution(effects, rows=trial.rows))
            verdicts[scale] = verdict
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
        features = sum(d.kind == FEATURES and d.feature is not None for d in drifted)
        measures.append(Measure(name="drifted_features", value=features, n=trial.rows))
    return Verdict(measures, drifted + broken, len(trial.tests), near)


def _effects(tests: Iterable[_Test], together: Mapping[str, float]) -> dict[str, float]:
    """Give what each named feature adds to a drift, by itself and in pairs."""
    alone = {t.distribution.feature: t.size**2 for t in tests if t.distribution.feature}
    return {name: alone.get(name, 0.0) + together.get(name, 0.0) for name in {**alone, **together}}


def _passes(ln_p: float, alpha: float) -> bool:
    # A budget of nothing alarms never.
    return alpha > 0 and ln_p < math.log(alpha)


def is_near(measure: Measure, alpha: float) -> bool:
    """Say whether a test passed or came close: ``low`` at the floor, ln p near ln alpha."""
    if measure.evidence is None or measure.low is None or measure.threshold is None:
        return False
    return measure.low >= measure.threshold and _passes(measure.evidence, NEAR * alpha)


def _lack(rows: int, known: int) -> str | None:
    """Say what is missing for a test; None when nothing is."""
    if rows < MIN_WINDOW:
        return f"not enough data: {rows} values in the window, a test takes {MIN_WINDOW}"
    if known < MIN_REFERENCE:
        return f"not enough data: {known} values in the reference, a test takes {MIN_REFERENCE}"
    return None


def _measures(
    distribution: Distribution, n: int, shift: Shift, psi: float, js: float, note: str | None
) -> list[Measure]:
    """Give the measures of one distribution."""
    prefix, feature = distribution.prefix, distribution.feature
    name, floor = TESTS[distribution.reference.kind]
    return [
        trusted_measure(f"{prefix}psi", feature, psi, n),
        trusted_measure(f"{prefix}jensen_shannon", feature, js, n),
        trusted_measure(
            prefix + name,
            feature,
            shift.effect,
            n,
            low=shift.low,
            threshold=floor,
            evidence=shift.ln_p if note is None else None,
            note=note,
        ),
    ]


def _nothing(distribution: Distribution, n: int, note: str | None) -> Measure:
    """Give the measure of a test that has no value at all on one side."""
    name, floor = TESTS[distribution.reference.kind]
    return Measure(
        name=distribution.prefix + name,
        feature=distribution.feature,
        n=n,
        threshold=floor,
        note=note,
    )
