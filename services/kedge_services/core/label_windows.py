"""Label windows: cells of label time, closed by data alone, for the error-rate detectors.

A label lies in the cell of max(its time, its prediction's time).  Cells are
fed to the detector of their version in time order, each once, so that the
detector sees every label once whatever the order of arrival; a label that
comes after its cell closed is counted, and not fed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kedge import Measure, Monitor
from kedge_services.core.deltas import LabelsDelta
from kedge_services.core.drift_windows import KEPT_PANES
from kedge_services.core.folding import Series
from kedge_services.core.label_detectors import Cell, LabelDetectors
from kedge_services.core.lookup import Lookup
from kedge_services.core.pane_counts import PaneHead
from kedge_services.core.performance import wilson
from kedge_services.core.publishing import Content, Publisher, WindowKey
from kedge_services.core.shelf import Shelf
from kedge_services.core.sketches import FIXED_POINT

__all__ = ["LabelWindows"]


@dataclass(slots=True)
class _Cells:
    """The cells that start in one window, by their start."""

    end_ms: int
    due_ms: int
    is_closed: bool = False
    cells: dict[int, Cell] = field(default_factory=dict)

    def encode(self) -> list[Any]:
        cells = [
            [start, cell.end_ms, cell.labels.encode()] for start, cell in sorted(self.cells.items())
        ]
        return [self.end_ms, self.due_ms, self.is_closed, cells]

    @classmethod
    def decode(cls, data: list[Any]) -> _Cells:
        end_ms, due_ms, is_closed, cells = data
        decoded = {start: Cell(end, LabelsDelta.decode(labels)) for start, end, labels in cells}
        return cls(end_ms, due_ms, is_closed, decoded)


class LabelWindows:
    """All label windows of one task.

    Parameters
    ----------
    look
        Monitors and references; a reference with enough losses says which
        error rate is unchanged.
    publisher
        Where windows go.
    """

    def __init__(self, look: Lookup, publisher: Publisher) -> None:
        self._look, self._publisher = look, publisher
        self.cells: Shelf[_Cells] = Shelf("label-cells", _Cells.encode, _Cells.decode)
        self.detectors = LabelDetectors(look)
        self.closed: Shelf[int] = Shelf("label-model", int, int)
        self._keys: dict[str, set[tuple[Series, int]]] = {}

    def start(self) -> None:
        """Find the cells of every model again after the state was restored."""
        for key in self.cells:
            self._keys.setdefault(str(key[0]), set()).add((Series(*key[:4]), int(key[4])))  # type: ignore[arg-type]

    def add(self, pane: PaneHead, delta: LabelsDelta, now_ms: int) -> None:
        """Take a cell's delta; one for a closed window revises it and is not fed."""
        monitor = self._look.monitor(pane.model, pane.start_ms)
        if monitor is None:
            return
        start_ms = pane.start_ms - pane.start_ms % monitor.pane_ms
        end_ms = start_ms + monitor.pane_ms
        series = Series(pane.model, pane.version, pane.segment, pane.reference_id)
        closed_ms = self.closed.get((pane.model,))
        cells = self.cells.get((*series, start_ms))
        if cells is None:
            # The last cell may reach beyond the window's end.
            length = pane.end_ms - pane.start_ms
            last_ms = (end_ms - 1) // length * length + length
            cells = _Cells(end_ms, max(end_ms, last_ms))
            cells.is_closed = closed_ms is not None and cells.due_ms <= closed_ms
            self.cells[*series, start_ms] = cells
            self._keys.setdefault(pane.model, set()).add((series, start_ms))
        cells.cells.setdefault(pane.start_ms, Cell(pane.end_ms)).labels.add(delta)
        self.cells.touch((*series, start_ms))
        if cells.is_closed:
            key = WindowKey.of("labels", series, 1, start_ms)
            if self._publisher.get(key) is None:
                self._send(key, cells, monitor, Content(0, status="insufficient"), now_ms)
            self._publisher.outdate(key)

    def close(self, model: str, watermark_ms: int, now_ms: int) -> None:
        """Close every window all of whose cells end by the watermark; feed the detectors."""
        due = [
            (cells.due_ms, series, start_ms)
            for series, start_ms in self._keys.get(model, ())
            if not (cells := self.cells[*series, start_ms]).is_closed
            and cells.due_ms <= watermark_ms
        ]
        for due_ms, series, start_ms in sorted(due):
            monitor = self._look.monitor(model, start_ms)
            if monitor is None:
                continue
            cells = self.cells[*series, start_ms]
            cells.is_closed = True
            self.cells.touch((*series, start_ms))
            self.closed[model,] = due_ms
            found = self.detectors.feed(series, cells.cells, monitor)
            content = Content(0, found.measures, found.status, found.detections)
            key = WindowKey.of("labels", series, 1, start_ms)
            self._send(key, cells, monitor, content, now_ms)
        if due:
            self._prune(model)

    def next_ms(self, model: str) -> int | None:
        """Give the watermark at which the next window closes."""
        cells = (self.cells[*series, start_ms] for series, start_ms in self._keys.get(model, ()))
        return min((one.due_ms for one in cells if not one.is_closed), default=None)

    def revise(self, key: WindowKey, now_ms: int) -> None:
        """Send a window again with the labels that came after its cells closed."""
        cells, monitor = (
            self.cells.get((*key.series, key.start_ms)),
            self._look.monitor(key.model, key.start_ms),
        )
        if cells is not None and monitor is not None:
            self._send(key, cells, monitor, Content(0), now_ms)

    def _send(
        self,
        key: WindowKey,
        cells: _Cells,
        monitor: Monitor,
        content: Content,
        now_ms: int,
    ) -> None:
        labelled = sum(cell.labels.labelled for cell in cells.cells.values())
        loss = sum(cell.labels.loss for cell in cells.cells.values()) / FIXED_POINT
        content.n = content.labelled = labelled
        if labelled > 0 and monitor.task == "regression":
            content.measures.insert(0, Measure(name="mae", value=loss / labelled, n=labelled))
        elif (interval := wilson(loss, labelled)) is not None:
            low, high = interval
            content.measures.insert(
                0,
                Measure(name="error_rate", value=loss / labelled, low=low, high=high, n=labelled),
            )
        self._publisher.send(
            key, cells.end_ms, content, decided=True, final=True, now_ms=now_ms,
        )  # fmt: skip

    def _prune(self, model: str) -> None:
        closed_ms = self.closed[model,]
        monitor = self._look.monitor(model, closed_ms)
        if monitor is None:
            return
        before_ms = closed_ms - KEPT_PANES * monitor.pane_ms
        keys = self._keys[model]
        for series, start_ms in list(keys):
            cells = self.cells[*series, start_ms]
            if cells.is_closed and cells.end_ms <= before_ms:
                keys.discard((series, start_ms))
                del self.cells[*series, start_ms]
        self._publisher.prune("labels", model, before_ms)
