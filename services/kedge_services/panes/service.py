"""panes on Kafka."""

from __future__ import annotations

from collections.abc import Callable

from kedge_services.core.book import JoinStore
from kedge_services.panes.task import SERVICE, PanesTask
from kedge_services.runtime.ports import Service, TaskContext
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.stores import RocksStore
from kedge_services.runtime.tables import MonitorTable, ReferenceTable

__all__ = ["make"]


def make(settings: Settings, stores: Callable[[int], JoinStore] | None = None) -> Service:
    """Give the service.

    Parameters
    ----------
    settings
        Where the join is kept, by slot and partition, and times.
    stores
        Gives the join store of a partition; by default RocksDB in ``state_dir``.
    """
    monitors, references = MonitorTable(), ReferenceTable()
    root = settings.state_dir / f"{SERVICE}-{settings.ordinal}"

    def on_disk(partition: int) -> JoinStore:
        return RocksStore(root / str(partition))

    store_of = stores or on_disk

    def make_task(context: TaskContext) -> PanesTask:
        return PanesTask(
            context,
            monitors=monitors,
            references=references,
            store=store_of(context.partition),
            times=settings.time,
            examples=settings.panes.examples,
        )

    return Service(
        name=SERVICE,
        inputs=("predictions", "outcomes"),
        tables=(monitors, references),
        make_task=make_task,
    )
