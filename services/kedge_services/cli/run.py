"""``kedge run``: one service in this process."""

from __future__ import annotations

from typing import Annotated

import typer

from kedge_services.cli.completion import complete_service
from kedge_services.cli.options import BootstrapServers, Config, settings_from
from kedge_services.cli.signals import stop_on_signals
from kedge_services.local import catalogue

__all__ = ["commands"]

commands = typer.Typer()

_PATIENCE_S = 15.0
_LIST = "".join(f"\n\n  {name}: {does}." for name, does in catalogue.SERVICES.items())


@commands.command(
    help="Run one service until SIGTERM or Ctrl-C, for containers and process managers.\n\n"
    "Start more processes with other ordinals to scale it out.\n\n"
    f"Example: kedge run panes --ordinal 1\n\nServices:{_LIST}"
)
def run(
    service: Annotated[
        str,
        typer.Argument(
            help="Name of the service.", metavar="SERVICE", autocompletion=complete_service
        ),
    ],
    *,
    ordinal: Annotated[
        int | None,
        typer.Option(help="Slot of this process, 0 for the first; each needs its own.", min=0),
    ] = None,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Run one service."""
    catalogue.require(service)
    # A container may be started before its Kafka.
    settings = settings_from(config, bootstrap_servers, patience_s=_PATIENCE_S)
    if ordinal is not None:
        settings = settings.model_copy(update={"ordinal": ordinal})
    with stop_on_signals() as stop:
        catalogue.run(service, settings, stop)
