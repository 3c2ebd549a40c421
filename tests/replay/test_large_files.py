"""What a replay keeps does not grow with its file, and what it says is the same."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Monitor
from kedge_services.local.replay import simulation, spill
from kedge_services.local.replay.cluster import Cluster
from kedge_services.local.replay.exact import Exact
from kedge_services.local.replay.flow import flow_of_file
from kedge_services.local.replay.run import Options, Source, replay
from kedge_services.local.replay.simulation import simulate
from kedge_services.local.replay.spill import Shelf, Sorter
from kedge_services.local.replay.stream import Arrived
from kedge_services.local.replay.thinning import Thinned
from kedge_services.runtime.formats import Predictor
from kedge_services.runtime.settings import Settings

MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "regression",
        "features": {"x": "numeric", "k": "categorical"},
        "label_horizon": "3h",
        "windows": {"pane": "1h", "scales": [1, 2]},
        "replay": {"timestamp": "t", "label": "y", "prediction": "p", "warm_up": 300},
    }
)
MINUTE_MS = 60_000


def write_rows(path: Path, rows: int, *, seed: int = 1, shuffled: bool = False) -> Path:
    chance = random.Random(seed)
    lines = []
    for number in range(rows):
        x = chance.gauss(0, 1)
        at = 1_700_000_000_000 + number * MINUTE_MS
        lines.append(f"{at},{x},{chance.choice('uv')},{x + chance.gauss(0, 0.3)},{x}")
    if shuffled:
        chance.shuffle(lines)
    path.write_text("\n".join(["t,x,k,y,p", *lines]) + "\n")
    return path


def written(data: Path, out: Path, **options: Any) -> dict[str, Any]:
    summary = replay(Source(data), MONITOR, Settings(), Options(**options), out)
    for cost in ("seconds", "rows_per_s", "peak_rss_mb"):
        del summary[cost]
    return {**{file.name: file.read_bytes() for file in out.glob("*.ndjson")}, **summary}


class Watcher:
    """An audience that only looks at how much the broker holds."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def begins(self, first: Predictor | None) -> None:
        assert first is None

    def hears(self, cluster: Cluster, arrived: Arrived) -> None:
        cluster.forget()
        topics = ("predictions", "outcomes", "panes", "windows", "dead-letters", "panes-changelog",
                  "windows-changelog", "alerts-changelog")  # fmt: skip
        self.held.append(sum(len(cluster.broker.records(topic)) for topic in topics))
        del arrived


def test_the_broker_of_a_replay_keeps_nothing_that_all_have_read(tmp_path: Path) -> None:
    data, watcher = write_rows(tmp_path / "rows.csv", 3_000), Watcher()
    flow = flow_of_file(data, MONITOR, tmp_path)
    settings = Settings(artefacts=str(tmp_path))
    run = simulate(flow, MONITOR, settings, watcher, closed_loop=False, partitions=3)
    with run.cluster:
        assert run.rows == 2_700
        assert len(watcher.held) > 40
        # At the end nobody but windows and alerts reads what says that it is the end.
        assert max(watcher.held[:-1]) == 0


def test_pieces_of_a_pane_runs_on_disk_and_order_in_the_file_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sorted_file = write_rows(tmp_path / "rows.csv", 2_000)
    whole = written(sorted_file, tmp_path / "whole")
    control = written(sorted_file, tmp_path / "control", permute=5)
    monkeypatch.setattr(simulation, "PIECE", 7)
    monkeypatch.setattr(spill, "MOST_BYTES", 5_000)
    assert written(sorted_file, tmp_path / "pieces") == whole
    assert written(sorted_file, tmp_path / "control-pieces", permute=5) == control
    jumbled = written(
        write_rows(tmp_path / "jumbled.csv", 2_000, shuffled=True), tmp_path / "jumbled"
    )
    # The ids are those of the file's rows, and nothing else tells the two apart.
    assert jumbled == whole


numbers = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150)


@given(st.lists(st.lists(numbers, max_size=20), min_size=1, max_size=5))
def test_exact_means_and_deviations_are_those_of_the_library(parts: list[list[float]]) -> None:
    """So pieces of a stream are summed up to the last bit like the whole of it."""
    sums = []
    for part in parts:
        sums.append(Exact())
        for value in part:
            sums[-1].add(value)
    whole, values = Exact.of(sums), [value for part in parts for value in part]
    assert whole.n == len(values)
    assert whole.total == math.fsum(values)
    if values:
        assert whole.mean == statistics.fmean(values)
    if len(values) > 1:
        assert whole.deviation == statistics.stdev(values)


def test_what_is_infinite_has_no_deviation() -> None:
    losses = Exact()
    for value in (1.0, math.inf):
        losses.add(value)
    assert losses.mean == math.inf
    assert math.isnan(losses.deviation)


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=30)), max_size=60))
def test_a_sorter_sorts_whatever_goes_to_disk(entries: list[tuple[int, bytes]]) -> None:
    keyed = [((key, number), value) for number, (key, value) in enumerate(entries)]
    found = []
    for most in (1, 700, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spill, "MOST_BYTES", most)
            sorter = Sorter(Path())
            for key, value in keyed:
                sorter.add(key, value)
            found.append(list(sorter.sorted()))
    assert found == [sorted(keyed)] * 3


def test_a_shelf_gives_by_number(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    values = [(i, {"x": i / 3, "k": None}, "text") for i in range(100)]
    for value in values:
        shelf.append(value)
    assert [shelf[i] for i in (99, 0, 50)] == [values[i] for i in (99, 0, 50)]
    assert len(shelf) == 100
    shelf.close()


def windows(ends: int, alarms: set[int], *, kind: str = "drift") -> list[dict[str, Any]]:
    return [
        {"kind": kind, "end_ms": end, "window_id": f"{kind}/{scale}/{end}", "scale": scale,
         "detections": [{}] if end in alarms and scale == 1 else []}
        for end in range(ends)
        for scale in (1, 2)
    ]  # fmt: skip


@given(st.integers(0, 200), st.sets(st.integers(0, 199), max_size=4), st.integers(4, 20))
def test_of_many_panes_some_of_every_stretch_are_drawn_and_alarms_stay(
    ends: int, alarms: set[int], most: int
) -> None:
    """Draw an alarm at 5, room for four ends.

    ::

        ends    0 1 2 3 4 5 6 7 8       stride 1, then 2, then 4
        kept    0   2     5   6 8       (0,1) (2,3) (4,5) (6,7) (8
    """
    thinned = Thinned(most)
    for window in windows(ends, alarms):
        thinned.add(window)
    kept = thinned.windows()
    stood = sorted({window["end_ms"] for window in kept})
    # Of an end all windows stay, or none.
    assert len(kept) == 2 * len(stood)
    assert len(stood) <= most + 2
    if ends <= most:
        assert stood == list(range(ends))
        assert thinned.stride == 1
    stretches = range(0, ends, thinned.stride)
    for start in stretches:
        here = [end for end in stood if start <= end < start + thinned.stride]
        assert len(here) >= 1
        loud = alarms & set(range(start, min(ends, start + thinned.stride)))
        assert not loud or loud & set(here)


def test_kinds_of_windows_are_thinned_each_for_itself() -> None:
    thinned = Thinned(10)
    rare = windows(5, set(), kind="performance")
    for window in sorted(windows(100, set()) + rare, key=lambda w: w["end_ms"]):
        thinned.add(window)
    assert [w for w in thinned.windows() if w["kind"] == "performance"] == rare
