"""The figures as a part of a page, and as cells of a table."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.errors import UsageError
from kedge_services.local.bench.figures import CaseResult, written
from kedge_services.local.bench.targets import judged

if TYPE_CHECKING:
    from kedge_services.local.bench.run import Benchmark

__all__ = ["Page", "markdown", "replaced", "shown"]

_PART = "speed"
_MAIN = {
    "rate_per_cpu_s": "per CPU-second",
    "rate_wall": "per second",
    "ratio_to_limit_per_cpu": "of the limit",
    "peak_rss_mb": "MB",
}


class Page:
    """A page of which the part between two markers is ours.

    Raises
    ------
    UsageError
        It cannot be read, or has no markers.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._with("")

    def write(self, benchmark: Benchmark) -> None:
        """Write the figures so far, and nothing else."""
        self._file.write_text(self._with(markdown(benchmark)), encoding="utf-8")

    def _with(self, part: str) -> str:
        try:
            return replaced(self._file.read_text(encoding="utf-8"), part, _PART)
        except OSError as error:
            raise UsageError(f"{self._file}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{self._file}: {error}") from error


def replaced(text: str, part: str, name: str) -> str:
    """Give a page with another part between the markers of this name.

    >>> replaced("a <!-- speed -->old<!-- /speed --> b", "new", "speed")
    'a <!-- speed -->new<!-- /speed --> b'

    Raises
    ------
    ValueError
        The markers are not there, or not in this order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page has no markers {begin} and {end} to write between")
    return f"{before}{begin}{part}{end}{after}"


def shown(result: CaseResult, figure: str) -> str:
    """Give a median with its spread, or nothing."""
    if figure not in result.figures:
        return ""
    low, high = result.spread[figure]
    middle = written(result.figures[figure])
    return middle if low == high else f"{middle} ({written(low)}-{written(high)})"


def markdown(benchmark: Benchmark) -> str:
    """Give the part of the page."""
    return "\n".join(["", *_head(benchmark), *_tables(benchmark), ""])


def _head(benchmark: Benchmark) -> Iterator[str]:
    found = benchmark.encode()["machine"]
    yield (
        f"Machine: {found['usable_cpus'] or found['cpus']} cores ({found['architecture']}), "
        f"{found['memory_gib']:.0f} GiB, {platform.system()}, Python {found['python']}, "
        f"confluent-kafka {found['confluent_kafka']}, msgspec {found['msgspec']}, "
        f"numpy {found['numpy']}; Kafka on the same machine, which used "
        f"{found['kafka_cpu_s']:,.0f} CPU-seconds. Load before: {found['load_before']:.1f}. "
        f"Sizes: {benchmark.sizes.name}, seed {benchmark.seed}, "
        f"{benchmark.runs} runs of each case."
    )
    yield ""
    if benchmark.sizes.name != "full":
        yield "> **Quick run**: few records and runs, no figures to quote."
        yield ""


def _tables(benchmark: Benchmark) -> Iterator[str]:
    yield f"| case | unit | {' | '.join(_MAIN.values())} |"
    yield f"|---|---|{'---|' * len(_MAIN)}"
    for result in benchmark.results:
        cells = " | ".join(shown(result, figure) or "-" for figure in _MAIN)
        yield f"| `{result.name}` | {result.unit} | {cells} |"
    yield ""
    results = {result.name: result for result in benchmark.results}
    verdicts = list(judged(results))
    if verdicts:
        yield "| target | figure | |"
        yield "|---|---|---|"
    for target, value, verdict in verdicts:
        figure = "-" if value is None else shown(results[target.case], target.figure)
        strong = verdict if verdict.startswith("met") else f"**{verdict}**"
        yield f"| `{target.case}`: {target.held_to} {target.words} | {figure} | {strong} |"
    yield ""
    for result in benchmark.results:
        yield from _more(result)


def _more(result: CaseResult) -> Iterator[str]:
    others = [figure for figure in result.figures if figure not in _MAIN]
    if others or result.notes or result.problems:
        yield f"**`{result.name}`**"
        yield ""
        yield from (f"- {note}" for note in result.notes)
        yield from (f"- **failed**: {problem}" for problem in result.problems)
        if others:
            yield "- " + "; ".join(f"{f} {shown(result, f)}" for f in others)
        yield ""
