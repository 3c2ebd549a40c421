"""Table B: how long a real change goes unseen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bench_stats import data
from bench_stats.data import DRIFTS, Floats, Table
from bench_stats.figures import Figure, Result, Target, quantile, rate
from bench_stats.kedge_side import judge
from bench_stats.peers import Peer, PeerError, job
from bench_stats.scale import Scale, beside

__all__ = ["run"]

REFERENCE, SIZE, CLEAN = 5_000, 500, 8
MEDIAN, NINTH = "Kedge, median, events", "Kedge, 90th percentile, events"
SEEN = "Kedge, seen in the first window, %"
EVIDENTLY, PSI = "Evidently default, one window, %", "Evidently PSI .1, one window, %"
NANNYML = "NannyML default, one window, %"
ELEC2 = "Elec2, row 17,424"


@dataclass(slots=True)
class _Runs:
    """Of one drift: delays in events, whether the first window was seen, and peers' flags."""

    delays: list[float | None] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    flags: dict[str, list[bool]] = field(default_factory=dict)


def run(scale: Scale) -> Result:
    """Let one of 50 features drift after eight clean panes."""
    seeds = range(1_000, 1_000 + scale.of(40, 4, 1))
    after = scale.of(16, 12, 2)
    names = list(DRIFTS) if scale.has_peers else ["mean +.5 sigma", "nulls, 0 to 5 %"]
    drifts = {name: _Runs() for name in names}
    told: dict[str, str] = {}
    with beside(scale, "evidently", "nannyml") as peers:
        for seed in seeds:
            rng = np.random.default_rng(seed)
            reference = data.made(rng, REFERENCE)
            clean = list(_windows(rng, CLEAN))
            fresh = list(_windows(rng, after))
            firsts = []
            for name, runs in drifts.items():
                place, drift = DRIFTS[name]
                moved = [rows.copy() for rows in fresh]
                for rows in moved:
                    drift(rows, rng)
                firsts.append(moved[0])
                verdicts = judge(reference, [*clean, *moved])[CLEAN:]
                feature = reference.names[place]
                panes = [i for i, verdict in enumerate(verdicts) if feature in verdict.features]
                runs.delays.append((panes[0] + 1) * SIZE if panes else None)
                runs.first.append(bool(panes) and panes[0] == 0)
            for name, peer in peers.items():
                if isinstance(peer, str):
                    told[name] = peer
                    continue
                _ask(name, peer, reference, firsts, drifts, told)
    figures = [figure for name, runs in drifts.items() for figure in _figures(name, runs, told)]
    if scale.has_peers:
        figures.append(_elec2_change())
    targets = [
        Target("mean +.5 sigma", NINTH, 500),
        Target("mean +.25 sigma", MEDIAN, 1_000),
        Target("mean +.25 sigma", NINTH, 1_500),
        Target("scale x1.5", NINTH, 1_000),
        Target("category, 5 points", MEDIAN, 2_000),
        Target("nulls, 0 to 5 %", MEDIAN, 500),
        Target(ELEC2, SEEN, 100, at_least=True),
    ]
    notes = [
        (
            f"Reference {REFERENCE:,}, windows of {SIZE}, one of 50 features drifts after {CLEAN} "
            f"clean panes and stays so; {len(seeds)} runs, seeds {seeds.start}-{seeds.stop - 1}, "
            f"up to {after} panes. A delay counts to the close of the first pane whose alarm names "
            "the feature; medians and percentiles with the order statistics that enclose them (95 "
            "%)."
        ),
        (
            "Peers: share of the runs whose first window after the change is flagged in that "
            "column (their false alarms are in table A). A mean shift of .1 sigma is D = .04, "
            "below Kedge's floor of .05 on purpose."
        ),
        (
            "Elec2: reference the first 9,999 rows, panes of 480; how many of vicprice, vicdemand "
            "and transfer the alarm of the pane names that row 17,424 lies in."
        ),
    ]
    return Result("B", "Delay: events until a change is named", figures, targets, notes)


def _windows(rng: np.random.Generator, count: int) -> Iterator[Floats]:
    for _ in range(count):
        yield data.made(rng, SIZE).rows


def _ask(
    name: str,
    peer: Peer,
    reference: Table,
    firsts: list[Floats],
    drifts: dict[str, _Runs],
    told: dict[str, str],
) -> None:
    try:
        answer = job(peer, reference, firsts)
    except (PeerError, OSError) as error:
        told[name] = f"FAILED: {error}"
        return
    parts = {"default": EVIDENTLY, "psi": PSI} if name == "evidently" else {"default": NANNYML}
    for number, (drift, runs) in enumerate(drifts.items()):
        place = DRIFTS[drift][0]
        for part, column in parts.items():
            runs.flags.setdefault(column, []).append(answer[part][number][place])


def _figures(name: str, runs: _Runs, told: dict[str, str]) -> Iterator[Figure]:
    yield quantile(name, MEDIAN, runs.delays)
    yield quantile(name, NINTH, runs.delays, q=0.9)
    yield rate(name, SEEN, [[one] for one in runs.first], per=100)
    for column, peer in ((EVIDENTLY, "evidently"), (PSI, "evidently"), (NANNYML, "nannyml")):
        if peer in told:
            yield Figure(name, column, note=told[peer])
        else:
            yield rate(name, column, [[one] for one in runs.flags.get(column, [])], per=100)


def _elec2_change() -> Figure:
    table, warm_up, size, change = data.elec2(), 9_999, 480, 17_424
    if table is None:
        return Figure(ELEC2, SEEN, note="no data")
    # Panes begin at multiples of their length from the first row, as in `kedge replay`.
    first = -(-warm_up // size) * size
    windows = [table.rows[at : at + size] for at in range(first, change + 1, size)]
    named = judge(table.part(0, warm_up), windows)[-1].features
    found = len(named & {"vicprice", "vicdemand", "transfer"})
    return Figure(ELEC2, SEEN, found / 3 * 100, n=1, note=f"[{found} of 3 named]")
