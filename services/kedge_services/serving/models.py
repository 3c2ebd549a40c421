"""Which versions answer now, with their artefacts loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from kedge import ModelVersion
from kedge_services.runtime.formats import Predictor
from kedge_services.runtime.ports import Record
from kedge_services.runtime.tables import VersionTable

__all__ = ["Lineup", "Loaded", "Models", "WatchedVersions"]

#: Seconds after which an artefact that could not be loaded is tried again.
RETRY_S = 10.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that can predict."""

    version: ModelVersion
    predictor: Predictor


@dataclass(frozen=True, slots=True)
class Lineup:
    """Who predicts for a model: one immutable snapshot for a whole request.

    Attributes
    ----------
    champion
        Answers; the one before it goes on when the artefact of a new champion
        cannot be loaded.  None when there is no artefact to serve.
    missing
        Why a version that should predict does not, by version.
    """

    champion: Loaded | None = None
    shadows: tuple[Loaded, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


class Models:
    """The line-ups of all models, kept up with what the registry writes.

    :meth:`update` only notes what is wanted.  Artefacts are loaded by
    :meth:`run` in a thread of its own, off the way of requests, or inside
    :meth:`settle` where somebody cannot go on without.
    """

    def __init__(self, load: Callable[[ModelVersion], Predictor]) -> None:
        self._load = load
        self._lineups: dict[str, Lineup] = {}
        self._wanted: dict[str, Sequence[ModelVersion]] = {}
        self._predictors: dict[tuple[str, str], Predictor] = {}
        self._pending = set[str]()
        self._changed = threading.Condition()
        self._loading = threading.Lock()
        self.in_background = False

    def update(self, model: str, versions: Sequence[ModelVersion]) -> None:
        """Note the versions of a model, in the order of their sequence."""
        with self._changed:
            self._wanted[model] = tuple(versions)
            self._pending.add(model)
            self._changed.notify()

    def lineup(self, model: str) -> Lineup | None:
        """Give who predicts now; None for a model that has no version."""
        return self._lineups.get(model)

    @property
    def is_settled(self) -> bool:
        """Say whether everything noted has been loaded or has failed to."""
        with self._changed:
            return not self._pending

    @property
    def unloaded(self) -> int:
        """Number of versions that should predict and cannot be loaded."""
        return sum(len(lineup.missing) for lineup in list(self._lineups.values()))

    def settle(self) -> None:
        """Load what was noted up to now, or wait until it is loaded."""
        # Whoever holds the lock loads; the others find nothing left to do.
        with self._loading:
            while True:
                with self._changed:
                    if not self._pending:
                        return
                    model = min(self._pending)
                    versions = self._wanted[model]
                self._arrange(model, versions)
                with self._changed:
                    if self._wanted[model] is versions:
                        self._pending.discard(model)

    def run(self, stop: threading.Event) -> None:
        """Load what is noted, until ``stop`` is set and :meth:`wake` was called."""
        self.in_background = True
        while not stop.is_set():
            self.settle()
            with self._changed:
                if stop.is_set() or self._pending:
                    continue
                if not self._changed.wait(RETRY_S):
                    self._pending |= {
                        model for model, line in list(self._lineups.items()) if line.missing
                    }

    def wake(self) -> None:
        """Let :meth:`run` look at ``stop``."""
        with self._changed:
            self._changed.notify()

    def _arrange(self, model: str, versions: Sequence[ModelVersion]) -> None:
        alive = [v for v in versions if v.status in ("champion", "shadow")]
        champions = [v for v in alive if v.status == "champion"]
        loaded: dict[str, Loaded] = {}
        missing: dict[str, str] = {}
        for version in alive:
            try:
                loaded[version.version] = Loaded(version, self._predictor(version))
            except Exception as error:  # noqa: BLE001 -- a bad artefact must not stop the others
                missing[version.version] = f"{type(error).__name__}: {error}"
                self._complain(model, version, missing[version.version])
        before = self._lineups.get(model, Lineup())
        champion = None
        if champions:
            # Between the two records of a promotion the later champion counts.
            champion = loaded.get(champions[-1].version, before.champion)
        shadows = tuple(
            each for each in loaded.values()
            if each.version.status == "shadow"
            and (champion is None or each.version.version != champion.version.version)
        )  # fmt: skip
        if champion is not None and champion.version.version != _name(before.champion):
            _log.info("a version serves", model=model, version=champion.version.version)
        self._lineups[model] = Lineup(champion, shadows, missing)
        kept = {*loaded, *([champion.version.version] if champion else [])}
        for key in [key for key in self._predictors if key[0] == model and key[1] not in kept]:
            del self._predictors[key]

    def _predictor(self, version: ModelVersion) -> Predictor:
        key = (version.model, version.version)
        if key not in self._predictors:
            self._predictors[key] = self._load(version)
        return self._predictors[key]

    def _complain(self, model: str, version: ModelVersion, why: str) -> None:
        known = self._lineups.get(model, Lineup()).missing.get(version.version)
        if known != why and version.artefact is not None:
            _log.error(
                "an artefact cannot be loaded; whoever served goes on",
                model=model, version=version.version, why=why,
            )  # fmt: skip


def _name(loaded: Loaded | None) -> str | None:
    return None if loaded is None else loaded.version.version


class WatchedVersions:
    """The versions table, telling :class:`Models` of every change."""

    topic = VersionTable.topic

    def __init__(self, versions: VersionTable, models: Models) -> None:
        self._versions = versions
        self._models = models

    def apply(self, record: Record) -> None:
        """Take one record."""
        self._versions.apply(record)
        model = (record.key or b"").decode(errors="replace").rpartition("/")[0]
        if versions := self._versions.of(model):
            self._models.update(model, versions)
