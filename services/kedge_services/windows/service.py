"""Windows on Kafka."""

from __future__ import annotations

from kedge_services.core.lookup import Lookup
from kedge_services.core.windows import Windows
from kedge_services.runtime.ports import Service, TaskContext
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import MonitorTable, ReferenceTable
from kedge_services.windows.task import SERVICE, Refreshed, WindowsTask

__all__ = ["make"]


def make(settings: Settings) -> Service:
    """Give the service; monitors say how windows are cut, references what they are held to."""
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
        )
        return WindowsTask(context, windows)

    return Service(
        name=SERVICE, inputs=("panes",), tables=(monitors, references), make_task=make_task
    )
