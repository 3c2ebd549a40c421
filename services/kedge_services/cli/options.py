"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from kedge.errors import BrokerUnavailable
from kedge_services.local.broker import announced
from kedge_services.runtime.settings import Settings

__all__ = ["BootstrapServers", "Config", "Json", "settings_from"]

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
Json = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


def settings_from(
    config: Path | None,
    bootstrap_servers: str | None,
    *,
    need_kafka: bool = True,
) -> Settings:
    """Read the settings and find Kafka: flag, environment, file, announced local broker.

    Raises
    ------
    UsageError
        A setting is wrong.
    BrokerUnavailable
        ``need_kafka``, and no address is known.
    """
    # Commands answer on stdout; what is logged must not stand between the lines.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    settings = Settings.load(config)
    address = bootstrap_servers or settings.kafka.bootstrap_servers or announced()
    if address is None:
        if need_kafka:
            raise BrokerUnavailable(
                "no Kafka is known: start one with `kedge up` or `kedge broker`, or name yours "
                "with --bootstrap-servers, KEDGE_KAFKA__BOOTSTRAP_SERVERS or [kafka] in kedge.toml"
            )
        return settings
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": address})
    return settings.model_copy(update={"kafka": kafka})
