"""When a changed monitor takes effect."""

from __future__ import annotations

import math

from kedge import Monitor

__all__ = ["planned"]

#: Panes between now and a change: deltas of the next pane are already being counted.
_AHEAD = 2
#: A common boundary of the old and the new panes is waited for this many panes, not longer.
_LONGEST = 100


def planned(known: Monitor | None, new: Monitor, now_ms: int) -> Monitor | None:
    """Give the monitor to publish with its ``effective_ms``; None when nothing changes.

    A model's first monitor holds from the beginning.  A change takes effect
    two panes ahead, at a boundary of the old panes and of the new ones, so that
    no pane is counted by both; where they have none in reach, of the new ones.

    >>> from kedge import Monitor
    >>> def monitor(pane):
    ...     return Monitor.model_validate({"model": "m", "task": "regression",
    ...         "features": {"x": "numeric"}, "windows": {"pane": pane}})
    >>> planned(None, monitor("2s"), 11_000).effective_ms
    0
    >>> planned(monitor("2s"), monitor("3s"), 11_000).effective_ms
    18000
    """
    if known is None:
        return new.model_copy(update={"effective_ms": 0})
    if known.declaration() == new.declaration():
        return None
    longest = max(known.pane_ms, new.pane_ms)
    step = math.lcm(known.pane_ms, new.pane_ms)
    if step > _LONGEST * longest:
        step = new.pane_ms
    earliest = (now_ms // longest + _AHEAD) * longest
    return new.model_copy(update={"effective_ms": -(-earliest // step) * step})
