"""Table A: alarms on streams that do not change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench_stats import data
from bench_stats.data import Floats, Table
from bench_stats.figures import Figure, Result, Target, rate
from bench_stats.kedge_side import judge
from bench_stats.peers import Peer, PeerError, PeerName, job
from bench_stats.scale import Scale, beside

__all__ = ["run"]

KEDGE = "Kedge, any alarm, all scales"
#: Whose answer, which part of it, and what it is called.
ASKED: tuple[tuple[PeerName, str, str], ...] = (
    ("evidently", "default", "Evidently default, any column"),
    ("evidently", "psi", "Evidently PSI .1, any column"),
    ("evidently", "dataset", "Evidently dataset drift (half of the columns)"),
    ("nannyml", "default", "NannyML default (univariate), any column"),
    ("nannyml", "pca", "NannyML PCA reconstruction"),
)
Stream = Callable[[int, int], Table | None]


@dataclass(frozen=True, slots=True)
class Setting:
    """A stream without change; ``stream(seed, rows)`` gives its first rows.

    ``windows`` are those of a seed that Kedge and the peers judge.
    """

    name: str
    reference: int
    size: int
    windows: int
    for_peers: int
    stream: Stream


def run(scale: Scale) -> Result:
    """Judge windows of every setting, for many references."""
    seeds = range(scale.of(20, 3, 1))
    figures: list[Figure] = []
    checked = True
    with beside(scale, "evidently", "nannyml") as peers, ThreadPoolExecutor(2) as pool:
        for setting in _settings(scale):
            hits: dict[str, list[list[bool]]] = {}
            failed: dict[str, str] = {}
            for seed in seeds:
                table = setting.stream(seed, setting.reference + setting.windows * setting.size)
                if table is None:
                    failed = dict.fromkeys([name for *_, name in ASKED] + [KEDGE], "no data")
                    break
                reference, windows = _cut(setting, table)
                few = windows[: setting.for_peers]
                jobs = {
                    name: pool.submit(job, peer, reference, few)
                    for name, peer in peers.items()
                    if isinstance(peer, Peer)
                }
                verdicts = judge(reference, windows)
                hits.setdefault(KEDGE, []).append([v.alarm for v in verdicts if v.tested])
                for name, answered in jobs.items():
                    checked &= _collect(name, answered, hits, failed)
            told = {str(name): peer for name, peer in peers.items() if isinstance(peer, str)}
            for peer_name, _, row in (*ASKED, ("kedge", "", KEDGE)):
                why = told.get(peer_name) or failed.get(row)
                figures.append(
                    Figure(row, setting.name, note=why)
                    if why
                    else rate(row, setting.name, hits.get(row, []))
                )
    return Result(
        "A",
        "False alarms: windows with an alarm, per 1,000, where nothing changes",
        figures,
        targets=[
            Target(KEDGE, name, limit)
            for name, limit in (
                ("iid 5,000/500", 1.0), ("AR(1) .7, 5,000/500", 5.0),
                ("Elec2 shuffled, 5,000/480", 1.0), ("ACS shuffled, 10,000/1,000", 1.0),
            )
        ],
        notes=[
            ("Columns: reference rows/window rows. 50 features: 40 numeric (10 each normal, "
            "lognormal, exponential, uniform), 10 categorical (6 levels, shares k^-1.2)."),
            (f"Seeds {seeds.start}-{seeds.stop - 1}, a reference each; intervals by Wilson on the "
            "number of windows divided by the design effect of the references. Peers judge the "
            "first windows of the same streams."),
            ("Kedge: every pane at whose close a test ran, over the scales 1, 2, 4, 8; an alarm of "
            "any kind (drift or counters) counts; budget so that alpha is 1e-3 for drift."),
            "Evidently's verdicts are those of its own column tests"
            + (", and its public report counts the same columns." if checked else
               "; **its public report counts other columns**."),
        ],
    )  # fmt: skip


def _settings(scale: Scale) -> list[Setting]:
    many, some = scale.of(200, 20, 3), scale.of(60, 10, 2)
    few = scale.of(20, 4, 1)
    made = [
        Setting("iid 5,000/500", 5_000, 500, many, few, _iid),
        Setting("AR(1) .7, 5,000/500", 5_000, 500, many, few, partial(_iid, phi=0.7)),
    ]
    if scale.name == "tiny":
        return made[:1]
    return [
        made[0],
        Setting("iid 5,000/200", 5_000, 200, some, few, _iid),
        Setting("iid 5,000/1,000", 5_000, 1_000, some, few, _iid),
        made[1],
        Setting("Elec2 shuffled, 5,000/480", 5_000, 480, min(many, 83), few, _elec2()),
        Setting("ACS shuffled, 10,000/1,000", 10_000, 1_000, min(many, 100), few, _acs()),
    ]


def _iid(seed: int, rows: int, *, phi: float = 0.0) -> Table:
    return data.made(np.random.default_rng(seed), rows, phi=phi)


def _elec2() -> Stream:
    table = data.elec2()
    return lambda seed, rows: None if table is None else data.shuffled(table, seed).part(0, rows)


def _acs() -> Stream:
    scored = data.acs()
    return lambda seed, rows: (
        None if scored is None else data.shuffled(scored.features, seed).part(0, rows)
    )


def _cut(setting: Setting, table: Table) -> tuple[Table, list[Floats]]:
    rows, size = table.rows[setting.reference :], setting.size
    windows = [rows[at : at + size] for at in range(0, len(rows) - size + 1, size)]
    return table.part(0, setting.reference), windows[: setting.windows]


def _collect(
    name: PeerName,
    answered: Future[dict[str, Any]],
    hits: dict[str, list[list[bool]]],
    failed: dict[str, str],
) -> bool:
    """Add a peer's answer; say whether what it told of itself is as it should be."""
    rows = {part: row for peer, part, row in ASKED if peer == name}
    try:
        answer = answered.result()
    except (PeerError, OSError) as error:
        failed.update(dict.fromkeys(rows.values(), f"FAILED: {error}"))
        return True
    for part, row in rows.items():
        if part == "dataset":
            found = [sum(flags) >= 0.5 * len(flags) for flags in answer["default"]]
        elif part == "pca":
            found = answer.get("pca", [])
        else:
            found = [any(flags) for flags in answer[part]]
        hits.setdefault(row, []).append(found)
    return bool(answer.get("checked", True))
