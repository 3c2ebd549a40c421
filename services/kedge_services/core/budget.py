"""The budget of false alarms: how much of it every family of tests may spend.

By the union bound the expected number of panes of a week with a false alarm is at most
``panes * (drift + integrity) + performance + fairness``, whatever the dependence between
the tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kedge import Monitor

__all__ = ["SCALES", "Budget", "Expected"]

#: Every test pays for this many scales, also where fewer are looked at.
SCALES: Final = 4
_WEEK_MS: Final = 604_800_000
_DRIFT, _INTEGRITY, _PERFORMANCE, _FAIRNESS = 0.5, 0.15, 0.25, 0.10
#: With few panes a week the shares would be large; a single pane is not worth more.
_MOST_DRIFT, _MOST_INTEGRITY = 1e-3, 2.5e-4


@dataclass(frozen=True, slots=True)
class Expected:
    """Upper bounds of the false alarms a week brings, by family."""

    drift: float
    integrity: float
    performance: float
    fairness: float

    @property
    def total(self) -> float:
        """All of them: never more than the budget."""
        return self.drift + self.integrity + self.performance + self.fairness


@dataclass(frozen=True, slots=True)
class Budget:
    """How many false alarms a pane may have, over all that is tested for the model.

    Attributes
    ----------
    per_pane
        Expected false alarms in one pane.
    per_week
        The same in a week of panes.
    """

    per_pane: float
    per_week: float

    @classmethod
    def of(cls, monitor: Monitor) -> Budget:
        """Read ``"1 per week"`` or ``"1 per 1000 windows"``."""
        return _budget(monitor.drift.false_alarms, monitor.pane_ms)

    @property
    def panes(self) -> float:
        """Panes in a week; 0 when nothing may ever alarm."""
        return self.per_week / self.per_pane if self.per_pane else 0.0

    @property
    def drift(self) -> float:
        """Share of the distributions' tests in one pane."""
        return min(_MOST_DRIFT, _DRIFT * self.per_pane)

    @property
    def integrity(self) -> float:
        """Share of the counters' tests in one pane."""
        return min(_MOST_INTEGRITY, _INTEGRITY * self.per_pane)

    @property
    def performance(self) -> float:
        """Share of the sequential detectors in a week."""
        return _PERFORMANCE * self.per_week

    @property
    def fairness(self) -> float:
        """Share of the comparisons of segments in a week."""
        return _FAIRNESS * self.per_week

    def expected(self, monitor: Monitor) -> Expected:
        """Bound the false alarms of a week of what the monitor has tested.

        The detectors' threshold c is chosen so that labels / c is at most their share,
        however many labels come.
        """
        return Expected(
            drift=self.panes * self.drift,
            integrity=self.panes * self.integrity,
            performance=self.performance if monitor.labelled else 0.0,
            fairness=self.fairness if monitor.labelled and monitor.segments else 0.0,
        )


@lru_cache(maxsize=1_024)
def _budget(text: str, pane_ms: int) -> Budget:
    panes_per_week = _WEEK_MS / pane_ms
    number, per = float(text.split(maxsplit=1)[0]), re.search(r"per (\d+) windows", text)
    per_pane = number / int(per[1]) if per else number / panes_per_week
    return Budget(per_pane, per_pane * panes_per_week)
