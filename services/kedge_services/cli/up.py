"""``kedge up``: Kafka and all services on this machine, under one supervisor."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from kedge.errors import Stop, UsageError
from kedge.monitor_checks import suggestion
from kedge_services.cli.broker import DataDir, Fresh, Port
from kedge_services.cli.completion import complete_services
from kedge_services.cli.options import BootstrapServers, Config, require_kafka, settings_from
from kedge_services.cli.signals import stop_on_signals
from kedge_services.local.broker import DEFAULT_PORT, LocalBroker, announce, withdraw
from kedge_services.local.catalogue import SERVICES
from kedge_services.local.supervisor import ServiceState, Supervisor
from kedge_services.runtime.admin import create_topics, require_topics

__all__ = ["commands"]

commands = typer.Typer()

_LOCK = Path(".kedge/up.lock")
_COLOURS = {
    "starting": "yellow", "ready": "green", "running": "yellow", "restarting": "red",
    "failed": "bold red", "stopped": "dim",
}  # fmt: skip


@commands.command()
def up(
    *,
    services: Annotated[
        str | None,
        typer.Option(
            help="Only these, separated by commas.",
            metavar="A,B,…",
            autocompletion=complete_services,
        ),
    ] = None,
    port: Port = DEFAULT_PORT,
    data_dir: DataDir = Path(".kedge/kafka"),
    fresh: Fresh = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Run a local Kafka (or use yours) and all services until Ctrl-C.

    Creates the topics, starts the services, restarts what stops, and shows their
    state. Data and logs are kept in .kedge; --fresh starts anew.

    Example: kedge up --services panes,windows,alerts,notifier
    """
    names = _chosen(services)
    settings = settings_from(config, bootstrap_servers, need_kafka=False)
    if fresh and settings.kafka.bootstrap_servers is not None:
        raise UsageError(
            f"--fresh empties the local Kafka, but {settings.kafka.bootstrap_servers} is used"
        )
    console = Console(highlight=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone())
        stop = stack.enter_context(stop_on_signals())
        broker: LocalBroker | None = None
        if settings.kafka.bootstrap_servers is not None:
            require_kafka(settings)
        else:
            if fresh:
                shutil.rmtree(settings.state_dir, ignore_errors=True)
            broker = LocalBroker(data_dir, port=port or None, fresh=fresh)
            stack.enter_context(broker)
            announce(broker)
            stack.callback(withdraw)
            kafka = {"bootstrap_servers": broker.bootstrap_servers}
            settings = settings.model_copy(
                update={"kafka": settings.kafka.model_copy(update=kafka)}
            )
        create_topics(settings)
        require_topics(settings)
        console.print(f"Kafka is ready at {settings.kafka.bootstrap_servers}")
        logs = settings.state_dir.parent / "logs"
        supervisor = Supervisor(settings, names, logs, broker=broker)
        stack.callback(supervisor.stop)
        supervisor.start()
        _watch(supervisor, stop, console)
        console.print("stopping …")


def _chosen(services: str | None) -> Sequence[str]:
    if services is None:
        return list(SERVICES)
    names = [name.strip() for name in services.split(",") if name.strip()]
    for name in names:
        if name not in SERVICES:
            hint = suggestion(name, list(SERVICES))
            raise UsageError(f"--services: there is no service {name!r}; {hint}")
    if not names:
        raise UsageError(f"--services names none; there are {', '.join(SERVICES)}")
    return names


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Make sure that Kedge is up only once in this directory: services have slots."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise UsageError(
                f"Kedge is up in this directory already (process {lock.read().strip()})"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _watch(supervisor: Supervisor, stop: threading.Event, console: Console) -> None:
    """Show the processes until somebody stops us.

    Raises
    ------
    Stop
        A service, or the local Kafka, does not stay up.
    """
    shown: dict[str, str] = {}
    show = Live(console=console, auto_refresh=False) if console.is_terminal else None
    next_look = 0.0
    with show or contextlib.nullcontext():
        while not stop.wait(0.1):
            supervisor.poll()
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 0.5
                states = supervisor.states()
                if show is not None:
                    show.update(_table(states), refresh=True)
                else:
                    _lines(states, shown, console)
            if failures := supervisor.failures():
                raise Stop(failures[0])


def _lines(states: Sequence[ServiceState], shown: dict[str, str], console: Console) -> None:
    """Say what has changed, one line a service."""
    for state in states:
        if shown.get(state.name) != state.state:
            shown[state.name] = state.state
            detail = f": {state.detail}" if state.detail else ""
            console.print(f"{state.name} is {state.state}{detail}", soft_wrap=True, markup=False)


def _table(states: Sequence[ServiceState]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("service", "state", "restarts", "pid", "MB", "health"):
        right = column in ("restarts", "pid", "MB")
        table.add_column(column, justify="right" if right else "left")
    for state in states:
        memory = "" if state.rss_bytes is None else f"{state.rss_bytes / 1e6:.0f}"
        colour = _COLOURS[state.state]
        table.add_row(
            state.name, f"[{colour}]{state.state}", str(state.restarts), str(state.pid or ""),
            memory, state.health_url or escape(state.detail),
        )  # fmt: skip
    return table
