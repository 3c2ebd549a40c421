"""``kedge doctor``: the whole set-up, looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import structlog
import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kedge.errors import BrokerUnavailable, UsageError
from kedge_services.cli.options import BootstrapServers, Config, Json, settings_from
from kedge_services.cli.printing import counted, printable
from kedge_services.local.broker import ANNOUNCEMENT
from kedge_services.local.catalogue import SERVICES
from kedge_services.local.doctor.cluster import check_broker, check_round_trip, check_topics_of
from kedge_services.local.doctor.declared import check_monitors
from kedge_services.local.doctor.findings import Check, Finding, State, failed, findings_of, ok
from kedge_services.local.doctor.groups import check_groups
from kedge_services.local.doctor.machine import (
    check_disk,
    check_local_kafka,
    check_packages,
    check_python,
    check_store,
)
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.settings import Settings

__all__ = ["commands"]

commands = typer.Typer()

_COLOURS: dict[State, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}
_PATIENCE_S = 5.0


@commands.command()
def doctor(
    *, as_json: Json = False, config: Config = None, bootstrap_servers: BootstrapServers = None
) -> None:
    """Check the whole set-up and say what to do about what is wrong.

    Looks at Python, packages, disk and artefact store; at Kafka, its topics and
    clock, a transaction there and back on a topic of its own, which is deleted;
    at the monitors, their variables and the services. Shows no secrets. Exit
    status 1 when anything failed; a warning may be meant so.

    Example: kedge doctor --bootstrap-servers kafka-1:9092,kafka-2:9092
    """
    found = []
    console = Console(highlight=False, markup=False, emoji=False)
    for finding in _findings(config, bootstrap_servers):
        found.append(finding)
        if not as_json:
            _show(console, finding)
    failures = sum(finding.state == "failed" for finding in found)
    warnings = sum(finding.state == "warning" for finding in found)
    if as_json:
        checks = [asdict(finding) for finding in found]
        typer.echo(json.dumps({"checks": checks, "failed": failures, "warnings": warnings}))
    else:
        typer.echo(f"{counted(len(found), 'check')}: {failures} failed, "
                   f"{counted(warnings, 'warning')}")  # fmt: skip
    if failures:
        raise typer.Exit(1)


def _findings(config: Path | None, bootstrap_servers: str | None) -> Iterator[Finding]:
    yield from check_python()
    yield from check_packages()
    try:
        settings = settings_from(config, bootstrap_servers, need_kafka=False)
    except UsageError as error:
        yield failed("settings", str(error), "correct the setting")
        return
    # What a check has to say, it says itself.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield ok("settings", _sources(config))
    yield from findings_of("disk", partial(check_disk, settings))
    yield from findings_of("artefact store", partial(check_store, settings))
    yield from _kafka(settings, bootstrap_servers)


def _kafka(settings: Settings, bootstrap_servers: str | None) -> Iterator[Finding]:
    address = settings.kafka.bootstrap_servers
    is_local = address is None or _is_announced(settings)
    yield from findings_of("local Kafka", partial(check_local_kafka, is_needed=is_local))
    if address is None:
        what = "no Kafka is known, so nothing on it was checked"
        yield failed("brokers", what, "`kedge up`, or --bootstrap-servers HOST:PORT")
        return
    yield ok("brokers", f"{address}, from {_origin(settings, bootstrap_servers)}")
    try:
        timeout_s = settings.kafka.timeout_s or _PATIENCE_S
        yield from check_broker(settings, timeout_s)
    except BrokerUnavailable as error:
        what = f"nobody answers at {address} ({error}), so nothing on it was checked"
        move = "`kedge up`, or correct the address" if is_local else "start it, or correct the "
        yield failed("Kafka", what, move if is_local else f"{move}address and [kafka] properties")
        return
    with closing(KafkaBackend(settings)) as backend:
        checks: dict[str, Check] = {
            "topics": partial(check_topics_of, settings),
            "round trip": partial(check_round_trip, settings),
            "monitors": partial(check_monitors, backend, os.environ),
            "services": partial(check_groups, settings, backend, list(SERVICES)),
        }
        for name, check in checks.items():
            yield from findings_of(name, check)


def _sources(config: Path | None) -> str:
    file = config or Path("kedge.toml")
    # Their names only: a variable may hold a password.
    names = sorted(name for name in os.environ if name.startswith("KEDGE_"))
    variables = ", ".join(names) if names else "no KEDGE_ variable"
    return f"{file if file.is_file() else 'no kedge.toml'}; {variables}"


def _is_announced(settings: Settings) -> bool:
    from kedge_services.local.broker import announced

    return announced() == settings.kafka.bootstrap_servers


def _origin(settings: Settings, bootstrap_servers: str | None) -> str:
    if bootstrap_servers is not None:
        return "--bootstrap-servers"
    if "KEDGE_KAFKA__BOOTSTRAP_SERVERS" in {name.upper() for name in os.environ}:
        return "KEDGE_KAFKA__BOOTSTRAP_SERVERS"
    return str(ANNOUNCEMENT) if _is_announced(settings) else "the settings file"


def _show(console: Console, finding: Finding) -> None:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(width=7)
    line.add_column(width=14)
    line.add_column(ratio=1, overflow="fold")
    detail = Text(printable(finding.detail))
    if finding.move:
        detail.append(f"\n→ {finding.move}", "bold")
    line.add_row(Text(finding.state, _COLOURS[finding.state]), finding.check, detail)
    console.print(Padding(line, (0, 0)))
