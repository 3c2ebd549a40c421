"""The alerts on Kafka."""

from __future__ import annotations

from kedge_services.alerts.task import SERVICE, AlertsTask
from kedge_services.runtime.ports import Service
from kedge_services.runtime.settings import PROMPT_MS, Settings
from kedge_services.runtime.tables import MonitorTable, VersionTable

__all__ = ["make"]


def make(settings: Settings) -> Service:  # noqa: ARG001 -- every service is made like this
    """Give the service; monitors have the rules, versions say who serves."""
    monitors, versions = MonitorTable(), VersionTable()
    return Service(
        name=SERVICE,
        inputs=("windows",),
        tables=(monitors, versions),
        make_task=lambda context: AlertsTask(context, monitors, versions),
        commit_interval_ms=PROMPT_MS,
    )
