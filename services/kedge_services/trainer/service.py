"""The trainer on Kafka."""

from __future__ import annotations

from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Backend, Service, TaskContext, TopicPartition
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import MonitorTable, VersionTable
from kedge_services.trainer.jobs import Launch, Subprocess
from kedge_services.trainer.task import SERVICE, TOPIC, TrainerTask

__all__ = ["make", "trainer"]


def make(settings: Settings) -> Service:
    """Give the service: examples on Kafka, trainings in subprocesses."""
    return trainer(KafkaBackend(settings), lambda plan: Subprocess(plan, settings))


def trainer(backend: Backend, launch: Launch) -> Service:
    """Give the service on any broker, with any way to start a training."""
    monitors, versions = MonitorTable(), VersionTable()

    def ends(context: TaskContext) -> dict[int, tuple[int, int]]:
        consumer = backend.consumer(group=None)
        try:
            return {
                partition: consumer.bounds(TopicPartition("examples", partition))
                for partition in range(context.partitions("examples"))
            }
        finally:
            consumer.close()

    def make_task(context: TaskContext) -> TrainerTask:
        return TrainerTask(
            context,
            monitor_of=monitors.get,
            version_of=versions.get,
            champion_of=versions.champion,
            ends=lambda: ends(context),
            launch=launch,
        )

    return Service(name=SERVICE, inputs=(TOPIC,), tables=(monitors, versions), make_task=make_task)
