"""What a person asks the registry for, and its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kedge import Artefact, Candidate, Command, FeatureColumn, ModelVersion, Monitor
from kedge.codec import decode, encode
from kedge.errors import Stop, UnsafeArtefact, UsageError
from kedge.monitor_checks import suggestion
from kedge.topics import model_partition
from kedge_services.cli.asking import Answers, event_of, read_tables, send
from kedge_services.local.model_file import ModelFile
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import Predictor, load_predictor
from kedge_services.runtime.ports import Backend, Produce, Record
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import VersionTable

__all__ = [
    "ask",
    "candidate_from",
    "load_model",
    "offer",
    "read_versions",
    "store_model",
    "unknown_model",
    "unknown_version",
]


def candidate_from(
    monitor: Monitor, version: str, *, as_champion: bool, features: Sequence[str] = ()
) -> Candidate:
    """Make the offer of a version that was trained elsewhere.

    Parameters
    ----------
    features
        What the model takes, in its order; empty: all of the monitor's, in theirs.

    Raises
    ------
    UsageError
        A feature is not in the monitor, or is named twice.
    """
    names = features or list(monitor.features)
    for place, name in enumerate(names):
        if name not in monitor.features:
            hint = suggestion(name, list(monitor.features))
            raise UsageError(f"--features: the monitor has no feature {name!r}; {hint}")
        if name in names[:place]:
            raise UsageError(f"--features: {name!r} is named twice")
    return event_of(
        Candidate,
        # Derived, not random: asking twice is one offer.
        request_id=f"register/{monitor.model}/{version}",
        model=monitor.model,
        version=version,
        as_champion=as_champion,
        trainer="registered",
        feature_schema=[
            FeatureColumn(name=name, type=monitor.features[name].type) for name in names
        ],
        classes=monitor.classes,
        created_ms=wall_clock(),
    )


def offer(backend: Backend, candidate: Candidate, *, timeout_s: float) -> ModelVersion:
    """Send a candidate and wait for the version the registry makes of it.

    Raises
    ------
    Stop
        The registry rejects it.
    Retry
        It does not answer in time.
    """

    def take(record: Record) -> ModelVersion | None:
        version = _version_of(record, candidate.model)
        is_it = version is not None and version.version == candidate.version
        return version if is_it else None

    with Answers(backend, VersionTable.topic) as answers:
        key = _send(backend, "candidates", candidate.request_id, candidate)
        version = answers.wait(key, take, timeout_s=timeout_s)
    if version.status == "rejected":
        raise Stop(f"rejected: {version.reason}")
    return version


def ask(backend: Backend, command: Command, *, timeout_s: float) -> ModelVersion:
    """Send a promote or rollback command and wait for the champion it makes.

    Raises
    ------
    UsageError
        The model has no versions, or not this one.
    Stop
        The registry refuses; the message says why.
    Retry
        It does not answer in time.
    """
    table = read_versions(backend)
    is_known = command.version is None or table.get(command.model, command.version) is not None
    if not (is_known and table.of(command.model)):
        raise UsageError(unknown_version(table, command.model, command.version))
    decision = {"promote": "command", "rollback": "rollback-command"}[command.action]

    def take(record: Record) -> ModelVersion | None:
        version = _version_of(record, command.model)
        if version is None or version.status != "champion":
            return None
        is_it = version.evidence.get("decision") == decision
        return version if is_it and command.version in (None, version.version) else None

    with Answers(backend, VersionTable.topic) as answers:
        key = _send(backend, "commands", command.command_id, command)
        return answers.wait(key, take, timeout_s=timeout_s)


def load_model(candidate: Candidate, file: ModelFile) -> Predictor:
    """Load a model file as servers will, so that a wrong one is refused on the spot.

    Raises
    ------
    UnsafeArtefact
        It is not what its format says, or no model of this version.
    """
    sha256 = hashlib.sha256(file.data).hexdigest()
    given = Artefact(uri=str(file.path), sha256=sha256, format=file.format, size=len(file.data))
    try:
        return load_predictor(candidate.model_copy(update={"artefact": given}), file.data)
    except UnsafeArtefact as error:
        raise UnsafeArtefact(f"{file.path}: {error}") from error


def store_model(settings: Settings, file: ModelFile) -> Artefact:
    """Put a model file into the artefact store, and read it back.

    Raises
    ------
    Stop
        The store cannot be written, or gives something else than was written.
    """
    store = ArtefactStore(settings.artefacts)
    try:
        stored = store.put(file.data, file.format)
        store.get(stored)
    except OSError as error:
        why = error.strerror or error
        raise Stop(f"the artefact store {settings.artefacts} cannot be used: {why}") from error
    return stored


def _send(backend: Backend, topic: str, key: str, event: Command | Candidate) -> bytes:
    where = model_partition(event.model, backend.partitions(topic))
    send(backend, [Produce(topic, key.encode(), encode(event), where)])
    return key.encode()


def read_versions(backend: Backend) -> VersionTable:
    """Read all versions of all models."""
    table = VersionTable()
    read_tables(backend, table)
    return table


def _version_of(record: Record, model: str) -> ModelVersion | None:
    if record.value is None:
        return None
    version = decode(ModelVersion, record.value)
    return version if version.model == model else None


def unknown_model(table: VersionTable, model: str) -> str:
    """Say which models there are instead."""
    return f"no model {model!r} has versions; there are: {', '.join(table.models()) or 'none'}"


def unknown_version(table: VersionTable, model: str, version: str | None) -> str:
    """Say which versions a model has instead; ``version`` None is the one that serves."""
    names = ", ".join(each.version for each in table.of(model))
    if not names:
        return unknown_model(table, model)
    what = "version that serves" if version is None else f"version {version!r}"
    return f"{model} has no {what}; there are: {names}"
