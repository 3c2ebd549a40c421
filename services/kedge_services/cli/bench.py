"""``kedge bench``: how fast Kedge is on this machine, beside what Kafka alone allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from rich.console import Console
from rich.table import Table

from kedge.errors import UsageError
from kedge_services.cli.completion import complete_case
from kedge_services.cli.signals import interrupted_by_signals

if TYPE_CHECKING:
    from kedge_services.local.bench.figures import CaseResult
    from kedge_services.local.bench.run import Benchmark

__all__ = ["commands"]

commands = typer.Typer()

_RUNS, _QUICK_RUNS = 5, 2
_FILE_WIDTH = 120
_COLUMNS = {
    "rate_per_cpu_s": "per CPU-s",
    "rate_wall": "per s",
    "ratio_to_limit_per_cpu": "of the limit",
    "peak_rss_mb": "MB",
}


@commands.command()
def bench(
    cases: Annotated[
        list[str] | None,
        typer.Argument(help="More cases to run, as after --only.", metavar="[CASE]..."),
    ] = None,
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run this case; may be given several times.",
            metavar="CASE",
            autocompletion=complete_case,
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the cases and end.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer records and runs, and no long cases.")
    ] = False,
    runs: Annotated[
        int | None,
        typer.Option(help=f"Runs of each case. Default: {_RUNS}, with --quick {_QUICK_RUNS}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the traffic; the same seed, the same rows.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here.", metavar="FILE")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            help="Write the figures into this page, between its markers `<!-- speed -->` and "
            "`<!-- /speed -->`.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Measure throughput, latency and memory on this machine.

    Starts a Kafka of its own in a temporary directory, fills topics with traffic
    made by seed, runs services as `kedge run` does and measures their CPU time
    and memory. Each case runs several times, in turn with what it is held to;
    medians count. The whole takes about an hour, --quick some minutes. The exit
    status is 1 when a case could not be run or its results are wrong.

    Example: kedge bench --quick --only panes-json
    """
    from kedge_services.local.bench.report import Page
    from kedge_services.local.bench.run import Benchmark, names
    from kedge_services.local.bench.sizes import FULL, QUICK

    sizes = QUICK if quick else FULL
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # In a file nothing has to be cut.
        console.width = _FILE_WIDTH
    if listed:
        _list(console, names(sizes))
        return
    if runs is not None and runs < 1:
        raise UsageError(f"--runs {runs}: a case is run at least once")
    if seed < 0:
        raise UsageError(f"--seed {seed}: a seed is no negative number")
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise UsageError(f"{json_file}: --json names a file in a directory that exists")
    page = None if markdown is None else Page(markdown)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    benchmark = Benchmark(
        sizes,
        seed=seed,
        runs=runs or (_QUICK_RUNS if quick else _RUNS),
        only=[*(only or ()), *(cases or ())],
        with_long=not quick,
    )
    progress = Console(stderr=True, highlight=False, markup=False)

    def keep(_: CaseResult) -> None:
        # After each case, so that a run that is broken off has left something.
        if json_file is not None:
            text = json.dumps(benchmark.encode(), indent=2, allow_nan=False)
            json_file.write_text(text + "\n", encoding="utf-8")
        if page is not None:
            page.write(benchmark)

    # Kafka, services and their directory end with us, however we end.
    with interrupted_by_signals():
        benchmark.run(lambda text: progress.print(text, soft_wrap=True), keep)
    _show(console, benchmark)
    if benchmark.has_failed:
        raise typer.Exit(1)


def _list(console: Console, names: dict[str, str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, what in names.items():
        table.add_row(name, what)
    console.print(table)


def _show(console: Console, benchmark: Benchmark) -> None:
    from kedge_services.local.bench.report import shown
    from kedge_services.local.bench.targets import judged

    table = Table(title="Medians, with the least and the largest", title_justify="left")
    # Where it is too narrow, a figure goes on in the next line and loses nothing.
    table.add_column("case", overflow="fold")
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right", overflow="fold")
    for result in benchmark.results:
        cells = (shown(result, figure).replace(" (", "\n(") for figure in _COLUMNS)
        table.add_row(f"{result.name}\n{result.unit}", *cells)
    console.print(table)
    for result in benchmark.results:
        more = [f"{name} {shown(result, name)}" for name in result.figures if name not in _COLUMNS]
        if more:
            console.print(f"{result.name}: {'; '.join(more)}", soft_wrap=True)
    results = {result.name: result for result in benchmark.results}
    for target, value, verdict in judged(results):
        figure = "-" if value is None else shown(results[target.case], target.figure)
        console.print(
            f"{target.case}: {figure} {target.words}, {target.held_to}: {verdict}", soft_wrap=True
        )
    for result in benchmark.results:
        for problem in result.problems:
            console.print(f"{result.name} FAILED: {problem}", style="bold red", soft_wrap=True)
