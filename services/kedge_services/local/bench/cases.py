"""A case, what it needs, and how its runs are interleaved with its limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from confluent_kafka import KafkaException

from kedge.errors import KedgeError
from kedge_services.local.bench.figures import CaseResult, Run, summarise, written
from kedge_services.local.bench.ground import Ground

__all__ = ["LIMIT", "Bench", "Case", "Tell", "run_case"]

#: The name of what `panes-json` is held to, as a case of its own.
LIMIT = "limit"
Tell = Callable[[str], None]


class Bench(Protocol):
    """A case that is set up: its topics are filled, and it can be run again and again."""

    def limit(self) -> Run | None:
        """Measure what the case is held to; None where there is no such thing."""

    def measure(self) -> Run:
        """Measure the case, from readiness to the end of the work, and check its results."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table.

    Attributes
    ----------
    what
        One sentence for ``--list``.
    unit
        What is counted.
    set_up
        Fills topics; the records, by seed, are there before the clock runs.
    is_long
        Left out by ``--quick`` unless it is asked for by name.
    runs_once
        Measured once: it takes long, and its figures have little spread.
    notes
        What has to be known to read the figures.
    """

    name: str
    what: str
    unit: str
    set_up: Callable[[Ground], AbstractContextManager[Bench]]
    is_long: bool = False
    runs_once: bool = False
    notes: tuple[str, ...] = ()


def run_case(
    case: Case, ground: Ground, *, runs: int, only_limit: bool = False, tell: Tell
) -> list[CaseResult]:
    """Run a case and its limit in turn, so that both see the machine in the same state.

    A case that cannot be run, or whose results are wrong, says so in ``problems``.

    Parameters
    ----------
    only_limit
        Measure what the case is held to and not the case.
    """
    done: list[Run] = []
    limits: list[Run] = []
    failed: list[str] = []
    try:
        tell(f"{case.name}: filling the topics")
        with case.set_up(ground) as bench:
            for number in range(1 if case.runs_once else runs):
                limit = bench.limit()
                if limit is not None:
                    limits.append(limit)
                    tell(f"{case.name}: limit, run {number + 1}: {_told(limit, case.unit)}")
                if not only_limit:
                    done.append(bench.measure())
                    tell(f"{case.name}: run {number + 1}: {_told(done[-1], case.unit)}")
    except (KedgeError, KafkaException) as error:
        failed.append(str(error))
    return _results(case, done, limits, failed)


def _results(
    case: Case, done: Sequence[Run], limits: Sequence[Run], failed: Sequence[str]
) -> list[CaseResult]:
    pairs = limits[: len(done)] if len(limits) >= len(done) else ()
    result = summarise(case.name, case.unit, done, pairs, case.notes)
    results = [_with(result, failed)] if done or failed else []
    if limits and case.name == "panes-json":
        results.insert(0, summarise(LIMIT, "records", limits))
    return results


def _with(result: CaseResult, failed: Sequence[str]) -> CaseResult:
    return replace(result, problems=(*result.problems, *failed))


def _told(run: Run, unit: str) -> str:
    wrong = f"; WRONG: {'; '.join(run.problems)}" if run.problems else ""
    figures = "".join(f", {name} {written(value)}" for name, value in run.figures.items())
    return (
        f"{run.rate_wall:,.0f} {unit}/s, {run.rate_per_cpu_s:,.0f} {unit}/CPU-s, "
        f"{run.peak_rss_mb:,.0f} MB{figures}{wrong}"
    )
