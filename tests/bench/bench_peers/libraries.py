"""Drift libraries and Kedge on the same windows, in one process each: rows a CPU second.

Kedge counts the rows of a window on the bins of its reference and runs every test of its
four scales; a library compares the window with the reference it is given.  Reading, Kafka
and reports are left out on all sides.
"""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import psutil

from bench_stats.data import Floats, Table, made
from bench_stats.kedge_side import judge
from bench_stats.peers import Peer, job
from kedge_services.local.bench.figures import Run

__all__ = ["LIBRARIES", "ROWS", "kedge_windows", "peer_windows", "windows_of"]

LIBRARIES: tuple[tuple[Literal["evidently", "nannyml"], str], ...] = (
    ("evidently", "Evidently"),
    ("nannyml", "NannyML"),
)
#: Rows of a window, and of the reference.
ROWS, REFERENCE_ROWS = 500, 5_000


def windows_of(seed: int, number: int) -> tuple[Table, list[Floats]]:
    """Make a reference and windows of 50 features."""
    table = made(np.random.default_rng([seed, 7]), REFERENCE_ROWS + number * ROWS)
    parts = np.split(table.rows[REFERENCE_ROWS:], number)
    return table.part(0, REFERENCE_ROWS), list(parts)


def kedge_windows(reference: Table, windows: list[Floats]) -> Run:
    """Let Kedge judge the windows; the reference is built in the time measured, as peers do."""
    wall, cpu = time.perf_counter(), time.process_time()
    verdicts = judge(reference, windows)
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    untested = sum(not verdict.tested for verdict in verdicts)
    problems = (f"{untested} windows were not tested",) if untested else ()
    return Run(len(windows) * ROWS, wall_s, cpu_s, 0.0, problems)


def peer_windows(peer: Peer, reference: Table, windows: list[Floats]) -> Run:
    """Let a peer judge the windows by its default, feature by feature."""
    process = psutil.Process(peer.pid)
    before = process.cpu_times()
    wall = time.perf_counter()
    job(peer, reference, windows, methods=["default"])
    wall_s = time.perf_counter() - wall
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return Run(len(windows) * ROWS, wall_s, cpu_s, 0.0)
