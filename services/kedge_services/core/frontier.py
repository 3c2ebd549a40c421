"""How far a model has come over all source partitions: the watermarks that close windows.

Every source partition reports its own largest event times and its clock; see
"Time" in the architecture.  An idle partition leaves the minimum, a lagging one
holds it.  Which is which can only be told by clocks: a partition that was idle when
it was read last may have the model by now, and a model that was idle everywhere and
is back in one partition may be back in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

__all__ = [
    "Clock",
    "Reported",
    "Source",
    "Topic",
    "careful_watermark",
    "data_watermark",
    "event_watermark",
    "silent_watermark",
    "woken",
]

Topic = Literal["predictions", "outcomes"]


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
            {
                model: Clock(time.max_ms, time.seen_ms)
                for model, time in progress.predictions.items()
            },
            {model: Clock(time.max_ms, time.seen_ms) for model, time in progress.outcomes.items()},
        )


def woken(
    sources: Iterable[Reported],
    progress: Reported,
    topic: Topic,
    model: str,
    *,
    idle_after_ms: int,
) -> int | None:
    """Give the clock at which a model came, or came back after it had been idle everywhere.

    Parameters
    ----------
    sources
        What was known before.
    progress
        What is new.

    Returns
    -------
    int or None
        None when the model had been there.
    """
    time = _clocks(progress, topic).get(model)
    if time is None:
        return None
    newest_ms = _newest_seen(sources, topic, model)
    is_back = newest_ms is None or time.seen_ms - newest_ms >= idle_after_ms
    return time.seen_ms if is_back else None


def event_watermark(
    sources: Iterable[Reported],
    topic: Topic,
    model: str,
    *,
    grace_ms: int,
    idle_after_ms: int,
    woke_ms: int | None = None,
) -> int | None:
    """Give the watermark of a model; None when it cannot be told yet.

    The minimum over the partitions that are not idle, of the model's largest
    event time less the grace.  When all are idle, the largest event time of
    all less the grace, plus the time all have been silent.  A partition that
    never had the model holds everything back until it is idle.

    A partition is idle when its clock has gone on without the model for
    ``idle_after_ms``; also since ``woke_ms``, which :func:`woken` gave, and up to
    where the model was seen elsewhere.  What is read no further can say nothing
    about then.
    """
    sources = list(sources)
    times = [_clocks(source, topic).get(model) for source in sources]
    if not any(times):
        return None
    if not any(
        time is None or source.clock_ms.get(topic, 0) - time.seen_ms >= idle_after_ms
        for time, source in zip(times, sources, strict=True)
    ):
        # The usual case, asked for every model at every step: nowhere missing, nowhere idle.
        return min(time.max_ms for time in times if time is not None) - grace_ms
    return careful_watermark(
        sources, topic, model, grace_ms=grace_ms, idle_after_ms=idle_after_ms, woke_ms=woke_ms
    )


def careful_watermark(
    sources: Sequence[Reported],
    topic: Topic,
    model: str,
    *,
    grace_ms: int,
    idle_after_ms: int,
    woke_ms: int | None = None,
) -> int | None:
    """Give what :func:`event_watermark` gives, partition by partition."""
    since = _Since.of(sources, topic, model, idle_after_ms=idle_after_ms, woke_ms=woke_ms)
    least: int | None = None
    newest: int | None = None
    silent: int | None = None
    for source in sources:
        time = _clocks(source, topic).get(model)
        silence = _silence(source, topic, time)
        if time is not None:
            newest = time.max_ms if newest is None else max(newest, time.max_ms)
        if since.is_idle(source, time):
            silent = silence if silent is None else min(silent, silence)
        elif time is None:
            return None
        else:
            least = time.max_ms if least is None else min(least, time.max_ms)
    if least is not None:
        return least - grace_ms
    if newest is None or silent is None:
        return None
    return newest - grace_ms + silent


def data_watermark(
    sources: Iterable[Reported],
    model: str,
    *,
    grace_ms: int,
    idle_after_ms: int,
    woke_ms: int | None = None,
) -> int | None:
    """Give the time up to which all labels have been seen, told by data alone.

    The minimum of both topics over the partitions; idleness never moves it.
    Only a partition that has never seen the model in either topic, and is
    idle, does not count.  ``woke_ms`` is that of the predictions.
    """
    sources = list(sources)
    if not any(model in source.outcomes for source in sources):
        return None
    since = _Since.of(sources, "predictions", model, idle_after_ms=idle_after_ms, woke_ms=woke_ms)
    least: int | None = None
    for source in sources:
        times = [source.predictions.get(model), source.outcomes.get(model)]
        if times == [None, None] and since.is_idle(source, None):
            continue
        for time in times:
            if time is None:
                return None
            least = time.max_ms if least is None else min(least, time.max_ms)
    return None if least is None else least - grace_ms


def silent_watermark(
    sources: Iterable[Reported], model: str, *, first_ms: int, since_ms: int, idle_after_ms: int
) -> int | None:
    """Give the outcomes' watermark of a model that has never had an outcome.

    Time passes for it as if one had come with its first prediction, so that
    windows whose labels never come are final some day.

    Parameters
    ----------
    first_ms
        Event time of its first pane.
    since_ms
        The outcomes' clock when the model was first seen.
    """
    clocks: list[int] = []
    for source in sources:
        if model in source.outcomes:
            return None
        clocks.append(source.clock_ms.get("outcomes", 0))
    silence = min(clocks, default=0) - since_ms
    return first_ms + silence if silence >= idle_after_ms else None


def _clocks(source: Reported, topic: Topic) -> Mapping[str, Moment]:
    return source.predictions if topic == "predictions" else source.outcomes


def _silence(source: Reported, topic: Topic, time: Moment | None) -> int:
    """Give how long the partition's clock has gone on without the model."""
    clock_ms = source.clock_ms.get(topic, 0)
    seen_ms = source.since_ms.get(topic, clock_ms) if time is None else time.seen_ms
    return clock_ms - seen_ms


def _newest_seen(sources: Iterable[Reported], topic: Topic, model: str) -> int | None:
    times = (_clocks(source, topic).get(model) for source in sources)
    return max((time.seen_ms for time in times if time is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Since:
    """Which partitions are idle; their clocks must have come to ``least_ms``."""

    topic: Topic
    idle_after_ms: int
    least_ms: int

    @classmethod
    def of(
        cls,
        sources: Iterable[Reported],
        topic: Topic,
        model: str,
        *,
        idle_after_ms: int,
        woke_ms: int | None,
    ) -> _Since:
        least_ms = _newest_seen(sources, topic, model) or 0
        if woke_ms is not None:
            least_ms = max(least_ms, woke_ms + idle_after_ms)
        return cls(topic, idle_after_ms, least_ms)

    def is_idle(self, source: Reported, time: Moment | None) -> bool:
        is_silent = _silence(source, self.topic, time) >= self.idle_after_ms
        return is_silent and source.clock_ms.get(self.topic, 0) >= self.least_ms
