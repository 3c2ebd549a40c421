"""Multivariate drift: features no longer go together as they did in the reference.

Tests of one feature at a time do not see a column that was joined to the wrong rows:
every distribution stays as it was, and only how pairs of features go together changes.
The measure is the largest change of a rank correlation among all pairs.  Correlations
are taken with the window's own margins, so that a feature which merely moved does not
count here; they are made of sums (:mod:`kedge_services.core.rank_pairs`).

It does not see a dependence among three or more features that leaves every pair alone,
nor one of two that has no direction (a parabola).

References
----------
Tail bound for bounded variables: Bernstein 1924.  Effect floor r = .10: Cohen 1988,
"small".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import Detection, Measure, Reference
from kedge_services.core.integrity import Z80, rounded
from kedge_services.core.measuring import trusted_measure
from kedge_services.core.overdispersion import overdispersion
from kedge_services.core.packed import Layout
from kedge_services.core.rank_pairs import correlations, margins, pairs_of, rank_scores
from kedge_services.core.stacks import Stack

__all__ = ["CORRELATION_FLOOR", "NAME", "PairJudge", "PairTrial", "try_pairs"]

NAME: Final = "multivariate_drift"
#: A rank correlation that changed by less is not worth an alarm.
CORRELATION_FLOOR: Final = 0.10
_MIN_WINDOW: Final = 100
_MIN_REFERENCE: Final = 1_000
#: Pairs a summary names.
_SHOWN: Final = 3
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class _Pair(NamedTuple):
    """A pair of features whose correlation moved, the lower bound above the floor."""

    ln_p: float
    names: tuple[str, str]
    before: float
    now: float
    low: float

    @property
    def change(self) -> float:
        return abs(self.now - self.before)

    def __str__(self) -> str:
        first, second = self.names
        return f"{first} and {second} (rank correlation {self.before:.2f}, now {self.now:.2f})"


@dataclass(frozen=True, slots=True)
class PairTrial:
    """What the test of one window found, before anything is decided.

    ``moved`` are the pairs whose change is above the floor for sure, the clearest first.
    """

    measures: Sequence[Measure] = ()
    moved: Sequence[_Pair] = ()

    def detection(self, alpha: float) -> Detection | None:
        """Give the alarm, if there is one at this p-value."""
        pairs = self._alarming(alpha)
        if not pairs:
            return None
        more = f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
        return Detection(
            kind="data-drift",
            detector=NAME,
            value=pairs[0].change,
            threshold=CORRELATION_FLOOR,
            evidence=pairs[0].ln_p,
            summary=f"other relations between {', '.join(map(str, pairs[:_SHOWN]))}{more}",
        )

    def effects(self, alpha: float) -> dict[str, float]:
        """Give the effect of each feature of the pairs that alarm.

        A pair's is the lower bound of its change in units of the floor, squared; the two
        features have half of it each.
        """
        halves: dict[str, list[float]] = {}
        for pair in self._alarming(alpha):
            for name in pair.names:
                halves.setdefault(name, []).append((pair.low / CORRELATION_FLOOR) ** 2 / 2)
        return {name: math.fsum(found) for name, found in halves.items()}

    def _alarming(self, alpha: float) -> list[_Pair]:
        least = math.log(alpha) if alpha > 0 else -math.inf
        return [pair for pair in self.moved if pair.ln_p < least]


class PairJudge:
    """Tests how pairs of features go together in windows of one series.

    Parameters
    ----------
    reference
        Everything that does not depend on the window is prepared here.

    Attributes
    ----------
    tests
        How many tests it is beside those of the features: one, or none.
    """

    def __init__(self, reference: Reference) -> None:
        projection = reference.projection
        self.names = [] if projection is None else projection.features
        self.tests = 0 if projection is None else 1
        if projection is None:
            return
        self.rows = projection.sums[0]
        self._scores = {name: rank_scores(name, reference.features[name]) for name in self.names}
        self._scored: tuple[Layout, _Ints, _Ints, _Ints] | None = None
        sums = [margins(reference.features[name].counts, self._scores[name]) for name in self.names]
        totals, squares = np.array(sums, dtype=np.float64).T
        products = np.array(projection.sums[1:], dtype=np.float64)
        self.before = correlations(self.rows, products, totals, squares)
        variance = np.array(projection.variances)
        self.variance = np.where(variance > 0, variance, np.nan)
        first, second = pairs_of(len(self.names))
        self.dispersion = np.array(projection.dispersions)
        if not reference.is_ordered:
            # Blocks of shuffled rows say nothing; a product varies no more than its factors.
            phi = overdispersion(reference)
            of = np.array([phi[name] for name in self.names])
            self.dispersion = np.maximum(self.dispersion, np.maximum(of[first], of[second]))
        # The largest score in standard units: a row cannot move the correlation further.
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.array([np.abs(self._scores[name]).max() for name in self.names])
            reach = reach / np.sqrt(squares / self.rows)
        self.reach = reach[first] * reach[second]

    def prepared(self, stack: Stack) -> tuple[list[PairTrial], list[tuple[int, _Ints]]]:
        """Give what can be said without a test, and the windows to be tested with their sums."""
        found = [PairTrial()] * len(stack)
        fit: list[tuple[int, _Ints]] = []
        if not self.tests:
            return found, fit
        for i, (projection, rows) in enumerate(zip(stack.projections(), stack.rows, strict=True)):
            if projection is None:
                continue
            why = self._hindrance(rows, int(projection[0]))
            if why is None:
                fit.append((i, projection[1:]))
            else:
                found[i] = PairTrial([_nothing(rows, why)])
        return found, fit

    def _hindrance(self, rows: int, counted: int) -> str | None:
        if rows < _MIN_WINDOW:
            return f"not enough data: {rows} rows in the window, it takes {_MIN_WINDOW}"
        if self.rows < _MIN_REFERENCE:
            return f"not enough data: {self.rows} rows in the reference, it takes {_MIN_REFERENCE}"
        if counted != rows:
            return "not counted in every row"
        return None

    def margins(self, stack: Stack) -> tuple[_Floats, _Floats]:
        """Give the sums of the features' scores and of their squares; 0 without counts."""
        if self._scored is None or self._scored[0] is not stack.layout:
            self._scored = (stack.layout, *self._score(stack.layout))
        _, places, scores, squares = self._scored
        counts = stack.counts.take(places, axis=1)
        return (
            (counts * scores).sum(axis=2).astype(np.float64),
            (counts * squares).sum(axis=2).astype(np.float64),
        )

    def _score(self, layout: Layout) -> tuple[_Ints, _Ints, _Ints]:
        """Give the places of bins and unseen, their scores and the squares of these."""
        width = max(self._scores[name].size - 1 for name in self.names)
        places = np.full((len(self.names), width), layout.width - 1, dtype=np.int64)
        scores = np.zeros(places.shape, dtype=np.int64)
        for i, name in enumerate(self.names):
            at = layout.places.get(name)
            if at is not None:
                span, mine = layout.span(at), self._scores[name][:-1]
                unseen = layout.counter("unseen").start + at
                places[i, : mine.size] = [*range(span.start, span.stop), unseen]
                scores[i, : mine.size] = mine
        return places, scores, scores**2


