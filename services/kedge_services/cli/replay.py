"""``kedge replay``: what would have happened on this data."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from kedge.errors import UsageError
from kedge.monitor import Monitor, format_duration, parse_duration
from kedge.monitor_file import load_monitor
from kedge_services.cli.options import BootstrapServers, Config, Json, settings_from

if TYPE_CHECKING:
    from kedge_services.local.replay.run import Options, Source
    from kedge_services.runtime.settings import Settings

__all__ = ["commands"]

commands = typer.Typer()

_SHOWN = (
    ("rows", "rows replayed"), ("warm_up", "rows before them, as reference"),
    ("labelled", "with a label"), ("windows", "windows"),
    ("verdicts", "panes in which drift was tested"),
    ("verdicts_with_alarm", "of these with an alarm"), ("alarms_by_chance", "  by chance, at most"),
    ("alerts", "alerts that fired"), ("alerts_by_rule", "  by rule"),
    ("retrain_requests", "retrain requests"), ("trainings", "trainings"),
    ("promotions", "promotions"), ("rollbacks", "rollbacks"), ("dead_letters", "put aside"),
    ("accuracy", "accuracy of the answers"), ("accuracy_static", "  had the first version stayed"),
    ("accuracy_no_change", "  repeating the last label"), ("kappa_t", "kappa_t"),
    ("mae", "mean absolute error"), ("mae_static", "  had the first version stayed"),
    ("mae_no_change", "  repeating the last label"), ("rows_per_s", "rows a second"),
    ("peak_rss_mb", "peak memory, MB"),
)  # fmt: skip


@commands.command()
def replay(  # noqa: PLR0913 -- a command has as many arguments as options
    *,
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="CSV, NDJSON (both also .gz) or Parquet; left out with --from-topics.",
            metavar="DATA", show_default=False,
        ),
    ] = None,
    monitor: Annotated[
        Path | None,
        typer.Option(
            help="The monitor; its [replay] section maps the columns.", metavar="MONITOR.toml"
        ),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead of --monitor: replay with each of several and lay them side by side, "
            "--compare A.toml B.toml.",
            metavar="MONITOR.toml", show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the results go.", metavar="DIR")],
    closed_loop: Annotated[
        bool,
        typer.Option(
            "--closed-loop",
            help="Let Kedge train on the warm-up, serve, retrain and promote, instead of "
            "watching the predictions in the data.",
        ),
    ] = False,
    label_delay: Annotated[
        str, typer.Option(help="How long after its prediction a label comes.", metavar="DURATION")
    ] = "0s",
    limit: Annotated[
        int | None, typer.Option(help="Take only so many rows, from the beginning.", min=1)
    ] = None,
    partitions: Annotated[
        int,
        typer.Option(
            help="Partitions of the topics; without --closed-loop the results do not depend on "
            "them.", min=1, max=64,
        ),
    ] = 1,
    permute: Annotated[
        int | None,
        typer.Option(
            help="Shuffle what the rows say and keep their times: the stationary control.",
            metavar="SEED",
        ),
    ] = None,
    from_topics: Annotated[
        bool,
        typer.Option(
            "--from-topics",
            help="Replay the model's predictions and outcomes of a running cluster.",
        ),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(help="With --from-topics: first append time, ISO 8601.", metavar="TIME"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="With --from-topics: end of the append times.", metavar="TIME"),
    ] = None,
    as_json: Json = False,
    bootstrap_servers: BootstrapServers = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Run the services over a stream on event time: what would have alarmed, been retrained.

    Writes windows, alerts, retrain requests, model versions and dead letters
    (.ndjson), summary.json and report.html. Two runs write the same, but for
    the cost in summary.json. With --compare each monitor's results go to a
    directory of DIR, and compare.json and compare.html stand beside them.

    Example: kedge replay data.csv --monitor monitor.toml --out results
    """
    from kedge_services.local.cells import parse_ms
    from kedge_services.local.replay.run import Options, Source

    file, monitors = _inputs(data or [], monitor, compare or [], from_topics=from_topics)
    if not from_topics and (since or until):
        raise UsageError("--since and --until are for --from-topics")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out names a directory")
    try:
        delay = parse_duration(label_delay)
        times = [None if text is None else parse_ms(text) for text in (since, until)]
    except ValueError as error:
        raise UsageError(str(error)) from error
    declared = [_beside(path) for path in monitors]
    for path, known in zip(monitors, declared, strict=True):
        if known.labelled and delay >= known.label_horizon:
            raise UsageError(
                f"{path}: labels that come {label_delay} after their prediction meet none, as "
                f"label_horizon is {format_duration(known.label_horizon)}; raise it above the delay"
            )
    settings = settings_from(config, bootstrap_servers, need_kafka=from_topics)
    options = Options(closed_loop, delay, limit, partitions, permute)
    _log_errors_only()
    source = Source(file, *times)
    if monitor is not None:
        _one(source, declared[0], settings, options, out, as_json=as_json)
    else:
        pairs = list(zip(monitors, declared, strict=True))
        _several(source, pairs, settings, options, out, as_json=as_json)


