"""The registry on Kafka."""

from __future__ import annotations

from kedge_services.registry.task import SERVICE, RegistryTask
from kedge_services.runtime.ports import Service
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import MonitorTable

__all__ = ["make"]


def make(settings: Settings) -> Service:  # noqa: ARG001 -- every service is made like this
    """Give the service; monitors say how a model's versions get to serve."""
    monitors = MonitorTable()
    return Service(
        name=SERVICE,
        inputs=("candidates", "commands", "panes"),
        tables=(monitors,),
        make_task=lambda context: RegistryTask(context, monitors.get),
    )
