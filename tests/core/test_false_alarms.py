"""False alarms and delays of the drift decision, in small: the benchmarks measure them at length.

50 features, a reference of 5,000 rows, panes of 500, judged at the scales 1, 2, 4 and 8 with
the largest shares of a budget (1 in 1,000 panes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special
from scipy.signal import lfilter

from kedge_services.core.binning import Binner
from kedge_services.core.budget import Budget
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.detectors import DriftJudge, Verdict
from kedge_services.core.references import build_reference

FEATURES, ROWS, PANE = 50, 5_000, 500
BUDGET = Budget(per_pane=1 / 168, per_week=1.0)
KINDS: dict[str, Any] = {f"f{i}": "numeric" if i < 40 else "categorical" for i in range(FEATURES)}
_ODDS = np.arange(1, 7) ** -1.2
EDGES = np.cumsum(_ODDS / _ODDS.sum())[:-1]
LEVELS = np.array(list("abcdef"))
Columns = dict[str, Any]


def columns(z: NDArray[np.float64]) -> Columns:
    """Give normal, lognormal, exponential, uniform and categorical columns of normal ones."""
    u = special.ndtr(z)
    shapes = (z, np.exp(z), -np.log1p(-np.minimum(u, 1 - 1e-16)), u)
    found: Columns = {f"f{i}": shapes[i // 10][:, i] for i in range(40)}
    for i in range(40, FEATURES):
        found[f"f{i}"] = LEVELS[np.searchsorted(EDGES, u[:, i])].tolist()
    return found


class Stream:
    """Rows whose features are AR(1)s behind a Gaussian copula; 0 is independent rows."""

    def __init__(self, seed: int, ar: float) -> None:
        self._rng, self._ar = np.random.default_rng(seed), ar
        self._last = self._rng.normal(size=FEATURES)

    def rows(self, n: int) -> Columns:
        noise = self._rng.normal(0, math.sqrt(1 - self._ar**2), (n, FEATURES))
        start = (self._ar * self._last)[None, :]
        z, _ = lfilter([1], [1, -self._ar], noise, axis=0, zi=start)
        self._last = z[-1]
        return columns(z)


def verdicts(seed: int, ar: float, panes: int, drift: Any = None) -> Iterator[list[Verdict]]:
    """Give what is decided as each pane closes; ``drift`` changes the columns after 8 panes."""
    stream = Stream(seed, ar)
    reference = build_reference(model="m", version="1", columns=stream.rows(ROWS), kinds=KINDS)
    judge, binner = DriftJudge(reference), Binner(reference)
    kept: list[DriftDelta] = []
    for index in range(panes):
        now = stream.rows(PANE)
        if drift is not None and index >= 8:
            drift(now)
        kept.append(binner.count(now, rows=PANE))
        trials, merged = {}, DriftDelta()
        for scale in range(1, min(8, len(kept)) + 1):
            merged.add(kept[-scale])
            if scale in {1, 2, 4, 8}:
                trials[scale] = judge.test(merged)
        yield list(judge.decide(trials, budget=BUDGET).values())


def alarms(seed: int, ar: float, panes: int) -> int:
    return sum(any(v.detections for v in found) for found in verdicts(seed, ar, panes))


def test_independent_rows_raise_no_alarm() -> None:
    assert alarms(1, 0.0, 80) == 0


def test_rows_that_follow_each_other_raise_few() -> None:
    # Without overdispersion nearly every pane alarms.
    assert alarms(2, 0.7, 60) <= 1


@pytest.mark.parametrize(("sigmas", "median"), [(0.5, 1), (0.25, 2)])
def test_a_shifted_mean_is_seen_soon(sigmas: float, median: int) -> None:
    def shift(now: Columns) -> None:
        now["f0"] = now["f0"] + sigmas

    delays = []
    for seed in range(3):
        found = [
            any(d.feature == "f0" for v in at_once for d in v.detections)
            for at_once in verdicts(seed, 0.0, 12, shift)
        ]
        delays.append(found.index(True) - 7)
    assert 1 <= np.median(delays) <= median
