"""How far models have come over all source partitions: the watermarks that close windows.

Every source partition reports its own largest event times and its clock; see
"Time" in the architecture.  An idle partition leaves the minimum, a lagging one
holds it.  Which is which can only be told by clocks: a partition that was idle when
it was read last may have the model by now, and a model that was idle everywhere and
is back in one partition may be back in all of them.

Thousands of models move at every step, so their clocks lie side by side in arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NEVER",
    "NONE",
    "TOPICS",
    "Awakening",
    "Clock",
    "Frontier",
    "Reported",
    "Source",
    "Topic",
    "grown",
]

Topic = Literal["predictions", "outcomes"]
TOPICS: Final[tuple[Topic, Topic]] = ("predictions", "outcomes")
#: In arrays: no time is known; and a time that never comes.
NONE: Final = -(1 << 63)
NEVER: Final = (1 << 63) - 1
_Ints = NDArray[np.int64]
_Bools = NDArray[np.bool_]


class Clock(msgspec.Struct, gc=False):
    """How far a model has come, see :class:`kedge.panes.ModelClock`; never changed."""

    max_ms: int
    seen_ms: int


class Moment(Protocol):
    """What both clocks say."""

    @property
    def max_ms(self) -> int:
        """The model's largest event time."""

    @property
    def seen_ms(self) -> int:
        """The partition's clock when its last record was read."""


class Reported(Protocol):
    """What is known of a source partition; see :class:`kedge.Progress`."""

    @property
    def partition(self) -> int:
        """Which it is."""

    @property
    def partitions(self) -> int:
        """How many there are."""

    @property
    def clock_ms(self) -> Mapping[str, int]:
        """Its clock, by topic."""

    @property
    def since_ms(self) -> Mapping[str, int]:
        """The first clock it reported, by topic."""

    @property
    def predictions(self) -> Mapping[str, Moment]:
        """By model."""

    @property
    def outcomes(self) -> Mapping[str, Moment]:
        """By model."""


class Source(msgspec.Struct):
    """What is kept of the last progress of a source partition; never changed."""

    partition: int
    partitions: int
    clock_ms: dict[str, int]
    since_ms: dict[str, int]
    predictions: dict[str, Clock]
    outcomes: dict[str, Clock]

    @classmethod
    def of(cls, progress: Reported) -> Source:
        """Keep the clocks; offsets and fates are for others."""
        return cls(
            progress.partition,
            progress.partitions,
            dict(progress.clock_ms),
            dict(progress.since_ms),
            _plain(progress.predictions),
            _plain(progress.outcomes),
        )


def _plain(times: Mapping[str, Moment]) -> dict[str, Clock]:
    return {
        model: time if isinstance(time, Clock) else Clock(time.max_ms, time.seen_ms)
        for model, time in times.items()
    }


class Awakening(NamedTuple):
    """The clock at which a model came, or came back after it had been idle everywhere."""

    model: str
    topic: Topic
    woke_ms: int


class _Times:
    """What was seen of every model in every source partition of one topic.

    Attributes
    ----------
    max_ms, seen_ms
        See :class:`Clock`; shape (sources, models), :data:`NONE` where it was never seen.
    clock_ms, since_ms
        The clock of every source, and its first; shape (sources, 1).
    """

    def __init__(self) -> None:
        self.max_ms = self.seen_ms = np.full((0, 0), NONE)
        self.clock_ms = self.since_ms = np.zeros((0, 1), dtype=np.int64)
        self._columns: dict[int, tuple[list[str], _Ints]] = {}

    def fit(self, sources: int, models: int) -> None:
        """Make room."""
        self.max_ms = grown(self.max_ms, (sources, models))
        self.seen_ms = grown(self.seen_ms, (sources, models))
        self.clock_ms = grown(self.clock_ms, (sources, 1))
        self.since_ms = grown(self.since_ms, (sources, 1))

    def columns(self, row: int, models: list[str], columns: Mapping[str, int]) -> _Ints:
        """Give the columns of models; most often they are those that a source had last."""
        known = self._columns.get(row)
        if known is None or known[0] != models:
            found = np.array([columns[model] for model in models], dtype=np.int64)
            known = self._columns[row] = (models, found)
        return known[1]

    def silence(self, is_there: _Bools) -> _Ints:
        """Give how long the clock of each source has gone on without each model."""
        silence: _Ints = self.clock_ms - np.where(is_there, self.seen_ms, self.since_ms)
        return silence

    def may_be_idle(self, woke_ms: _Ints, idle_after_ms: int) -> _Bools:
        """Say which sources have come to where a model was seen elsewhere, and since it woke."""
        newest = self.seen_ms.max(axis=0)
        least = np.maximum(np.where(newest == NONE, 0, newest), woke_ms + idle_after_ms)
        is_read: _Bools = self.clock_ms >= least
        return is_read


