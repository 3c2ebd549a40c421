"""The part of ``docs/benchmarks.md`` that ``make bench-peers`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from bench_stats.data import ROOT
from bench_stats.peers import PeerName, pinned
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.report import replaced

if TYPE_CHECKING:
    from bench_peers.__main__ import Beside

__all__ = ["part", "write_part"]

PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES: dict[str, tuple[PeerName, str]] = {
    "Quix Streams": ("quix", "quixstreams"),
    "Faust": ("faust", "faust-streaming"),
    "Bytewax": ("bytewax", "bytewax"),
    "Evidently": ("evidently", "evidently"),
    "NannyML": ("nannyml", "nannyml"),
}
#: How many times a framework's rate is asked for.
TARGETS = {"Quix Streams": 20, "Faust": 30}

_HEAD = """
## Beside others

Written by `make bench-peers`; do not edit. Each peer runs in an environment of its own, pinned in
`tests/bench/peers`, on the same Kafka in turn with Kedge {kedge}. The frameworks count one feature
and its mean in tumbling windows of 10 s, model by model (four models), from a topic that is keyed
by model already, with their own defaults; Kedge checks every record, counts one feature or all ten
and the score for its tests, and commits in transactions, exactly once. Medians, in brackets the
least and the largest of the runs; ratios are those of runs made one after the other.

| peer | work | its rate | per CPU-s | Kedge | its rate | per CPU-s | ratio | ratio per CPU-s |
|---|---|---|---|---|---|---|---|---|
"""


def write_part(found: Sequence[Beside]) -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(text, part(found), "peers"), encoding="utf-8")


def part(found: Sequence[Beside]) -> str:
    """Give the table, and under it what failed and what was asked for."""
    lines = [row for beside in found for row in _rows(beside)]
    notes = [f"- {beside.title}: {problem}." for beside in found for problem in beside.problems]
    for beside in found:
        target = TARGETS.get(beside.title)
        if target and beside.peer:
            notes += [
                f"- Asked: {target} times {beside.title}. {_verdict(beside, which, target)}"
                for which in beside.kedge
            ]
    return _HEAD.format(kedge=version("kedge")) + "\n".join([*lines, "", *notes, ""])


def _rows(beside: Beside) -> list[str]:
    package, distribution = PACKAGES[beside.title]
    peer = f"{beside.title} {pinned(package, distribution)}"
    if not beside.peer:
        return [f"| {peer} | {beside.note} | failed | | | | | | |"]
    return [
        f"| {peer} | {beside.note} | {_rate(beside.peer, 'rate_wall')} {beside.unit}/s "
        f"| {_rate(beside.peer, 'rate_per_cpu_s')} | {which} | {_rate(runs, 'rate_wall')} "
        f"| {_rate(runs, 'rate_per_cpu_s')} | {_ratio(beside, which, 'rate_wall')} "
        f"| {_ratio(beside, which, 'rate_per_cpu_s')} |"
        for which, runs in beside.kedge.items()
    ]


def _verdict(beside: Beside, which: str, target: int) -> str:
    wall = beside.ratio(which, lambda run: run.rate_wall)[0]
    cpu = beside.ratio(which, lambda run: run.rate_per_cpu_s)[0]
    said = (
        "met"
        if min(wall, cpu) >= target
        else "met by wall clock only"
        if wall >= target
        else ("met per CPU-second only" if cpu >= target else "missed")
    )
    return f"Kedge, {which}: {wall:.0f} times by wall clock, {cpu:.0f} per CPU-second: {said}."


def _rate(runs: Sequence[Run], name: str) -> str:
    rates = sorted(getattr(run, name) for run in runs)
    middle = rates[len(rates) // 2]
    return f"{middle:,.0f} ({rates[0]:,.0f}-{rates[-1]:,.0f})"


def _ratio(beside: Beside, which: str, name: str) -> str:
    middle, low, high = beside.ratio(which, lambda run: getattr(run, name))
    return f"{middle:,.1f} ({low:,.1f}-{high:,.1f})"
