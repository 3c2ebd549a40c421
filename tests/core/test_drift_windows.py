"""When drift panes close and what windows are made of: one timeline above each test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kedge import Monitor, Pane, Progress, Reference, Window
from kedge.codec import decode
from kedge.panes import ModelClock, PaneSource
from kedge_services.core.binning import Binner
from kedge_services.core.lookup import Lookup
from kedge_services.core.references import build_reference
from kedge_services.core.windows import Windows

PANE = 1_000
MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": ["a", "b"],
        "features": {"x": "numeric"},
        "windows": {"pane": "1s", "scales": [1, 2], "grace": "0s"},
    }
)
REFERENCE = build_reference(
    model="m", version="1", columns={"x": [i / 100 for i in range(2_000)]}, kinds={"x": "numeric"}
)
SPREAD = [i / 10 for i in range(200)]
SOURCE = PaneSource(topic="predictions", partition=0, from_offset=0, to_offset=0)


@dataclass
class World:
    """Windows with a clock for each source partition; times count from 0."""

    partitions: int = 1
    interval_ms: int = 0
    monitors: dict[int, Monitor] = field(default_factory=lambda: {0: MONITOR})
    reference: Reference = REFERENCE
    now_ms: int = 0
    clocks: dict[int, Progress] = field(default_factory=dict)
    sent: dict[str, list[Window]] = field(default_factory=dict)
    kept: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        look = Lookup(self.monitor, lambda _: self.reference, lambda *_: None)
        self.core = Windows(look, idle_after_ms=30_000, revise_interval_ms=self.interval_ms)

    def monitor(self, _: str, at_ms: int | None) -> Monitor:
        known = [m for since, m in sorted(self.monitors.items()) if at_ms is None or since <= at_ms]
        return known[-1]

    def rows(self, pane: int, values: list[Any], *, version: str = "1", ms: int = PANE) -> None:
        """Send a delta of the pane with this number."""
        counted = Binner(REFERENCE).count({"x": values}, rows=len(values))
        delta = Pane(
            model="m", version=version, reference_id=REFERENCE.reference_id, kind="drift",
            start_ms=pane * ms, end_ms=(pane + 1) * ms, counts=counted.encode(), source=SOURCE,
        )  # fmt: skip
        self.core.add(delta, self.now_ms)

    def progress(self, newest: int | None, *, partition: int = 0, clock: int = 0) -> None:
        """Say how far a source partition has come: its newest event, and its clock."""
        known = self.clocks.get(partition)
        models = dict(known.predictions) if known else {}
        if newest is not None:
            models["m"] = ModelClock(max_ms=newest, seen_ms=clock)
        self.clocks[partition] = made = Progress(
            partition=partition, partitions=self.partitions, sequence=0, offsets={},
            clock_ms={"predictions": clock, "outcomes": clock},
            since_ms={"predictions": 0, "outcomes": 0},
            predictions=models, outcomes={}, fates={},
        )  # fmt: skip
        self.core.progress(made)
        self.take()

    def take(self) -> None:
        self.core.tick(self.now_ms)
        for sent in self.core.take()[0]:
            window = decode(Window, sent.value)
            self.sent.setdefault(window.window_id, []).append(window)

    def windows(self, scale: int = 1, version: str = "1") -> list[Window]:
        """The last revision of every window, by start."""
        found = [revisions[-1] for revisions in self.sent.values()]
        found = [w for w in found if (w.scale, w.version) == (scale, version)]
        return sorted(found, key=lambda w: w.start_ms)

    def starts(self, scale: int = 1) -> list[int]:
        return [w.start_ms // PANE for w in self.windows(scale)]


def restore(before: World, after: World) -> None:
    """Go on from the state that the world before has kept; it must not be used any more."""
    after.kept = before.kept
    for key, value in before.core.changes():
        if value is None:
            after.kept.pop(key, None)
        else:
            after.kept[key] = value
    for key, value in after.kept.items():
        after.core.restore(key, value)
    after.core.start()


def test_windows_are_made_of_whole_panes_since_the_version_began() -> None:
    # pane      0   1   2   3 | 4 (open)
    # scale 1  |-0-|-1-|-2-|-3-|
    # scale 2  |---0---|---2---|
    # and          |---1---|
    world = World()
    for pane in range(5):
        world.rows(pane, [0.0] * 10)
    world.progress(4_500)
    assert world.starts(1) == [0, 1, 2, 3]
    assert world.starts(2) == [0, 1, 2]
    assert [w.n for w in world.windows(2)] == [20, 20, 20]
    assert {w.end_ms - w.start_ms for w in world.windows(2)} == {2 * PANE}


def test_a_pane_closes_when_the_watermark_reaches_its_end_and_not_before() -> None:
    # watermark    999 |1000
    # pane      |0-----|1------
    world = World()
    world.rows(0, [0.0])
    world.progress(999)
    assert world.starts() == []
    world.progress(1_000)
    assert world.starts() == [0]


def test_nothing_closes_before_every_source_partition_has_reported() -> None:
    # source 0  |---0---|---1---|---2---|
    # source 1  silent: not even a first progress
    world = World(partitions=2)
    for pane in range(3):
        world.rows(pane, [0.0])
    world.progress(2_500)
    assert world.starts() == []
    world.progress(2_000, partition=1)
    assert world.starts() == [0, 1]


def test_a_lagging_partition_holds_an_idle_one_does_not() -> None:
    # source 0  rows up to pane 6
    # source 1  rows up to pane 1, then none; its clock goes on by 29.999 s, then 30 s
    world = World(partitions=2)
    for pane in range(7):
        world.rows(pane, [0.0])
    world.progress(6_500)
    world.progress(1_500, partition=1)
    assert world.starts() == [0]
    world.progress(None, partition=1, clock=29_999)
    assert world.starts() == [0]
    world.progress(None, partition=1, clock=30_000)
    assert world.starts() == [0, 1, 2, 3, 4, 5]


def test_a_model_that_goes_quiet_gets_eight_empty_windows_by_the_time_that_passed() -> None:
    # pane      0   1   2 ......... 9 | 10
    # rows      x   x                       watermark 1.5 + 30 panes
    world = World()
    world.rows(0, [0.0])
    world.rows(1, [0.0])
    world.progress(1_500)
    assert world.starts() == [0]
    world.progress(None, clock=30_000)
    assert world.starts() == list(range(10))
    assert [w.n for w in world.windows()] == [1, 1] + [0] * 8
    assert {(w.status, w.is_decided) for w in world.windows()} == {("insufficient", True)}


def test_after_the_silence_windows_go_on_where_the_data_comes_back() -> None:
    # pane   0  1 ....... 8 | 9 ... 19 | 20  21
    # rows   x                           x   x
    world = World()
    for pane in (0, 20, 21):
        world.rows(pane, [0.0])
    world.progress(22_000)
    assert world.starts() == [*range(9), 20, 21]
    # The silence is part of longer windows, not a new beginning.
    assert [w.n for w in world.windows(2) if w.start_ms >= 19 * PANE] == [1, 2]


def test_a_late_delta_revises_the_window_and_decides_nothing_anew() -> None:
    # source 0  rows in panes 0..3
    # source 1  idle, then 150 rows of another world for the closed pane 0
    world = World(partitions=2, interval_ms=5_000, now_ms=100_000)
    for pane in range(4):
        world.rows(pane, SPREAD)
    world.progress(3_500)
    world.progress(None, partition=1, clock=60_000)
    assert [(w.status, w.n) for w in world.windows()] == [("ok", 200)] * 3
    world.rows(0, [500.0] * 150)
    world.progress(None, partition=1, clock=60_001)
    assert [w.revision for w in world.windows()] == [0, 0, 0]
    world.now_ms += 5_000
    world.take()
    first, second, _ = world.windows()
    assert (first.revision, first.n, first.status, first.detections) == (1, 350, "ok", [])
    assert (second.revision, second.n) == (0, 200)
    assert [(w.revision, w.n) for w in world.windows(2)] == [(1, 550), (0, 400)]


def test_rows_for_a_pane_in_which_the_series_had_none_make_an_undecided_window() -> None:
    # version 1  0 . 2      then 100 rows for the closed pane 1
    # version 2  0 1 2
    world = World()
    for pane in range(3):
        world.rows(pane, SPREAD, version="2")
    world.rows(0, SPREAD)
    world.rows(2, SPREAD)
    world.progress(3_000)
    assert world.starts() == [0, 2]
    world.rows(1, [500.0] * 100)
    world.take()
    late = world.windows()[1]
    assert (late.n, late.status, late.detections) == (100, "insufficient", [])


def test_two_versions_are_two_series() -> None:
    world = World()
    for pane in range(3):
        world.rows(pane, [0.0] * 2)
        world.rows(pane, [0.0] * 3, version="2")
    world.progress(2_500)
    assert [w.n for w in world.windows()] == [2, 2]
    assert [w.n for w in world.windows(version="2")] == [3, 3]
    assert len(world.sent) == 6


def test_a_window_never_mixes_panes_of_two_lengths() -> None:
    # from 4 s on panes are 2 s long
    # pane      0   1   2   3  |  4 to 6  |  6 to 8  |  8 is open
    slow = MONITOR.model_copy(
        update={"windows": MONITOR.windows.model_copy(update={"pane": 2 * MONITOR.windows.pane})}
    )
    world = World(monitors={0: MONITOR, 4_000: slow})
    for pane in range(4):
        world.rows(pane, [0.0])
    for pane in (2, 3, 4):
        world.rows(pane, [0.0], ms=2_000)
    world.progress(8_500)
    assert world.starts(1) == [0, 1, 2, 3, 4, 6]
    assert [(w.start_ms, w.end_ms) for w in world.windows(2)] == [
        (0, 2_000), (1_000, 3_000), (2_000, 4_000), (4_000, 8_000),
    ]  # fmt: skip


def test_a_reference_that_nobody_knows_gives_no_verdict() -> None:
    world = World()

    def nothing(_: str) -> Reference | None:
        return None

    look = Lookup(world.monitor, nothing, lambda *_: None)
    world.core = Windows(look, idle_after_ms=30_000, revise_interval_ms=0)
    world.rows(0, SPREAD)
    world.progress(1_000)
    assert [(w.status, w.n) for w in world.windows()] == [("learning", 200)]


def test_without_order_in_the_reference_ten_panes_say_how_much_counts_vary() -> None:
    # pane      0 … 4 | 5 no row | 6 … 10 | 11  12
    # scale 1   learning                  | judged, by the blocks of ten panes with rows
    # scale 2   none                            | 11 and 12
    mixed = build_reference(
        model="m",
        version="1",
        columns={"x": [i * 7_919 % 2_000 / 100 for i in range(2_000)]},
        kinds={"x": "numeric"},
    )
    unordered = mixed.model_copy(update={"is_ordered": False})
    world, again = World(reference=unordered), World(reference=unordered)
    for pane in range(13):
        if pane != 5:
            # Ever another half of the values: by blocks of the reference it would be drift.
            world.rows(pane, SPREAD[:100] if pane % 2 else SPREAD[100:])
            again.rows(pane, SPREAD[:100] if pane % 2 else SPREAD[100:])
        world.progress((pane + 1) * PANE)
        again.progress((pane + 1) * PANE)
        restored = World(reference=unordered)
        restored.clocks, restored.sent = again.clocks, again.sent
        restore(again, restored)
        again = restored
    assert [w.status for w in world.windows(1)] == ["learning"] * 11 + ["ok"] * 2
    assert [w.start_ms // PANE for w in world.windows(2)] == [11]
    assert [w.measures for w in again.windows(1)] == [w.measures for w in world.windows(1)]
    # By the blocks of a reference in order, the same pane alarms.
    ordered = World(reference=mixed)
    ordered.rows(0, SPREAD[:100])
    ordered.progress(PANE)
    assert [w.status for w in ordered.windows(1)] == ["alarm"]
