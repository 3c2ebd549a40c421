"""The windows a page draws: all of them while they are few, else some of every stretch of time."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

__all__ = ["MOST_PANES", "Thinned"]

#: Ends of windows of a kind from which on some are left out; half as many are always drawn.
MOST_PANES = 400

Window = dict[str, Any]


class Thinned:
    """Windows in the order of their ends, of each kind those of at most so many ends.

    Of neighbours those stay that hold an alarm, else the first.
    """

    def __init__(self, most: int = MOST_PANES) -> None:
        self._most = most
        self._kinds: dict[str, _Kind] = {}

    def add(self, window: Window) -> None:
        """Take a window; none ends before one that was taken."""
        kind = self._kinds.setdefault(window["kind"], _Kind(self._most))
        if kind.newest and kind.newest[0]["end_ms"] != window["end_ms"]:
            kind.settle()
        kind.newest.append(window)

    @property
    def stride(self) -> int:
        """Of how many ends one is kept, where most are left out; 1: nothing is."""
        return max((kind.stride for kind in self._kinds.values()), default=1)

    def windows(self) -> list[Window]:
        """Give what is kept, by (end, id)."""
        panes = [pane for kind in self._kinds.values() for pane in (*kind.kept, kind.newest)]
        found = [window for pane in panes for window in pane]
        return sorted(found, key=lambda window: (window["end_ms"], window["window_id"]))


@dataclass(slots=True)
class _Kind:
    """The windows of one kind, those of one end together.

    ``newest`` may still grow; the last of ``kept`` stands for ``filled`` ends so
    far, all others for ``stride``.
    """

    most: int
    kept: list[list[Window]] = field(default_factory=list)
    newest: list[Window] = field(default_factory=list)
    stride: int = 1
    filled: int = 1

    def settle(self) -> None:
        """Keep the newest end, or have one stand for it."""
        if self.kept and self.filled < self.stride:
            self.kept[-1] = _louder(self.kept[-1], self.newest)
            self.filled += 1
        else:
            self.kept.append(self.newest)
            self.filled = 1
        self.newest = []
        if len(self.kept) > self.most and self.filled == self.stride:
            pairs = zip_longest(self.kept[::2], self.kept[1::2])
            is_odd = len(self.kept) % 2
            self.kept = [one if other is None else _louder(one, other) for one, other in pairs]
            self.filled = self.stride if is_odd else 2 * self.stride
            self.stride *= 2


def _louder(one: list[Window], other: list[Window]) -> list[Window]:
    is_quiet = not any(window.get("detections") for window in one)
    return other if is_quiet and any(window.get("detections") for window in other) else one
