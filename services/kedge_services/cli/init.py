"""``kedge init``: a first monitor from a file or from live traffic."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kedge import Monitor
from kedge.errors import Stop, UsageError
from kedge.monitor_file import read_monitor
from kedge_services.cli.asking import read_tables
from kedge_services.cli.options import BootstrapServers, Config, Json, settings_from
from kedge_services.local.init.draft import Draft
from kedge_services.local.init.from_file import draft_from_file
from kedge_services.local.init.from_topic import draft_from_traffic, read_traffic
from kedge_services.local.init.guess import Given
from kedge_services.local.init.listing import entries, shown
from kedge_services.local.init.writing import as_toml, one_line
from kedge_services.runtime.ports import Backend
from kedge_services.runtime.tables import MonitorTable

__all__ = ["commands", "live_draft", "write_monitor"]

commands = typer.Typer()

_STYLES = {"unsure": "bold yellow", "likely": "", "sure": "dim", "given": "dim"}
_LONGEST_NAME = 255


class _Task(StrEnum):
    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


@commands.command()
def init(  # noqa: PLR0913 -- options of a command
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Rows as CSV or NDJSON (also .gz) or Parquet, in the order of their time.",
            metavar="[DATA]",
        ),
    ] = None,
    *,
    topic: Annotated[
        bool, typer.Option("--topic", help="Guess from the newest predictions on Kafka instead.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where to write the monitor.", metavar="FILE")] = Path(
        "monitor.toml"
    ),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file if it exists.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The model's name; with --topic, which one.", metavar="NAME")
    ] = None,
    task: Annotated[_Task | None, typer.Option(help="What kind of model it is.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of what really happened.", metavar="COLUMN")
    ] = None,
    prediction: Annotated[
        str | None, typer.Option(help="Column of what the model answered.", metavar="COLUMN")
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(help="Column of the positive class's probability.", metavar="COLUMN"),
    ] = None,
    timestamp: Annotated[
        str | None, typer.Option(help="Column of event times.", metavar="COLUMN")
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            help="Time from row to row, where no column tells, e.g. 30m.", metavar="DURATION"
        ),
    ] = None,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Write a first monitor from a file of rows or from live traffic.

    Every guess stands in the monitor with what it was guessed from and how sure
    that is; options say what is known better. Nothing is sent to Kafka.

    Example: kedge init data.csv --label churned --out monitor.toml
    """
    said = Given(
        model=model,
        task=None if task is None else task.value,
        label=label,
        prediction=prediction,
        score=score,
        timestamp=timestamp,
        every=every,
    )
    _refuse(data, topic=topic, out=out, force=force, said=said)
    if data is not None:
        draft = draft_from_file(data, said)
        note = ""
    else:
        from kedge_services.runtime.kafka import KafkaBackend

        backend = KafkaBackend(settings_from(config, bootstrap_servers))
        draft, note = live_draft(backend, said)
    monitor = write_monitor(draft, out)
    if as_json:
        guesses = [asdict(entry) for entry in entries(draft)]
        told = {"file": str(out), "monitor": monitor.declaration(), "guesses": guesses}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    _show(draft, out, data)
    if note:
        typer.echo(note, err=True)


def live_draft(backend: Backend, said: Given) -> tuple[Draft, str]:
    """Guess from Kafka; give a note where the model has a monitor already.

    Raises
    ------
    UsageError
        There is nothing to guess from, or more than one model.
    """
    traffic = read_traffic(backend, said.model)
    table = MonitorTable()
    read_tables(backend, table)
    notes = []
    if table.get(traffic.model) is not None:
        notes.append(f"note: {traffic.model} has a monitor; `kedge apply` would change it")
    if traffic.unreadable:
        share = f"{traffic.unreadable:,} of {traffic.records:,}"
        notes.append(f"note: {share} records of predictions cannot be read")
    return draft_from_traffic(traffic, said), "\n".join(notes)


def write_monitor(draft: Draft, out: Path) -> Monitor:
    """Write a draft as TOML, whole or not at all, once it has been read back.

    Raises
    ------
    Stop
        It cannot be written, or would be no valid monitor.
    """
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        beside.write_text(as_toml(draft), encoding="utf-8")
        monitor, mistakes = read_monitor(beside)
        if monitor is None:
            raise Stop(f"the guesses are no valid monitor: {mistakes[0].field}: {mistakes[0].text}")
        beside.replace(out)
    except (OSError, UnicodeEncodeError) as error:
        raise Stop(f"{out} cannot be written: {error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return monitor


def _refuse(data: Path | None, *, topic: bool, out: Path, force: bool, said: Given) -> None:
    """Say at once what cannot go well."""
    if (data is None) != topic:
        raise UsageError("name a file of rows, or say --topic for live traffic: one of the two")
    columns = {
        "--label": said.label, "--prediction": said.prediction, "--score": said.score,
        "--timestamp": said.timestamp, "--every": said.every,
    }  # fmt: skip
    if topic and (option := next((name for name, value in columns.items() if value), None)):
        raise UsageError(f"{option} is about a file; the events on Kafka say it themselves")
    if said.timestamp is not None and said.every is not None:
        raise UsageError("--timestamp or --every: one of the two tells when rows happened")
    if said.model is not None and not 0 < len(said.model) <= _LONGEST_NAME:
        raise UsageError(f"--model: a name has 1 to {_LONGEST_NAME} characters")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: there is no such directory")
    if out.is_dir() or (data is not None and data.exists() and out.exists() and out.samefile(data)):
        raise UsageError(f"{out}: choose another file by --out")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; --force overwrites it, --out FILE writes another")


def _show(draft: Draft, out: Path, data: Path | None) -> None:
    console = Console(highlight=False)
    told, plain = shown(entries(draft))
    _say(console, f"{out} written: a first monitor from {draft.source}.")
    table = Table(box=None, pad_edge=False)
    for heading, fold in (("field", 24), ("guess", 20), ("sure?", 6), ("guessed from", None)):
        table.add_column(heading, overflow="fold", max_width=fold)
    for entry in told:
        value = "left out" if entry.is_left_out else entry.text
        cells = (entry.field, value, entry.certainty, entry.why)
        style = _STYLES[entry.certainty]
        table.add_row(*(Text(one_line(text)) for text in cells), style=style)
    console.print(table)
    if plain:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(plain.items()))
        _say(console, f"Features beside these: {kinds}.")
    if draft.quality:
        _say(console, f"In these rows {draft.quality}.")
    checks = [entry for entry in told if entry.certainty == "unsure" and entry.check]
    if checks:
        _say(console, f"Check first, in {out}:", style="bold")
    for entry in checks:
        _say(console, f"  {entry.field} = {entry.text}: {entry.check}")
    _say(console, "Then:", style="bold")
    for command in _next(draft, out, data):
        _say(console, f"  {command}")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(one_line(text)), soft_wrap=True, style=style)


def _next(draft: Draft, out: Path, data: Path | None) -> Sequence[str]:
    check = f"kedge check {shlex.quote(str(out))}"
    if data is None:
        return check, f"kedge apply {shlex.quote(str(out))}"
    replay = f"kedge replay {shlex.quote(str(data))} --monitor {shlex.quote(str(out))} --out replay"
    return check, replay + (" --closed-loop" if draft.retrains else "")
