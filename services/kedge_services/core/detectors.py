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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from kedge import Detection, Measure, Reference
from kedge.base import AlertKind
from kedge_services.core.attribution import attribution
from kedge_services.core.budget import SCALES, Budget
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.distributions import (
    CATEGORICAL_FLOOR,
    FEATURES,
    MIN_REFERENCE,
    MIN_WINDOW,
    NUMERIC_FLOOR,
    TESTS,
    Distribution,
    Found,
    Group,
    distribution_of,
)
from kedge_services.core.integrity import Counted, IntegrityJudge
from kedge_services.core.measuring import measures_of, measures_text, trusted_measure
from kedge_services.core.multivariate import PairJudge, PairTrial
from kedge_services.core.naming import mean_e_value, named
from kedge_services.core.overdispersion import LABEL, distributions, unevenness
from kedge_services.core.overdispersion import overdispersion as dispersions
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.shifts import Shift
from kedge_services.core.stacks import Stack

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


@dataclass(frozen=True, slots=True)
class Trial:
    """What the tests of one window found, before anything is decided.

    Attributes
    ----------
    text
        Its measures, see :mod:`kedge_services.core.measuring`.
    tested
        Number of distributions that had rows enough on both sides.
    large
        The tests of those whose effect is above its floor, for sure.
    far
        The feature that has moved most, and by how much of the rows at least.
    evidence
        Gives the ln p of all that were tested, by their keys.
    """

    rows: int
    text: bytes
    tested: int
    large: Sequence[_Test]
    far: tuple[str, float] | None
    counted: Counted
    pairs: PairTrial
    evidence: Callable[[], Mapping[str, float]] = dict


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
        groups = [[d for d in tested if d.reference.kind == kind] for kind in TESTS]
        self._groups = [Group(members, phi, uneven) for members in groups if members]
        self._integrity = IntegrityJudge(reference)

    def judge(self, window: DriftDelta, *, budget: Budget, scales: int = SCALES) -> Verdict:
        """Test and judge a window by itself; the verdict has all its measures."""
        trial = self.test(window)
        verdict = self.decide({1: trial}, budget=budget, scales=scales)[1]
        return replace(verdict, measures=measures_of(trial.text) + verdict.measures)

    def test(self, window: DriftDelta) -> Trial:
        """Measure and test a window by itself; merged panes, counted on the reference's bins."""
        if not window.rows:
            return Trial(0, b"", 0, [], None, Counted(b"", [], 0), PairTrial())
        return self.test_all(Stack([PaneCounts.of(window)], [1]))[0]

    def test_all(self, stack: Stack) -> list[Trial]:
        """Measure and test windows; one comes out as if it were tested by itself."""
        found = [group.test(stack) for group in self._groups]
        texts = [group.texts(of) for group, of in zip(self._groups, found, strict=True)]
        counted, pairs = self._integrity.test(stack), self._pairs.test(stack)
        far = self._far(found)
        large = self._large(found, len(stack))
        tested = np.sum([of.is_tested.sum(axis=1) for of in found], axis=0)
        trials = []
        for i, rows in enumerate(stack.rows):
            parts = [text[i] for text in texts]
            parts += [counted[i].text, measures_text(pairs[i].measures)]
            trials.append(
                Trial(
                    rows,
                    b",".join(filter(None, parts)),
                    int(tested[i]) if found else 0,
                    large[i],
                    far[i],
                    counted[i],
                    pairs[i],
                    partial(self._evidence, found, i),
                )
            )
        return trials

    def _large(self, found: Sequence[Found], windows: int) -> list[list[_Test]]:
        """Give, by window, the tests whose effect is above its floor."""
        tests: list[list[_Test]] = [[] for _ in range(windows)]
        for group, of in zip(self._groups, found, strict=True):
            is_large = of.is_tested & (of.shifts.low / group.floor >= 1)
            for w, i in zip(*(at.tolist() for at in np.nonzero(is_large)), strict=True):
                shifts = of.shifts
                shift = Shift(
                    float(shifts.effect[w, i]), float(shifts.low[w, i]), float(shifts.ln_p[w, i])
                )
                tests[w].append(_Test(group.members[i], shift))
        return tests

    def _far(self, found: Sequence[Found]) -> list[tuple[str, float] | None]:
        """Give, by window, the feature that moved most."""
        farthest: list[tuple[str, float] | None] = []
        for group, of in zip(self._groups, found, strict=True):
            low = np.where(
                of.is_found & (of.rows >= MIN_WINDOW) & group.is_feature, of.shifts.low, -1.0
            )
            at = low.argmax(axis=1)
            most = low[np.arange(at.size), at] * group.share
            names = [
                (group.members[i].feature or "", value) if value >= 0 else None
                for i, value in zip(at.tolist(), most.tolist(), strict=True)
            ]
            if not farthest:
                farthest = names
                continue
            for w, name in enumerate(names):
                known = farthest[w]
                if known is None or (name is not None and name[1] > known[1]):
                    farthest[w] = name
        return farthest

    def _evidence(self, found: Sequence[Found], window: int) -> dict[str, float]:
        return {
            d.key: ln_p
            for group, of in zip(self._groups, found, strict=True)
            for d, ln_p, is_tested in zip(
                group.members,
                of.shifts.ln_p[window].tolist(),
                of.is_tested[window].tolist(),
                strict=True,
            )
            if is_tested
        }

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
            found = [t for t in trial.large if _passes(t.shift.ln_p, alpha)]
            near = {t.distribution.kind for t in trial.large if _passes(t.shift.ln_p, NEAR * alpha)}
            if trial.pairs.detection(NEAR * alpha) is not None:
                near.add(FEATURES)
            beside: list[_Test] = []
            if any(test.distribution.kind == FEATURES for test in found):
                if clear is None:
                    clear = self._clear(trials.values())
                alone = {test.distribution.key for test in found}
                beside = [
                    test for test in trial.large if test.distribution.feature in clear - alone
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
            for key, ln_p in trial.evidence().items():
                ln_ps.setdefault(key, []).append(ln_p)
        e_values = {key: mean_e_value(found) for key, found in ln_ps.items()}
        return named(e_values, tested=self.distributions)


def _verdict(
    trial: Trial, drifted: list[Detection], broken: list[Detection], near: list[AlertKind]
) -> Verdict:
    measures = []
    if trial.tested:
        features = sum(d.kind == FEATURES and d.feature is not None for d in drifted)
        measures.append(trusted_measure("drifted_features", None, float(features), trial.rows))
    return Verdict(measures, drifted + broken, trial.tested, near)


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