def _inputs(
    given: Sequence[Path], monitor: Path | None, compared: Sequence[Path], *, from_topics: bool
) -> tuple[Path | None, list[Path]]:
    """Tell the file from the monitors: after ``--compare A.toml`` more may follow.

    An option takes one value, so what follows the first comes among the data;
    monitors are told by their ending, and no data is in TOML.
    """
    if monitor is not None and compared:
        raise UsageError("--monitor is one monitor, --compare several: give one of the two")
    more = [path for path in given if compared and path.suffix == ".toml"]
    files = [path for path in given if path not in more]
    monitors = [monitor] if monitor is not None else [*compared, *more]
    if not monitors:
        raise UsageError("give --monitor MONITOR.toml, or --compare A.toml B.toml")
    if compared and len(monitors) == 1:
        raise UsageError(f"--compare takes two monitors or more; for one, --monitor {compared[0]}")
    if len(files) > 1:
        raise UsageError(f"one file at a time: {files[0]} or {files[1]}")
    if bool(files) == from_topics:
        raise UsageError("name a file to replay, or give --from-topics: one of the two")
    return next(iter(files), None), monitors


def _beside(path: Path) -> Monitor:
    from kedge_services.local.reference_file import beside

    return beside(load_monitor(path), path)


def _one(
    source: Source, monitor: Monitor, settings: Settings, options: Options, out: Path, *,
    as_json: bool,
) -> None:  # fmt: skip
    from kedge_services.local.replay.run import replay as run

    with _progress() as progress:
        bar = progress.add_task("reading", total=None)
        summary = run(
            source, monitor, settings, options, out,
            tell=lambda rows, of: progress.update(
                bar, description="replaying", completed=rows, total=of
            ),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        _show(summary, monitor, out)


def _several(
    source: Source, monitors: Sequence[tuple[Path, Monitor]], settings: Settings, options: Options,
    out: Path, *, as_json: bool,
) -> None:  # fmt: skip
    from kedge_services.local.replay.compare import Candidate, compare, names_of

    names = names_of([path for path, _ in monitors])
    candidates = [
        Candidate(name, path, monitor)
        for name, (path, monitor) in zip(names, monitors, strict=True)
    ]
    with _progress() as progress:
        bar = progress.add_task("reading", total=None)
        found = compare(
            source, candidates, settings, options, out,
            tell=lambda name, rows, of: progress.update(
                bar, description=name, completed=rows, total=of
            ),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show_compared(found, out)


def _log_errors_only() -> None:
    """Keep what services tell of their work off the terminal: the results tell it."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def _show(summary: dict[str, Any], monitor: Monitor, out: Path) -> None:
    from kedge_services.local.replay.report_words import control_text, verdict_of

    console = Console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, told in _SHOWN:
        value = summary.get(name)
        if value is not None:
            table.add_row(told, _shown(value))
    console.print(f"[bold]{summary['model']}[/bold]", highlight=False)
    console.print(table)
    budget = monitor.drift.false_alarms
    control = control_text(summary, budget)
    said = f"{verdict_of(summary, budget)}." if control is None else control.text
    console.print(said, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _show_compared(found: dict[str, Any], out: Path) -> None:
    from kedge_services.local.replay.compare_page import ROWS

    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    monitors, costs = found["monitors"], found["cost"]
    for monitor in monitors:
        table.add_column(monitor["name"], justify="right", overflow="fold")
    for name, read in ROWS:
        cells = [read(monitor) for monitor in monitors]
        if any(cell != "-" for cell in cells):
            table.add_row(name, *cells)
    table.add_row("seconds", *(_shown(costs[monitor["name"]]["seconds"]) for monitor in monitors))
    console.print(table)
    console.print(f"Page: {out / 'compare.html'}", highlight=False, soft_wrap=True)


def _shown(value: float | dict[str, int]) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
