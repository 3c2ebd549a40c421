"""Table C: the closed loop on Elec2, by ``kedge replay --closed-loop``, beside hindsight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_stats import data
from bench_stats.figures import Figure, Result, Target, wilson
from bench_stats.hindsight import Frontier, frontier
from bench_stats.scale import Scale

__all__ = ["run"]

MONITOR = data.ROOT / "docs" / "examples" / "electricity.toml"
DRIFT_ONLY = "shuffled, fast, retrained on drift alerts only"
SHUFFLED = "shuffled, {promotion}, seed {seed}"
ACCURACY, ETA, GAIN = "accuracy", "eta at its K", "gain over static, points"
#: By the delay of the labels.
_HORIZONS = {"0s": "1d", "1d": "2d", "1w": "10d"}
PROMOTIONS, BY_DRIFT = "promotions", "promotions asked for by drift"


@dataclass(frozen=True, slots=True)
class Loop:
    """One replay: the name of its row, changes to the monitor, and options."""

    name: str
    changes: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay wrote, and what it cost."""

    summary: dict[str, Any] = field(default_factory=dict)
    by_drift: int = 0
    cpu_s: float = 0.0
    error: str = ""


def run(scale: Scale) -> Result:
    """Replay Elec2 with every promotion, delay and control."""
    path = data.find("elec2.csv.gz")
    if path is None:
        return Result("C", "Closed loop on Elec2", [Figure("all", ACCURACY, note="no data")])
    limit = scale.of(0, 6_000, 1_200)
    loops = list(_loops(scale))
    with ThreadPoolExecutor(2) as pool:
        hindsight = pool.submit(frontier, limit or None) if scale.has_peers else None
        outcomes = list(pool.map(lambda loop: _replay(path, loop, limit), loops))
        best = None if hindsight is None else hindsight.result()
    figures = [
        figure
        for loop, outcome in zip(loops, outcomes, strict=True)
        for figure in _figures(loop, outcome, best)
    ]
    return Result(
        "C",
        "Closed loop on Elec2: the answers of the version that served",
        figures,
        list(_targets(loops)),
        notes=[
            (
                "`kedge replay elec2.csv.gz --monitor docs/examples/electricity.toml "
                "--closed-loop`, no lag features, warm-up 1,000 rows; `promotion` as in the row, "
                "label delay as in the row; shuffled: `--permute SEED`, the stationary control. "
                "Accuracy of one stream, with Wilson's interval as if its rows were independent."
            ),
            *([f"**The first {limit:,} rows only**: the targets are for all."] if limit else []),
            *_told_of(best),
            (
                "kappa_t compares with repeating the last label that had arrived, which has an "
                "accuracy of .853 without delay. Promotions by drift: of versions whose training a "
                "drift alert asked for."
            ),
        ],
    )


def _loops(scale: Scale) -> Iterator[Loop]:
    delays = list(_HORIZONS)[: scale.of(3, 1, 1)]
    promotions = ("fast", "shadow")[: scale.of(2, 2, 1)]
    for promotion in promotions:
        change = (('promotion = "fast"', f'promotion = "{promotion}"'),)
        for delay in delays:
            told = "no delay" if delay == "0s" else f"labels after {delay}"
            # A label counts as long as it comes before the horizon.
            horizon = (('label_horizon = "1d"', f'label_horizon = "{_HORIZONS[delay]}"'),)
            yield Loop(
                f"{promotion}, {told}",
                change + horizon,
                ("--label-delay", delay),
            )
    for seed in range(1, 1 + scale.of(2, 1, 0)):
        for promotion in promotions:
            yield Loop(
                SHUFFLED.format(promotion=promotion, seed=seed),
                (('promotion = "fast"', f'promotion = "{promotion}"'),),
                ("--permute", str(seed)),
            )
    if scale.has_peers:
        yield Loop(
            DRIFT_ONLY,
            (('on = ["error-rate"]', 'on = ["data-drift"]'), ("every_labels = 1000\n", "")),
            ("--permute", "1"),
        )