class Frontier:
    """The clocks of all models in all source partitions.

    Parameters
    ----------
    idle_after_ms
        Time of a source partition's clock after which a model that does not appear in it
        is idle there.

    Attributes
    ----------
    columns
        Of every model, its place in all arrays: those that are given have shape (models,),
        and :data:`NONE` where a time is not known.
    """

    def __init__(self, idle_after_ms: int) -> None:
        self._idle_after_ms = idle_after_ms
        self.columns: dict[str, int] = {}
        self._rows: dict[int, int] = {}
        self._times = {topic: _Times() for topic in TOPICS}

    def column(self, model: str) -> int:
        """Give the place of a model, perhaps a new one."""
        return self.columns.setdefault(model, len(self.columns))

    def take(self, source: Source) -> list[Awakening]:
        """Take what a source partition says of itself; give what came to life in it."""
        row = self._rows.setdefault(source.partition, len(self._rows))
        for model in (*source.predictions, *source.outcomes):
            self.column(model)
        self.fit()
        found: list[Awakening] = []
        for topic, mine in self._times.items():
            clocks = source.predictions if topic == "predictions" else source.outcomes
            models, number = list(clocks), len(clocks)
            at = mine.columns(row, models, self.columns)
            largest = np.fromiter((c.max_ms for c in clocks.values()), np.int64, number)
            seen = np.fromiter((c.seen_ms for c in clocks.values()), np.int64, number)
            # Where it was seen here just now, it was not idle everywhere.
            (back,) = np.nonzero(self._is_later(seen, mine.seen_ms[row, at]))
            if back.size:
                newest = mine.seen_ms[:, at[back]].max(axis=0)
                woke = back[self._is_later(seen[back], newest)].tolist()
                found += [Awakening(models[i], topic, int(seen[i])) for i in woke]
            mine.max_ms[row], mine.seen_ms[row] = NONE, NONE
            mine.max_ms[row, at], mine.seen_ms[row, at] = largest, seen
            mine.clock_ms[row] = clock_ms = source.clock_ms.get(topic, 0)
            mine.since_ms[row] = source.since_ms.get(topic, clock_ms)
        return found

    def fit(self) -> None:
        """Make room for all sources and models."""
        for times in self._times.values():
            times.fit(len(self._rows), len(self.columns))

    def _is_later(self, seen: _Ints, before: _Ints) -> _Bools:
        is_new = before == NONE
        found: _Bools = is_new | (seen - np.where(is_new, seen, before) >= self._idle_after_ms)
        return found

    def clocks(self, topic: Topic) -> _Ints:
        """Give the clock of every source partition."""
        return self._times[topic].clock_ms[:, 0]

    def event_watermarks(self, topic: Topic, *, grace_ms: _Ints, woke_ms: _Ints) -> _Ints:
        """Give the watermarks of a topic.

        The minimum over the partitions that are not idle, of the model's largest
        event time less the grace.  When all are idle, the largest event time of
        all less the grace, plus the time all have been silent.  A partition that
        never had the model holds everything back until it is idle.

        A partition is idle when its clock has gone on without the model for
        ``idle_after_ms``; also since ``woke_ms`` of the last :class:`Awakening`, and up
        to where the model was seen elsewhere.  What is read no further can say nothing
        about then.
        """
        times = self._times[topic]
        is_there = times.seen_ms != NONE
        silence = times.silence(is_there)
        is_idle = silence >= self._idle_after_ms
        if is_there.all() and not is_idle.any():
            # The usual case of models with much traffic.
            usual: _Ints = times.max_ms.min(axis=0) - grace_ms
            return usual
        is_idle &= times.may_be_idle(woke_ms, self._idle_after_ms)
        counts = is_there & ~is_idle
        least = np.where(counts, times.max_ms, NEVER).min(axis=0)
        silent = np.where(is_idle, silence, NEVER).min(axis=0)
        after_all = times.max_ms.max(axis=0) + silent
        found = np.where(counts.any(axis=0), least, after_all) - grace_ms
        is_held = (~is_there & ~is_idle).any(axis=0) | ~is_there.any(axis=0)
        return np.where(is_held, NONE, found)

    def data_watermarks(self, *, grace_ms: _Ints, woke_ms: _Ints) -> _Ints:
        """Give the times up to which all labels have been seen, told by data alone.

        The minimum of both topics over the partitions; idleness never moves it.
        Only a partition that has never seen the model in either topic, and is
        idle, does not count.  ``woke_ms`` is that of the predictions.
        """
        first, second = (self._times[topic] for topic in TOPICS)
        is_first, is_second = first.seen_ms != NONE, second.seen_ms != NONE
        if not is_second.any():
            return np.full(len(self.columns), NONE)
        is_left_out = ~is_first & ~is_second
        is_left_out &= first.silence(is_first) >= self._idle_after_ms
        is_left_out &= first.may_be_idle(woke_ms, self._idle_after_ms)
        is_missing = ~is_left_out & ~(is_first & is_second)
        least = np.minimum(first.max_ms, second.max_ms)
        found = np.where(is_left_out, NEVER, least).min(axis=0) - grace_ms
        return np.where(is_missing.any(axis=0) | ~is_second.any(axis=0), NONE, found)

    def silent_watermarks(self, *, first_ms: _Ints, since_ms: _Ints) -> _Ints:
        """Give the outcomes' watermarks of models that have never had an outcome.

        Time passes for them as if one had come with their first prediction, so that
        windows whose labels never come are final some day.

        Parameters
        ----------
        first_ms
            Event time of the first pane.
        since_ms
            The outcomes' clock when the model was first seen.
        """
        is_there = (self._times["outcomes"].seen_ms != NONE).any(axis=0)
        is_known = ~is_there & (since_ms != NONE)
        silence = int(self.clocks("outcomes").min()) - np.where(is_known, since_ms, 0)
        is_silent = is_known & (silence >= self._idle_after_ms)
        return np.where(is_silent, first_ms + silence, NONE)


def grown(values: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Give an array at least so large, with :data:`NONE` where it is new."""
    if values.shape == shape:
        return values
    found = np.full(shape, NONE)
    found[: values.shape[0], : values.shape[1]] = values
    return found
