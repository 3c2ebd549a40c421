"""``kedge check`` and ``kedge apply``: monitors from files to Kafka."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kedge import Monitor
from kedge.codec import encode
from kedge.errors import UsageError
from kedge.monitor_file import FileMistake, read_monitor
from kedge.topics import model_partition
from kedge_services.cli.asking import read_tables, send
from kedge_services.cli.budgets import advice, budget_facts, file_overdispersion
from kedge_services.cli.options import BootstrapServers, Config, Json, settings_from
from kedge_services.cli.summaries import summary
from kedge_services.core.declarations import planned
from kedge_services.core.schedule import schedule_mistakes
from kedge_services.runtime.ports import Backend, Produce
from kedge_services.runtime.tables import MonitorTable

__all__ = ["apply_monitors", "commands", "read_monitors"]

commands = typer.Typer()

Files = Annotated[list[Path], typer.Argument(help="Monitors in TOML.", metavar="MONITOR.toml")]


@commands.command()
def check(files: Files, *, as_json: Json = False) -> None:
    """Validate monitors and show what Kedge understands; needs no Kafka.

    Says how many false alarms a week to expect at most, and which tests may cause them.
    Every mistake is a line `file:line: field: what was expected`; exit status 2.

    Example: kedge check monitors/fraud.toml
    """
    monitors, mistakes = read_monitors(files)
    phi = {file: file_overdispersion(file, monitor) for file, monitor in monitors.items()}
    if as_json:
        declared = {str(file): monitor.declaration() for file, monitor in monitors.items()}
        budgets = {
            str(file): {**budget_facts(monitor), "overdispersion": phi[file]}
            for file, monitor in monitors.items()
        }
        found = [asdict(mistake) for mistake in mistakes]
        typer.echo(json.dumps({"monitors": declared, "budgets": budgets, "mistakes": found}))
    else:
        _tell(mistakes)
        typer.echo("\n\n".join(map(summary, monitors.values())), nl=bool(monitors))
        _warn(monitors.values())
        for file, monitor in monitors.items():
            if (note := advice(monitor, phi[file])) is not None:
                typer.echo(f"note: {note}", err=True)
    if mistakes:
        raise typer.Exit(2)


@commands.command()
def apply(
    files: Files,
    *,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Publish monitors, all or none.

    A model's first monitor holds from the beginning; a changed one takes effect
    two panes ahead, so that no window is counted half by the old one.

    Example: kedge apply monitors/fraud.toml monitors/churn.toml
    """
    from kedge_services.runtime.app import wall_clock
    from kedge_services.runtime.kafka import KafkaBackend

    monitors, mistakes = read_monitors(files)
    if mistakes:
        _tell(mistakes)
        raise typer.Exit(2)
    settings = settings_from(config, bootstrap_servers)
    done = apply_monitors(KafkaBackend(settings), list(monitors.values()), wall_clock())
    if as_json:
        typer.echo(json.dumps(done))
    else:
        for item in done:
            typer.echo(f"{item['model']}: {_words(item)}")
        _warn(monitors.values())


def read_monitors(files: Sequence[Path]) -> tuple[dict[Path, Monitor], list[FileMistake]]:
    """Read files; give the monitors that are valid and all mistakes in the others.

    Raises
    ------
    UsageError
        A file cannot be read, or two are about the same model.
    """
    monitors: dict[Path, Monitor] = {}
    mistakes: list[FileMistake] = []
    for file in files:
        monitor, found = read_monitor(file, schedule_mistakes)
        mistakes += found
        if monitor is not None:
            twin = next((f for f, m in monitors.items() if m.model == monitor.model), None)
            if twin is not None:
                raise UsageError(f"{twin} and {file} are both about {monitor.model}")
            monitors[file] = monitor
    return monitors, mistakes


def apply_monitors(
    backend: Backend, monitors: Sequence[Monitor], now_ms: int
) -> list[dict[str, Any]]:
    """Publish what differs from what is known, in one transaction.

    Returns
    -------
    list of dict
        ``model``, ``result`` (new, changed, unchanged), ``effective_ms``.
    """
    table = MonitorTable()
    read_tables(backend, table)
    partitions = backend.partitions(MonitorTable.topic)
    done, records = [], []
    for monitor in monitors:
        known = table.get(monitor.model)
        plan = planned(known, monitor, now_ms)
        result = "unchanged" if plan is None else "new" if known is None else "changed"
        effective = plan or known
        done.append(
            {
                "model": monitor.model,
                "result": result,
                "effective_ms": 0 if effective is None else effective.effective_ms,
            }
        )
        if plan is not None:
            where = model_partition(plan.model, partitions)
            records.append(Produce(MonitorTable.topic, plan.model.encode(), encode(plan), where))
    if records:
        send(backend, records)
    return done


def _tell(mistakes: Iterable[FileMistake]) -> None:
    for mistake in mistakes:
        typer.echo(mistake, err=True)


def _warn(monitors: Collection[Monitor]) -> None:
    """Say what is not wrong, but may surprise: variables not set, files nobody reads."""
    for monitor in monitors:
        if monitor.reference.path is not None:
            typer.echo(
                f"note: {monitor.model}: services read no files; give a version its reference with "
                f"kedge models register --model {monitor.model} --version VERSION "
                f"--reference {monitor.reference.path}",
                err=True,
            )
    needed = {(n.url_env, "notifier") for monitor in monitors for n in monitor.notify}
    for executor in (executor for monitor in monitors for executor in monitor.executors):
        names = filter(None, (executor.url_env, executor.secret_env))
        needed |= {(name, "executors") for name in names}
    for name, service in sorted(needed):
        if name not in os.environ:
            typer.echo(f"note: ${name} is not set here; {service} needs it", err=True)


def _words(item: dict[str, Any]) -> str:
    if item["result"] == "new":
        return "new, holds from the beginning"
    if item["result"] == "unchanged":
        return "unchanged"
    moment = datetime.fromtimestamp(item["effective_ms"] / 1000, tz=UTC)
    wait_s = max(0.0, item["effective_ms"] / 1000 - time.time())
    return f"changed, takes effect at {moment:%Y-%m-%d %H:%M:%S} UTC (in {wait_s:.0f} s)"
