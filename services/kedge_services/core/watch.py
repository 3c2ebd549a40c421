"""What the alerts of one model remember between windows, piece by piece.

Every piece has a key under which it is kept; :attr:`Watch.changes` holds those
that changed since it was last emptied, None for one that is gone.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace

from kedge.base import WindowKind
from kedge.events import Window
from kedge_services.core.lifecycle import Instance

__all__ = ["Head", "Piece", "Series", "Watch", "head_key", "instance_key", "series_key"]

#: Starts of decided windows that are remembered, per series.  Performance
#: windows may be decided out of order, over a label horizon of 200 panes.
REMEMBERED = 256
#: Panes are kept for 32 days; nothing older is ever revised.
FORGET_MS = 40 * 86_400_000


@dataclass(frozen=True, slots=True)
class Head:
    """What holds for the whole model.

    Attributes
    ----------
    serving
        The version whose windows are followed; None while none is registered.
    effective_ms
        Of the newest monitor any window has brought into force.
    clock_ms
        The latest event time of any window.
    labelled_total
        Labels counted for the model so far.
    data_ms
        End of the latest pane with rows of a followed version.
    incident_id, incident_ends_ms
        The last incident and when its last alert ended.
    remarks
        What the latest windows say of drifts and of segments that err more: end, version,
        kind of window, text.
    """

    model: str
    serving: str | None = None
    effective_ms: int = 0
    clock_ms: int = 0
    labelled_total: int = 0
    data_ms: int = 0
    incident_id: str | None = None
    incident_ends_ms: int = 0
    remarks: tuple[tuple[int, str, WindowKind, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """The windows of one kind and scale of a series that were decided.

    ``starts`` are sorted; windows that start at or before ``floor_ms`` count as
    decided, too.
    """

    model: str
    name: str
    newest_ms: int
    floor_ms: int = -1
    starts: tuple[int, ...] = ()

    def knows(self, start_ms: int) -> bool:
        """Say whether the window that starts there was decided."""
        place = bisect_left(self.starts, start_ms)
        return start_ms <= self.floor_ms or self.starts[place : place + 1] == (start_ms,)

    def add(self, start_ms: int, end_ms: int) -> Series:
        """Remember a decided window."""
        place = bisect_left(self.starts, start_ms)
        starts = (*self.starts[:place], start_ms, *self.starts[place:])
        forgotten = starts[: max(0, len(starts) - REMEMBERED)]
        return replace(
            self,
            newest_ms=max(self.newest_ms, end_ms),
            floor_ms=max(self.floor_ms, *forgotten) if forgotten else self.floor_ms,
            starts=starts[len(forgotten) :],
        )


Piece = Head | Series | Instance


def head_key(model: str) -> str:
    """Give the key of a model's head."""
    return f"model/{model}"


def series_key(name: str) -> str:
    """Give the key of a series: a window id without its start."""
    return f"series/{name}"


def instance_key(fingerprint: str) -> str:
    """Give the key of an instance."""
    return f"alert/{fingerprint}"


@dataclass(slots=True)
class Watch:
    """The memory of one model's alerts; mutable, of one owner."""

    head: Head
    instances: dict[str, Instance] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    changes: dict[str, Piece | None] = field(default_factory=dict)

    def put(self, piece: Piece) -> None:
        """Take a new state of a piece."""
        if isinstance(piece, Head):
            if piece != self.head:
                self.head = piece
                self.changes[head_key(piece.model)] = piece
        elif isinstance(piece, Series):
            self.series[piece.name] = piece
            self.changes[series_key(piece.name)] = piece
        elif piece != self.instances.get(piece.fingerprint):
            self.instances[piece.fingerprint] = piece
            self.changes[instance_key(piece.fingerprint)] = piece

    def is_first(self, window: Window) -> bool:
        """Remember a decided window; say whether it had not been decided before."""
        name = window.window_id.rpartition("/")[0]
        series = self.series.get(name)
        if series is None:
            self._forget()
            series = Series(window.model, name, window.end_ms)
        if series.knows(window.start_ms):
            return False
        self.put(series.add(window.start_ms, window.end_ms))
        return True

    def active(self) -> list[Instance]:
        """Give the instances that are pending or firing, in a fixed order."""
        found = [instance for instance in self.instances.values() if instance.is_active]
        return sorted(found, key=lambda instance: instance.fingerprint)

    def _forget(self) -> None:
        oldest_ms = self.head.clock_ms - FORGET_MS
        for name in [n for n, series in self.series.items() if series.newest_ms < oldest_ms]:
            del self.series[name]
            self.changes[series_key(name)] = None
        for key, instance in list(self.instances.items()):
            if not instance.is_active and instance.clock_ms < oldest_ms:
                del self.instances[key]
                self.changes[instance_key(key)] = None
