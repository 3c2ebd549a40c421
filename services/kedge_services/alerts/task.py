"""One partition of the alerts: every rule of its models, window by window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, cast

import msgspec
import structlog

from kedge import Alert, Monitor, Window
from kedge.base import SCHEMA_VERSION, AlertKind, WindowKind
from kedge.codec import decode, encode
from kedge.errors import DeadLetter
from kedge.topics import model_partition
from kedge_services.core.lifecycle import Instance
from kedge_services.core.rules import drop, new_watch, observe
from kedge_services.core.watch import Head, Piece, Series, Watch
from kedge_services.runtime.ports import Batch, Commit, Position, Produce, Record, TaskContext
from kedge_services.runtime.tables import MonitorTable, VersionTable
from kedge_services.runtime.tasks import RecordTask

__all__ = ["SERVICE", "AlertsTask", "quick_window"]

SERVICE = "alerts"
_log = structlog.get_logger(__name__)

_PIECES: dict[str, type[Piece]] = {"model": Head, "series": Series, "alert": Instance}


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _Verdict(msgspec.Struct):
    """The two fields that say whether a window counts; provisional ones are many."""

    is_decided: bool = False
    is_final: bool = False


class _Measure(msgspec.Struct, gc=False):
    """:class:`kedge.Measure`, read in a tenth of the time."""

    name: str
    n: int
    feature: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    evidence: float | None = None
    note: str | None = None


class _Detection(msgspec.Struct, gc=False):
    """:class:`kedge.Detection`, likewise."""

    kind: AlertKind
    detector: str
    feature: str | None = None
    value: float | None = None
    threshold: float | None = None
    evidence: float | None = None
    summary: str = ""


class _Window(msgspec.Struct):
    """:class:`kedge.Window`, likewise; rules read no more of it than its fields."""

    window_id: _Name
    kind: WindowKind
    model: _Name
    version: str
    scale: Annotated[int, msgspec.Meta(ge=1)]
    start_ms: int
    end_ms: int
    n: int
    segment: str = ""
    reference_id: str = ""
    revision: Annotated[int, msgspec.Meta(ge=0)] = 0
    is_final: bool = False
    is_decided: bool = False
    labelled: int = 0
    label_coverage: float | None = None
    labelled_total: int = 0
    status: Literal["ok", "learning", "insufficient", "alarm"] = "ok"
    measures: list[_Measure] = []
    detections: list[_Detection] = []
    near_alarms: list[AlertKind] = []
    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION


_verdict = msgspec.json.Decoder(_Verdict)
_window = msgspec.json.Decoder(_Window)


def quick_window(value: bytes) -> Window | None:
    """Read a window; None where only the contract can say whether it is one."""
    try:
        return cast("Window", _window.decode(value))
    except msgspec.DecodeError:
        return None


class AlertsTask(RecordTask):
    """Turns decided windows into alerts; see :mod:`kedge_services.core.rules`."""

    service = SERVICE

    def __init__(
        self, context: TaskContext, monitors: MonitorTable, versions: VersionTable
    ) -> None:
        super().__init__(context)
        self._monitors = monitors
        self._versions = versions
        self._watches: dict[str, Watch] = {}

    # ------------------------------------------------------------------- state

    def restore(self, batch: Batch) -> None:
        """Take state back, piece by piece."""
        for record in batch.records():
            kind, _, rest = (record.key or b"").decode().partition("/")
            if record.value is not None:
                piece = msgspec.json.decode(record.value, type=_PIECES[kind])
                self._watch(piece.model).put(piece)
                continue
            for watch in self._watches.values():
                watch.instances.pop(rest, None)
                watch.series.pop(rest, None)

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:  # noqa: ARG002
        """Begin; nothing has to be read again."""
        for watch in self._watches.values():
            watch.changes.clear()
        return {}

    def commit(self) -> Commit:
        """Give the alerts, and what changed of the state."""
        changelog: list[tuple[bytes, bytes | None]] = []
        for watch in self._watches.values():
            changelog += (
                (key.encode(), None if piece is None else msgspec.json.encode(piece))
                for key, piece in watch.changes.items()
            )
            watch.changes.clear()
        return Commit(outputs=self._take_outputs(), changelog=changelog)

    # ----------------------------------------------------------------- windows

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:  # noqa: ARG002
        """End the alerts of models whose monitor was removed: no window will do it."""
        for model, watch in self._watches.items():
            if self._monitors.get(model) is None and watch.active():
                self._send(drop(watch))

    def _one(self, record: Record) -> None:
        value = record.value
        if value is None:
            return  # a window that was removed by hand: what it decided stays
        try:
            # Most revisions decide nothing, and need no more than this look.
            found = _verdict.decode(value)
        except msgspec.MsgspecError as error:
            raise DeadLetter("undecodable", f"no window: {error}") from error
        if not (found.is_decided or found.is_final):
            return
        window = quick_window(value) or decode(Window, value)
        self._require_mine(window.model, record.topic)
        watch = self._watch(window.model)
        monitor = self._monitor(watch, window)
        if monitor is None:
            return
        champion = self._versions.champion(window.model)
        version = None if champion is None else champion.version
        self._send(observe(watch, window, monitor, version))

    def _monitor(self, watch: Watch, window: Window) -> Monitor | None:
        """Give the monitor in force at the window's newest pane; a newer one stays in force."""
        pane_ms = window.end_ms - (window.end_ms - window.start_ms) // window.scale
        at_ms = max(pane_ms, watch.head.effective_ms)
        monitor = self._monitors.get(window.model, at_ms)
        if monitor is None:
            # Windows are made for monitors only, so ours may be about to be read.
            self._context.refresh()
            monitor = self._monitors.get(window.model, at_ms)
        return monitor

    def _watch(self, model: str) -> Watch:
        return self._watches.setdefault(model, new_watch(model))

    def _send(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            _log.info(alert.summary, model=alert.model, rule=alert.rule, status=alert.status)
            key = f"{alert.alert_id}/{alert.status}".encode()
            where = model_partition(alert.model, self._context.partitions("alerts"))
            self._outputs.append(Produce("alerts", key, encode(alert), where))