def try_pairs(judges: Sequence[PairJudge], stacks: Sequence[Stack]) -> list[list[PairTrial]]:
    """Measure and test the windows of several series.

    All judges have as many features; one window comes out as if it were tested alone.

    Notes
    -----
    Of P pairs, ``p = P 2 exp(-m d**2 / (2 (t + |d| M / 3)))``, where d is the change
    of a correlation, t its variance times the rows, M the reach of one row and m the
    rows of both samples together, nN/(n+N), over the pair's overdispersion.
    """
    found: list[list[PairTrial]] = []
    places: list[tuple[int, int]] = []
    products, margins_of = [], []
    for one, (judge, stack) in enumerate(zip(judges, stacks, strict=True)):
        trials, fit = judge.prepared(stack)
        found.append(trials)
        if fit:
            totals, squares = judge.margins(stack)
            at = [window for window, _ in fit]
            margins_of.append((totals[at], squares[at]))
        for window, sums in fit:
            places.append((one, window))
            products.append(sums)
    if not places:
        return found
    owners = [one for one, _ in places]
    before, variance, dispersion, reach = (
        np.array([getattr(judge, name) for judge in judges])[owners]
        if len(judges) > 1
        else getattr(judges[0], name)[None]
        for name in ("before", "variance", "dispersion", "reach")
    )
    n = np.array([[stacks[one].rows[window]] for one, window in places])
    big_n = np.array([[judges[one].rows] for one in owners])
    totals, squares = (np.concatenate(part) for part in zip(*margins_of, strict=True))
    now = correlations(n, np.array(products).astype(np.float64), totals, squares)
    change = np.abs(now - before)
    is_usable = np.isfinite(change) & np.isfinite(variance)
    usable = is_usable.sum(axis=1).tolist()
    m = n * big_n / (n + big_n) / dispersion
    with np.errstate(invalid="ignore"):
        exponent = m * change**2 / (2 * (variance + change * reach / 3))
        low = np.maximum(0.0, change - Z80 * np.sqrt(variance / m))
    exponent = np.where(is_usable, exponent, -np.inf)
    of_pairs = np.array([[math.log(2 * max(1, pairs))] for pairs in usable])
    ln_p = np.minimum(0.0, of_pairs - exponent)
    moved_at: list[list[int]] = [[] for _ in places]
    for row, i in zip(
        *(at.tolist() for at in np.nonzero(is_usable & (low >= CORRELATION_FLOOR))), strict=True
    ):
        moved_at[row].append(i)
    first, second = pairs_of(len(judges[0].names))

    def pair(row: int, i: int) -> _Pair:
        judge = judges[owners[row]]
        names = judge.names[first[i]], judge.names[second[i]]
        past, present = float(judge.before[i]), float(now[row, i])
        return _Pair(rounded(float(ln_p[row, i])), names, past, present, float(low[row, i]))

    for row, ((one, window), top) in enumerate(
        zip(places, exponent.argmax(axis=1).tolist(), strict=True)
    ):
        rows = stacks[one].rows[window]
        if not usable[row]:
            nothing = _nothing(rows, "not enough data: no two features vary")
            found[one][window] = PairTrial([nothing])
            continue
        moved = sorted(pair(row, i) for i in moved_at[row])
        clearest = moved[0] if moved else pair(row, top)
        measure = trusted_measure(
            NAME,
            None,
            clearest.change,
            rows,
            low=clearest.low,
            threshold=CORRELATION_FLOOR,
            evidence=clearest.ln_p,
        )
        found[one][window] = PairTrial([measure], moved)
    return found


def _nothing(rows: int, note: str | None) -> Measure:
    return trusted_measure(NAME, None, None, rows, threshold=CORRELATION_FLOOR, note=note)
