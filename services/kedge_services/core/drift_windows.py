"""Drift windows: panes of prediction time, closed by the predictions' watermark.

When a pane closes, the last s panes of its series are merged for every scale s
and judged once and for all.  Rows that come later (a partition that was
believed idle) revise the counts of a window, never its verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import intern

from kedge import Monitor, Reference
from kedge_services.core.budget import Budget
from kedge_services.core.deltas import LearningDelta
from kedge_services.core.detectors import DriftJudge
from kedge_services.core.drift_state import DriftModel, DriftPane
from kedge_services.core.folding import PaneKey, Series
from kedge_services.core.learning import Learner
from kedge_services.core.lookup import Lookup
from kedge_services.core.pane_counts import PaneCounts, PaneHead
from kedge_services.core.publishing import Content, Publisher, WindowKey
from kedge_services.core.seasons import SeasonalReferences
from kedge_services.core.shelf import Shelf, quick_json
from kedge_services.core.stacks import Stack
from kedge_services.core.trying import Steps, Tried, answers, questions_of, tried_by_scale

__all__ = ["KEPT_PANES", "QUIET_PANES", "DriftWindows"]

#: Empty panes in a row for which a quiet model still gets windows.
QUIET_PANES = 8
#: Panes kept beyond the largest scale, for rows that come after their pane closed.
KEPT_PANES = 16

Estimates = Callable[[WindowKey, int, Stack, int, Reference, tuple[str, float] | None], bytes]
"""Writes measures of the performance to expect in a window: its key, end, counts (of windows side
by side, and which of them it is), what they are held to, and the feature that moved most."""


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
    estimates
        What else there is to say of a window.
    """

    def __init__(
        self, look: Lookup, publisher: Publisher, learner: Learner, estimates: Estimates
    ) -> None:
        self._look, self._publisher, self._learner = look, publisher, learner
        self._estimates = estimates
        self.panes: Shelf[DriftPane] = Shelf(
            "drift-pane", DriftPane.encode, DriftPane.decode, quick_json
        )
        self.models: Shelf[DriftModel] = Shelf(
            "drift-model", DriftModel.encode, DriftModel.decode, quick_json
        )
        self.starts: Shelf[int] = Shelf("drift-series", int, int)
        # By model, the panes that are open, and all of them by their end.
        self._open: dict[str, set[PaneKey]] = {}
        self._ends: dict[str, dict[int, list[PaneKey]]] = {}
        self._judges: dict[str, tuple[Reference, DriftJudge]] = {}
        self._seasons = SeasonalReferences()

    def start(self) -> None:
        """Find the panes of every model again after the state was restored."""
        for plain, pane in self.panes.items():
            key = PaneKey(*plain)  # type: ignore[arg-type]
            self._note(key, pane.end_ms)
            if key not in self._open.get(key.model, ()):
                pane.fold()

    def _note(self, key: PaneKey, end_ms: int) -> None:
        """Find the pane of a model again when it is to be closed or forgotten."""
        model = self.models.get((key.model,))
        if model is None or model.closed_ms is None or end_ms > model.closed_ms:
            self._open.setdefault(key.model, set()).add(key)
        self._ends.setdefault(key.model, {}).setdefault(end_ms, []).append(key)

    # ------------------------------------------------------------------ counts

    def add(self, pane: PaneHead, delta: PaneCounts | LearningDelta, now_ms: int) -> None:
        """Take a delta; one for a closed pane revises the windows it is in."""
        # Kept with every pane and window, so once for all of them.
        names = (pane.model, pane.version, pane.segment, pane.reference_id)
        key = PaneKey(*Series._make(map(intern, names)), pane.start_ms)
        model = self.models.get((pane.model,))
        if model is None:
            self.models[pane.model,] = model = DriftModel()
        is_late = model.closed_ms is not None and pane.end_ms <= model.closed_ms
        if is_late and pane.end_ms <= self._forgotten_ms(pane.model, model):
            model.dropped += delta.rows
            self.models.touch((pane.model,))
            return
        mine = self.panes.get(key)
        if mine is None:
            self.panes[key] = mine = DriftPane(pane.end_ms, delta)
            self._note(key, pane.end_ms)
        else:
            mine.add(delta)
        if isinstance(delta, LearningDelta) and not is_late:
            self._learner.add(key.series, pane.start_ms, delta)
        self.panes.touch(key)
        first_ms = self.starts.get(key.series)
        if first_ms is None or (not is_late and pane.start_ms < first_ms):
            self.starts[key.series] = pane.start_ms
        if is_late:
            self._outdate(key, pane.end_ms, now_ms)

    def _outdate(self, key: PaneKey, end_ms: int, now_ms: int) -> None:
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

    def close(
        self, model: str, watermark_ms: int, now_ms: int, *, until_ms: int | None = None
    ) -> Steps:
        """Close, in order, every pane that ends by the watermark and ``until_ms``."""
        last_ms = watermark_ms if until_ms is None else min(watermark_ms, until_ms)
        state = self.models.get((model,))
        while state is not None:
            open_panes = self._open_panes(model)
            if state.closed_ms is not None:
                empty = self._empty_pane(model, state, open_panes)
                if empty is not None:
                    if empty[1] > last_ms:
                        return
                    yield from self._close_empty(model, state, *empty, now_ms)
                    continue
            if not open_panes or open_panes[0][0] > last_ms:
                return
            end_ms = open_panes[0][0]
            keys = [key for end, key in open_panes if end == end_ms]
            yield from self._close_full(model, state, keys, end_ms, watermark_ms, now_ms)

    def next_ms(self, model: str) -> int | None:
        """Give the watermark at which there may be a pane to close; None for none yet."""
        state = self.models.get((model,))
        if state is None:
            return None
        open_panes = self._open_panes(model)
        empty = self._empty_pane(model, state, open_panes)
        ends = [open_panes[0][0]] if open_panes else []
        return min(ends if empty is None else [*ends, empty[1]], default=None)

    def _open_panes(self, model: str) -> list[tuple[int, PaneKey]]:
        return sorted((self.panes[key].end_ms, key) for key in self._open.get(model, ()))

    def _empty_pane(
        self, model: str, state: DriftModel, open_panes: list[tuple[int, PaneKey]]
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
        self, model: str, state: DriftModel, start_ms: int, end_ms: int, now_ms: int
    ) -> Steps:
        state.quiet += 1
        state.closed_ms = end_ms
        self.models.touch((model,))
        for series in state.active:
            yield from self._judge(series, start_ms, end_ms, now_ms)

    def _close_full(
        self,
        model: str,
        state: DriftModel,
        keys: list[PaneKey],
        end_ms: int,
        watermark_ms: int,
        now_ms: int,
    ) -> Steps:
        state.quiet = 0
        state.closed_ms = end_ms
        state.active = [key.series for key in keys]
        self._open[model].difference_update(keys)
        self.models.touch((model,))
        for key in keys:
            yield from self._judge(key.series, key.start_ms, end_ms, now_ms)
            pane, monitor = self.panes[key], self._look.monitor(model, key.start_ms)
            pane.delta.rest()
            if monitor is None:
                continue
            if pane.is_learning:
                self._learner.close(
                    key.series, key.start_ms, watermark_ms=watermark_ms, monitor=monitor
                )
            else:
                self._learner.count(key.series, end_ms, pane.delta, monitor)
                reference = self._reference(key.series)
                if reference is not None and not reference.is_ordered:
                    self._learner.settle(key.series, end_ms, pane.delta)
        self._prune(model, state)

    def _judge(self, series: Series, start_ms: int, end_ms: int, now_ms: int) -> Steps:  # noqa: C901 -- one scale after the other
        """Send the windows of a series that end with this pane, judged together."""
        monitor = self._look.monitor(series.model, start_ms)
        if monitor is None:
            return
        reference, first_ms = self._held_to(series)
        length = end_ms - start_ms
        contents: dict[int, Content] = {}
        sizes: dict[int, tuple[int, Reference]] = {}
        panes: list[PaneCounts] = []
        rows: dict[int, int] = {}
        for scale in sorted(set(monitor.windows.scales)):
            window_ms = end_ms - scale * length
            while len(rows) < scale:
                self._take(series, end_ms - (len(rows) + 1) * length, panes, rows)
            is_learning = first_ms is None or window_ms < first_ms
            if is_learning and scale > 1:
                break
            if not self._is_whole(series, monitor, window_ms, length):
                break
            total = sum(pane.rows for pane in panes)
            if is_learning:
                contents[scale] = Content(total, status="learning")
                break
            contents[scale] = Content(total, status="insufficient")
            if total and reference is not None:
                sizes[scale] = len(panes), self._seasons.of(reference, monitor, rows)
        questions = questions_of(panes, sizes, self._judge_of)
        tried = tried_by_scale(questions, (yield questions)) if questions else {}
        keys = {
            scale: WindowKey.of("drift", series, scale, end_ms - scale * length)
            for scale in contents
        }
        for scale, content in contents.items():
            if reference is not None and scale in tried:
                held_to = sizes[scale][1] if scale == 1 else None
                self._describe(keys[scale], end_ms, tried[scale], reference, content, held_to)
        self._decide(contents, tried, reference, monitor)
        for scale, content in contents.items():
            self._publisher.send(
                keys[scale], end_ms, content, decided=True, final=True, now_ms=now_ms
            )

    def _take(
        self, series: Series, start_ms: int, panes: list[PaneCounts], rows: dict[int, int]
    ) -> None:
        """Add a pane to those of a window, and its rows."""
        pane = self.panes.get((*series, start_ms))
        rows[start_ms] = pane.delta.rows if pane else 0
        if pane is not None and pane.delta.rows:
            panes.append(pane.delta)

    def _describe(
        self,
        key: WindowKey,
        end_ms: int,
        tried: Tried,
        reference: Reference,
        content: Content,
        held_to: Reference | None,
    ) -> None:
        """Put what was measured into a window; moments only into one held to ``held_to``."""
        content.texts.append(tried.trial.text)
        if held_to is not None:
            content.texts.append(self._judge_of(held_to).describer.text(tried.stack.newest))
        content.texts.append(
            self._estimates(key, end_ms, tried.stack, tried.window, reference, tried.trial.far)
        )

    def _held_to(self, series: Series) -> tuple[Reference | None, int | None]:
        """Give the series' reference and from when on there are verdicts; None for never yet."""
        learnt = self._learner.find(series)
        if learnt is not None:
            return learnt.reference, learnt.valid_from_ms
        reference = self._reference(series)
        if reference is None or not reference.rows:
            return reference, None
        first_ms = self.starts.get(series)
        if reference.is_ordered:
            return reference, first_ms
        reference, since_ms = self._learner.settled_reference(series, reference)
        return reference, None if first_ms is None or since_ms is None else max(first_ms, since_ms)

    def _reference(self, series: Series) -> Reference | None:
        return self._look.reference(series.reference_id) if series.reference_id else None

    def _is_whole(self, series: Series, monitor: Monitor, window_ms: int, length: int) -> bool:
        """Say whether the series was there in the whole window, in panes of one length."""
        first_ms = self.starts.get(series)
        before = self._look.monitor(series.model, window_ms)
        is_same = before is monitor or (before is not None and before.pane_ms == length)
        return is_same and first_ms is not None and window_ms >= first_ms

    def _judge_of(self, reference: Reference) -> DriftJudge:
        known = self._judges.get(reference.reference_id)
        if known is None or known[0] is not reference:
            known = self._judges[reference.reference_id] = (reference, DriftJudge(reference))
        return known[1]

    def _decide(
        self,
        contents: Mapping[int, Content],
        tried: Mapping[int, Tried],
        reference: Reference | None,
        monitor: Monitor,
    ) -> None:
        """Put the verdicts on windows that end with one pane into their contents, by scale."""
        if reference is None or not tried:
            return
        verdicts = self._judge_of(reference).decide(
            {scale: one.trial for scale, one in tried.items()},
            budget=Budget.of(monitor),
            scales=len(monitor.windows.scales),
        )
        for scale, verdict in verdicts.items():
            content = contents[scale]
            content.measures += verdict.measures
            content.detections += verdict.detections
            content.near += verdict.near
            if content.detections:
                content.status = "alarm"
            elif verdict.tested:
                content.status = "ok"

    # -------------------------------------------------------- revising, forgetting

    def revise(self, key: WindowKey, now_ms: int) -> None:
        """Send a window again with the rows that came after it was decided.

        A window that begins before the panes that are kept stays as it is.
        """
        sent, series = self._publisher.get(key), key.series
        monitor = self._look.monitor(key.model, key.start_ms)
        state = self.models.get((key.model,))
        if sent is None or monitor is None or state is None:
            return
        if key.start_ms < self._forgotten_ms(key.model, state):
            return
        length = (sent.end_ms - key.start_ms) // key.scale
        panes: list[PaneCounts] = []
        rows: dict[int, int] = {}
        for start_ms in range(key.start_ms, sent.end_ms, length):
            self._take(series, start_ms, panes, rows)
        reference, first_ms = self._held_to(series)
        content = Content(sum(pane.rows for pane in panes), status="insufficient")
        if panes and reference is not None and first_ms is not None and key.start_ms >= first_ms:
            held_to = self._seasons.of(reference, monitor, rows)
            questions = questions_of(panes, {key.scale: (len(panes), held_to)}, self._judge_of)
            tried = tried_by_scale(questions, answers(questions))
            described = held_to if len(rows) == 1 else None
            self._describe(key, sent.end_ms, tried[key.scale], reference, content, described)
            self._decide({key.scale: content}, tried, reference, monitor)
        self._publisher.send(key, sent.end_ms, content, decided=True, final=True, now_ms=now_ms)

    def _forgotten_ms(self, name: str, state: DriftModel, kept: int = KEPT_PANES) -> int:
        """Give the end of the last pane that is not kept, or beyond so many."""
        closed_ms = state.closed_ms or 0
        monitor = self._look.monitor(name, closed_ms)
        if monitor is None:
            return 0
        return closed_ms - (max(monitor.windows.scales) + kept) * monitor.pane_ms

    def _prune(self, model: str, state: DriftModel) -> None:
        before_ms = self._forgotten_ms(model, state)
        ends = self._ends.get(model, {})
        # No window to come will have it.
        for key in ends.get(self._forgotten_ms(model, state, 0), ()):
            self.panes[key].fold()
        gone: set[Series] = set()
        for end_ms in [end_ms for end_ms in ends if end_ms <= before_ms]:
            for key in ends.pop(end_ms):
                gone.add(key.series)
                del self.panes[key]
        for series in gone - {key.series for keys in ends.values() if gone for key in keys}:
            del self.starts[series]
        self._publisher.prune("drift", model, before_ms)