def _replay(path: Path, loop: Loop, limit: int) -> Outcome:
    text = MONITOR.read_text(encoding="utf-8")
    for old, new in loop.changes:
        if old not in text:
            return Outcome(error=f"the monitor has no {old!r}")
        text = text.replace(old, new)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        monitor, out = Path(scratch) / "monitor.toml", Path(scratch) / "out"
        monitor.write_text(text, encoding="utf-8")
        command = [
            sys.executable, "-m", "kedge_services.cli", "replay", str(path), "--monitor",
            str(monitor), "--out", str(out), "--closed-loop", "--json", *loop.options,
        ]  # fmt: skip
        command += ["--limit", str(limit)] if limit else []
        errors = Path(scratch) / "errors"
        with errors.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            # The only call that tells what this very process used, with others running.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told = errors.read_text(errors="replace").strip().splitlines() or ["no message"]
            return Outcome(error=f"FAILED: {told[-1][:200]}")
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        by_drift = _promoted_by_drift(out)
    # It takes minutes: whoever waits sees how far it has come.
    sys.stderr.write(
        f"{loop.name}: accuracy {summary['accuracy']:.4f}, static {summary['accuracy_static']:.4f},"
        f" {summary['promotions']} promotions, {summary['rollbacks']} rollbacks,"
        f" {summary['trainings']} trainings\n"
    )
    return Outcome(summary, by_drift, usage.ru_utime + usage.ru_stime)


def _promoted_by_drift(out: Path) -> int:
    """Count the versions that served and whose training a drift alert had asked for."""

    def lines(name: str) -> list[dict[str, Any]]:
        text = (out / f"{name}.ndjson").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    asked = {
        request["request_id"]
        for request in lines("retrain-requests")
        if "drift" in (request["cause"].get("rule") or "")
    }
    versions = lines("model-versions")
    served = {v["version"] for v in versions if v["status"] == "champion"}
    return len({v["version"] for v in versions if v.get("request_id") in asked} & served)


def _figures(loop: Loop, outcome: Outcome, best: Frontier | None) -> Iterator[Figure]:
    if outcome.error:
        yield Figure(loop.name, ACCURACY, note=outcome.error)
        return
    summary = outcome.summary
    accuracy, n = summary["accuracy"], summary["labelled"]
    static, no_change = summary["accuracy_static"], summary["accuracy_no_change"]
    low, high = wilson(accuracy, n)
    yield Figure(loop.name, ACCURACY, accuracy, low, high, n, digits=3)
    yield Figure(loop.name, "static", static, digits=3)
    yield Figure(loop.name, "no change", no_change, digits=3)
    yield Figure(loop.name, GAIN, (accuracy - static) * 100, digits=1)
    yield Figure(loop.name, "kappa_t", (accuracy - no_change) / (1 - no_change), digits=2)
    promotions = int(summary["promotions"])
    if best is not None and "shuffled" not in loop.name:
        hindsight = best.accuracy(promotions)
        if promotions:
            eta = (accuracy - static) / (hindsight - static)
            yield Figure(loop.name, ETA, eta, digits=2)
        else:
            yield Figure(loop.name, ETA, note="no promotion")
        yield Figure(loop.name, "hindsight at its K", hindsight, digits=3)
    yield Figure(loop.name, PROMOTIONS, promotions, digits=0)
    yield Figure(loop.name, BY_DRIFT, outcome.by_drift, digits=0)
    yield Figure(loop.name, "trainings", summary["trainings"], digits=0)
    yield Figure(loop.name, "CPU seconds", outcome.cpu_s, digits=0)


def _targets(loops: Sequence[Loop]) -> Iterator[Target]:
    fast = "fast, no delay"
    yield Target(fast, ACCURACY, 0.768, at_least=True)
    yield Target(fast, ETA, 0.82, at_least=True)
    yield Target(fast, PROMOTIONS, 40)
    for loop in loops:
        if loop.name.startswith("shuffled"):
            yield Target(loop.name, BY_DRIFT, 0)
            yield Target(loop.name, GAIN, -0.2, at_least=True)


def _told_of(best: Frontier | None) -> Iterator[str]:
    if best is None:
        return
    shown = ", ".join(f"{best.accuracy(k):.3f} ({k})" for k in (8, 20, 40))
    yield (
        "Hindsight frontier(K): the best accuracy that K retrains at the best places could have "
        "had, blocks of 500 rows, each model trained on the last 1,000, 4,000 or all rows, "
        f"whichever turned out best: {shown}. eta(K) = (accuracy - static)/(frontier(K) - static)."
    )
