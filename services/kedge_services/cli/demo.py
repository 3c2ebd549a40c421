"""``kedge demo``: the whole loop in two minutes."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kedge.errors import UsageError
from kedge.monitor_file import load_monitor
from kedge_services.cli.options import finite, require_kafka, settings_from

if TYPE_CHECKING:
    from kedge_services.local.demo.stage import Stage
    from kedge_services.local.demo.story import Entry
    from kedge_services.local.demo.summary import Ending, Summary
    from kedge_services.runtime.settings import Settings

__all__ = ["commands"]

commands = typer.Typer()

_MONITORS = Path(__file__).parent.parent / "local" / "demo"
_DEMO_RATE = 2_000.0
_DATA_RATE = 500.0
_COLOURS = {
    "drift": "bold yellow",
    "alert firing": "bold red",
    "alert resolved": "green",
    "retrain": "cyan",
    "candidate": "cyan",
    "version": "bold magenta",
    "process": "yellow",
    "mischief": "yellow",
}
_PLAIN_PULSE_S = 10.0


@commands.command()
def demo(
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="Run on a real stream: CSV or NDJSON, also .gz.", metavar="FILE"),
    ] = None,
    monitor: Annotated[
        Path | None,
        typer.Option(
            help="The monitor for --data; its [replay] section maps the columns. "
            "Default: the one for Elec2 (electricity prices).",
            metavar="MONITOR.toml",
        ),
    ] = None,
    no_drift: Annotated[
        bool, typer.Option("--no-drift", help="The control: the same traffic without a drift.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the traffic; the same seed, the same rows.")] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Rows a second. Default: 2000, with --data 500.",
            min=1,
            max=100_000,
            callback=finite,
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the summary here.", metavar="FILE")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Stay up at the end, until Ctrl-C, to look around.")
    ] = False,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(help="Use this Kafka, with topics of its own, instead of a local one."),
    ] = None,
) -> None:
    """Show the whole loop: drift, alert, retrain, promotion, recovery.

    Starts a local Kafka and all services, sends loan applications whose world
    changes twice, and ends with a table of before and after. The exit status is
    1 when the loop did not close; with --no-drift, when anything fired.

    Example: kedge demo --keep
    """
    from kedge_services.local.demo.run import Demo, Options

    if data is not None and no_drift:
        raise UsageError("--no-drift is the control of the simulated traffic, not of --data")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError(f"{json_file}: there is no such directory")
    if json_file is not None and json_file.is_dir():
        raise UsageError(f"{json_file}: is a directory; --json names a file")
    declared = load_monitor(
        monitor or _MONITORS / ("electricity.toml" if data else "loan_approvals.toml")
    )
    options = Options(
        rate=rate or (_DATA_RATE if data else _DEMO_RATE), seed=seed, drift=not no_drift, data=data
    )
    # What goes wrong on the way to Kafka is raised; its mutterings do not belong in a timeline.
    logging.getLogger().addHandler(logging.NullHandler())
    console = Console(highlight=False)
    with ExitStack() as stack:
        work_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kedge-demo-")))
        settings = _settings(bootstrap_servers)
        screen = stack.enter_context(_Screen(console))
        show = Demo(
            options, settings, declared, work_dir=work_dir, tell=screen.tell, pulse=screen.pulse
        )
        summary, ending = show.run(hold=_hold(screen) if keep else lambda _: None)
    if json_file is not None:
        report = {**summary.as_json(), "ended_well": ending.is_good, "problems": ending.problems}
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _show(console, summary, ending, show.notified)
    if not ending.is_good:
        sys.exit(1)


def _settings(bootstrap_servers: str | None) -> Settings:
    """Give the user's settings, with the Kafka that was named, and no other."""
    from kedge_services.runtime.settings import KafkaSettings

    settings = settings_from(None, bootstrap_servers, need_kafka=False)
    if bootstrap_servers is not None:
        require_kafka(settings)
        return settings.model_copy(update={"prefix": f"kedge-demo-{time.time_ns()}."})
    # The local one is its own; what another needs, e.g. TLS, does not hold for it.
    return settings.model_copy(update={"kafka": KafkaSettings(), "prefix": "kedge."})


