"""The windows task, driven with panes and progress as ``panes`` would send them."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import Monitor, Pane, Progress, Reference, Window
from kedge.codec import decode, encode
from kedge.panes import ModelClock, PaneSource
from kedge_services.core.binning import Binner
from kedge_services.core.deltas import (
    Delta,
    DriftDelta,
    LabelsDelta,
    LearningDelta,
    PerformanceDelta,
)
from kedge_services.core.references import build_reference
from kedge_services.core.sketches import FIXED_POINT
from kedge_services.runtime.ports import Batch, Produce, TaskContext
from kedge_services.runtime.settings import Settings
from kedge_services.windows.service import make

PANE = 1_000
T0 = 1_700_000_000_000
HORIZON = 4 * PANE
Names = list[str]


def monitor(**changes: Any) -> Monitor:
    return Monitor.model_validate(
        {
            "model": "m",
            "task": "binary",
            "classes": ["a", "b"],
            "features": {"x": "numeric", "c": "categorical"},
            "label_horizon": "4s",
            "windows": {"pane": "1s", "scales": [1, 2], "grace": "0s"},
            "drift": {"false_alarms": "1 per 1000 windows"},
            **changes,
        }
    )


@dataclass(frozen=True)
class Row:
    """A prediction and its label."""

    time: int
    x: float | None
    c: str
    predicted: str
    label: str
    label_time: int
    version: str = "1"


def rows(
    seed: int,
    panes: int,
    per_pane: int,
    delay: int = 300,
    shift_from: int = 10**9,
    error_from: int = 10**9,
) -> list[Row]:
    """Rows of consecutive panes; the last two panes let the watermark pass the others."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(panes * per_pane):
        pane = i // per_pane
        time = T0 + pane * PANE + (i % per_pane) * PANE // per_pane
        x = float(rng.normal(5.0 if pane >= shift_from else 0.0, 1))
        wrong = rng.random() < (0.6 if pane >= error_from else 0.1)
        label = "ab"[int(rng.integers(2))]
        predicted = ("b" if label == "a" else "a") if wrong else label
        made.append(Row(time, x, "pqr"[int(rng.integers(3))], predicted, label, time + delay))
    return made


def reference(version: str = "1", losses: int = 2_000) -> Reference:
    sample = rows(99, 4, 500)
    return build_reference(
        model="m",
        version=version,
        columns={"x": [r.x for r in sample], "c": [r.c for r in sample]},
        kinds={"x": "numeric", "c": "categorical"},
        predictions=[r.predicted for r in sample],
        labels=[r.label for r in sample],
        losses=[float(i % 10 == 0) for i in range(losses)],
    )


REFERENCE = reference()


