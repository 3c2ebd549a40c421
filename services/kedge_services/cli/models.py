"""``kedge models``: the versions of a model, and what a person asks the registry for."""

from __future__ import annotations

import getpass
import json
import uuid
from typing import Annotated, Literal

import typer

from kedge import Command
from kedge.errors import UsageError
from kedge_services.cli.asking import event_of
from kedge_services.cli.completion import complete_model
from kedge_services.cli.options import BootstrapServers, Config, Json, Timeout, settings_from
from kedge_services.cli.register import register
from kedge_services.cli.registry import ask, read_versions, unknown_model, unknown_version
from kedge_services.cli.versions import data, show_one, show_table, tell
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.kafka import KafkaBackend

__all__ = ["commands"]

commands = typer.Typer(name="models", help="Versions of models.", no_args_is_help=True)


Model = Annotated[str, typer.Argument(help="The model's name.", autocompletion=complete_model)]
Expect = Annotated[
    str | None,
    typer.Option(help="Refuse when another version serves by then.", metavar="CHAMPION"),
]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the version.")]
By = Annotated[str | None, typer.Option(help="Who asks. Default: the user's login name.")]


@commands.command("list")
def list_(
    model: Annotated[
        str | None, typer.Argument(help="Only this model.", autocompletion=complete_model)
    ] = None,
    *,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """List the versions of all models, or of one.

    Example: kedge models list fraud
    """
    table = read_versions(KafkaBackend(settings_from(config, bootstrap_servers)))
    models = table.models() if model is None else [model]
    versions = [version for name in models for version in table.of(name)]
    if model is not None and not versions:
        raise UsageError(unknown_model(table, model))
    if as_json:
        typer.echo(json.dumps([data(version) for version in versions]))
    else:
        show_table(versions)


@commands.command()
def show(
    model: Model,
    version: Annotated[str | None, typer.Argument(help="Default: the one that serves.")] = None,
    *,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Show all that is known about a version: what it was made of, why it stands where it does.

    Example: kedge models show fraud k12
    """
    table = read_versions(KafkaBackend(settings_from(config, bootstrap_servers)))
    found = table.champion(model) if version is None else table.get(model, version)
    if found is None:
        raise UsageError(unknown_version(table, model, version))
    if as_json:
        typer.echo(json.dumps(data(found)))
    else:
        show_one(found)


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
    """Let a version serve, and wait until the registry has done it.

    Example: kedge models promote fraud k12 --expect k11 --reason "fewer false alarms"
    """
    backend = KafkaBackend(settings_from(config, bootstrap_servers))
    command = _command("promote", model, version, expect=expect, reason=reason, by=by)
    tell(ask(backend, command, timeout_s=timeout), as_json=as_json)


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
    """Let the champion before this one serve again.

    Example: kedge models rollback fraud --reason "customers complain"
    """
    backend = KafkaBackend(settings_from(config, bootstrap_servers))
    command = _command("rollback", model, None, expect=expect, reason=reason, by=by)
    tell(ask(backend, command, timeout_s=timeout), as_json=as_json)


commands.command()(register)


def _command(
    action: Literal["promote", "rollback"],
    model: str,
    version: str | None,
    *,
    expect: str | None,
    reason: str,
    by: str | None,
) -> Command:
    return event_of(
        Command,
        command_id=uuid.uuid4().hex,
        model=model,
        action=action,
        by=by or _login_name(),
        event_time_ms=wall_clock(),
        version=version,
        expected_champion=expect,
        reason=reason,
    )


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError) as error:  # a container's user may have no name
        raise UsageError("nobody is logged in by name; say who asks with --by NAME") from error
