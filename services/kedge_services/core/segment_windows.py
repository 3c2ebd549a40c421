"""The segments of a model side by side: each value is held against the others of its pane."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from kedge import Monitor
from kedge.base import label_text
from kedge.monitor import Segment
from kedge_services.core import fairness
from kedge_services.core.budget import Budget
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.fairness import Group
from kedge_services.core.folding import PaneKey, Series
from kedge_services.core.publishing import Content, WindowKey

__all__ = ["Segments"]


class _Together(NamedTuple):
    """What panes of several segments have in common."""

    model: str
    version: str
    reference_id: str
    start_ms: int


class Segments:
    """Knows which panes of segments lie at the same place.

    Parameters
    ----------
    counts
        Gives the counts of a pane that was noted.
    """

    def __init__(self, counts: Callable[[PaneKey], PerformanceDelta]) -> None:
        self._counts = counts
        self._panes: dict[_Together, set[PaneKey]] = {}
        #: Sums by the segment's name; emptied where a pane changes, so that a segment
        #: of v values costs v sums, not v * v.
        self._sums: dict[_Together, dict[tuple[str, str], Group]] = {}
        #: How many values of segments there are in panes; for as long as none is new.
        self._values: dict[tuple[_Together, ...], int] = {}
        #: Places whose windows are known to be out of date.
        self._told: set[_Together] = set()

    def note(self, key: PaneKey) -> None:
        """Take a new pane; one of no segment is left out."""
        if key.segment:
            self._panes.setdefault(_together(key), set()).add(key)
            self._values.clear()

    def forget(self, key: PaneKey) -> None:
        """Drop a pane that no window needs."""
        place = _together(key)
        for kept in (self._panes, self._sums):
            kept.pop(place, None)
        self._told.discard(place)
        self._values.clear()

    def changed(self, key: PaneKey, monitor: Monitor | None) -> Sequence[PaneKey]:
        """Note that a pane changed; give the others that are now out of date, once."""
        place = _together(key)
        self._sums.pop(place, None)
        if not key.segment or monitor is None or monitor.task != "binary" or place in self._told:
            return ()
        self._told.add(place)
        return [other for other in self._panes.get(place, ()) if other != key]

    def compare(
        self,
        key: WindowKey,
        end_ms: int,
        counts: PerformanceDelta,
        *,
        monitor: Monitor,
        positive: str,
        content: Content,
    ) -> None:
        """Hold a window of a segment against the others, and put the outcome into its content."""
        segment = _declared(key.segment, monitor)
        length = (end_ms - key.start_ms) // key.scale
        places = tuple(
            _Together(key.model, key.version, key.reference_id, at)
            for at in range(key.start_ms, end_ms, length)
        )
        self._told.difference_update(places)
        if segment is None or key.segment == _base(segment):
            return
        mine, base = Group.of(counts, positive), _base(segment)
        found = Group()
        for place in places:
            found += self._sum(place, segment.name, base or "", positive)
        rest = found if base else found - mine
        tests = self._count(places) * len(fairness.MEASURES) * len(monitor.windows.scales)
        budget = Budget.of(monitor).per_pane * monitor.performance_pane_ms / monitor.pane_ms
        measures, detections, tested = fairness.judge(
            mine,
            rest,
            names=(key.segment, base or "the rest"),
            segment=segment,
            alpha=fairness.SHARE * budget / max(1, tests),
        )
        content.measures += measures
        content.detections += detections
        if detections:
            content.status = "alarm"
        elif tested and content.status == "insufficient":
            content.status = "ok"

    def _count(self, places: tuple[_Together, ...]) -> int:
        if places not in self._values:
            panes = (pane for place in places for pane in self._panes.get(place, ()))
            self._values[places] = len({pane.segment for pane in panes})
        return self._values[places]

    def merged(
        self, series: Series, start_ms: int, end_ms: int, length: int
    ) -> dict[str, PerformanceDelta]:
        """Add up the panes of a series from ``start_ms`` to ``end_ms``, segment by segment."""
        found: dict[str, PerformanceDelta] = {}
        for at in range(start_ms, end_ms, length):
            place = _Together(series.model, series.version, series.reference_id, at)
            for pane in self._panes.get(place, ()):
                found.setdefault(pane.segment, PerformanceDelta()).add(self._counts(pane))
        return found

    def _sum(self, place: _Together, name: str, base: str, positive: str) -> Group:
        """Add up the panes of one value (the base), or of all values of a segment."""
        sums = self._sums.setdefault(place, {})
        if (name, base) not in sums:
            total = Group()
            for pane in self._of(place, name):
                if base in {"", pane.segment}:
                    total += Group.of(self._counts(pane), positive)
            sums[name, base] = total
        return sums[name, base]

    def _of(self, place: _Together, name: str) -> Iterator[PaneKey]:
        for pane in self._panes.get(place, ()):
            if pane.segment.partition("=")[0] == name:
                yield pane


def _together(key: PaneKey) -> _Together:
    return _Together(key.model, key.version, key.reference_id, key.start_ms)


def _declared(segment: str, monitor: Monitor) -> Segment | None:
    name = segment.partition("=")[0]
    return next((declared for declared in monitor.segments if declared.name == name), None)


def _base(segment: Segment) -> str | None:
    return None if segment.base is None else f"{segment.name}={label_text(segment.base)}"