@dataclass
class SourcePartition:
    """What one partition of panes folds and sends: deltas, then progress, at every commit."""

    partition: int
    partitions: int
    reference: Reference | None
    watched: Monitor = field(default_factory=monitor)
    clock: int = T0
    deltas: dict[tuple[Any, ...], Delta] = field(default_factory=dict)
    predictions: dict[str, ModelClock] = field(default_factory=dict)
    outcomes: dict[str, ModelClock] = field(default_factory=dict)
    sequence: int = 0

    def delta(self, kind: str, row: Row, start: int, length: int, reference_id: str) -> Any:
        made = {
            "drift": DriftDelta, "performance": PerformanceDelta, "labels": LabelsDelta,
            "learning": LearningDelta,
        }[kind]  # fmt: skip
        key = (kind, row.version, reference_id, start - start % length, length)
        return self.deltas.setdefault(key, made())

    def predicted(self, row: Row, at: int | None = None) -> None:
        pane, performance = self.watched.pane_ms, self.watched.performance_pane_ms
        if self.reference is None:
            delta = self.delta("learning", row, row.time, pane, "")
            output = {"label": row.predicted}
            key = hash((row.time, row.x, row.c)) & (2**63 - 1)
            delta.add(LearningDelta(1, {key: [{"x": row.x, "c": row.c}, output]}))
        else:
            delta = self.delta("drift", row, row.time, pane, self.reference.reference_id)
            columns: dict[str, list[Any]] = {"x": [row.x], "c": [row.c]}
            binner = BINNERS.setdefault(self.reference.reference_id, Binner(self.reference))
            delta.add(binner.count(columns, rows=1, predictions=[row.predicted]))
        name = "" if self.reference is None else self.reference.reference_id
        self.delta("performance", row, row.time, performance, name).predicted += 1
        self.seen(self.predictions, row.time, at if at is not None else row.time)

    def labelled(self, row: Row) -> None:
        name = "" if self.reference is None else self.reference.reference_id
        delta = self.delta("performance", row, row.time, self.watched.performance_pane_ms, name)
        one = PerformanceDelta(labelled=1, served=1, confusion={row.label: {row.predicted: 1}})
        delta.add(one)
        cell = self.delta("labels", row, max(row.time, row.label_time), self.watched.cell_ms, name)
        cell.add(LabelsDelta(1, FIXED_POINT * (row.label != row.predicted)))
        self.seen(self.outcomes, row.label_time, row.label_time)

    def seen(self, clocks: dict[str, ModelClock], time: int, clock: int) -> None:
        self.clock = max(self.clock, clock)
        known = clocks.get("m")
        newest = time if known is None else max(known.max_ms, time)
        clocks["m"] = ModelClock(max_ms=newest, seen_ms=self.clock)

    def commit(self, clock: int | None = None) -> list[bytes]:
        self.clock = self.clock if clock is None else clock
        source = PaneSource(topic="predictions", partition=0, from_offset=0, to_offset=0)
        sent = [
            encode(
                Pane(
                    model="m", version=version, reference_id=reference_id, kind=kind,
                    start_ms=start, end_ms=start + length, counts=delta.encode(), source=source,
                )
            )
            for (kind, version, reference_id, start, length), delta in self.deltas.items()
        ]  # fmt: skip
        self.deltas.clear()
        self.sequence += 1
        topics = {"predictions": self.clock, "outcomes": self.clock}
        progress = Progress(
            partition=self.partition,
            partitions=self.partitions,
            sequence=self.sequence,
            offsets={},
            clock_ms=topics,
            since_ms={"predictions": T0, "outcomes": T0},
            predictions=dict(self.predictions),
            outcomes=dict(self.outcomes),
            fates={"predictions": {"counted": 1}},
        )
        return [*sent, encode(progress)]


BINNERS: dict[str, Binner] = {}


def stream(
    events: Sequence[Row],
    *,
    partitions: int = 1,
    commits: Callable[[int], bool] = lambda i: i % 40 == 0,
    held_to: Reference | None = REFERENCE,
    watched: Monitor | None = None,
    labels: bool = True,
) -> list[bytes]:
    """What panes sends for these rows: every source partition commits where ``commits`` says."""
    sources = [
        SourcePartition(p, partitions, held_to, watched or monitor()) for p in range(partitions)
    ]
    order: list[tuple[int, int, str, Row]] = []
    for i, row in enumerate(events):
        order.append((row.time, i, "predicted", row))
        if labels:
            order.append((row.label_time, i, "labelled", row))
    order.sort(key=lambda event: event[:3])
    sent: list[bytes] = [record for source in sources for record in source.commit()]
    for k, (_, i, what, row) in enumerate(order):
        source = sources[i % partitions]
        getattr(source, what)(row)
        if commits(k):
            sent += source.commit()
    return sent + [record for source in sources for record in source.commit()]


