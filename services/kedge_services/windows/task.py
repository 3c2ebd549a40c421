"""One partition of windows: decodes panes and progress, encodes windows and references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, ParamSpec, TypeVar

import msgspec

from kedge import Pane, Progress
from kedge.base import SCHEMA_VERSION, PaneKind
from kedge.codec import decode, encode
from kedge_services.core.frontier import Clock
from kedge_services.core.windows import Windows
from kedge_services.runtime.ports import Batch, Commit, Position, Produce, Record, TaskContext
from kedge_services.runtime.tasks import RecordTask

__all__ = ["SERVICE", "Refreshed", "WindowsTask", "quick_delta"]

SERVICE = "windows"
#: How often the tables are read for something that is not in them.
_REFRESH_MS = 1_000
P = ParamSpec("P")
T = TypeVar("T")


class _Source(msgspec.Struct, gc=False):
    """:class:`kedge.panes.PaneSource`; nobody asks here."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int


class _Pane(msgspec.Struct, tag="pane", tag_field="type", gc=False):
    """:class:`kedge.Pane`, quickly."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    version: str
    kind: PaneKind
    start_ms: int
    end_ms: int
    counts: dict[str, Any]
    source: _Source
    segment: str = ""
    reference_id: str = ""
    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION


class _Progress(msgspec.Struct, tag="progress", tag_field="type", gc=False):
    """:class:`kedge.Progress`, quickly; offsets and fates are for others."""

    partition: int
    partitions: int
    sequence: int
    offsets: dict[str, int]
    clock_ms: dict[str, int]
    since_ms: dict[str, int]
    predictions: dict[str, Clock]
    outcomes: dict[str, Clock]
    fates: dict[str, dict[str, int]]
    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION


class _Kind(msgspec.Struct):
    """The field that tells a pane from progress."""

    type: str = "pane"


_kind = msgspec.json.Decoder(_Kind).decode
_delta: msgspec.json.Decoder[_Pane | _Progress] = msgspec.json.Decoder(_Pane | _Progress)


def quick_delta(value: bytes) -> _Pane | _Progress | None:
    """Read a pane or progress; None where only the contract can say whether it is one."""
    try:
        return _delta.decode(value)
    except msgspec.DecodeError:
        return None


class Refreshed(Generic[P, T]):
    """Looks something up, and once more after reading the tables to their present end.

    ``panes`` counts on a reference only when it is committed, so it can be
    found here, but perhaps not yet.
    """

    def __init__(self, context: TaskContext, look: Callable[P, T | None]) -> None:
        self._context, self._look = context, look
        self._refreshed_ms: int | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Give what was looked for, or None."""
        found = self._look(*args, **kwargs)
        if found is not None:
            return found
        now_ms = self._context.clock()
        if self._refreshed_ms is not None and now_ms - self._refreshed_ms < _REFRESH_MS:
            return None
        self._refreshed_ms = now_ms
        self._context.refresh()
        return self._look(*args, **kwargs)


class WindowsTask(RecordTask):
    """Feeds :class:`~kedge_services.core.windows.Windows` record by record."""

    service = SERVICE

    def __init__(self, context: TaskContext, windows: Windows) -> None:
        super().__init__(context)
        self._windows = windows
        # Where the progress begins that nothing but progress has followed.
        self._progress_from: int | None = None

    def restore(self, batch: Batch) -> None:
        """Take state back."""
        for record in batch.records():
            if record.key is not None:
                self._windows.restore(record.key, record.value)

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:  # noqa: ARG002
        """Go on from the restored state; nothing has to be read again."""
        self._windows.start()
        return {}

    def _one(self, record: Record) -> None:
        value, now_ms = record.value or b"", self._context.clock()
        before, self._progress_from = self._progress_from, None
        quick = quick_delta(value)
        if quick is None:
            self._slowly(value, now_ms)
        elif isinstance(quick, _Pane):
            self._windows.add(quick, now_ms)
        else:
            self._windows.progress(quick)
            self._progress_from = record.offset if before is None else before

    def _slowly(self, value: bytes, now_ms: int) -> None:
        """Take what could not be read at once: the contract says whether, and what is wrong."""
        try:
            is_progress = _kind(value).type == "progress"
        except msgspec.DecodeError:
            is_progress = False  # the codec says what is wrong with it
        if is_progress:
            self._windows.progress(decode(Progress, value))
        else:
            self._windows.add(decode(Pane, value), now_ms)

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:  # noqa: ARG002
        """Close, decide and revise what is due."""
        self._windows.tick(now_ms)

    def paused(self) -> frozenset[str]:
        """Read no further while there is more to send than one transaction should hold."""
        return frozenset({"panes"}) if self._windows.is_full else frozenset()

    def commit(self) -> Commit:
        """Give windows, references, dead letters, and the state that changed."""
        windows, references = self._windows.take()
        partition = self._context.partition
        outputs = [
            Produce("references", f"{r.model}/{r.reference_id}".encode(), encode(r), partition)
            for r in references
        ]
        outputs += [
            Produce("windows", window_id.encode(), value, partition) for window_id, value in windows
        ]
        offsets = {}
        if not self._windows.is_full:
            self._progress_from = None
        elif self._progress_from is not None:
            # Lag shows that there is something to do.  Progress may be read twice.
            offsets["panes"] = self._progress_from
        return Commit(outputs + self._take_outputs(), list(self._windows.changes()), offsets)
