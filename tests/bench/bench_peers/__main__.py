"""``make bench-peers``: Kedge and others on the same work, in turn."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench_peers.frameworks import FRAMEWORKS, SHAPE, kedge_side, run_framework
from bench_peers.libraries import LIBRARIES, ROWS, kedge_windows, peer_windows, windows_of
from bench_peers.page import write_part
from bench_stats.peers import Peer, PeerError
from kedge.errors import KedgeError
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.run import local_ground

__all__ = ["Beside", "main"]

_KEDGE_RECORDS = 2_000_000


@dataclass(slots=True)
class Beside:
    """A peer's runs, and Kedge's that were made just before each of them."""

    title: str
    unit: str
    note: str
    peer: list[Run] = field(default_factory=list)
    kedge: dict[str, list[Run]] = field(default_factory=dict)
    failure: str | None = None

    @property
    def problems(self) -> list[str]:
        """Say what is wrong with any result."""
        runs = [*self.peer, *(run for runs in self.kedge.values() for run in runs)]
        told = [problem for run in runs for problem in run.problems]
        return [*([self.failure] if self.failure else []), *dict.fromkeys(told)]

    def ratio(self, which: str, rate: Callable[[Run], float]) -> tuple[float, float, float]:
        """Give the median, the least and the largest ratio of Kedge's rate to the peer's."""
        ratios = [
            rate(ours) / rate(theirs)
            for ours, theirs in zip(self.kedge[which], self.peer, strict=True)
        ]
        return statistics.median(ratios), min(ratios), max(ratios)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all peers; give 1 when one failed or counted wrongly."""
    parser = argparse.ArgumentParser(prog="bench_peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer events, one run")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    runs, share = (1, 0.1) if options.quick else (options.runs, 1.0)
    try:
        found = [
            *_frameworks(runs, share, options.seed),
            *_libraries(runs, share, options.seed),
        ]
    except KedgeError as error:
        _tell(str(error))
        return 1
    if not options.quick:
        write_part(found)
    return int(any(beside.problems for beside in found))


def _frameworks(runs: int, share: float, seed: int) -> list[Beside]:
    found = [Beside(peer.title, "events", peer.note) for peer in FRAMEWORKS]
    records = int(_KEDGE_RECORDS * share) // SHAPE.models * SHAPE.models
    with (
        local_ground() as ground,
        kedge_side(ground, records, features=1, seed=seed) as one,
        kedge_side(ground, records, features=SHAPE.features, seed=seed) as all_of_them,
    ):
        sides = {"one feature": one, "ten features": all_of_them}
        for number in range(runs):
            ours = {which: side.measure() for which, side in sides.items()}
            for which, run in ours.items():
                _say(f"Kedge, {which}", run, "events", number)
            for framework, beside in zip(FRAMEWORKS, found, strict=True):
                if beside.failure:
                    continue
                try:
                    run = run_framework(ground, framework, seed=seed, share=share)
                except PeerError as error:
                    beside.failure = str(error)
                    _tell(beside.failure)
                    continue
                beside.peer.append(run)
                for which, mine in ours.items():
                    beside.kedge.setdefault(which, []).append(mine)
                _say(framework.title, run, "events", number)
    return found


def _libraries(runs: int, share: float, seed: int) -> list[Beside]:
    reference, windows = windows_of(seed, max(4, int(40 * share)))
    note = f"windows of {ROWS} rows, 50 features, default tests"
    found = [Beside(title, "rows", note) for _, title in LIBRARIES]
    for (name, title), beside in zip(LIBRARIES, found, strict=True):
        try:
            with Peer(name, niceness=0) as peer:
                peer_windows(peer, reference, windows[:1])  # imports are not measured
                for number in range(runs):
                    mine = kedge_windows(reference, windows)
                    theirs = peer_windows(peer, reference, windows)
                    beside.kedge.setdefault("50 features, four scales", []).append(mine)
                    beside.peer.append(theirs)
                    _say("Kedge, windows of 50 features", mine, "rows", number)
                    _say(title, theirs, "rows", number)
        except PeerError as error:
            beside.failure = str(error)
            _tell(beside.failure)
    return found


def _say(who: str, run: Run, unit: str, number: int) -> None:
    wrong = f"; WRONG: {', '.join(run.problems)}" if run.problems else ""
    _tell(
        f"{who}, run {number + 1}: {run.rate_wall:,.0f} {unit}/s, "
        f"{run.rate_per_cpu_s:,.0f} {unit}/CPU-s{wrong}"
    )


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
