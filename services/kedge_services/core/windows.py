"""Windows: deltas of all source partitions are added up, and closed by watermarks.

Everything here is a function of the records of one panes partition in their
order; processing time only throttles revisions.  What has to survive lies on
shelves, piece by piece.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any, Protocol

from kedge import Reference
from kedge.base import PaneKind
from kedge_services.core.deltas import (
    LabelsDelta,
    LearningDelta,
    PerformanceDelta,
    decode_delta,
)
from kedge_services.core.detectors import Trial
from kedge_services.core.drift_windows import DriftWindows
from kedge_services.core.frontier import Reported
from kedge_services.core.label_windows import LabelWindows
from kedge_services.core.learning import Learner
from kedge_services.core.lookup import Lookup
from kedge_services.core.marks import Due, Marks, earliest
from kedge_services.core.pane_counts import PaneCounts, PaneHead
from kedge_services.core.performance_windows import PerformanceWindows
from kedge_services.core.publishing import Publisher, SentWindow
from kedge_services.core.reconciling import Reconciler
from kedge_services.core.shelf import Change, Shelf
from kedge_services.core.trying import Question, Steps, answers

__all__ = ["HELD_BYTES", "Delivered", "Windows"]

#: Models whose windows are judged together.
_TOGETHER = 64
#: What is held of windows to be sent: as much as is made before somebody takes it.
HELD_BYTES = 4 << 20


class Delivered(PaneHead, Protocol):
    """A delta as it was read; see :class:`kedge.Pane`."""

    @property
    def kind(self) -> PaneKind:
        """What was counted."""

    @property
    def counts(self) -> Mapping[str, Any]:
        """JSON data."""


class Windows:
    """All windows of one task.

    Parameters
    ----------
    look
        Monitors and references.
    idle_after_ms
        Time of a source partition's clock after which a model that does not
        appear in it is idle there.
    revise_interval_ms
        Processing time between two revisions of a window.
    held_bytes
        Windows to be sent that are made before they are taken, about.
    """

    def __init__(
        self,
        look: Lookup,
        *,
        idle_after_ms: int,
        revise_interval_ms: int,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._held_bytes = held_bytes
        self._marks = Marks(look, idle_after_ms=idle_after_ms)
        self._publisher = Publisher(revise_interval_ms)
        self._learner = Learner()
        self._look = look
        self._reconciler = Reconciler(self._look, self._publisher)
        self._drift = DriftWindows(
            self._look, self._publisher, self._learner, self._reconciler.estimates
        )
        self._performance = PerformanceWindows(self._look, self._publisher, self._reconciler.settle)
        self._labels = LabelWindows(self._look, self._publisher)
        # Models that can go on, as many together as are judged at once, in their order.
        self._due: Shelf[list[Due]] = Shelf("due", list, _due_models)
        self._numbers = count()
        drift, performance, labels = self._drift, self._performance, self._labels
        shelves: list[Shelf[Any]] = [self._marks.sources, self._marks.shelf, self._due]
        shelves += [self._publisher.sent, self._publisher.labelled]
        learner = self._learner
        shelves += [learner.samples, learner.learnt, learner.blocks.shelf, learner.settled]
        shelves += [learner.hours.shelf]
        shelves += [drift.panes, drift.models, drift.starts]
        shelves += [performance.panes, performance.models, performance.starts]
        shelves += [self._reconciler.panes, self._reconciler.records, self._reconciler.forgotten]
        shelves += [labels.cells, labels.closed]
        shelves += [labels.detectors.sequential, labels.detectors.river]
        self._shelves = {shelf.name: shelf for shelf in shelves}

    # ------------------------------------------------------------------- state

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take back a piece of state."""
        name, *rest = json.loads(key)
        self._shelves[name].restore(tuple(rest), value)

    def start(self) -> None:
        """Go on from the restored state."""
        for part in (
            self._marks, self._publisher, self._drift, self._performance, self._labels,
            self._reconciler,
        ):  # fmt: skip
            part.start()
        self._numbers = count(1 + max((int(number) for (number,) in self._due), default=-1))

    @property
    def is_full(self) -> bool:
        """Whether what is to be sent has to be taken before :meth:`tick` goes on."""
        return bool(len(self._due)) or self._publisher.outbox_bytes >= self._held_bytes

    def changes(self) -> Iterator[Change]:
        """Give the pieces of state that changed since the last call."""
        return chain.from_iterable(shelf.changes() for shelf in self._shelves.values())

    def take(self) -> tuple[list[SentWindow], list[Reference]]:
        """Give the windows and references to be sent and begin anew."""
        return self._publisher.take(), self._learner.take()

    # ------------------------------------------------------------------ events

    def add(self, pane: Delivered, now_ms: int) -> None:
        """Take a delta; pairs are the registry's."""
        if pane.kind == "pair":
            return
        self._marks.add(pane.model, pane.start_ms)
        if pane.kind == "drift":
            counts = PaneCounts.received(pane.counts)
            self._reconciler.add(pane, counts)
            self._drift.add(pane, counts, now_ms)
            return
        delta = decode_delta(pane.kind, pane.counts)
        if isinstance(delta, LearningDelta):
            self._drift.add(pane, delta, now_ms)
        elif isinstance(delta, PerformanceDelta):
            self._performance.add(pane, delta)
        elif isinstance(delta, LabelsDelta):
            self._labels.add(pane, delta, now_ms)

    def progress(self, progress: Reported) -> None:
        """Take a source partition's progress; :meth:`tick` does what it allows."""
        self._marks.progress(progress)

    def tick(self, now_ms: int) -> None:
        """Do what the watermarks allow, and send the revisions that are due.

        Nothing closes before every source partition has reported once.  What
        was read at once is added up before anything is decided, so that it
        does not matter on how many source partitions it came.  What makes more
        than is to be held is left for the next time; see :attr:`is_full`.
        """
        for model in self._reconciler.outdated():
            self._marks.look_at(model)
        due = self._marks.due()
        for start in range(0, len(due), _TOGETHER):
            self._due[next(self._numbers),] = due[start : start + _TOGETHER]
        for key in sorted(self._due):
            if self._publisher.outbox_bytes >= self._held_bytes:
                return
            _run([self._advance(one, now_ms) for one in self._due[key]])
            del self._due[key]
        for key in self._publisher.due(now_ms):
            if self._publisher.outbox_bytes >= self._held_bytes:
                return
            if key.kind == "drift":
                self._drift.revise(key, now_ms)
            elif key.kind == "performance":
                self._performance.revise(key, now_ms)
            else:
                self._labels.revise(key, now_ms)

    def _advance(self, due: Due, now_ms: int) -> Steps:
        model, marks = due.model, self._marks.mark(due.model)
        yield from self._close(due, now_ms)
        if marks.labels_ms is not None and marks.labels_ms != due.labels_ms:
            self._labels.close(model, marks.labels_ms, now_ms)
        self._marks.wait(
            model,
            predictions_ms=earliest(self._drift.next_ms(model), self._performance.next_ms(model)),
            outcomes_ms=self._performance.next_final_ms(model),
            labels_ms=self._labels.next_ms(model),
        )

    def _close(self, due: Due, now_ms: int) -> Steps:
        """Close drift windows and advance performance windows, however many are due at once.

        They take turns, because drift windows tell what became of earlier estimates.
        """
        model, marks = due.model, self._marks.mark(due.model)
        until_ms = marks.predictions_ms
        if until_ms is not None:
            for end_ms in self._performance.ends(model, until_ms):
                yield from self._drift.close(model, until_ms, now_ms, until_ms=end_ms)
                self._performance.advance(
                    model, predictions_ms=end_ms, outcomes_ms=marks.outcomes_ms, now_ms=now_ms
                )
            if until_ms != due.predictions_ms:
                yield from self._drift.close(model, until_ms, now_ms)
        self._performance.advance(
            model, predictions_ms=until_ms, outcomes_ms=marks.outcomes_ms, now_ms=now_ms
        )
        for key in self._reconciler.take_outdated(model):
            self._drift.revise(key, now_ms)


def _due_models(data: Sequence[Sequence[Any]]) -> list[Due]:
    return [Due(*one) for one in data]


def _run(due: Sequence[Steps]) -> None:
    """Do the work of several models; what they ask for at the same time is tested together."""
    asking: list[tuple[Steps, Sequence[Question]]] = []
    for work in due:
        _go_on(work, None, asking)
    while asking:
        found = iter(answers(list(chain.from_iterable(questions for _, questions in asking))))
        asked, asking = asking, []
        for work, questions in asked:
            _go_on(work, list(islice(found, len(questions))), asking)


def _go_on(
    work: Steps,
    found: Sequence[Sequence[Trial]] | None,
    asking: list[tuple[Steps, Sequence[Question]]],
) -> None:
    with contextlib.suppress(StopIteration):
        asking.append((work, next(work) if found is None else work.send(found)))
