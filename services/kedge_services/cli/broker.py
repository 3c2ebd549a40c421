"""``kedge broker``: the local Kafka alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kedge.errors import BrokerUnavailable
from kedge_services.cli.signals import stop_on_signals
from kedge_services.local.broker import DEFAULT_PORT, LocalBroker, announce, withdraw

__all__ = ["DataDir", "Fresh", "Port", "commands"]

commands = typer.Typer()

Port = Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)]
DataDir = Annotated[Path, typer.Option(help="Where Kafka keeps its data.", metavar="DIRECTORY")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start with empty data.")]


@commands.command()
def broker(
    *, port: Port = DEFAULT_PORT, data_dir: DataDir = Path(".kedge/kafka"), fresh: Fresh = False
) -> None:
    """Run a real Apache Kafka on this machine until Ctrl-C.

    Needs no Docker and no Java: the first start fetches 45 MB into the user's
    cache. Other commands run in this directory find it by themselves.

    Example: kedge broker --port 9292
    """
    local = LocalBroker(data_dir, port=port or None, fresh=fresh)
    with stop_on_signals() as stop, local:
        announce(local)
        try:
            typer.echo(f"Kafka is ready at {local.bootstrap_servers} (data in {data_dir})")
            while not stop.wait(0.5):
                if not local.is_running():
                    raise BrokerUnavailable(f"the local Kafka stopped; {local.log_file} tells why")
        finally:
            withdraw()
