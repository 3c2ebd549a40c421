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
from typing import Any, Final, NamedTuple

import numpy as np

from kedge import Detection, Measure, Reference
from kedge.base import AlertKind
from kedge_services.core.attribution import attribution
from kedge_services.core.budget import SCALES, Budget
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.describing import Describer
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
    try_groups,
)
from kedge_services.core.integrity import Counted, IntegrityJudge, try_counters
from kedge_services.core.measuring import measures_of, measures_text, trusted_measure
from kedge_services.core.multivariate import PairJudge, PairTrial, try_pairs
from kedge_services.core.naming import mean_e_value, named
from kedge_services.core.overdispersion import LABEL, distributions, unevenness
from kedge_services.core.overdispersion import overdispersion as dispersions
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.shifts import Shift
from kedge_services.core.stacks import Stack, add_up

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
    "try_together",
]

#: A p-value up to so many times the threshold keeps an alert from ending.
NEAR: Final = 10.0
#: Counts that are tested at once; an array of them has 256 kB.
_MOST_CELLS: Final = 1 << 15


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
        self.pairs = PairJudge(reference)
        self.distributions = len(everything) + self.pairs.tests
        phi, uneven = dispersions(reference), unevenness(reference)
        tested = [distribution_of(name, part) for name, part in everything if name != LABEL]
        groups = [[d for d in tested if d.reference.kind == kind] for kind in TESTS]
        self.groups = [Group(members, phi, uneven) for members in groups if members]
        self.integrity = IntegrityJudge(reference)
        self.describer = Describer(reference)
        shapes = [
            (group.is_numeric, group.reference.shape, str(group.blocks)) for group in self.groups
        ]
        #: Judges of one shape test together.
        self.shape = (*shapes, self.integrity.width, len(self.pairs.names))
        self.cells = sum(group.reference.size for group in self.groups)

    def judge(self, window: DriftDelta, *, budget: Budget, scales: int = SCALES) -> Verdict:
        """Test and judge a window by itself; the verdict has all its measures."""
        trial = self.test(window)
        verdict = self.decide({1: trial}, budget=budget, scales=scales)[1]
        return replace(verdict, measures=measures_of(trial.text) + verdict.measures)

    def test(self, window: DriftDelta) -> Trial:
        """Measure and test a window by itself; merged panes, counted on the reference's bins."""
        if not window.rows:
            return Trial(0, b"", 0, [], None, Counted(b"", [], 0), PairTrial())
        return try_together([(self, Stack([PaneCounts.of(window)], [1]))])[0][0]

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
            if not (trial.large or trial.pairs.moved or trial.counted.suspects):
                # Almost always: there is nothing that evidence could speak of.
                verdicts[scale] = _verdict(trial, [], [], [])
                continue
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


def try_together(asked: Sequence[tuple[DriftJudge, Stack]]) -> list[list[Trial]]:
    """Measure and test the windows of many series; each comes out as if it were tested alone.

    Small arrays cost by their number, so those of series that are counted alike are put
    side by side, as far as they stay in the processor's cache.
    """
    alike: dict[Any, list[int]] = {}
    for i, (judge, stack) in enumerate(asked):
        alike.setdefault((judge.shape, len(stack)), []).append(i)
    found: dict[int, list[Trial]] = {}
    for (_, windows), places in alike.items():
        cells = max(1, asked[places[0]][0].cells * windows)
        together = max(1, _MOST_CELLS // cells)
        for start in range(0, len(places), together):
            mine = places[start : start + together]
            trials = _trials(*zip(*(asked[i] for i in mine), strict=True))
            found.update(zip(mine, trials, strict=True))
    return [found[i] for i in range(len(asked))]


def _trials(judges: Sequence[DriftJudge], stacks: Sequence[Stack]) -> list[list[Trial]]:
    """Test windows of series that are counted alike."""
    add_up(stacks)
    rows_of_groups = list(zip(*(judge.groups for judge in judges), strict=True))
    found = [try_groups(groups, stacks) for groups in rows_of_groups]
    large = _large(rows_of_groups, found, stacks)
    far = _far(rows_of_groups, found, stacks)
    counted = try_counters([judge.integrity for judge in judges], stacks)
    pairs = try_pairs([judge.pairs for judge in judges], stacks)
    tested = np.zeros((len(judges), len(stacks[0])), dtype=np.int64)
    for of in found:
        tested += of.is_tested.sum(axis=-1)
    numbers_tested = tested.tolist()
    trials: list[list[Trial]] = []
    for one, (judge, stack) in enumerate(zip(judges, stacks, strict=True)):
        texts = [group.texts(of, one) for group, of in zip(judge.groups, found, strict=True)]
        mine = []
        for w, rows in enumerate(stack.rows):
            parts = [text[w] for text in texts]
            parts += [counted[one][w].text, measures_text(pairs[one][w].measures)]
            mine.append(
                Trial(
                    rows,
                    b",".join(filter(None, parts)),
                    numbers_tested[one][w],
                    large[one][w],
                    far[one][w],
                    counted[one][w],
                    pairs[one][w],
                    partial(_evidence, judge.groups, found, one, w),
                )
            )
        trials.append(mine)
    return trials


def _large(
    rows_of_groups: Sequence[Sequence[Group]], found: Sequence[Found], stacks: Sequence[Stack]
) -> list[list[list[_Test]]]:
    """Give, by series and window, the tests whose effect is above its floor."""
    tests: list[list[list[_Test]]] = [[[] for _ in range(len(stack))] for stack in stacks]
    for groups, of in zip(rows_of_groups, found, strict=True):
        is_large = of.is_tested & (of.shifts.low / groups[0].floor >= 1)
        for one, w, i in zip(*(at.tolist() for at in np.nonzero(is_large)), strict=True):
            shifts = (of.shifts.effect, of.shifts.low, of.shifts.ln_p)
            shift = Shift(*(float(column[one, w, i]) for column in shifts))
            tests[one][w].append(_Test(groups[one].members[i], shift))
    return tests


def _far(
    rows_of_groups: Sequence[Sequence[Group]], found: Sequence[Found], stacks: Sequence[Stack]
) -> list[list[tuple[str, float] | None]]:
    """Give, by series and window, the feature that moved most."""
    farthest: list[list[tuple[str, float] | None]] = [[None] * len(stack) for stack in stacks]
    for groups, of in zip(rows_of_groups, found, strict=True):
        is_feature = np.array([group.is_feature for group in groups])[:, None]
        is_asked = of.is_found & (of.rows >= MIN_WINDOW) & is_feature
        low = np.where(is_asked, of.shifts.low, -1.0)
        places, most = low.argmax(axis=-1).tolist(), (low.max(axis=-1) * groups[0].share).tolist()
        for one, group in enumerate(groups):
            mine = farthest[one]
            for w, (i, value) in enumerate(zip(places[one], most[one], strict=True)):
                known = mine[w]
                if value >= 0 and (known is None or value > known[1]):
                    mine[w] = (group.members[i].feature or "", value)
    return farthest


def _evidence(
    groups: Sequence[Group], found: Sequence[Found], series: int, window: int
) -> dict[str, float]:
    """Give ln p of all that were tested in a window."""
    return {
        d.key: ln_p
        for group, of in zip(groups, found, strict=True)
        for d, ln_p, is_tested in zip(
            group.members,
            of.shifts.ln_p[series, window].tolist(),
            of.is_tested[series, window].tolist(),
            strict=True,
        )
        if is_tested
    }


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
