"""What each case is held to, and whether it gets there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kedge_services.local.bench.figures import CaseResult

__all__ = ["TARGETS", "Target", "judged"]


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a figure of a case; ``aim`` is what is hoped for beyond it."""

    case: str
    figure: str
    bound: float
    words: str
    at_least: bool = True
    aim: float | None = None

    @property
    def held_to(self) -> str:
        """The bound in words."""
        return f"{'at least' if self.at_least else 'at most'} {_plain(self.bound)}"

    def is_met(self, value: float) -> bool:
        """Say whether a value is within the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    def verdict(self, value: float | None) -> str:
        """Say in a few words how a value stands to the bound."""
        if value is None:
            return "not measured"
        if not self.is_met(value):
            short = self.bound / value if self.at_least else value / self.bound
            return f"missed: short by a factor of {short:.2f}" if value else "missed"
        if self.aim is None:
            return "met"
        reached = value >= self.aim if self.at_least else value <= self.aim
        return "met, and the aim" if reached else f"met; the aim is {_plain(self.aim)}"


_CPU, _RATIO = "rate_per_cpu_s", "ratio_to_limit_per_cpu"

TARGETS: tuple[Target, ...] = (
    Target("panes-json", _CPU, 350_000, "predictions per CPU-second"),
    Target("panes-json", _RATIO, 0.6, "of consume and decode alone", aim=0.75),
    Target("panes-labelled", _CPU, 80_000, "pairs per CPU-second", aim=120_000),
    Target("panes-arrow", _CPU, 2_000_000, "rows per CPU-second"),
    Target("panes-wide", _CPU, 4_000_000, "values per CPU-second"),
    Target("windows", "series_5000_per_cpu_s", 5_000, "series-panes per CPU-second, 5,000 series"),
    Target("latency", "window_p99_ms", 2_000, "ms from produce to revised window, p99",
           at_least=False),
    Target("latency", "alert_p99_ms", 3_000, "ms from a drift's first record to its alert, p99",
           at_least=False),
    Target("score-http", "p99_ms", 10, "ms from request to answer, p99", at_least=False),
    Target("score-kafka", _CPU, 20_000, "rows per CPU-second"),
    Target("memory", "rss_mb_10m", 1_000, "MB of memory, 10 million pending", at_least=False),
    Target("memory", "disk_mb_10m", 4_000, "MB of disk, 10 million pending", at_least=False),
)  # fmt: skip


def judged(results: Mapping[str, CaseResult]) -> Iterator[tuple[Target, float | None, str]]:
    """Give every target of the cases that were run, its figure and the verdict."""
    for target in TARGETS:
        result = results.get(target.case)
        if result is not None:
            value = result.figures.get(target.figure)
            yield target, value, target.verdict(value)


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 1_000 else f"{number:g}"
