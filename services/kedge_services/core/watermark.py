"""Event time of one source partition of one topic, model by model.

The watermark of a model is the largest event time read of it, minus its grace:
a running maximum, so it never goes back.  A record is late when it lies behind
the watermark that stood *before* it; inside a batch that is the maximum up to
the record, never the batch's end.

:class:`Clocks` is plain data, so that a task's state holds it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["BEFORE_ALL", "Clocks", "ModelTime"]

#: The watermark of a model of which nothing was read; earlier than any event.
BEFORE_ALL = -(1 << 62)


@dataclass(slots=True)
class ModelTime:
    """Largest event time of a model, and the partition's clock when its last record was read."""

    max_ms: int = BEFORE_ALL
    seen_ms: int = 0

    def advance(self, time_ms: int, clock_ms: int) -> None:
        """Take a record; an earlier time leaves the maximum where it is."""
        # Not by max(): this is done for every record.
        if time_ms > self.max_ms:  # noqa: PLR1730
            self.max_ms = time_ms
        if clock_ms > self.seen_ms:  # noqa: PLR1730
            self.seen_ms = clock_ms

    def advance_all(self, times_ms: NDArray[np.int64], clock_ms: int) -> NDArray[np.int64]:
        """Take records in offset order; give the largest time that stood before each.

        Parameters
        ----------
        times_ms
            Event times, at least one.
        clock_ms
            The partition's clock when the last of them was read.
        """
        before = np.empty_like(times_ms)
        before[0], before[1:] = self.max_ms, times_ms[:-1]
        np.maximum.accumulate(before, out=before)
        self.advance(max(int(before[-1]), int(times_ms[-1])), clock_ms)
        return before


@dataclass(slots=True)
class Clocks:
    """How far every model has come in one partition of one topic.

    Attributes
    ----------
    models
        Time by model; a model that was never read is absent.
    clock_ms
        Append time of the last record read, or the time when the partition
        was found read to its end; 0 before either.
    since_ms
        The first such clock; 0 before.
    """

    models: dict[str, ModelTime] = field(default_factory=dict)
    clock_ms: int = 0
    since_ms: int = 0

    def of(self, model: str) -> ModelTime:
        """Give the time of a model, to be advanced."""
        time = self.models.get(model)
        if time is None:
            time = self.models[model] = ModelTime()
        return time

    def watermark(self, model: str, grace_ms: int) -> int:
        """Give the model's watermark; :data:`BEFORE_ALL` when nothing was read of it."""
        time = self.models.get(model)
        return BEFORE_ALL if time is None or time.max_ms == BEFORE_ALL else time.max_ms - grace_ms

    def is_idle(self, model: str, idle_after_ms: int) -> bool:
        """Say whether the partition's clock has gone on without the model."""
        time = self.models.get(model)
        seen = self.since_ms if time is None else time.seen_ms
        return self.clock_ms - seen >= idle_after_ms

    def tick(self, clock_ms: int) -> None:
        """Take an append time, or the present at the end of the partition; never goes back."""
        self.clock_ms = max(self.clock_ms, clock_ms)
        if not self.since_ms:
            self.since_ms = self.clock_ms

    def tick_all(self, clocks_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take append times in offset order; give the clock as each of them left it."""
        if not clocks_ms.size:
            return clocks_ms
        after = np.maximum(np.maximum.accumulate(clocks_ms), self.clock_ms)
        if not self.since_ms:
            self.since_ms = next((ms for ms in after.tolist() if ms), 0)
        self.clock_ms = int(after[-1])
        return after
