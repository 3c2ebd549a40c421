"""The loop on both brokers: assignment, restore, replay, back-pressure, limits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from kedge.errors import Fenced, Misconfigured, Stop
from kedge_services.runtime import metrics as m
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.dead_letters import dead_letter
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import ManualClock
from kedge_services.runtime.metrics import Metrics
from kedge_services.runtime.ports import (
    Batch,
    Commit,
    Position,
    Produce,
    Record,
    Service,
    TaskContext,
    TopicPartition,
)
from kedge_services.runtime.settings import LoopSettings, Settings

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, Rig

PARTITIONS = 2
TOPICS = {
    "left": PARTITIONS,
    "right": PARTITIONS,
    "sums": PARTITIONS,
    "sum-changelog": PARTITIONS,
    "dead-letters": PARTITIONS,
    "rates": 1,
}


class Rates:
    """A table with one number."""

    topic = "rates"

    def __init__(self) -> None:
        self.rate: int | None = None

    def apply(self, record: Record) -> None:
        self.rate = None if record.value is None else int(record.value)


@dataclass
class Summing:
    """Adds what comes on two topics; remembers everything that happened to it."""

    context: TaskContext
    rates: Rates
    total: int = 0
    events: list[str] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    replay_from: dict[str, int] = field(default_factory=dict)
    replayed: list[int] = field(default_factory=list)
    pause: frozenset[str] = frozenset()
    hold: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    at_end: dict[str, bool] = field(default_factory=dict)
    pending: Commit = field(default_factory=Commit)

    def restore(self, batch: Batch) -> None:
        for key, value in zip(batch.keys, batch.values, strict=True):
            if key == b"total":
                self.total = int(value or 0)
        self.events.append("restore")

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:
        self.positions = dict(positions)
        self.events.append("start")
        return {topic: n for topic, n in self.replay_from.items() if topic in positions}

    def replay(self, batch: Batch) -> None:
        self.replayed += [int(value or 0) for value in batch.values]
        self.events.append("replay")

    def process(self, batch: Batch) -> None:
        self.events.append("process")
        for record in batch.records():
            if record.value == b"refresh":
                self.context.refresh()
                self.pending.outputs.append(
                    Produce("sums", b"rate", str(self.rates.rate).encode(), batch.partition)
                )
            elif record.value == b"raise":
                raise ZeroDivisionError("a handler that raises")
            elif not (record.value or b"").isdigit():
                letter = dead_letter(record, "undecodable", "no number", service="sum")
                self.pending.outputs.append(letter)
            else:
                self.total += int(record.value or 0)
                value = str(self.total).encode()
                self.pending.outputs.append(Produce("sums", b"sum", value, batch.partition))
                self.pending.changelog = [(b"total", value)]

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:
        assert now_ms >= 0
        self.at_end = dict(at_end)

    def paused(self) -> frozenset[str]:
        return self.pause

    def commit(self) -> Commit:
        commit, self.pending = self.pending, Commit()
        commit.offsets, commit.metadata = dict(self.hold), dict(self.metadata)
        return commit

    def committed(self) -> None:
        self.events.append("committed")

    def close(self) -> None:
        self.events.append("close")


class Bench:
    """Loops of one service on a rig, stepped in turn."""

    def __init__(self, rig: Rig, driver: Driver) -> None:
        self.rig, self.driver = rig, driver
        self.loops: list[Loop] = []
        self.tasks: dict[int, list[Summing]] = {}
        self.replay_from: dict[str, int] = {}
        self.rates = Rates()
        self.clock = ManualClock(1_000)
        self.metrics = Metrics("sum")

    def service(self, *, changelog: bool = True, own_ms: int | None = None) -> Service:
        def make(context: TaskContext) -> Summing:
            task = Summing(context, self.rates, replay_from=dict(self.replay_from))
            self.tasks.setdefault(context.partition, []).append(task)
            return task

        return Service(
            "sum", ("left", "right"), (self.rates,), make,
            changelog=changelog, commit_interval_ms=own_ms,
        )  # fmt: skip

    def loop(self, ordinal: int = 0, own_ms: int | None = None, **settings: object) -> Loop:
        settings = {"commit_interval_ms": 10**9, "idle_commit_interval_ms": 10**9, **settings}
        loop = Loop(
            self.service(own_ms=own_ms),
            self.driver.backend,
            Settings(ordinal=ordinal, loop=LoopSettings.model_validate(settings)),
            self.clock,
            self.metrics,
        )
        self.loops.append(loop)
        return loop

    def until(self, condition: Callable[[], object], *loops: Loop) -> None:
        def step() -> object:
            for loop in loops:
                loop.step(0.02)
            return condition()

        self.driver.until(step)

    def started(self, ordinal: int = 0, own_ms: int | None = None, **settings: object) -> Loop:
        """Give a loop that owns everything and has committed its first positions."""
        loop = self.loop(ordinal, own_ms, **settings)
        self.until(lambda: loop.running == list(range(PARTITIONS)), loop)
        assert loop.commit()
        return loop

    def send(self, topic: str, *values: int | bytes, partition: int = 0) -> None:
        raw = [v if isinstance(v, bytes) else str(v).encode() for v in values]
        self.driver.write(topic, *raw, partition=partition)

    def task(self, partition: int = 0) -> Summing:
        return self.tasks[partition][-1]

    def total_is(self, total: int, loop: Loop, partition: int = 0) -> None:
        self.until(lambda: self.task(partition).total == total, loop)


@pytest.fixture
def bench(rig: Rig, driver: Driver) -> Bench:
    rig.create(TOPICS)
    return Bench(rig, driver)


@pytest.fixture(autouse=True)
def closed(bench: Bench) -> object:
    yield
    for loop in bench.loops:
        loop.close()


# ---------------------------------------------------------------------- the round


def test_outputs_changelog_and_offsets_commit_together(bench: Bench) -> None:
    loop = bench.started()
    bench.send("left", 1, 2)
    bench.send("right", 3)
    bench.total_is(6, loop)
    assert bench.driver.values("sums") == []
    assert loop.commit()
    assert bench.driver.values("sums")[-1] == b"6"
    assert bench.driver.values("sum-changelog")[-1] == b"6"
    positions = bench.driver.consumer("sum").committed(
        [TopicPartition("left", 0), TopicPartition("right", 0), TopicPartition("left", 1)]
    )
    assert {place: p.offset for place, p in positions.items()} == {
        ("left", 0): 2, ("right", 0): 1, ("left", 1): 0,
    }  # fmt: skip


def test_nothing_is_committed_when_nothing_changed(bench: Bench) -> None:
    loop = bench.started()
    before = bench.metrics.value(m.COMMITS)
    assert loop.commit()
    assert bench.metrics.value(m.COMMITS) == before == 1
    assert bench.task().events[-1] == "committed"


def test_commits_come_by_time(bench: Bench) -> None:
    loop = bench.started(commit_interval_ms=500)
    bench.send("left", 1)
    bench.total_is(1, loop)
    assert bench.driver.values("sums") == []
    bench.clock.advance(500)
    loop.step()
    assert bench.driver.values("sums") == [b"1"]


@pytest.mark.parametrize("rig", ["memory"], indirect=True)
@pytest.mark.parametrize(("usual_ms", "due_ms"), [(500, 100), (50, 50)])
def test_a_service_of_its_own_interval_commits_by_the_shorter_one(
    bench: Bench, usual_ms: int, due_ms: int
) -> None:
    loop = bench.started(own_ms=100, commit_interval_ms=usual_ms)
    bench.send("left", 1)
    bench.total_is(1, loop)
    bench.clock.advance(due_ms - 1)
    loop.step()
    assert bench.driver.values("sums") == []
    bench.clock.advance(1)
    bench.send("left", 1)
    bench.total_is(2, loop)
    assert bench.driver.values("sums") == [b"1", b"2"]


@pytest.mark.parametrize("rig", ["memory"], indirect=True)
# Records are stamped by the broker's clock, which stands: they age by what passes on ours.
@pytest.mark.parametrize(("age_ms", "due_ms"), [(100, 500), (1_500, 1_499), (60_000, 2_000)])
def test_who_is_behind_commits_after_half_the_age_until_nothing_comes(
    bench: Bench, age_ms: int, due_ms: int
) -> None:
    loop = bench.started(commit_interval_ms=500)
    bench.clock.advance(age_ms)
    loop.commit()
    for after_ms, sums in ((0, []), (due_ms - 1, []), (1, [b"1", b"2", b"3"])):
        bench.clock.advance(after_ms)
        bench.driver.write("left", b"1", partition=0)
        loop.step()
        assert bench.driver.values("sums") == sums
    bench.driver.write("left", b"1", partition=0)
    loop.step()
    bench.clock.advance(500)
    loop.step()
    assert bench.driver.values("sums")[-1] == b"4"


def test_commits_come_by_count(bench: Bench) -> None:
    loop = bench.started(commit_records=3)
    bench.send("left", 1, 1)
    bench.total_is(2, loop)
    assert bench.driver.values("sums") == []
    bench.send("left", 1)
    bench.total_is(3, loop)
    assert bench.driver.values("sums") == [b"1", b"2", b"3"]


def test_a_new_loop_goes_on_where_the_last_one_committed(bench: Bench) -> None:
    first = bench.started()
    bench.send("left", 5)
    bench.total_is(5, first)
    first.commit()
    bench.send("left", 6)
    bench.total_is(11, first)  # and never commits it
    first.close()
    second = bench.loop()
    bench.until(lambda: second.running == [0, 1], second)
    bench.total_is(11, second)
    assert bench.task().events[:3] == ["restore", "start", "process"]
    second.commit()
    assert bench.driver.values("sums") == [b"5", b"11"]


def test_metadata_comes_back_with_the_position(bench: Bench) -> None:
    first = bench.started()
    bench.task().metadata = {"left": json.dumps({"wm": 7})}
    first.commit()
    bench.task().metadata = {}
    bench.send("right", 1)
    bench.total_is(1, first)
    first.commit()
    first.close()
    bench.started()
    assert bench.task().positions["left"] == Position(0, '{"wm": 7}')


def test_an_unfinished_record_is_read_again(bench: Bench) -> None:
    first = bench.started()
    bench.send("left", 1, 2)
    bench.total_is(3, first)
    bench.task().hold = {"left": 1}
    bench.task().pending = Commit()
    first.commit()
    first.close()
    second = bench.loop()
    bench.total_is(2, second)


def test_a_task_that_raises_stops_the_process_and_nothing_is_committed(bench: Bench) -> None:
    loop = bench.started()
    bench.send("left", 1, b"raise")
    with pytest.raises(ZeroDivisionError) as raised:
        loop.run(threading.Event())
    assert raised.value.__notes__ == ["processing left/0 from offset 0"]
    assert bench.driver.values("sums") == []


def test_a_stopped_run_commits_and_leaves(bench: Bench) -> None:
    loop = bench.started()
    bench.send("left", 1)
    bench.total_is(1, loop)
    stop = threading.Event()
    stop.set()
    loop.run(stop)
    assert bench.driver.values("sums") == [b"1"]
    assert bench.task().events[-2:] == ["committed", "close"]


# ------------------------------------------------------------------------- restore


def test_restore_waits_for_what_lies_behind_an_open_transaction(bench: Bench) -> None:
    # sum-changelog:  open … | 5 | marker      A paused former owner has begun, and
    #                 ^ last stable offset     the end of the partition comes before the 5.
    first = bench.started()
    slow = bench.driver.producer("paused-owner")
    slow.begin()
    slow.produce(Produce("sum-changelog", b"noise", b"0", 0))
    consumer = bench.driver.consumer()
    place = TopicPartition("sum-changelog", 0)
    bench.driver.until(lambda: consumer.bounds(place)[1] == 1)
    bench.send("left", 5)
    bench.total_is(5, first)
    first.commit()
    first.close()
    second = bench.loop()
    bench.until(lambda: second.running == [1], second)
    for _ in range(5):
        second.step(0.02)
    assert second.running == [1]
    assert not second.is_ready
    slow.abort()
    bench.until(lambda: second.is_ready, second)
    assert bench.task().total == 5


def test_restore_waits_for_offsets_that_an_open_transaction_holds(bench: Bench) -> None:
    # A former owner has handed in its offsets and sleeps; its changelog record
    # may still be on its way. Who took the changelog's end now would miss it.
    former = bench.driver.member("sum-9", "left", "right", group="sum")
    bench.driver.until(lambda: len(former.held) == 4, former.consumer)
    producer = bench.driver.producer("sum-9")
    producer.begin()
    positions = {place: Position(0) for place in former.held}
    producer.send_offsets(positions, former.consumer.group_metadata())
    loop = bench.loop()
    bench.driver.until(
        lambda: loop.step(0.02) or (bench.tasks and len(former.held) == 2), former.consumer
    )
    for _ in range(3):
        loop.step(0.02)
    assert loop.running == []
    producer.produce(Produce("sum-changelog", b"total", b"5", 0))
    producer.commit()
    bench.until(lambda: loop.running == [0], loop)
    assert bench.task(0).total == 5


def test_committed_records_are_replayed_up_to_exactly_the_committed_offset(bench: Bench) -> None:
    first = bench.started()
    bench.send("left", 1, 2, 3)
    bench.send("left", 4)
    bench.total_is(10, first)
    first.commit()
    bench.send("left", 5)
    first.close()
    bench.replay_from = {"left": 1}
    second = bench.loop()
    bench.total_is(15, second)
    assert bench.task().replayed == [2, 3, 4]
    assert bench.task().events[-2:] == ["replay", "process"]


def test_replay_of_what_was_deleted_stops_and_names_it(bench: Bench) -> None:
    first = bench.started()
    bench.send("left", 1, 2, 3)
    bench.total_is(6, first)
    first.commit()
    first.close()
    bench.rig.delete_before("left", 0, 2)
    bench.replay_from = {"left": 1}
    with pytest.raises(Stop, match="records 1 to 2 of left/0"):
        bench.started()
    bench.loops.pop().close()
    bench.started(accept_loss=True)
    assert bench.task().replayed == [3]
    assert bench.metrics.value(m.LOST, topic="left") == 1


def test_what_was_deleted_unread_stops(bench: Bench) -> None:
    first = bench.started()
    first.close()
    bench.send("left", 1, 2)
    bench.rig.delete_before("left", 0, 1)
    with pytest.raises(Stop, match="records 0 to 1 of left/0"):
        bench.started()


def test_what_was_deleted_unread_is_counted_when_the_loss_is_accepted(bench: Bench) -> None:
    first = bench.started()
    bench.send("left", 1)
    bench.total_is(1, first)
    first.commit()
    first.close()
    bench.send("left", 2, 3, 4)
    bench.rig.delete_before("left", 0, 4)
    loop = bench.started(accept_loss=True)
    bench.total_is(5, loop)
    # Offsets: the marker behind the 1, the 2 and the 3.
    assert bench.metrics.value(m.LOST, topic="left") == 3


def test_restore_reads_a_compacted_changelog_across_its_gaps(bench: Bench) -> None:
    bench.rig.create_compacted("list-changelog")
    bench.rig.create({"list": 1})
    place = TopicPartition("list-changelog", 0)
    for total in (b"1", b"2", b"7"):
        bench.driver.write("list-changelog", total, key=b"total")
    # The end of the changelog lies behind a gap that aborted records have left.
    producer = bench.driver.producer("list-0")
    producer.begin()
    end = bench.driver.sent(producer, Produce("list-changelog", b"total", b"9", 0))
    producer.abort()
    bench.driver.until(lambda: bench.driver.end(place) == end + 1)
    bench.rig.compact("list-changelog")
    member = bench.driver.member("list-0", "list", group="list")
    bench.driver.until(lambda: member.held, member.consumer)
    producer = bench.driver.producer("list-0")
    producer.begin()
    offsets = {TopicPartition("list", 0): Position(0)}
    producer.send_offsets(offsets, member.consumer.group_metadata())
    producer.commit()
    member.consumer.close()
    service = Service("list", ("list",), (), bench.service().make_task)
    loop = Loop(service, bench.driver.backend, Settings(), bench.clock)
    bench.loops.append(loop)
    bench.until(lambda: loop.running == [0], loop)
    assert bench.task().total == 7


def test_state_without_a_committed_offset_stops(bench: Bench) -> None:
    bench.driver.write("sum-changelog", b"5", key=b"total")
    with pytest.raises(Stop, match="no committed offset of left/0"):
        bench.started()


def test_without_state_an_input_is_read_from_its_beginning(bench: Bench) -> None:
    bench.send("left", 1, 2, 3)
    bench.rig.delete_before("left", 0, 1)
    loop = bench.started()
    bench.total_is(5, loop)


# --------------------------------------------------------------------------- groups


def test_a_second_member_takes_over_half_with_its_state(bench: Bench) -> None:
    one = bench.started(0)
    bench.send("left", 1, partition=0)
    bench.send("left", 2, partition=1)
    bench.total_is(1, one, 0)
    bench.total_is(2, one, 1)
    two = bench.loop(1)
    bench.until(lambda: one.running == [0] and two.running == [1], one, two)
    # What the first had not committed yet it committed when it gave the partition up.
    assert bench.task(1).total == 2
    assert bench.task(1).events[0] == "restore"
    bench.send("left", 3, partition=1)
    bench.until(lambda: bench.task(1).total == 5, one, two)
    for loop in (one, two):
        loop.commit()
    assert bench.driver.values("sums", 1) == [b"2", b"5"]


def test_a_process_whose_slot_is_taken_leaves(bench: Bench) -> None:
    old = bench.started(0)
    bench.send("left", 1)
    bench.total_is(1, old)
    new = bench.loop(0)
    bench.until(lambda: new.running == [0, 1] and bench.task().total == 1, new)
    with pytest.raises(Fenced, match="another process"):
        bench.until(lambda: not old.commit(), old)
    new.commit()
    assert bench.driver.values("sums") == [b"1"]


def test_a_topic_with_other_partitions_than_the_settings_say_is_refused(bench: Bench) -> None:
    bench.rig.create({"predictions": 3, "alone-changelog": 3})
    service = Service("alone", ("predictions",), (), bench.service().make_task)
    loop = Loop(service, bench.driver.backend, Settings(), bench.clock)
    with pytest.raises(Misconfigured, match="predictions has 3 partitions, the settings say 8"):
        loop.step()


def test_inputs_with_different_partitions_are_refused(bench: Bench) -> None:
    service = Service("odd", ("left", "rates"), (), bench.service().make_task, changelog=False)
    loop = Loop(service, bench.driver.backend, Settings(), bench.clock)
    with pytest.raises(Misconfigured, match="left 2, rates 1"):
        loop.step()


# ----------------------------------------------------------- pressure, tables, limits


def test_a_paused_input_is_not_read_until_the_task_wants_it(bench: Bench) -> None:
    loop = bench.started()
    bench.task().pause = frozenset({"left"})
    bench.until(lambda: bench.task().at_end == {"left": False, "right": True}, loop)
    bench.send("left", 1)
    bench.send("right", 2)
    bench.total_is(2, loop)
    bench.task().pause = frozenset()
    bench.total_is(3, loop)
    bench.until(lambda: bench.task().at_end == {"left": True, "right": True}, loop)


def test_tables_are_read_before_the_first_task_starts_and_followed(bench: Bench) -> None:
    bench.driver.write("rates", b"7", key=b"k")
    loop = bench.loop()
    bench.until(lambda: bench.tasks, loop)
    assert bench.rates.rate == 7
    bench.driver.write("rates", b"8", key=b"k")
    bench.until(lambda: bench.rates.rate == 8, loop)


def test_refresh_sees_everything_that_was_committed_before_the_record(bench: Bench) -> None:
    loop = bench.started()
    bench.driver.write("rates", b"9", key=b"k")
    bench.send("left", b"refresh")
    bench.until(lambda: bench.task().pending.outputs, loop)
    loop.commit()
    assert bench.driver.values("sums") == [b"9"]


def test_a_bad_record_costs_one_dead_letter(bench: Bench) -> None:
    loop = bench.started()
    bench.send("left", 1, b"what?", 2)
    bench.total_is(3, loop)
    loop.commit()
    assert bench.driver.values("dead-letters") == [b"what?"]
    assert bench.metrics.value(m.DEAD_LETTERS, reason="undecodable") == 1


def test_a_process_that_can_read_nothing_stops_before_it_drains_the_topic(bench: Bench) -> None:
    loop = bench.started(dead_letter_minimum=10)
    bench.send("left", *[b"what?"] * 10)
    bench.until(lambda: "process" in bench.task().events, loop)
    with pytest.raises(Stop, match="10 of the first 10 records"):
        bench.until(lambda: not loop.commit(), loop)
    assert bench.driver.values("dead-letters") == []


@pytest.mark.parametrize("rig", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_the_loop_runs_on_the_wall_clock_in_a_thread_of_its_own(bench: Bench) -> None:
    loop = Loop(bench.service(), bench.driver.backend, Settings(), wall_clock)
    bench.loops.append(loop)
    bench.send("left", 4)
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        bench.driver.until(lambda: bench.driver.values("sums") == [b"4"])
    finally:
        stop.set()
        thread.join()
