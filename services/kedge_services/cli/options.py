"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from kedge.errors import UsageError
from kedge_services.local.broker import announced
from kedge_services.runtime.admin import wait_for_kafka
from kedge_services.runtime.settings import Settings

__all__ = [
    "BootstrapServers",
    "Config",
    "Json",
    "Timeout",
    "finite",
    "require_kafka",
    "settings_from",
]

#: A person waits; a service, which is waited for by nobody, has more patience.
_PATIENCE_S = 5.0
_ADDRESS = re.compile(r"([A-Za-z_]+://)?(\[[0-9A-Fa-f:.%]+\]|[^\s:/,@]+)(:[0-9]{1,5})?")

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file instead of ./kedge.toml.", metavar="FILE"),
]
BootstrapServers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        help="Kafka's address. Default: KEDGE_KAFKA__BOOTSTRAP_SERVERS, [kafka] in kedge.toml, "
        "or the broker that `kedge up` or `kedge broker` runs in this directory.",
        metavar="HOST:PORT",
    ),
]


def finite(value: float | None) -> float | None:
    """Refuse what is a number for Python only: ``nan`` passes every bound, ``inf`` never ends."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to wait or count by.")
    return value


Timeout = Annotated[
    float, typer.Option(help="Seconds to wait for the registry.", min=0.0, callback=finite)
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


def settings_from(
    config: Path | None,
    bootstrap_servers: str | None,
    *,
    need_kafka: bool = True,
    patience_s: float = _PATIENCE_S,
) -> Settings:
    """Read the settings and find Kafka: flag, environment, file, announced local broker.

    Parameters
    ----------
    config, bootstrap_servers
        What the options of these names say.
    need_kafka
        False gives settings without an address where none is known.
    patience_s
        How long an answer is waited for where the settings do not say.

    Raises
    ------
    UsageError
        A setting is wrong.
    BrokerUnavailable
        ``need_kafka``, and no address is known or nobody answers there.
    """
    # Commands answer on stdout; what is logged must not stand between the lines.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    settings = Settings.load(config)
    address = bootstrap_servers or settings.kafka.bootstrap_servers or announced()
    if address is not None:
        _check_address(address)
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": address})
        settings = settings.model_copy(update={"kafka": kafka})
    if need_kafka:
        require_kafka(settings, patience_s=patience_s)
    return settings


def require_kafka(settings: Settings, *, patience_s: float = _PATIENCE_S) -> None:
    """Make sure that Kafka answers, before any client begins to wait for it.

    Raises
    ------
    BrokerUnavailable
        No address is known, or nobody answers there.
    """
    wait_for_kafka(settings.kafka, timeout_s=settings.kafka.timeout_s or patience_s)


def _check_address(servers: str) -> None:
    """Refuse what librdkafka would take for another address, or retry for ever."""
    for server in servers.split(","):
        if _ADDRESS.fullmatch(server.strip()) is None:
            raise UsageError(f"{server.strip()!r} is no address of a Kafka; write HOST:PORT")
