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
#: How the registry's record shows that a version was champion once.
_FORMER = frozenset({"watch", "watch-over", "rolled-back", "superseded"})
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that can predict."""

    version: ModelVersion
    predictor: Predictor

    @property
    def name(self) -> str:
        """The version's name."""
        return self.version.version


@dataclass(frozen=True, slots=True)
class Lineup:
    """Who predicts for a model: one immutable snapshot for a whole request.

    Attributes
    ----------
    champion
        Answers requests.  When the registry's champion has no artefact, or one that
        cannot be loaded, that is who served before it; None when there is nobody.
    contenders
        The registry's champion and the versions in shadow, those that are loaded.
    appointed
        The registry's champion, whether it can answer or not.
    elsewhere
        Whether that one has no artefact: it is served elsewhere.
    missing
        Why a version that should predict does not, by version.
    """

    champion: Loaded | None = None
    contenders: tuple[Loaded, ...] = ()
    appointed: str | None = None
    elsewhere: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def shadows(self) -> tuple[Loaded, ...]:
        """Who predicts beside the champion."""
        return self.contenders if self.champion is None else self.beside(self.champion.name)

    def beside(self, version: str) -> tuple[Loaded, ...]:
        """Give who predicts in the shadow of an answer of this version."""
        return tuple(each for each in self.contenders if each.name != version)

    @property
    def names(self) -> list[str]:
        """The versions that may be asked by their name, first the one that answers."""
        first = [] if self.champion is None else [self.champion.name]
        return [*first, *(each.name for each in self.shadows)]

    def find(self, version: str) -> Loaded | None:
        """Give a version that may be asked by its name."""
        if self.champion is not None and self.champion.name == version:
            return self.champion
        return next((each for each in self.contenders if each.name == version), None)


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
    def has_contenders(self) -> bool:
        """Say whether any model has a version here that could predict beside another."""
        return any(lineup.contenders for lineup in list(self._lineups.values()))

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
        loaded: dict[str, Loaded] = {}
        missing: dict[str, str] = {}
        for version in alive:
            if version.artefact is not None:
                found = self._open(version)
                if isinstance(found, Loaded):
                    loaded[version.version] = found
                else:
                    missing[version.version] = found
                    self._complain(version, found)
        # Between the two records of a promotion the later champion counts.
        champion = next((v for v in reversed(alive) if v.status == "champion"), None)
        contenders = tuple(
            each for each in loaded.values()
            if each.version is champion or each.version.status == "shadow"
        )  # fmt: skip
        before = self._lineups.get(model, Lineup()).champion
        answering = None
        if champion is not None:
            answering = loaded.get(champion.version) or self._stand_in(before, versions)
        if answering is not None and (before is None or answering.name != before.name):
            _log.info("a version serves", model=model, version=answering.name)
        self._lineups[model] = Lineup(
            champion=answering,
            contenders=contenders,
            appointed=None if champion is None else champion.version,
            elsewhere=champion is not None and champion.artefact is None,
            missing=missing,
        )
        kept = {*loaded, *([answering.name] if answering else [])}
        for key in [key for key in self._predictors if key[0] == model and key[1] not in kept]:
            del self._predictors[key]

    def _open(self, version: ModelVersion) -> Loaded | str:
        """Give a version with its predictor, or why there is none."""
        key = (version.model, version.version)
        try:
            if key not in self._predictors:
                self._predictors[key] = self._load(version)
        except Exception as error:  # noqa: BLE001 -- a bad artefact must not stop the others
            return f"{type(error).__name__}: {error}"
        return Loaded(version, self._predictors[key])

    def _stand_in(self, before: Loaded | None, versions: Sequence[ModelVersion]) -> Loaded | None:
        """Give who answers for a champion that cannot: who did, else the latest former champion.

        The latter finds the same version after a restart.
        """
        if before is not None and any(v.version == before.name for v in versions):
            return before
        for version in reversed(versions):
            is_former = version.evidence.get("decision") in _FORMER or version.status == "champion"
            if is_former and version.artefact is not None:
                found = self._open(version)
                if isinstance(found, Loaded):
                    return found
        return None

    def _complain(self, version: ModelVersion, why: str) -> None:
        if self._lineups.get(version.model, Lineup()).missing.get(version.version) != why:
            _log.error(
                "an artefact cannot be loaded; whoever served goes on",
                model=version.model, version=version.version, why=why,
            )  # fmt: skip


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
        versions = self._versions.of(model)
        if versions or self._models.lineup(model) is not None:
            self._models.update(model, versions)
