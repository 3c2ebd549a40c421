"""The triggers on Kafka."""

from __future__ import annotations

from kedge_services.runtime.ports import Service
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import MonitorTable, VersionTable
from kedge_services.triggers.task import SERVICE, TriggersTask

__all__ = ["make"]


def make(settings: Settings) -> Service:  # noqa: ARG001 -- every service is made like this
    """Give the service; monitors say when to ask, versions what to start from."""
    monitors, versions = MonitorTable(), VersionTable()
    return Service(
        name=SERVICE,
        inputs=("alerts", "windows", "commands"),
        tables=(monitors, versions),
        make_task=lambda context: TriggersTask(context, monitors, versions),
    )
