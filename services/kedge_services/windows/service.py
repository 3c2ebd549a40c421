"""Windows on Kafka."""

from __future__ import annotations

from kedge_services.core.lookup import Lookup
from kedge_services.core.windows import HELD_BYTES, Windows
from kedge_services.runtime.ports import Service, TaskContext
from kedge_services.runtime.settings import PROMPT_MS, Settings
from kedge_services.runtime.tables import MonitorTable, ReferenceTable
from kedge_services.windows.task import SERVICE, Refreshed, WindowsTask

__all__ = ["make"]


def make(settings: Settings, *, held_bytes: int = HELD_BYTES) -> Service:
    """Give the service; monitors say how windows are cut, references what they are held to.

    A task sends ``held_bytes`` of windows in a transaction, or not much more.
    """
    monitors, references = MonitorTable(), ReferenceTable()

    def make_task(context: TaskContext) -> WindowsTask:
        look = Lookup(
            monitor=Refreshed(context, monitors.get),
            reference=Refreshed(context, references.get),
            reference_for=references.for_version,
        )
        windows = Windows(
            look,
            idle_after_ms=settings.time.idle_after_ms,
            revise_interval_ms=settings.time.revise_interval_ms,
            held_bytes=held_bytes,
        )
        return WindowsTask(context, windows)

    return Service(
        name=SERVICE,
        inputs=("panes",),
        tables=(monitors, references),
        make_task=make_task,
        commit_interval_ms=PROMPT_MS,
        sends_in_parts=True,
    )
