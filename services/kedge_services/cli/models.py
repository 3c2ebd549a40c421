"""``kedge models``: the versions of a model, and what a person asks the registry for."""

from __future__ import annotations

import getpass
import json
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from kedge import Command, Lineage, ModelVersion
from kedge.errors import UsageError
from kedge_services.cli.asking import read_tables
from kedge_services.cli.options import BootstrapServers, Config, Json, settings_from
from kedge_services.cli.registry import (
    ask,
    candidate_from,
    offer,
    read_versions,
    unknown_model,
    with_artefact,
)
from kedge_services.local.reference_file import Columns, read_reference
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.tables import MonitorTable, VersionTable

__all__ = ["commands"]

commands = typer.Typer(name="models", help="Versions of models.", no_args_is_help=True)


class ArtefactFormat(StrEnum):
    """How a model file is written."""

    SKOPS = "skops"
    RIVER_JSON = "river-json"
    ONNX = "onnx"


Model = Annotated[str, typer.Argument(help="The model's name.")]
Expect = Annotated[
    str | None,
    typer.Option(help="Refuse when another version serves by then.", metavar="CHAMPION"),
]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the version.")]
By = Annotated[str | None, typer.Option(help="Who asks. Default: the user's login name.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for the registry.", min=0.0)]


@commands.command("list")
def list_(
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    *,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """List the versions of all models, or of one."""
    table = read_versions(KafkaBackend(settings_from(config, bootstrap_servers)))
    models = table.models() if model is None else [model]
    versions = [version for name in models for version in table.of(name)]
    if model is not None and not versions:
        raise UsageError(unknown_model(table, model))
    if as_json:
        typer.echo(json.dumps([_data(version) for version in versions]))
        return
    shown = Table("model", "version", "status", "since (UTC)", "trainer", "reason", box=None)
    for v in versions:
        shown.add_row(v.model, v.version, v.status, _time(v.changed_ms), v.trainer, v.reason)
    Console(highlight=False, soft_wrap=True).print(shown if versions else "no versions yet")


@commands.command()
def show(
    model: Model,
    version: Annotated[str | None, typer.Argument(help="Default: the one that serves.")] = None,
    *,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Show all that is known about a version: what it was made of, why it stands where it does."""
    table = read_versions(KafkaBackend(settings_from(config, bootstrap_servers)))
    found = table.champion(model) if version is None else table.get(model, version)
    if found is None:
        is_known = bool(table.of(model))
        what = "serving version" if version is None else f"version {version!r}"
        raise UsageError(f"{model} has no {what}" if is_known else unknown_model(table, model))
    if as_json:
        typer.echo(json.dumps(_data(found)))
        return
    for name, value in _data(found).items():
        if name.endswith("_ms"):
            typer.echo(f"{name.removesuffix('_ms'):<20} {_time(value)} UTC")
        elif name != "schema" and value not in ([], {}, ""):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            typer.echo(f"{name:<20} {text}")


@commands.command()
def promote(
    model: Model,
    version: Annotated[str, typer.Argument(help="The version that shall serve.")],
    *,
    expect: Expect = None,
    reason: Reason = "",
    by: By = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Let a version serve, and wait until the registry has done it."""
    backend = KafkaBackend(settings_from(config, bootstrap_servers))
    command = _command("promote", model, version, expect=expect, reason=reason, by=by)
    _tell(ask(backend, command, timeout_s=timeout), as_json=as_json)


@commands.command()
def rollback(
    model: Model,
    *,
    expect: Expect = None,
    reason: Reason = "",
    by: By = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Let the champion before this one serve again."""
    backend = KafkaBackend(settings_from(config, bootstrap_servers))
    command = _command("rollback", model, None, expect=expect, reason=reason, by=by)
    _tell(ask(backend, command, timeout_s=timeout), as_json=as_json)


@commands.command()
def register(  # noqa: PLR0913 -- options of a command
    *,
    model: Annotated[str, typer.Option(help="The model; its monitor must be applied.")],
    version: Annotated[str, typer.Option(help="The version's name, as predictions carry it.")],
    artefact: Annotated[
        Path | None, typer.Option(help="Model file; without it others serve it.", metavar="FILE")
    ] = None,
    artefact_format: Annotated[
        ArtefactFormat | None, typer.Option("--format", help="Of the model file.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="CSV or NDJSON (.gz) with the features' columns.", metavar="FILE"),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Its column of labels.")] = None,
    prediction: Annotated[str | None, typer.Option(help="Its column of predictions.")] = None,
    score: Annotated[str | None, typer.Option(help="Its column of scores.")] = None,
    champion: Annotated[bool, typer.Option("--champion", help="It serves from now on.")] = False,
    timeout: Timeout = 30.0,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Make a version known that was trained elsewhere.

    Without reference data Kedge learns the reference from its first predictions.
    """
    if (artefact is None) != (artefact_format is None):
        raise UsageError("--artefact and --format go together")
    if reference is None and (label or prediction or score):
        raise UsageError("--label, --prediction and --score are columns of --reference FILE")
    settings = settings_from(config, bootstrap_servers)
    backend = KafkaBackend(settings)
    monitors, versions = MonitorTable(), VersionTable()
    read_tables(backend, monitors, versions)
    monitor = monitors.get(model)
    if monitor is None:
        raise UsageError(f"{model} has no monitor; publish one first: kedge apply MONITOR.toml")
    if versions.get(model, version) is not None:
        raise UsageError(f"{version} is a version of {model} already, and a version never changes")
    candidate = candidate_from(monitor, version, as_champion=champion)
    if reference is not None:
        columns = Columns(label=label, prediction=prediction, score=score)
        made = read_reference(reference, monitor, version, columns)
        lineage = Lineage(rows=made.rows, data_sha256=made.lineage["sha256"])
        candidate = candidate.model_copy(update={"reference": made, "lineage": lineage})
    if artefact is not None and artefact_format is not None:
        candidate = with_artefact(settings, candidate, artefact, artefact_format.value)
    _tell(offer(backend, candidate, timeout_s=timeout), as_json=as_json)


def _command(
    action: Literal["promote", "rollback"],
    model: str,
    version: str | None,
    *,
    expect: str | None,
    reason: str,
    by: str | None,
) -> Command:
    return Command(
        command_id=uuid.uuid4().hex,
        model=model,
        action=action,
        by=by or getpass.getuser(),
        event_time_ms=wall_clock(),
        version=version,
        expected_champion=expect,
        reason=reason,
    )


def _tell(version: ModelVersion, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_data(version)))
    else:
        typer.echo(f"{version.model} {version.version} is {version.status}: {version.reason}")


def _data(version: ModelVersion) -> dict[str, Any]:
    return version.model_dump(mode="json", by_alias=True, exclude_none=True)


def _time(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}"
