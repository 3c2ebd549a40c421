"""Kedge's verdicts on windows, by the path that live events take from panes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench_stats.data import Floats, Table
from kedge import Monitor, Pane, Progress, Reference, Window
from kedge.codec import decode, encode
from kedge.panes import ModelClock, PaneSource
from kedge_services.core.binning import Binner
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.lookup import Lookup
from kedge_services.core.references import build_reference
from kedge_services.core.windows import Windows

__all__ = ["PANE_MS", "Panes", "Verdict", "judge", "monitor_of"]

PANE_MS = 3_600_000
#: So many false alarms a pane are allowed that the share of drift is 1 in 1,000.
BUDGET = "1 per 500 windows"
_SOURCE = PaneSource(topic="predictions", partition=0, from_offset=0, to_offset=0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said when a pane closed, over all scales.

    ``features`` are those that a detection names, None in it for one that names none.
    """

    tested: bool
    features: frozenset[str | None]

    @property
    def alarm(self) -> bool:
        return bool(self.features)


class Panes:
    """The windows of one version; a pane is counted, added and closed at once."""

    def __init__(self, monitor: Monitor, reference: Reference) -> None:
        self.monitor = monitor
        look = Lookup(lambda *_: monitor, lambda _: reference, lambda *_: reference)
        self._core = Windows(look, idle_after_ms=1 << 40, revise_interval_ms=1 << 40)
        self._binner, self._reference = Binner(reference), reference
        self._number = 0

    def close(self, table: Table, **outputs: Any) -> list[Window]:
        """Give the windows of all scales that end with these rows.

        Parameters
        ----------
        outputs
            As for :meth:`kedge_services.core.binning.Binner.count`.
        """
        return self.add(self._binner.count(table.columns(), rows=len(table.rows), **outputs))

    def add(self, counted: DriftDelta) -> list[Window]:
        """Give the windows that end with a pane of these counts."""
        start_ms = self._number * PANE_MS
        self._number += 1
        self._core.add(self._pane(counted, start_ms), 0)
        return self._take(start_ms + PANE_MS)

    def encoded(self, counted: DriftDelta) -> bytes:
        """Give the event that carries these counts."""
        return encode(self._pane(counted, 0))

    def _pane(self, counted: DriftDelta, start_ms: int) -> Pane:
        return Pane(
            model="bench", version="1", reference_id=self._reference.reference_id, kind="drift",
            start_ms=start_ms, end_ms=start_ms + PANE_MS, counts=counted.encode(), source=_SOURCE,
        )  # fmt: skip

    def _take(self, end_ms: int) -> list[Window]:
        self._core.progress(_progress(end_ms))
        self._core.tick(0)
        return [decode(Window, window.value) for window in self._core.take()[0]]


def judge(reference: Table, windows: Iterable[Floats]) -> list[Verdict]:
    """Close a pane for every window, one after the other."""
    held_to = build_reference(
        model="bench", version="1", columns=reference.columns(), kinds=reference.kinds
    )
    panes = Panes(monitor_of(reference), held_to)
    parts = (Table(reference.names, rows, reference.categorical) for rows in windows)
    return [_verdict(panes.close(part)) for part in parts]


def monitor_of(table: Table, **rest: Any) -> Monitor:
    """Declare a model with these features."""
    declared = {
        "model": "bench",
        "task": "regression",
        "features": table.kinds,
        "windows": {"pane": "1h", "scales": [1, 2, 4, 8], "grace": "0s"},
        "drift": {"false_alarms": BUDGET},
        **rest,
    }
    return Monitor.model_validate(declared)


def _verdict(windows: Iterable[Window]) -> Verdict:
    found = list(windows)
    return Verdict(
        any(window.status in {"ok", "alarm"} for window in found),
        frozenset(detection.feature for window in found for detection in window.detections),
    )


def _progress(at_ms: int) -> Progress:
    return Progress(
        partition=0,
        partitions=1,
        sequence=0,
        offsets={},
        clock_ms={"predictions": at_ms, "outcomes": at_ms},
        since_ms={"predictions": 0, "outcomes": 0},
        predictions={"bench": ModelClock(max_ms=at_ms, seen_ms=at_ms)},
        outcomes={},
        fates={},
    )
