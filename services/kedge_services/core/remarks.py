"""Remarks: what windows said of drifts and segments, for an alert on errors that comes after.

They tell what happened at the same time, not what caused the errors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kedge.events import Window
from kedge_services.core.attribution import attribution_text, change_text
from kedge_services.core.watch import Head

__all__ = ["REMARK_PANES", "remark", "remarks_text"]

#: A remark is told of windows that end so many panes later at most.
REMARK_PANES: Final = 8
_MOST: Final = 4 * REMARK_PANES


def remark(head: Head, window: Window) -> Head:
    """Remember what a window says; of those that end at once the first."""
    text = None
    if not window.segment and window.kind == "drift":
        text = attribution_text(window.measures)
    elif not window.segment and window.kind == "performance":
        text = change_text(window.measures)
    place = (window.end_ms, window.version, window.kind)
    if text is None or any(known[:3] == place for known in head.remarks):
        return head
    kept = sorted([*head.remarks, (*place, text)])[-_MOST:]
    return replace(head, remarks=tuple(kept))


def remarks_text(head: Head, window: Window) -> str:
    """Say which segments err more, and what drifted at the same time; empty for neither."""
    since_ms = window.end_ms - REMARK_PANES * (window.end_ms - window.start_ms)
    latest = {
        kind: text
        for end_ms, version, kind, text in head.remarks
        if since_ms < end_ms <= window.end_ms and version == window.version
    }
    told = [
        f"{what} {latest[kind]}"
        for kind, what in (("performance", "mostly in"), ("drift", "at the same time drifted"))
        if kind in latest
    ]
    return "".join(f"; {text}" for text in told)
