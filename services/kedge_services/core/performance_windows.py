"""Performance windows: panes of prediction time, filled by the labels as they come.

::

    pane closes        labels come         coverage >= .95       horizon passed
    |------------------|-------------------|---------------------|
    published          revised (throttled) decided               final

"Closes" is a matter of the predictions' watermark, "horizon passed" of the
outcomes'.  Windows of several panes are sent when all their panes are decided,
and when the last is final.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kedge import Measure, Monitor
from kedge.base import WindowKind, label_text
from kedge_services.core.budget import SCALES, Budget
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.detectors import is_near
from kedge_services.core.drift_windows import KEPT_PANES
from kedge_services.core.folding import PaneKey, Series
from kedge_services.core.lookup import Lookup
from kedge_services.core.loss_parts import change_measures, has_risen
from kedge_services.core.overdispersion import LABEL, overdispersion, unevenness
from kedge_services.core.pane_counts import PaneHead
from kedge_services.core.performance import (
    coverage,
    label_drift,
    performance_measures,
    selection_measures,
)
from kedge_services.core.publishing import Content, Publisher, WindowKey
from kedge_services.core.segment_windows import Segments
from kedge_services.core.shelf import Shelf

__all__ = ["PerformanceWindows"]

_KIND: WindowKind = "performance"

Settle = Callable[[WindowKey, int, Sequence[Measure], bool], list[Measure]]
"""Gives more measures of a final window: its key, end, measures, whether labels are enough."""


@dataclass(slots=True)
class _Pane:
    end_ms: int
    delta: PerformanceDelta

    def encode(self) -> list[Any]:
        return [self.end_ms, self.delta.encode()]

    @classmethod
    def decode(cls, data: list[Any]) -> _Pane:
        return cls(data[0], PerformanceDelta.decode(data[1]))


@dataclass(slots=True)
class _Model:
    """The time before which panes are forgotten, and the rows that came too late for them."""

    forgotten_ms: int = -1
    dropped: int = 0

    def encode(self) -> list[int]:
        return [self.forgotten_ms, self.dropped]

    @classmethod
    def decode(cls, data: list[int]) -> _Model:
        return cls(*data)


@dataclass(slots=True)
class _Agenda:
    """What is still to be done with the panes of a model, by the time it is due."""

    unpublished: list[tuple[int, PaneKey]] = field(default_factory=list)
    unfinished: list[tuple[int, PaneKey]] = field(default_factory=list)
    changed: dict[PaneKey, None] = field(default_factory=dict)


class PerformanceWindows:
    """All performance windows of one task.

    Parameters
    ----------
    look
        Monitors and references.
    publisher
        Where windows go.
    settle
        Holds to its labels what was expected of a final window.
    """

    def __init__(self, look: Lookup, publisher: Publisher, settle: Settle) -> None:
        self._look, self._publisher, self._settle = look, publisher, settle
        self.panes: Shelf[_Pane] = Shelf("performance-pane", _Pane.encode, _Pane.decode)
        self.models: Shelf[_Model] = Shelf("performance-model", _Model.encode, _Model.decode)
        self.starts: Shelf[int] = Shelf("performance-series", int, int)
        self._agendas: dict[str, _Agenda] = {}
        self._keys: dict[str, set[PaneKey]] = {}
        self._segments = Segments(lambda key: self.panes[key].delta)

    def start(self) -> None:
        """Find again what is due after the state was restored."""
        for plain, pane in sorted(self.panes.items()):
            key = PaneKey(*plain)  # type: ignore[arg-type]
            self._note(key)
            sent = self._publisher.get(self._window(key))
            if sent is None:
                self._agenda(key).unpublished.append((pane.end_ms, key))
            elif not sent.is_final:
                self._agenda(key).unfinished.append((self._due_ms(key, pane), key))
                self._agenda(key).changed[key] = None
        for agenda in self._agendas.values():
            heapq.heapify(agenda.unpublished)
            heapq.heapify(agenda.unfinished)

    def add(self, pane: PaneHead, delta: PerformanceDelta) -> None:
        """Take a delta."""
        key = PaneKey(pane.model, pane.version, pane.segment, pane.reference_id, pane.start_ms)
        model = self.models.get((pane.model,))
        if model is None:
            self.models[pane.model,] = model = _Model()
        if not pane.segment:
            self._publisher.count_labels(pane.model, delta.served)
        if pane.end_ms <= model.forgotten_ms:
            model.dropped += delta.predicted
            self.models.touch((pane.model,))
            return
        mine = self.panes.get(key)
        if mine is None:
            self.panes[key] = mine = _Pane(pane.end_ms, PerformanceDelta())
            self._note(key)
            heapq.heappush(self._agenda(key).unpublished, (pane.end_ms, key))
        mine.delta.add(delta)
        self.panes.touch(key)
        first_ms = self.starts.get(key.series)
        if first_ms is None or pane.start_ms < first_ms:
            self.starts[key.series] = pane.start_ms
        length = pane.end_ms - pane.start_ms
        if self._publisher.get(self._window(key)) is not None:
            self._agenda(key).changed[key] = None
            self._outdate(key, length)
        for other in self._segments.changed(key, self._look.monitor(key.model, key.start_ms)):
            self._outdate(other, length)

    def _note(self, key: PaneKey) -> None:
        self._keys.setdefault(key.model, set()).add(key)
        self._segments.note(key)

    def _outdate(self, key: PaneKey, length: int) -> None:
        if self._publisher.get(self._window(key)) is not None:
            self._publisher.outdate(self._window(key))
            self._outdate_longer(key, length)

    def _outdate_longer(self, key: PaneKey, length: int) -> None:
        """Have other final windows with this pane revised; the rest will be sent again anyway.

        Where there are segments, the windows after this pane are held against it.
        """
        monitor = self._look.monitor(key.model, key.start_ms)
        if monitor is None:
            return
        is_base = bool(monitor.segments) and not key.segment
        for scale in sorted(set(monitor.windows.scales)):
            for back in range(-scale if is_base else 0, scale):
                window = WindowKey.of(_KIND, key.series, scale, key.start_ms - back * length)
                sent = self._publisher.get(window)
                if sent is not None and sent.is_final:
                    self._publisher.outdate(window)

    def ends(self, model: str, until_ms: int) -> list[int]:
        """Give the ends, in order, of the panes that are to be published by then."""
        agenda = self._agendas.get(model)
        due = agenda.unpublished if agenda is not None else ()
        return sorted({end_ms for end_ms, _ in due if end_ms <= until_ms})

    def next_ms(self, model: str) -> int | None:
        """Give the end of the pane that is to be published next."""
        agenda = self._agendas.get(model)
        return agenda.unpublished[0][0] if agenda is not None and agenda.unpublished else None

    def next_final_ms(self, model: str) -> int | None:
        """Give the outcomes' watermark at which the next pane is final."""
        agenda = self._agendas.get(model)
        return agenda.unfinished[0][0] if agenda is not None and agenda.unfinished else None

    def advance(
        self, model: str, *, predictions_ms: int | None, outcomes_ms: int | None, now_ms: int
    ) -> None:
        """Publish, decide and finish what the two watermarks allow."""
        agenda = self._agendas.get(model)
        if agenda is None:
            return
        due = agenda.unpublished
        while due and predictions_ms is not None and due[0][0] <= predictions_ms:
            _, key = heapq.heappop(due)
            due_ms = self._due_ms(key, self.panes[key])
            heapq.heappush(agenda.unfinished, (due_ms, key))
            agenda.changed.pop(key, None)
            if outcomes_ms is None or due_ms > outcomes_ms:
                self._send_pane(key, final=False, now_ms=now_ms)
        for key in agenda.changed:
            sent = self._publisher.get(self._window(key))
            if sent is None or sent.is_decided or not coverage(self.panes[key].delta).is_whole:
                continue
            self._send_pane(key, final=False, now_ms=now_ms)
        agenda.changed.clear()
        due = agenda.unfinished
        while due and outcomes_ms is not None and due[0][0] <= outcomes_ms:
            _, key = heapq.heappop(due)
            self._send_pane(key, final=True, now_ms=now_ms)
            self._prune(model, self.panes[key].end_ms)

    def revise(self, key: WindowKey, now_ms: int) -> None:
        """Send a window again with the labels that have come."""
        sent, monitor = self._publisher.get(key), self._look.monitor(key.model, key.start_ms)
        if sent is None or monitor is None:
            return
        length = (sent.end_ms - key.start_ms) // key.scale
        merged = self._merge(key.series, key.start_ms, sent.end_ms, length)
        self._send(
            key, sent.end_ms, merged, monitor, decided=sent.is_decided, final=sent.is_final,
            now_ms=now_ms,
        )  # fmt: skip

    # ----------------------------------------------------------------- sending

    def _send_pane(self, key: PaneKey, *, final: bool, now_ms: int) -> None:
        pane, monitor = self.panes[key], self._look.monitor(key.model, key.start_ms)
        if monitor is None:
            return
        decided = final or coverage(pane.delta).is_whole
        self._send(
            self._window(key), pane.end_ms, pane.delta, monitor, decided=decided, final=final,
            now_ms=now_ms,
        )  # fmt: skip
        if decided:
            for scale in sorted(set(monitor.windows.scales) - {1}):
                self._send_longer(key, scale, monitor, now_ms=now_ms)

    def _send_longer(self, key: PaneKey, scale: int, monitor: Monitor, *, now_ms: int) -> None:
        """Send the windows of several panes that this pane completes."""
        series, length = key.series, self.panes[key].end_ms - key.start_ms
        for back in range(scale):
            start_ms = key.start_ms - back * length
            end_ms = start_ms + scale * length
            last = self._publisher.get(WindowKey.of(_KIND, series, 1, end_ms - length))
            if start_ms < self.starts[series] or last is None:
                continue
            parts = [
                self._publisher.get(self._window(PaneKey(*series, at)))
                for at in range(start_ms, end_ms, length)
                if (*series, at) in self.panes
            ]
            window = WindowKey.of(_KIND, series, scale, start_ms)
            sent = self._publisher.get(window)
            decided = all(part is not None and part.is_decided for part in parts)
            if not decided or (sent is not None and (sent.is_final or not last.is_final)):
                continue
            self._send(
                window, end_ms, self._merge(series, start_ms, end_ms, length), monitor,
                decided=True, final=last.is_final, now_ms=now_ms,
            )  # fmt: skip

    def _send(
        self,
        key: WindowKey,
        end_ms: int,
        counts: PerformanceDelta,
        monitor: Monitor,
        *,
        decided: bool,
        final: bool,
        now_ms: int,
    ) -> None:
        gate = coverage(counts)
        classes, positive = _classes(monitor)
        content = Content(
            counts.predicted,
            performance_measures(counts, classes=classes, positive=positive),
            "ok" if gate.is_enough else "insufficient",
            labelled=counts.labelled,
            label_coverage=gate.share,
        )
        content.measures += selection_measures(counts)
        if gate.is_enough and key.scale == 1 and not key.segment:
            self._test_labels(key, counts, monitor, content)
        if key.segment and positive is not None:
            self._segments.compare(
                key, end_ms, counts, monitor=monitor, positive=positive, content=content
            )
        if monitor.segments and not key.segment:
            content.measures += self._change(key, end_ms, counts, monitor)
        if final and key.scale == 1 and not key.segment:
            content.measures += self._settle(key, end_ms, content.measures, gate.is_enough)
        self._publisher.send(
            key, end_ms, content, decided=decided, final=final, now_ms=now_ms,
        )  # fmt: skip

    def _test_labels(
        self, key: WindowKey, counts: PerformanceDelta, monitor: Monitor, content: Content
    ) -> None:
        reference = self._look.reference(key.reference_id) if key.reference_id else None
        if reference is None or reference.label is None:
            return
        tests = len(reference.features) + 1
        beside = (reference.prediction, reference.score, reference.projection)
        tests += sum(part is not None for part in beside)
        alpha = Budget.of(monitor).drift / (max(SCALES, len(monitor.windows.scales)) * tests)
        measure, detection = label_drift(
            counts,
            reference.label,
            alpha=alpha,
            dispersion=overdispersion(reference)[LABEL],
            unevenness=unevenness(reference),
        )
        if measure is not None:
            content.measures.append(measure)
            if is_near(measure, alpha):
                content.near.append("label-drift")
        if detection is not None:
            content.detections.append(detection)
            content.status = "alarm"

    def _change(
        self, key: WindowKey, end_ms: int, counts: PerformanceDelta, monitor: Monitor
    ) -> list[Measure]:
        """Take apart by segments how much worse it is than in the window before."""
        span = end_ms - key.start_ms
        length, series, before_ms = span // key.scale, key.series, key.start_ms - span
        before = self._merge(series, before_ms, key.start_ms, length)
        if not has_risen(before, counts):
            return []
        return change_measures(
            {"": before, **self._segments.merged(series, before_ms, key.start_ms, length)},
            {"": counts, **self._segments.merged(series, key.start_ms, end_ms, length)},
            [segment.name for segment in monitor.segments],
        )

    # ------------------------------------------------------------------ pieces

    def _merge(self, series: Series, start_ms: int, end_ms: int, length: int) -> PerformanceDelta:
        merged = PerformanceDelta()
        for at in range(start_ms, end_ms, length):
            pane = self.panes.get((*series, at))
            if pane is not None:
                merged.add(pane.delta)
        return merged

    def _prune(self, model: str, final_ms: int) -> None:
        """Forget panes that no window can need after one that ended at ``final_ms`` is final."""
        state, monitor = self.models[model,], self._look.monitor(model, final_ms)
        if monitor is None:
            return
        kept = (max(monitor.windows.scales) + KEPT_PANES) * monitor.performance_pane_ms
        state.forgotten_ms = max(state.forgotten_ms, final_ms - kept)
        self.models.touch((model,))
        keys = self._keys[model]
        gone = [key for key in keys if self.panes[key].end_ms <= state.forgotten_ms]
        for key in gone:
            keys.discard(key)
            self._segments.forget(key)
            del self.panes[key]
        if gone:
            for series in {key.series for key in gone} - {key.series for key in keys}:
                del self.starts[series]
        self._publisher.prune(_KIND, model, state.forgotten_ms)

    def _agenda(self, key: PaneKey) -> _Agenda:
        return self._agendas.setdefault(key.model, _Agenda())

    def _due_ms(self, key: PaneKey, pane: _Pane) -> int:
        """Give the outcomes watermark at which the pane is final."""
        monitor = self._look.monitor(key.model, key.start_ms)
        return pane.end_ms + (monitor.horizon_ms if monitor else 0)

    @staticmethod
    def _window(key: PaneKey) -> WindowKey:
        return WindowKey.of(_KIND, key.series, 1, key.start_ms)


def _classes(monitor: Monitor) -> tuple[list[str], str | None]:
    """Give the classes' texts and the positive one, of a binary model the second by default."""
    if monitor.task == "regression":
        return [], None
    classes = [label_text(label) for label in monitor.classes]
    if monitor.task != "binary":
        return classes, None
    return classes, classes[1] if monitor.positive is None else label_text(monitor.positive)
