"""The parts that the topic and HTTP share."""

from __future__ import annotations

from collections.abc import Callable

from kedge import ModelVersion
from kedge.errors import UnsafeArtefact
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import Predictor, load_predictor
from kedge_services.runtime.ports import Service, TaskContext
from kedge_services.runtime.settings import PROMPT_MS, Settings
from kedge_services.runtime.tables import MonitorTable, VersionTable
from kedge_services.serving.following import TOPIC as ANSWERS
from kedge_services.serving.following import Following
from kedge_services.serving.models import Models, WatchedVersions
from kedge_services.serving.task import SERVICE, ServingTask

__all__ = ["Serving"]


class Serving:
    """Tables, models and the service that keeps them up.

    Parameters
    ----------
    load
        Makes a version's predictor; by default from its artefact in the store.

    Attributes
    ----------
    service
        For the loop; it feeds the tables.
    models, monitors
        What the loop knows of the models' versions, and of the models.
    """

    def __init__(
        self, settings: Settings, load: Callable[[ModelVersion], Predictor] | None = None
    ) -> None:
        self._settings = settings
        self._store = ArtefactStore(settings.artefacts)
        self._noticed: set[tuple[str, str, str]] = set()
        self.models = Models(load or self._load)
        self.monitors = MonitorTable()
        self.service = Service(
            name=SERVICE,
            inputs=("requests", ANSWERS),
            tables=(self.monitors, WatchedVersions(VersionTable(), self.models)),
            make_task=self._make_task,
            changelog=False,
            commit_interval_ms=PROMPT_MS,
            from_end=frozenset({ANSWERS}),
        )

    def _load(self, version: ModelVersion) -> Predictor:
        if version.artefact is None:
            raise UnsafeArtefact("it has no artefact, it is served elsewhere")
        return load_predictor(version, self._store.get(version.artefact))

    def _make_task(self, context: TaskContext) -> ServingTask:
        following = Following(
            self.models,
            self.monitors.get,
            partition=context.partition,
            partitions=context.partitions(ANSWERS),
            max_skew_ms=self._settings.time.max_skew_ms,
            noticed=self._noticed,
        )
        return ServingTask(context, self.models, self.monitors.get, following)
