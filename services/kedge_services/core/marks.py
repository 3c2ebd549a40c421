"""Which models can go on: the watermarks of all of them, and what each waits for.

Thousands of models move at every step, and few of them have a pane that closes.  So the
watermarks of all are taken at once, and a model is only looked at when one of them has come
to what it waits for, or when something came for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kedge import Monitor
from kedge_services.core.frontier import (
    NEVER,
    NONE,
    TOPICS,
    Awakening,
    Frontier,
    Reported,
    Source,
    grown,
)
from kedge_services.core.lookup import Lookup
from kedge_services.core.shelf import Shelf, quick_json

__all__ = ["Due", "Mark", "Marks", "earliest"]

_Ints = NDArray[np.int64]
#: Rows of the times of all models.
_FIRST, _SINCE, _PREDICTIONS, _OUTCOMES, _LABELS = range(5)
_WOKE: Final = {"predictions": 5, "outcomes": 6}
_ROWS: Final = 7
#: Models in a piece of state.
_TOGETHER: Final = 256
#: Of what is waited for: the watermark of the same place.
_WAITED: Final = slice(_PREDICTIONS, _LABELS + 1)


@dataclass(slots=True)
class Mark:
    """The watermarks of a model, which never go back, and when it was first seen.

    ``first_ms`` is the start of its first pane, ``since_ms`` the outcomes' clock
    when all of its partitions had one.  ``woke_ms`` is, by topic, when it was
    last back after it had been idle everywhere.
    """

    first_ms: int
    since_ms: int | None = None
    predictions_ms: int | None = None
    outcomes_ms: int | None = None
    labels_ms: int | None = None
    woke_ms: dict[str, int] = field(default_factory=dict)

    def encode(self) -> list[Any]:
        """Give JSON data."""
        return [
            self.first_ms, self.since_ms, self.predictions_ms, self.outcomes_ms, self.labels_ms,
            self.woke_ms,
        ]  # fmt: skip

    @classmethod
    def decode(cls, data: list[Any]) -> Mark:
        """Read what :meth:`encode` gave."""
        return cls(*data)

    def times(self) -> list[int]:
        """Give a column of the times of all models."""
        known = [
            self.first_ms, self.since_ms, self.predictions_ms, self.outcomes_ms, self.labels_ms,
            *(self.woke_ms.get(topic) for topic in TOPICS),
        ]  # fmt: skip
        return [NONE if time is None else time for time in known]


_Block = dict[str, Mark]


def _encoded(block: _Block) -> dict[str, Any]:
    return {model: mark.encode() for model, mark in block.items()}


def _decoded(data: dict[str, Any]) -> _Block:
    return {model: Mark.decode(mark) for model, mark in data.items()}


class Due(NamedTuple):
    """A model that can go on, and the watermarks it had before."""

    model: str
    predictions_ms: int | None
    labels_ms: int | None


class Marks:
    """The watermarks of all models of one task.

    Parameters
    ----------
    look
        Monitors.
    idle_after_ms
        See :class:`Frontier`.

    Attributes
    ----------
    sources, shelf
        State: the last progress of every source partition, and the marks of models, many in
        a piece: all of them move at every step, and a record for each would cost more.
    """

    def __init__(self, look: Lookup, *, idle_after_ms: int) -> None:
        self._look = look
        self._frontier = Frontier(idle_after_ms)
        self.sources: Shelf[Source] = Shelf(
            "source", lambda source: source, partial(msgspec.convert, type=Source), quick_json
        )
        self.shelf: Shelf[_Block] = Shelf("watermarks", _encoded, _decoded, quick_json)
        self._marks: dict[str, Mark] = {}
        self._blocks: dict[str, int] = {}
        self._has_progress = False
        self._expected = 0
        # All by model.  NONE is waited for where nobody has looked yet.
        self._times = self._waits = np.full((_ROWS, 0), NONE)
        self._grace_ms = np.zeros((1, 0), dtype=np.int64)
        self._watched: dict[str, tuple[int, Monitor | None]] = {}

    def start(self) -> None:
        """Go on from the restored state."""
        for partition in self.sources:
            self._frontier.take(self.sources[partition])
        for (block,), marks in self.shelf.items():
            for model, mark in marks.items():
                self._enter(model, mark, int(block))

    def add(self, model: str, start_ms: int) -> None:
        """Note that a pane came for a model."""
        column = self._frontier.columns.get(model)
        if column is None or model not in self._marks:
            block, mark = len(self._marks) // _TOGETHER, Mark(start_ms)
            if (block,) not in self.shelf:
                self.shelf[block,] = {}
            self.shelf[block,][model] = mark
            self.shelf.touch((block,))
            self._enter(model, mark, block)
        else:
            self._waits[_PREDICTIONS, column] = NONE

    def mark(self, model: str) -> Mark:
        """Give the watermarks of a model."""
        return self._marks[model]

    def look_at(self, model: str) -> None:
        """Give the model when others are due, whatever it waits for."""
        self._waits[_PREDICTIONS, self._frontier.columns[model]] = NONE

    def _enter(self, model: str, mark: Mark, block: int) -> None:
        self._marks[model], self._blocks[model] = mark, block
        column = self._frontier.column(model)
        self._fit()
        self._times[:, column] = mark.times()
        self._waits[:, column] = NONE
        self._watched[model] = (column, None)

    def _fit(self) -> None:
        number = len(self._frontier.columns)
        if number > self._times.shape[1]:
            # Twice as many, so that one model after the other is not copied each time.
            room = 2 * number
            self._times = grown(self._times, (_ROWS, room))
            self._waits = grown(self._waits, (_ROWS, room))
            self._grace_ms = grown(self._grace_ms, (1, room))

    def wait(
        self, model: str, *, predictions_ms: int | None, outcomes_ms: int | None,
        labels_ms: int | None,
    ) -> None:  # fmt: skip
        """Note the watermarks before which nothing can be done for a model."""
        column = self._frontier.columns[model]
        self._waits[_WAITED, column] = [
            NEVER if time is None else time for time in (predictions_ms, outcomes_ms, labels_ms)
        ]

    # ---------------------------------------------------------------- progress

    def progress(self, progress: Reported) -> None:
        """Take a source partition's progress."""
        source = Source.of(progress)
        for woken in self._frontier.take(source):
            self._note(woken)
        self.sources[progress.partition,] = source
        self._expected = progress.partitions
        self._has_progress = True

    def _note(self, woken: Awakening) -> None:
        mark = self._marks.get(woken.model)
        if mark is not None:
            mark.woke_ms[woken.topic] = woken.woke_ms
            self.shelf.touch((self._blocks[woken.model],))
            column = self._frontier.columns[woken.model]
            self._times[_WOKE[woken.topic], column] = woken.woke_ms

    def due(self) -> list[Due]:
        """Move the watermarks; give the models that can go on, in the order of their names.

        There is none before every source partition has reported once, nor without progress.
        """
        if not self._has_progress or len(self.sources) < self._expected:
            return []
        self._has_progress = False
        self._fit()
        self._frontier.fit()
        number = len(self._frontier.columns)
        is_watched = self._look_at_monitors()[:number]
        times = self._times[:, :number]
        before = times.copy()
        self._move(times, is_watched)
        (moved,) = np.nonzero((times != before).any(axis=0))
        names = list(self._frontier.columns)
        self._remember(times, moved, names)
        is_due = (times[_WAITED] >= self._waits[_WAITED, :number]).any(axis=0) & is_watched
        (found,) = np.nonzero(is_due)
        return sorted(self._due(names, before, found.tolist()))

    def _due(self, names: list[str], before: _Ints, columns: list[int]) -> Iterator[Due]:
        for i in columns:
            known = [_time(before[row, i]) for row in (_PREDICTIONS, _LABELS)]
            yield Due(names[i], *known)

    def _look_at_monitors(self) -> NDArray[np.bool_]:
        """Say which models have a monitor; one with another monitor is looked at anew."""
        is_watched = np.zeros(self._times.shape[1], dtype=np.bool_)
        at = [column for column, _ in self._watched.values()]
        is_watched[at] = True
        for model, (column, known) in self._watched.items():
            monitor = self._look.monitor(model, None)
            if monitor is None:
                is_watched[column] = False
            elif monitor is not known:
                self._watched[model] = (column, monitor)
                self._grace_ms[0, column] = monitor.grace_ms
                self._waits[_PREDICTIONS, column] = NONE
        return is_watched

    def _move(self, times: _Ints, is_watched: NDArray[np.bool_]) -> None:
        """Take the watermarks as they stand, as far as they are later."""
        grace_ms = self._grace_ms[0, : times.shape[1]]
        clocks = self._frontier.clocks("outcomes")
        if clocks.min() > 0:
            is_new = is_watched & (times[_SINCE] == NONE)
            times[_SINCE, is_new] = clocks.max()
        predictions, outcomes = (
            self._frontier.event_watermarks(topic, grace_ms=grace_ms, woke_ms=times[_WOKE[topic]])
            for topic in TOPICS
        )
        silent = self._frontier.silent_watermarks(first_ms=times[_FIRST], since_ms=times[_SINCE])
        labels = self._frontier.data_watermarks(
            grace_ms=grace_ms, woke_ms=times[_WOKE["predictions"]]
        )
        now = [predictions, np.where(outcomes == NONE, silent, outcomes), labels]
        for row, found in zip((_PREDICTIONS, _OUTCOMES, _LABELS), now, strict=True):
            times[row] = np.where(is_watched, np.maximum(times[row], found), times[row])

    def _remember(self, times: _Ints, moved: NDArray[np.intp], names: list[str]) -> None:
        columns = times[_SINCE : _LABELS + 1, moved].T.tolist()
        for i, column in zip(moved.tolist(), columns, strict=True):
            mark = self._marks[names[i]]
            mark.since_ms, mark.predictions_ms, mark.outcomes_ms, mark.labels_ms = map(
                _time, column
            )
        for block in dict.fromkeys(self._blocks[names[i]] for i in moved.tolist()):
            self.shelf.touch((block,))


def earliest(*times: int | None) -> int | None:
    """Give the earliest of the times that are known."""
    return min((time for time in times if time is not None), default=None)


def _time(value: int) -> int | None:
    return None if value == NONE else int(value)