class _Screen:
    """The timeline above, one live line below; plain lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.time()
        self._live = Live(Text("starting Kafka and the services …"), console=console,
                          refresh_per_second=4, transient=True)  # fmt: skip
        self._next_plain = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        else:
            self.console.print("starting Kafka and the services …")
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def tell(self, entry: Entry) -> None:
        """Add a line to the timeline."""
        elapsed = max(0.0, entry.at_ms / 1000 - self._began)
        style = _COLOURS.get(entry.what, "bold")
        if not self.console.is_terminal:
            self.console.print(f"{elapsed:6.1f} s  {entry.what:<15}{entry.text}", soft_wrap=True)
            return
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=8, justify="right")
        line.add_column(width=14, no_wrap=True)
        line.add_column(ratio=1)
        line.add_row(
            Text(f"{elapsed:.1f} s", style="dim"), Text(entry.what, style=style), Text(entry.text)
        )
        self.console.print(line)

    def pulse(self, text: str) -> None:
        """Show what is going on just now."""
        elapsed = time.time() - self._began
        if self.console.is_terminal:
            self._live.update(Text(f"{elapsed:6.1f} s  {text}", style="dim"))
        elif elapsed >= self._next_plain:
            self._next_plain = elapsed + _PLAIN_PULSE_S
            self.console.print(f"{elapsed:6.1f} s  … {text}", soft_wrap=True)


def _hold(screen: _Screen) -> Callable[[Stage], None]:
    def hold(stage: Stage) -> None:
        servers = stage.settings.kafka.bootstrap_servers
        screen.console.print(
            f"Kafka stays up at {servers} (topics {stage.settings.prefix}*); Ctrl-C ends it.\n"
            f"Try: kedge tail alerts --bootstrap-servers {servers}"
        )
        try:
            while True:
                stage.watch(0.5)
        except KeyboardInterrupt:
            screen.console.print("stopping …")

    return hold


def _show(
    console: Console, summary: Summary, ending: Ending, notified: Sequence[Mapping[str, Any]]
) -> None:
    console.print()
    console.print(_accuracies(summary))
    figures = Table(show_header=False)
    figures.add_column()
    figures.add_column(justify="right")
    for name, value in _figures(summary):
        figures.add_row(name, value)
    console.print(figures)
    if notified:
        console.print("What on-call received:", style="bold")
    for body in notified:
        alert = body["alerts"][0]
        console.print(f"  {body['status']:<9} {alert['annotations']['summary']}")
    if ending.is_good:
        console.print(_GOOD[summary.scenario], style="bold green")
    for problem in ending.problems:
        console.print(f"The loop did not close: {problem}.", style="bold red")


def _accuracies(summary: Summary) -> Table:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    table = Table(title="Accuracy of what was answered", title_justify="left")
    table.add_column("before the drift", justify="right")
    row = [share(summary.accuracy_before_drift)]
    if summary.scenario != "no-drift":
        table.add_column("drift to promotion", justify="right")
        table.add_column("after the promotion", justify="right")
        row += [share(summary.accuracy_drifted), share(summary.accuracy_after_promotion)]
    table.add_row(*row)
    return table


_GOOD = {
    "drift": "The loop closed: noticed, retrained, proved, promoted; the accuracy is back.",
    "data": "The loop closed on the file's stream.",
    "no-drift": "Nothing fired and nothing was promoted, as it should be without a drift.",
}


def _recount(summary: Summary) -> str:
    number = len(summary.recount_differences)
    verdict = f"{number} differences" if number else "no difference"
    return f"{verdict} in {summary.recount_compared:,} comparisons"


def _figures(summary: Summary) -> list[tuple[str, str]]:
    def since(end_ms: int | None, start_ms: int | None) -> str:
        if end_ms is None or start_ms is None:
            return "-"
        return f"{(end_ms - start_ms) / 1000:.1f} s"

    drift_ms = summary.drift_started_ms
    rows = []
    if summary.scenario != "no-drift":
        rows = [
            ("from the drift to the alert", since(summary.first_alert_ms, drift_ms)),
            ("… to the retrain request", since(summary.retrain_requested_ms, drift_ms)),
            ("… to the candidate", since(summary.candidate_ms, drift_ms)),
            ("… to the promotion", since(summary.promoted_ms, drift_ms)),
        ]
    rows += [
        ("predictions", f"{summary.predictions:,}"),
        ("outcomes", f"{summary.outcomes:,}"),
        ("examples", f"{summary.examples:,}"),
        ("windows", f"{summary.windows:,}"),
        ("alerts fired", f"{summary.alerts} ({', '.join(summary.alert_rules) or 'none'})"),
        ("notifications on-call received", str(summary.notifications)),
        ("retrains requested", str(summary.retrain_requests)),
        ("candidates", str(summary.candidates)),
        ("promotions", str(summary.promotions)),
        ("rollbacks", str(summary.rollbacks)),
        ("dead letters", f"{summary.dead_letters:,}"),
        ("records in", f"{summary.records_in:,}"),
        ("records accounted for", f"{summary.records_accounted:,}"),
        ("recounted independently", _recount(summary)),
        ("memory of Kafka and all services", f"{summary.peak_rss_mb:,.0f} MB"),
    ]
    return rows
