"""``kedge send``: events from a file to their topics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kedge.errors import UsageError
from kedge.monitor_checks import suggestion
from kedge_services.cli.asking import read_tables
from kedge_services.cli.completion import complete_sendable
from kedge_services.cli.options import (
    BootstrapServers,
    Config,
    Json,
    finite,
    require_kafka,
    settings_from,
)
from kedge_services.cli.progress import progress
from kedge_services.cli.send_batches import send_batches
from kedge_services.cli.send_report import Report
from kedge_services.cli.sending import sending
from kedge_services.local.batch_file import BatchFile, is_batch_file
from kedge_services.local.event_file import (
    SENDABLE,
    BadLine,
    EventFile,
    ReadyEvent,
    check_line,
    sendable,
)
from kedge_services.local.event_sender import Pace
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import MonitorTable

__all__ = ["commands"]

commands = typer.Typer()


@commands.command()
def send(
    file: Annotated[
        Path,
        typer.Argument(
            help="Events, one JSON object a line, also .gz; - is standard input. Or predictions "
            "as columns: .parquet, .arrow, .feather.",
            metavar="FILE",
        ),
    ],
    *,
    topic: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(SENDABLE)}. Default: each line's fields tell, and it is said.",
            autocompletion=complete_sendable,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Events a second, at most.", min=0.001, metavar="N", callback=finite),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out, count them, and go on.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the lines, send nothing; needs no Kafka.")
    ] = False,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Send predictions, outcomes, requests or commands from a file.

    Every line is held against the contract first; with a bad line in a file
    nothing is sent (exit status 2). Standard input is sent as it comes, up to
    the first bad line. What `kedge tail --json` wrote can be sent again.

    A file of columns goes out as Arrow batches (docs/arrow.md names the
    columns), block by block, after all rows were checked.

    Example: kedge send predictions.ndjson.gz --rate 500
    """
    source = BatchFile(file) if is_batch_file(file) else EventFile(file)
    settings = settings_from(config, bootstrap_servers, need_kafka=False)
    chosen = None if topic is None else sendable(topic.removeprefix(settings.prefix))
    if not dry_run:
        require_kafka(settings)
    if isinstance(source, BatchFile):
        report, sent, seconds = send_batches(
            source,
            chosen,
            rate,
            None if dry_run else _monitors(settings),
            None if dry_run else settings,
            skip_bad=skip_bad,
        )
        tell = report.as_json if as_json else report.summary
        typer.echo(tell(sent, seconds, dry_run=dry_run))
        return
    check = _Check(source, chosen, None if dry_run or source.is_stream else _monitors(settings))
    report = Report(source.name)
    sent = Counter()
    began = time.monotonic()
    if dry_run or not source.is_stream:
        with progress("checking", None) as advance:
            for checked in check:
                report.take(checked)
                advance()
        for line in report.lines():
            typer.echo(line, err=True)
    if not dry_run and (source.is_stream or skip_bad or not report.refused):
        sent = _send(settings, check, source, report, Pace(rate), skip_bad=skip_bad)
    tell = report.as_json if as_json else report.summary
    typer.echo(tell(sent, time.monotonic() - began, dry_run=dry_run))
    if report.refused and not skip_bad:
        raise typer.Exit(2)


class _Check:
    """The lines of a file, held against the contract and, where given, the monitors."""

    def __init__(self, source: EventFile, topic: str | None, monitors: MonitorTable | None) -> None:
        self._source = source
        self._topic = topic
        self._monitors = monitors

    def __iter__(self) -> Iterator[ReadyEvent | BadLine]:
        for number, line in self._source.lines():
            checked = check_line(number, line, self._topic)
            if isinstance(checked, ReadyEvent) and self._is_unknown(checked):
                yield BadLine(number, "unknown-model", self._unknown(str(checked.model)))
            else:
                yield checked

    def _is_unknown(self, event: ReadyEvent) -> bool:
        if self._monitors is None or event.model is None or event.topic == "requests":
            return False  # serving asks for versions, not for a monitor
        return self._monitors.get(event.model) is None

    def _unknown(self, model: str) -> str:
        known = [] if self._monitors is None else self._monitors.models()
        hint = suggestion(model, known)
        return f"{model!r} has no monitor ({hint}); publish one with `kedge apply`"


def _monitors(settings: Settings) -> MonitorTable:
    table = MonitorTable()
    read_tables(KafkaBackend(settings), table)
    return table


def _send(
    settings: Settings,
    check: _Check,
    source: EventFile,
    report: Report,
    pace: Pace,
    *,
    skip_bad: bool,
) -> Counter[str]:
    """Send what is ready; a stream is judged on the way, up to the first bad line."""
    is_checked = not source.is_stream
    number = report.ready.total() if is_checked else None
    with sending(settings) as sender, progress("sending", number) as advance:
        for checked in check:
            if not is_checked and (said := report.take(checked)) is not None:
                typer.echo(said, err=True)
            if isinstance(checked, ReadyEvent):
                pace.wait()
                sender.send(checked)
                advance()
            elif is_checked and not skip_bad:
                _refuse_changed(source)
            elif not skip_bad:
                break
    return sender.accepted


def _refuse_changed(source: EventFile) -> NoReturn:
    raise UsageError(f"{source.name} was changed while it was being sent")