@dataclass
class Run:
    """The task with its changelog, its clock and what it has sent."""

    watched: Monitor = field(default_factory=monitor)
    references: Sequence[Reference] = (REFERENCE,)
    interval_ms: int = 0
    now_ms: int = 0
    changelog: dict[bytes, bytes | None] = field(default_factory=dict)
    outputs: list[Produce] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Lose everything but the changelog, as after a kill."""
        service = make(Settings(time={"revise_interval_ms": self.interval_ms}))
        monitors, references = service.tables
        monitors.apply(record("monitors", b"m", encode(self.watched)))
        for known in self.references:
            key = f"m/{known.reference_id}".encode()
            references.apply(record("references", key, encode(known)))
        context = TaskContext(
            partition=0,
            clock=lambda: self.now_ms,
            refresh=lambda: self.publish(references),
            partitions=lambda _: 1,
        )
        self.table = references
        self.publish(references)
        self.task = service.make_task(context)
        if self.changelog:
            self.task.restore(batch(list(self.changelog.items()), "windows-changelog"))
        self.task.start({})

    def publish(self, references: Any) -> None:
        for output in self.outputs:
            if output.topic == "references":
                references.apply(record("references", output.key, output.value))

    def feed(self, values: Iterable[bytes]) -> None:
        self.task.process(batch([(b"m", value) for value in values]))
        self.task.tick(self.now_ms, {"panes": True})

    def commit(self) -> list[Window]:
        commit = self.task.commit()
        for key, value in commit.changelog:
            if value is None:
                assert self.changelog.pop(key, None) is not None, "deleted what was never stored"
            else:
                self.changelog[key] = value
        self.outputs += commit.outputs
        self.task.committed()
        return [decode(Window, o.value or b"") for o in commit.outputs if o.topic == "windows"]

    def run(self, values: Iterable[bytes]) -> list[Window]:
        self.feed(values)
        self.commit()
        return self.windows()

    def windows(self, **wanted: Any) -> list[Window]:
        """All windows sent so far, the highest revision of each, in the order of their end."""
        newest: dict[str, Window] = {}
        for output in self.outputs:
            if output.topic == "windows":
                window = decode(Window, output.value or b"")
                known = newest.get(window.window_id)
                assert window.revision == (0 if known is None else known.revision + 1)
                newest[window.window_id] = window
        found = [w for w in newest.values() if all(getattr(w, k) == v for k, v in wanted.items())]
        return sorted(found, key=lambda w: (w.end_ms, w.window_id))


def record(topic: str, key: bytes | None, value: bytes | None) -> Any:
    from kedge_services.runtime.ports import Record

    return Record(topic, 0, 0, 0, key, value, ())


def batch(pairs: Sequence[tuple[bytes, bytes | None]], topic: str = "panes") -> Batch:
    n = len(pairs)
    return Batch(
        topic, 0, range(n), [0] * n, [k for k, _ in pairs], [v for _, v in pairs], [()] * n
    )


def final(windows: Iterable[Window]) -> dict[str, Any]:
    """Final windows without what depends on when they were sent."""
    return {
        w.window_id: w.model_dump(exclude={"revision", "labelled_total"})
        for w in windows
        if w.is_final
    }


def starts(windows: Iterable[Window]) -> list[int]:
    return [(w.start_ms - T0) // PANE for w in windows]


# ------------------------------------------------------------------- the heart


STEADY = rows(1, 9, 40, delay=700)
EXPECTED = final(Run().run(stream(STEADY)))


def test_the_expected_windows_are_there() -> None:
    kinds: dict[str, int] = defaultdict(int)
    for window in EXPECTED.values():
        kinds[f"{window['kind']}/{window['scale']}"] += 1
    # Nine panes; the ninth has not closed; a horizon is four panes.
    assert kinds["drift/1"] == 8
    assert kinds["drift/2"] == 7
    assert kinds["performance/1"] == 5
    assert kinds["performance/2"] == 4
    assert kinds["labels/1"] == 8


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 2, 3, 8]), st.integers(0, 2**32), st.floats(0.005, 0.5))
def test_final_windows_do_not_depend_on_partitions_commits_and_order(
    partitions: int, seed: int, rate: float
) -> None:
    rng = random.Random(seed)
    values = stream(STEADY, partitions=partitions, commits=lambda _: rng.random() < rate)
    # Partitions come in any order relative to each other, each in its own.
    if partitions > 1:
        values = interleaved(values, rng)
    found = final(Run().run(values))
    # With more partitions the last label of some partition may be further back.
    missing = {w for w in EXPECTED if w not in found}
    assert all(EXPECTED[w]["end_ms"] >= T0 + 7 * PANE - HORIZON for w in missing)
    assert {w: found[w] for w in EXPECTED if w in found} == {
        w: EXPECTED[w] for w in EXPECTED if w in found
    }


def interleaved(values: Sequence[bytes], rng: random.Random) -> list[bytes]:
    """Shuffle the commits of different partitions, keeping each partition's own order."""
    queues: dict[int, list[list[bytes]]] = defaultdict(list)
    transaction: list[bytes] = []
    for value in values:
        transaction.append(value)
        data = json.loads(value)
        if data["type"] == "progress":
            queues[data["partition"]].append(transaction)
            transaction = []
    mixed: list[bytes] = []
    while queues:
        partition = rng.choice(sorted(queues))
        mixed += queues[partition].pop(0)
        if not queues[partition]:
            del queues[partition]
    return mixed


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=6), st.integers(1, 9))
def test_a_kill_at_any_commit_changes_no_final_window(
    crashes: list[int], records_per_commit: int
) -> None:
    values = stream(STEADY, partitions=2)
    run, position = Run(), 0
    commits = 0
    while position < len(values):
        part = values[position : position + records_per_commit * 3]
        run.feed(part)
        if commits in crashes:
            # Nothing of this transaction was committed: the records come again.
            crashes = [c for c in crashes if c != commits]
            run.restart()
            continue
        run.commit()
        commits += 1
        position += len(part)
    whole = Run().run(values)
    assert final(run.windows()) == final(whole)
    assert {w.window_id for w in run.windows()} == {w.window_id for w in whole}


