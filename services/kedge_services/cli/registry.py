"""What a person asks the registry for, and its answer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from kedge import Artefact, Candidate, Command, FeatureColumn, ModelVersion, Monitor
from kedge.codec import decode, encode
from kedge.errors import Stop, UsageError
from kedge.topics import model_partition
from kedge_services.cli.asking import Answers, read_tables, send
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import load_predictor
from kedge_services.runtime.ports import Backend, Produce, Record
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import VersionTable

__all__ = ["ask", "candidate_from", "offer", "read_versions", "unknown_model", "with_artefact"]


def candidate_from(monitor: Monitor, version: str, *, as_champion: bool) -> Candidate:
    """Make the offer of a version that was trained elsewhere."""
    return Candidate(
        # Derived, not random: asking twice is one offer.
        request_id=f"register/{monitor.model}/{version}",
        model=monitor.model,
        version=version,
        as_champion=as_champion,
        trainer="registered",
        feature_schema=[
            FeatureColumn(name=name, type=feature.type)
            for name, feature in monitor.features.items()
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
    if not table.of(command.model):
        raise UsageError(unknown_model(table, command.model))
    if command.version is not None and table.get(command.model, command.version) is None:
        names = ", ".join(version.version for version in table.of(command.model))
        raise UsageError(f"{command.model} has no version {command.version!r}; there are: {names}")
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


def with_artefact(
    settings: Settings,
    candidate: Candidate,
    file: Path,
    artefact_format: Literal["skops", "river-json", "onnx"],
) -> Candidate:
    """Put a model file into the store and into the offer.

    Raises
    ------
    UsageError
        The file cannot be read.
    UnsafeArtefact
        It is not what its format says.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error
    if artefact_format != "onnx":
        # Refused now, with a sentence, rather than by every server later.
        sha256 = hashlib.sha256(data).hexdigest()
        given = Artefact(uri=str(file), sha256=sha256, format=artefact_format, size=len(data))
        load_predictor(candidate.model_copy(update={"artefact": given}), data)
    stored = ArtefactStore(settings.artefacts).put(data, artefact_format)
    return candidate.model_copy(update={"artefact": stored})


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
