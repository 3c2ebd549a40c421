"""Drift windows: panes of prediction time, closed by the predictions' watermark.

When a pane closes, the last s panes of its series are merged for every scale s
and judged once and for all.  Rows that come later (a partition that was
believed idle) revise the counts of a window, never its verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kedge import Monitor, Pane, Reference
from kedge_services.core.deltas import DriftDelta, LearningDelta
from kedge_services.core.detectors import Budget, DriftJudge
from kedge_services.core.folding import Series
from kedge_services.core.learning import Learner
from kedge_services.core.lookup import Lookup
from kedge_services.core.publishing import Content, Publisher, WindowKey
from kedge_services.core.shelf import Shelf

__all__ = ["KEPT_PANES", "QUIET_PANES", "DriftWindows"]

#: Empty panes in a row for which a quiet model still gets windows.
QUIET_PANES = 8
#: Panes kept beyond the largest scale, for rows that come after their pane closed.
KEPT_PANES = 16


@dataclass(slots=True)
class _Pane:
    """The rows of one series in a pane; of a learning version only their number."""

    end_ms: int
    is_learning: bool
    delta: DriftDelta

    def encode(self) -> list[Any]:
        return [self.end_ms, self.is_learning, self.delta.encode()]

    @classmethod
    def decode(cls, data: list[Any]) -> _Pane:
        return cls(data[0], data[1], DriftDelta.decode(data[2]))


@dataclass(slots=True)
class _Model:
    """Where a model is.

    Attributes
    ----------
    closed_ms
        End of the last pane that closed.
    quiet
        Empty panes since the last one with rows.
    active
        Series with rows in that one.
    dropped
        Rows that came after their pane was forgotten.
    """

    closed_ms: int | None = None
    quiet: int = 0
    active: list[Series] = field(default_factory=list)
    dropped: int = 0

    def encode(self) -> dict[str, Any]:
        active = [list(series) for series in self.active]
        return {
            "closed_ms": self.closed_ms,
            "quiet": self.quiet,
            "active": active,
            "dropped": self.dropped,
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> _Model:
        active = [Series(*series) for series in data["active"]]
        return cls(data["closed_ms"], data["quiet"], active, data["dropped"])


class _Key(NamedTuple):
    model: str
    version: str
    segment: str
    reference_id: str
    start_ms: int

    @property
    def series(self) -> Series:
        return Series(*self[:4])


class DriftWindows:
    """All drift windows of one task.

    Parameters
    ----------
    look
        Monitors and references.
    publisher
        Where windows go.
    learner
        Takes the panes of versions without reference as they close.
    """

    def __init__(self, look: Lookup, publisher: Publisher, learner: Learner) -> None:
        self._look, self._publisher, self._learner = look, publisher, learner
        self.panes: Shelf[_Pane] = Shelf("drift-pane", _Pane.encode, _Pane.decode)
        self.models: Shelf[_Model] = Shelf("drift-model", _Model.encode, _Model.decode)
        self.starts: Shelf[int] = Shelf("drift-series", int, int)
        self._keys: dict[str, set[_Key]] = {}
        self._judges: dict[str, tuple[Reference, DriftJudge]] = {}

    def start(self) -> None:
        """Find the panes of every model again after the state was restored."""
        for plain in self.panes:
            key = _Key(*plain)  # type: ignore[arg-type]
            self._keys.setdefault(key.model, set()).add(key)

    # ------------------------------------------------------------------ counts

    def add(self, pane: Pane, delta: DriftDelta | LearningDelta, now_ms: int) -> None:
        """Take a delta; one for a closed pane revises the windows it is in."""
        key = _Key(pane.model, pane.version, pane.segment, pane.reference_id, pane.start_ms)
        model = self.models.get((pane.model,))
        if model is None:
            self.models[pane.model,] = model = _Model()
        is_late = model.closed_ms is not None and pane.end_ms <= model.closed_ms
        if is_late and pane.end_ms <= self._forgotten_ms(pane.model, model):
            model.dropped += delta.rows
            self.models.touch((pane.model,))
            return
        mine = self.panes.get(key)
        if mine is None:
            is_learning = isinstance(delta, LearningDelta)
            self.panes[key] = mine = _Pane(pane.end_ms, is_learning, DriftDelta())
            self._keys.setdefault(pane.model, set()).add(key)
        if isinstance(delta, LearningDelta):
            mine.delta.rows += delta.rows
            if not is_late:
                self._learner.add(key.series, pane.start_ms, delta)
        else:
            mine.delta.add(delta)
        self.panes.touch(key)
        first_ms = self.starts.get(key.series)
        if first_ms is None or (not is_late and pane.start_ms < first_ms):
            self.starts[key.series] = pane.start_ms
        if is_late:
            self._outdate(key, pane.end_ms, now_ms)

    def _outdate(self, key: _Key, end_ms: int, now_ms: int) -> None:
        length, series = end_ms - key.start_ms, key.series
        own = WindowKey.of("drift", series, 1, key.start_ms)
        if self._publisher.get(own) is None:
            # The series had no row when the pane closed, so nothing was decided.
            self._publisher.send(
                own, end_ms, Content(0, status="insufficient"), decided=True, final=True,
                now_ms=now_ms,
            )  # fmt: skip
        monitor = self._look.monitor(key.model, key.start_ms)
        for scale in monitor.windows.scales if monitor else [1]:
            for back in range(scale):
                start_ms = key.start_ms - back * length
                self._publisher.outdate(WindowKey.of("drift", series, scale, start_ms))

    # ----------------------------------------------------------------- closing

    def close(self, model: str, watermark_ms: int, now_ms: int) -> None:
        """Close, in order, every pane that ends by the watermark."""
        state = self.models.get((model,))
        while state is not None:
            open_panes = sorted(
                (self.panes[key].end_ms, key)
                for key in self._keys.get(model, ())
                if state.closed_ms is None or self.panes[key].end_ms > state.closed_ms
            )
            if state.closed_ms is not None:
                empty = self._empty_pane(model, state, open_panes)
                if empty is not None:
                    if empty[1] > watermark_ms:
                        return
                    self._close_empty(model, state, *empty, now_ms)
                    continue
            if not open_panes or open_panes[0][0] > watermark_ms:
                return
            end_ms = open_panes[0][0]
            keys = [key for end, key in open_panes if end == end_ms]
            self._close_full(model, state, keys, end_ms, watermark_ms, now_ms)

    def _empty_pane(
        self, model: str, state: _Model, open_panes: list[tuple[int, _Key]]
    ) -> tuple[int, int] | None:
        """Give the empty pane that comes next, if one does and is still worth a window."""
        monitor = self._look.monitor(model, state.closed_ms)
        if state.quiet >= QUIET_PANES or monitor is None or state.closed_ms is None:
            return None
        start_ms = state.closed_ms - state.closed_ms % monitor.pane_ms
        end_ms = start_ms + monitor.pane_ms
        if open_panes and open_panes[0][1].start_ms < end_ms:
            return None
        return start_ms, end_ms

    def _close_empty(
        self, model: str, state: _Model, start_ms: int, end_ms: int, now_ms: int
    ) -> None:
        state.quiet += 1
        state.closed_ms = end_ms
        self.models.touch((model,))
        for series in state.active:
            self._judge(series, start_ms, end_ms, now_ms)

    def _close_full(
        self,
        model: str,
        state: _Model,
        keys: list[_Key],
        end_ms: int,
        watermark_ms: int,
        now_ms: int,
    ) -> None:
        state.quiet = 0
        state.closed_ms = end_ms
        state.active = [key.series for key in keys]
        self.models.touch((model,))
        for key in keys:
            self._judge(key.series, key.start_ms, end_ms, now_ms)
            pane, monitor = self.panes[key], self._look.monitor(model, key.start_ms)
            if monitor is None:
                continue
            if pane.is_learning:
                self._learner.close(
                    key.series, key.start_ms, watermark_ms=watermark_ms, monitor=monitor
                )
            else:
                self._learner.count(key.series, end_ms, pane.delta, monitor)
        self._prune(model, state)

    def _judge(self, series: Series, start_ms: int, end_ms: int, now_ms: int) -> None:
        """Send the windows of a series that end with this pane."""
        monitor = self._look.monitor(series.model, start_ms)
        if monitor is None:
            return
        pane = self.panes.get((*series, start_ms))
        reference, first_ms = self._held_to(series)
        length, merged, panes = end_ms - start_ms, DriftDelta(), 0
        for scale in sorted(set(monitor.windows.scales)):
            window_ms = end_ms - scale * length
            while panes < scale:
                panes += 1
                older = self.panes.get((*series, end_ms - panes * length))
                if older is not None:
                    merged.add(older.delta)
            is_learning = first_ms is None or window_ms < first_ms
            if is_learning and scale > 1:
                return
            if not self._is_whole(series, monitor, window_ms, length):
                return
            content = (
                Content(pane.delta.rows if pane else 0, status="learning")
                if is_learning
                else self._content(merged, reference, monitor)
            )
            self._publisher.send(
                WindowKey.of("drift", series, scale, window_ms), end_ms, content,
                decided=True, final=True, now_ms=now_ms,
            )  # fmt: skip

    def _held_to(self, series: Series) -> tuple[Reference | None, int | None]:
        """Give the series' reference and from when on there are verdicts; None for never yet."""
        learnt = self._learner.find(series)
        if learnt is not None:
            return learnt.reference, learnt.valid_from_ms
        reference = self._look.reference(series.reference_id) if series.reference_id else None
        is_counted = reference is not None and reference.rows > 0
        return reference, self.starts.get(series) if is_counted else None

    def _is_whole(self, series: Series, monitor: Monitor, window_ms: int, length: int) -> bool:
        """Say whether the series was there in the whole window, in panes of one length."""
        first_ms = self.starts.get(series)
        before = self._look.monitor(series.model, window_ms)
        is_same = before is monitor or (before is not None and before.pane_ms == length)
        return is_same and first_ms is not None and window_ms >= first_ms

    def _content(
        self, merged: DriftDelta, reference: Reference | None, monitor: Monitor
    ) -> Content:
        if not merged.rows or reference is None:
            return Content(merged.rows, status="insufficient")
        known = self._judges.get(reference.reference_id)
        if known is None or known[0] is not reference:
            known = self._judges[reference.reference_id] = (reference, DriftJudge(reference))
        verdict = known[1].judge(
            merged, budget=Budget.of(monitor), scales=len(monitor.windows.scales)
        )
        content = Content(merged.rows, verdict.measures, detections=verdict.detections)
        if verdict.detections:
            content.status = "alarm"
        elif not verdict.tested:
            content.status = "insufficient"
        return content

    # -------------------------------------------------------- revising, forgetting

    def revise(self, key: WindowKey, now_ms: int) -> None:
        """Send a window again with the rows that came after it was decided."""
        sent, series = self._publisher.get(key), key.series
        monitor = self._look.monitor(key.model, key.start_ms)
        if sent is None or monitor is None:
            return
        length = (sent.end_ms - key.start_ms) // key.scale
        merged = DriftDelta()
        for start_ms in range(key.start_ms, sent.end_ms, length):
            pane = self.panes.get((*series, start_ms))
            if pane is not None:
                merged.add(pane.delta)
        reference, first_ms = self._held_to(series)
        is_judged = first_ms is not None and key.start_ms >= first_ms
        content = self._content(merged, reference if is_judged else None, monitor)
        self._publisher.send(
            key, sent.end_ms, content, decided=True, final=True, now_ms=now_ms
        )  # fmt: skip

    def _forgotten_ms(self, name: str, state: _Model) -> int:
        closed_ms = state.closed_ms or 0
        monitor = self._look.monitor(name, closed_ms)
        if monitor is None:
            return 0
        return closed_ms - (max(monitor.windows.scales) + KEPT_PANES) * monitor.pane_ms

    def _prune(self, model: str, state: _Model) -> None:
        before_ms = self._forgotten_ms(model, state)
        keys = self._keys.get(model, set())
        for key in [key for key in keys if self.panes[key].end_ms <= before_ms]:
            keys.discard(key)
            del self.panes[key]
        alive = {key.series for key in keys}
        for series in self._series(model):
            if series not in alive:
                del self.starts[series]
        self._publisher.prune("drift", model, before_ms)

    def _series(self, model: str) -> Iterator[Series]:
        return (Series(*key) for key, _ in self.starts.items() if key[0] == model)  # type: ignore[arg-type]