def test_the_state_after_a_restart_is_the_state_before() -> None:
    values = stream(STEADY, partitions=2)
    run = Run()
    run.run(values[: len(values) // 2])
    before = dict(run.changelog)
    run.restart()
    assert run.commit() == []
    assert run.changelog == before


# ------------------------------------------------------------------- verdicts


def test_a_stationary_stream_does_not_alarm_and_a_shifted_one_does_at_once() -> None:
    panes, features = 200, [f"f{i}" for i in range(10)]
    watched = monitor(
        features=dict.fromkeys(features, "numeric"),
        windows={"pane": "1s", "scales": [1, 2, 4, 8], "grace": "0s"},
    )
    rng = np.random.default_rng(7)

    def columns(n: int, shift: float = 0.0) -> dict[str, Any]:
        made = {name: rng.normal(0, 1, n) for name in features}
        made["f3"] += shift
        return made

    held_to = build_reference(
        model="m", version="1", columns=columns(5_000), kinds=dict.fromkeys(features, "numeric")
    )
    run, binner = Run(watched, (held_to,)), Binner(held_to)
    source = SourcePartition(0, 1, held_to, watched)
    for pane in range(panes + 3):
        start = T0 + pane * PANE
        shift = 5.0 if pane == panes else 0.0
        key = ("drift", "1", held_to.reference_id, start, PANE)
        source.deltas[key] = binner.count(columns(500, shift), rows=500)
        source.seen(source.predictions, start + 900, start + 900)
        run.feed(source.commit())
        run.commit()
    windows = run.windows(kind="drift")
    alarms = [w for w in windows if w.detections]
    assert len([w for w in windows if w.end_ms <= T0 + panes * PANE]) > 4 * 190
    assert min(w.end_ms for w in alarms) == T0 + (panes + 1) * PANE
    first = next(w for w in alarms if w.scale == 1)
    assert {d.feature for d in first.detections} == {"f3"}
    assert {d.kind for d in first.detections} == {"data-drift", "integrity"}
    assert first.status == "alarm"


def test_a_rise_of_the_error_rate_is_found_in_the_labels_windows() -> None:
    # error rate .1 up to pane 14, .6 from pane 15 on
    run = Run()
    run.run(stream(rows(8, 24, 100, delay=1_500, error_from=15), commits=lambda i: i % 200 == 0))
    labels = run.windows(kind="labels")
    alarms = [w for w in labels if w.detections]
    first = (alarms[0].start_ms - T0) // PANE
    # The labels of pane 15 come in panes 16 and 17.
    assert first in {16, 17}
    [detection] = alarms[0].detections
    assert (detection.kind, detection.detector) == ("error-rate", "e_sr")
    # It is told once; then the detector is paused for eight panes, without a verdict.
    assert len(alarms) == 1
    later = [w.status for w in labels if w.start_ms > alarms[0].start_ms]
    assert set(later) == {"insufficient"}
    assert {w.status for w in labels if w.start_ms < alarms[0].start_ms} == {"ok"}


def test_without_a_loss_reference_the_first_thousand_labels_are_it() -> None:
    held_to = reference(losses=500)
    run = Run(references=(held_to,))
    run.run(stream(rows(9, 14, 150, delay=100), held_to=held_to, commits=lambda i: i % 100 == 0))
    states = [w.status for w in run.windows(kind="labels")]
    assert states[:6] == ["learning"] * 6
    assert set(states[8:]) == {"ok"}


def test_accuracy_is_revised_as_labels_come_and_final_at_the_horizon() -> None:
    # predictions  |0   |1   |2   |3   |4   |5   |6   |
    # labels            2.5 panes later
    run = Run()
    events = rows(10, 9, 120, delay=2_500)
    seen: list[Window] = []
    for part in chunks(stream(events, commits=lambda i: i % 60 == 0), 4):
        run.feed(part)
        seen += run.commit()
    first = [w for w in seen if w.kind == "performance" and w.scale == 1 and w.start_ms == T0]
    assert [w.revision for w in first] == list(range(len(first)))
    assert first[0].label_coverage == 0
    assert not first[0].is_decided
    coverages = [w.label_coverage or 0 for w in first]
    assert coverages == sorted(coverages)
    assert any(0 < c < 0.95 for c in coverages)
    decided = next(w for w in first if w.is_decided)
    assert (decided.label_coverage or 0) >= 0.95
    assert not decided.is_final
    last = first[-1]
    assert last.is_final
    in_pane = [r for r in events if r.time < T0 + PANE]
    right = sum(r.label == r.predicted for r in in_pane)
    [accuracy] = [m for m in last.measures if m.name == "accuracy"]
    assert accuracy.value == right / len(in_pane)
    assert last.labelled_total > last.labelled == 120


def test_a_window_that_never_gets_its_labels_is_final_without_a_verdict() -> None:
    run = Run()
    source = SourcePartition(0, 1, REFERENCE)
    events = rows(11, 12, 120, delay=100)
    for i, row in enumerate(events):
        source.predicted(row)
        if row.time >= T0 + 2 * PANE or i % 3 == 0:
            source.labelled(row)
    run.run(source.commit())
    first, _, third, *_ = run.windows(kind="performance", scale=1)
    assert (first.is_final, first.is_decided, first.status) == (True, True, "insufficient")
    assert first.label_coverage == pytest.approx(1 / 3)
    assert (third.is_final, third.status) == (True, "ok")


def test_windows_of_a_model_that_never_has_an_outcome_are_final_some_day() -> None:
    # clock      pane 2 ---- 29 s ---- 30 s: time passes as if an outcome had come at pane 0
    run = Run()
    source = SourcePartition(0, 1, REFERENCE)
    for row in rows(20, 3, 20):
        source.predicted(row)
    run.run(source.commit())
    since = source.clock
    run.run(source.commit(clock=since + 29_999))
    assert {w.is_final for w in run.windows(kind="performance")} == {False}
    run.run(source.commit(clock=since + 30_000))
    windows = run.windows(kind="performance", scale=1)
    assert starts(windows) == [0, 1, 2]
    assert {(w.is_final, w.status, w.label_coverage) for w in windows} == {
        (True, "insufficient", 0.0)
    }


def test_performance_windows_of_two_panes_are_sent_when_both_are_decided() -> None:
    run = Run()
    seen: list[Window] = []
    for part in chunks(stream(rows(12, 9, 120, delay=1_200), commits=lambda i: i % 60 == 0), 4):
        run.feed(part)
        seen += run.commit()
    longer = [w for w in seen if w.kind == "performance" and w.scale == 2]
    assert all(w.is_decided for w in longer)
    by_id: Mapping[str, list[Window]] = defaultdict(list)
    for window in longer:
        by_id[window.window_id].append(window)
    assert {len(revisions) for revisions in by_id.values()} <= {1, 2}
    assert all(w.n == 240 for w in longer if w.is_final)


def test_a_label_that_comes_after_the_end_is_counted_in_windows_of_any_length() -> None:
    run = Run()
    run.run(stream(rows(13, 12, 120, delay=10)))
    wanted = {"kind": "performance", "is_final": True}
    before = {w.window_id: w.labelled for w in run.windows(**wanted) if w.start_ms == T0}
    assert {w.scale for w in run.windows(**wanted) if w.start_ms == T0} == {1, 2}
    source = SourcePartition(0, 1, REFERENCE)
    key = ("performance", "1", REFERENCE.reference_id, T0, PANE)
    source.deltas[key] = PerformanceDelta(labelled=1, confusion={"a": {"a": 1}})
    run.run(source.commit())
    after = {w.window_id: w.labelled for w in run.windows(**wanted) if w.start_ms == T0}
    assert after == {name: labelled + 1 for name, labelled in before.items()}


def test_a_corrected_label_moves_between_cells_of_the_confusion_matrix() -> None:
    run = Run()
    source = SourcePartition(0, 1, REFERENCE)
    for row in rows(13, 3, 120, delay=10):
        source.predicted(row)
        source.labelled(row)
    run.run(source.commit())
    [before] = [w for w in run.windows(kind="performance", scale=1) if w.start_ms == T0]
    key = ("performance", "1", REFERENCE.reference_id, T0, PANE)
    source.deltas[key] = PerformanceDelta(confusion={"a": {"a": -1}, "b": {"a": 1}})
    run.run(source.commit())
    [after] = [w for w in run.windows(kind="performance", scale=1) if w.start_ms == T0]
    accuracy = [m.value for w in (before, after) for m in w.measures if m.name == "accuracy"]
    assert accuracy[0] is not None
    assert accuracy[1] == pytest.approx(accuracy[0] - 1 / 120)
    assert after.labelled == before.labelled == 120


def test_revisions_of_a_window_are_throttled_by_processing_time() -> None:
    run = Run(interval_ms=5_000, now_ms=1_000_000)
    source = SourcePartition(0, 1, REFERENCE)
    events = rows(14, 3, 120, delay=10)
    for row in events:
        source.predicted(row)
    run.run(source.commit())
    revisions = []
    for row in events[:40]:
        source.labelled(row)
        run.now_ms += 500
        run.run(source.commit())
        [window] = [w for w in run.windows(kind="performance", scale=1) if w.start_ms == T0]
        revisions.append(window.revision)
    assert revisions[-1] == 4
    assert window.labelled == 40


def test_label_drift_is_a_detection_of_the_decided_window() -> None:
    run = Run()
    events = [
        Row(r.time, r.x, r.c, "a", "a" if i % 10 else "b", r.label_time)
        for i, r in enumerate(rows(15, 8, 300, delay=10))
    ]
    run.run(stream(events, commits=lambda i: i % 300 == 0))
    window = run.windows(kind="performance", scale=1)[0]
    assert [d.kind for d in window.detections] == ["label-drift"]
    assert window.status == "alarm"


# ------------------------------------------------------------------- learning


def test_a_version_nobody_registered_learns_its_reference_from_its_first_rows() -> None:
    # panes of 400 rows: bins when pane 4 closes, in pane 5 (2,000 rows); in effect two panes
    # later, from pane 7; 8 panes are counted on them, and from pane 15 on there are verdicts.
    run = Run(references=())
    events = rows(16, 23, 400, shift_from=20)
    source = SourcePartition(0, 1, None)
    learnt: list[Reference] = []
    for pane in range(23):
        for row in events[pane * 400 : (pane + 1) * 400]:
            source.reference = None
            if learnt and row.time >= learnt[0].effective_ms:
                source.reference = learnt[0]
            source.predicted(row)
        run.run(source.commit())
        sent = [o.value or b"" for o in run.outputs if o.topic == "references"]
        learnt = [decode(Reference, value) for value in sent]
    bins, counted = learnt
    assert (bins.rows, counted.rows) == (0, 8 * 400)
    assert bins.reference_id == counted.reference_id
    assert bins.effective_ms == T0 + 7 * PANE
    assert sum(counted.features["x"].counts) == 8 * 400
    windows = run.windows(kind="drift", scale=1)
    states = [w.status for w in windows]
    assert states == ["learning"] * 15 + ["ok"] * 5 + ["alarm"] * 2
    assert starts(run.windows(kind="drift", scale=2))[0] == 15
    before = len(run.changelog)
    run.restart()
    run.commit()
    assert len(run.changelog) == before
    assert not [key for key in run.changelog if b'"sample"' in key]


# ------------------------------------------------------------------ keeping house


def test_state_is_deleted_when_no_window_can_need_it() -> None:
    run = Run()
    sizes = []
    source = SourcePartition(0, 1, REFERENCE)
    for pane in range(80):
        for row in rows(pane, 1, 10):
            moved = Row(row.time + pane * PANE, row.x, row.c, "a", "a", 0)
            moved = Row(moved.time, moved.x, moved.c, "a", "a", moved.time)
            source.predicted(moved)
            source.labelled(moved)
        run.run(source.commit())
        sizes.append(len(run.changelog))
    assert sizes[79] == sizes[50]
    assert sizes[79] < 250


def test_only_what_changed_goes_to_the_changelog() -> None:
    run = Run()
    source = SourcePartition(0, 1, REFERENCE)
    for row in rows(17, 6, 20):
        source.predicted(row)
    run.run(source.commit())
    source.predicted(Row(T0 + 5 * PANE + 990, 0.0, "p", "a", "a", 0))
    run.feed(source.commit())
    keys = {json.loads(key)[0] for key, _ in run.task.commit().changelog}
    assert keys == {"drift-pane", "performance-pane", "source", "watermarks"}


def test_a_record_that_is_no_pane_is_a_dead_letter_and_harms_no_other() -> None:
    run = Run()
    values = stream(rows(18, 4, 20), labels=False)
    values[3:3] = [b"\xff", b"{}", b'{"type": "progress"}', b""]
    run.run(values)
    letters = [o for o in run.outputs if o.topic == "dead-letters"]
    assert [o.value for o in letters] == [b"\xff", b"{}", b'{"type": "progress"}', b""]
    reasons = [dict(o.headers)["kedge-reason"] for o in letters]
    assert reasons == [b"undecodable", b"missing-field", b"missing-field", b"undecodable"]
    assert starts(run.windows(kind="drift", scale=1)) == [0, 1, 2]


def test_deltas_of_a_model_without_monitor_are_held() -> None:
    run = Run(watched=monitor(model="other"))
    assert run.run(stream(rows(19, 4, 20))) == []


def chunks(values: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
