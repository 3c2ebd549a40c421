"""The trainer's task: nothing starts before it is committed, every request gets one answer."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from kedge import Candidate, Example, Monitor, RetrainRequest
from kedge.codec import decode, encode
from kedge.events import RetrainBudget, RetrainCause
from kedge.topics import CHANGELOGS, TOPICS, model_partition, request_partition
from kedge.versions import FeatureColumn, Lineage, ModelVersion
from kedge_services.core.selection import digest
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import load_predictor
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.ports import Batch, Commit, Position, TaskContext
from kedge_services.runtime.settings import Settings
from kedge_services.trainer import work
from kedge_services.trainer.decoding import ExampleDecoder
from kedge_services.trainer.examples import Examples
from kedge_services.trainer.job import Result
from kedge_services.trainer.jobs import Inline, Subprocess
from kedge_services.trainer.plan import Plan, seed_of
from kedge_services.trainer.service import trainer
from kedge_services.trainer.task import TOPIC, TrainerTask
from kedge_services.trainer.training import shape_of

MONITOR = Monitor(
    model="m",
    task="binary",
    classes=["no", "yes"],
    features={"a": "numeric", "b": "numeric"},
)


def asked(name: str = "r1", **more: Any) -> RetrainRequest:
    cause = RetrainCause(kind="alert", alert_ids=["a1"])
    return RetrainRequest(request_id=name, model="m", cause=cause, event_time_ms=1, **more)


# ------------------------------------------------------------ the task, driven by hand


@dataclass
class ScriptedJob:
    """A training whose result is set by the test."""

    plan: Plan
    result: Result | None = None
    is_closed: bool = False

    def poll(self) -> Result | None:
        return self.result

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Slot:
    """What a loop has of a task's partition: offset, changelog, outputs; all survive a crash."""

    requests: list[bytes | None]
    offset: int = 0
    changelog: dict[bytes, bytes] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)
    jobs: list[ScriptedJob] = field(default_factory=list)
    monitors: dict[str, Monitor] = field(default_factory=lambda: {"m": MONITOR})
    handed: int = 0

    def __post_init__(self) -> None:
        self.boot()

    def boot(self) -> None:
        """Start a process: everything in memory is gone."""
        context = TaskContext(0, lambda: 77, lambda: None, {"candidates": 4, "examples": 1}.get)  # type: ignore[arg-type]
        self.task = TrainerTask(
            context,
            monitor_of=self.monitors.get,
            version_of=lambda *_: None,
            champion_of=lambda _: None,
            ends=lambda: {0: (0, 10)},
            launch=self.launch,
        )
        batch = Batch("trainer-changelog", 0, [], [], [], [], [])
        n = len(self.changelog)
        self.task.restore(
            replace(
                batch,
                offsets=range(n),
                timestamps_ms=[0] * n,
                keys=list(self.changelog),
                values=list(self.changelog.values()),
                headers=[()] * n,
            )
        )
        assert self.task.start({TOPIC: Position(self.offset)} if self.offset else {}) == {}
        self.handed = self.offset

    def launch(self, plan: Plan) -> ScriptedJob:
        self.jobs.append(ScriptedJob(plan))
        return self.jobs[-1]

    def read(self) -> None:
        """Hand over everything there is, unless the task wants nothing."""
        if self.task.paused() or self.handed >= len(self.requests):
            return
        values = self.requests[self.handed :]
        n = len(values)
        batch = Batch(TOPIC, 0, range(self.handed, self.handed + n), [5] * n, [b"m"] * n, values,
                      [()] * n)  # fmt: skip
        self.handed += n
        self.task.process(batch)

    def tick(self) -> None:
        self.task.tick(66, {TOPIC: True})

    def commit(self, *, is_lost: bool = False) -> Commit:
        """Commit; a lost one leaves nothing and kills the process."""
        commit = self.task.commit()
        if is_lost:
            self.boot()
            return commit
        for key, value in commit.changelog:
            if value is None:
                self.changelog.pop(key, None)
            else:
                self.changelog[key] = value
        offset = commit.offsets.get(TOPIC, self.handed)
        assert self.offset <= offset <= self.handed
        self.offset = offset
        self.outputs += commit.outputs
        self.task.committed()
        return commit

    def round(self) -> None:
        self.read()
        self.tick()
        self.commit()

    def candidates(self) -> list[Candidate]:
        return [decode(Candidate, o.value) for o in self.outputs if o.topic == "candidates"]


def made(name: str = "r1") -> Result:
    return Result(candidate=Candidate(request_id=name, model="m", created_ms=9))


def test_the_plan_is_committed_before_anything_starts() -> None:
    slot = Slot([encode(asked())])
    slot.read()
    slot.tick()
    slot.tick()
    assert not slot.jobs
    slot.commit()
    plan = decode(Plan, slot.changelog[b"plan"])
    assert (plan.offset, plan.attempt, plan.ranges) == (0, 1, {0: (0, 10)})
    assert (plan.seed, plan.created_ms, plan.monitor) == (seed_of("r1"), 66, MONITOR)
    assert slot.offset == 0
    slot.tick()
    assert [job.plan for job in slot.jobs] == [plan]


def test_candidate_and_offset_are_committed_together() -> None:
    slot = Slot([encode(asked("r1")), encode(asked("r2"))])
    slot.round()
    assert slot.task.paused() == {TOPIC}
    slot.round()
    slot.round()
    assert (slot.offset, slot.candidates()) == (0, [])
    slot.jobs[0].result = made("r1")
    slot.tick()
    commit = slot.commit()
    assert commit.offsets == {TOPIC: 1}
    assert commit.changelog == [(b"plan", None)]
    [output] = commit.outputs
    assert (output.key, output.partition) == (b"r1", model_partition("m", 4))
    assert slot.jobs[0].is_closed
    slot.round()
    slot.round()
    assert slot.jobs[1].plan.request.request_id == "r2"
    slot.jobs[1].result = made("r2")
    slot.round()
    assert [c.request_id for c in slot.candidates()] == ["r1", "r2"]
    slot.round()
    assert slot.offset == 2
    assert not slot.task.paused()
    assert not slot.changelog


@pytest.mark.parametrize("when", ["planned", "running", "done"])
def test_a_crash_after_the_plan_is_another_attempt_of_the_same_plan(when: str) -> None:
    slot = Slot([encode(asked())])
    slot.round()
    plan = decode(Plan, slot.changelog[b"plan"])
    if when != "planned":
        slot.tick()
    if when == "done":
        slot.jobs[0].result = made()
        slot.tick()
        slot.commit(is_lost=True)
    else:
        slot.boot()
    slot.round()
    slot.tick()
    assert slot.jobs[-1].plan == plan.model_copy(update={"attempt": 2})
    slot.jobs[-1].result = made()
    slot.round()
    slot.round()
    assert len(slot.candidates()) == 1
    assert slot.offset == 1


def test_a_plan_that_was_not_committed_is_made_anew() -> None:
    slot = Slot([encode(asked())])
    slot.read()
    slot.tick()
    slot.commit(is_lost=True)
    slot.round()
    assert decode(Plan, slot.changelog[b"plan"]).attempt == 1


@pytest.mark.parametrize("how", ["result", "crash"])
def test_three_failed_attempts_are_a_failed_candidate(how: str) -> None:
    slot = Slot([encode(asked())])
    for attempt in (1, 2, 3):
        slot.round()
        assert decode(Plan, slot.changelog[b"plan"]).attempt == attempt
        slot.tick()
        assert len(slot.jobs) == attempt
        if how == "crash":
            slot.boot()
        else:
            slot.jobs[-1].result = Result(failure="the training took longer than 1 s")
            slot.tick()
    slot.round()
    slot.round()
    [candidate] = slot.candidates()
    why = "process that trained was stopped" if how == "crash" else "longer than 1 s"
    assert why in (candidate.failure or "")
    assert candidate.failure is not None
    assert candidate.failure.startswith("3 attempts failed")
    assert candidate.cost == {"attempts": 3.0}
    assert (candidate.lineage.alert_ids, candidate.created_ms) == (["a1"], 77)
    assert slot.offset == 1
    assert len(slot.jobs) == 3


def test_what_can_never_work_is_not_tried_again() -> None:
    slot = Slot([encode(asked())])
    slot.round()
    slot.tick()
    slot.jobs[0].result = Result(failure="there is no trainer 'x'", is_final=True)
    slot.tick()
    slot.commit()
    assert [c.failure for c in slot.candidates()] == ["there is no trainer 'x'"]


def test_a_model_nobody_declares_is_a_failure() -> None:
    slot = Slot([encode(asked())], monitors={})
    slot.round()
    assert [c.failure for c in slot.candidates()] == ["no monitor declares a model 'm'"]
    assert not slot.jobs


def test_a_lost_partition_ends_its_training() -> None:
    slot = Slot([encode(asked())])
    slot.round()
    slot.tick()
    slot.task.close()
    assert slot.jobs[0].is_closed


def test_what_cannot_be_read_is_put_aside_once_and_others_executors_are_left_alone() -> None:
    requests = [
        b"{}", encode(asked("r0", executor="airflow")), encode(asked("r1")), b"\xff", None,
    ]  # fmt: skip
    slot = Slot(requests)
    slot.round()
    slot.tick()
    assert slot.offset == 2
    slot.boot()
    slot.round()
    slot.tick()
    slot.jobs[-1].result = made("r1")
    slot.round()
    slot.round()
    reasons = [dict(o.headers)["kedge-reason"] for o in slot.outputs if o.topic == "dead-letters"]
    assert reasons == [b"missing-field", b"undecodable", b"undecodable"]
    assert [c.request_id for c in slot.candidates()] == ["r1"]
    assert slot.offset == 5


# --------------------------------------------------------- on the broker in memory

PARTITIONS = 2


def examples(n: int, *, change_at: int = 0) -> list[Example]:
    rows = []
    for i in range(n):
        a, b = (i * 7919 % 1000) / 1000, (i * 104729 % 997) / 997
        label = (a > 0.5) != (i >= change_at)
        rows.append(
            Example(
                prediction_id=f"p{i}",
                model="m",
                features={"a": a, "b": b},
                label="yes" if label else "no",
                outputs={},
                event_time_ms=i,
                label_time_ms=i + 10,
            )
        )
    return rows


@dataclass
class World:
    """A broker and a trainer that is started anew when it dies."""

    store: ArtefactStore
    settings: Settings = field(
        default_factory=lambda: Settings(request_partitions=PARTITIONS, model_partitions=PARTITIONS)
    )
    crashes: int = 0

    def __post_init__(self) -> None:
        self.clock = ManualClock(1_000)
        topics = [*TOPICS.values(), *CHANGELOGS.values()]
        self.broker = MemoryBroker(self.clock, {topic.name: PARTITIONS for topic in topics})
        self.loop = self.start()
        self.broker.append("monitors", b"m", encode(MONITOR))
        for example in examples(1_200, change_at=500):
            partition = request_partition(example.prediction_id, PARTITIONS)
            self.broker.append("examples", b"", encode(example), partition=partition)
            other = example.model_copy(update={"model": "other"})
            self.broker.append("examples", b"", encode(other), partition=partition)

    def start(self) -> Loop:
        def launch(plan: Plan) -> Inline:
            return Inline(plan, lambda plan: work.carry_out(plan, self.broker, self.store))

        service = trainer(self.broker, launch)
        return Loop(service, self.broker, self.settings, self.clock)

    def run(self) -> None:
        idle = 0
        while idle < 8:
            self.clock.advance(1_000)
            try:
                idle = 0 if self.loop.step() or not self.loop.is_ready else idle + 1
            except Crash:
                self.crashes += 1
                self.loop = self.start()

    def ask(self, request: RetrainRequest) -> None:
        partition = model_partition("m", PARTITIONS)
        self.broker.append(TOPIC, b"m", encode(request), partition=partition)

    def candidates(self) -> list[Candidate]:
        records = self.broker.records("candidates")
        return [decode(Candidate, record.value or b"") for record in records]


def test_a_request_becomes_a_candidate_whose_rows_lie_in_its_range(tmp_path: Path) -> None:
    world = World(ArtefactStore(tmp_path))
    world.ask(asked("r1", mode="batch"))
    world.run()
    [candidate] = world.candidates()
    assert candidate.failure is None
    assert candidate.artefact is not None
    model = load_predictor(candidate, world.store.get(candidate.artefact))
    assert [o.label for o in model.predict([{"a": 0.1}, {"a": 0.9}])] == ["yes", "no"]
    ends = {p: len(world.broker.records("examples", p)) for p in range(PARTITIONS)}
    assert candidate.lineage.examples == {p: (0, end) for p, end in ends.items()}
    assert 0 < candidate.lineage.rows <= 1_200
    assert candidate.reference is not None
    # Whoever has the topic can make the training set again, to the byte.
    lying_there = [
        example
        for partition, (start, end) in candidate.lineage.examples.items()
        for record in world.broker.records("examples", partition)[start:end]
        if (example := decode(Example, record.value or b"")).model == "m"
    ]
    columns = Examples.of(lying_there, model="m", version=None)
    trained_on = Examples.chosen([columns], last=candidate.lineage.rows)
    assert digest(trained_on) == candidate.lineage.data_sha256


def test_a_crash_at_any_step_of_any_commit_gives_the_same_candidates(tmp_path: Path) -> None:
    story = [asked("r1", mode="incremental"), asked("r2", mode="incremental")]

    def told(world: World) -> list[dict[str, Any]]:
        for request in story:
            world.ask(request)
        world.run()
        # When a crashed process is back, and so when it plans, is up to it.
        return [c.model_dump(exclude={"created_ms"}) for c in world.candidates()]

    undisturbed = told(World(ArtefactStore(tmp_path)))
    assert [c["request_id"] for c in undisturbed] == ["r1", "r2"]
    assert not any(c["failure"] for c in undisturbed)
    crashes = 0
    steps: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
    for number, step in enumerate(steps):
        for after in (number % 2, 2 + number % 2):
            world = World(ArtefactStore(tmp_path))
            world.broker.inject(step, Crash(), after=after)
            assert told(world) == undisturbed, (step, after)
            crashes += world.crashes
    assert crashes >= 8


def test_reading_goes_back_only_as_far_as_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "STEP", 50)
    world = World(ArtefactStore("memory://none"))
    ends = {p: (0, len(world.broker.records("examples", p))) for p in range(PARTITIONS)}

    def read(wanted: int, back_to: Mapping[int, int] | None = None) -> work.Found:
        decoder = ExampleDecoder("m", shape_of(MONITOR).columns, None)
        return work.read_examples(world.broker, decoder, ends, wanted=wanted, back_to=back_to)

    few = read(20)
    assert few.ranges == {p: (end - 50, end) for p, (_, end) in ends.items()}
    # The newest rows of both partitions, and only those of the model.
    assert len(few) == 50
    mine = {
        event.prediction_id
        for p in range(PARTITIONS)
        for record in world.broker.records("examples", p)
        if (event := decode(Example, record.value or b"")).model == "m"
    }
    assert all(mine.issuperset(part.ids) for part in few.parts)
    more = read(60)
    assert more.ranges == {p: (end - 150, end) for p, (_, end) in ends.items()}
    assert len(read(100_000)) == 1_200
    assert read(100_000).ranges == ends
    # A parent that learns on needs what it has not seen, too; within reason.
    assert read(60, {0: ends[0][1] - 200}).ranges[0][0] <= ends[0][1] - 200
    assert read(60, {0: 0, 1: 0}).ranges[0][0] > 0
    found = read(100_000).newest(1_000)
    assert found is not None
    assert found.places is not None
    assert len(found) == 1_000
    at = found.ids.index("p777")
    partition, offset = int(found.places.partitions[at]), int(found.places.offsets[at])
    assert partition == request_partition("p777", PARTITIONS)
    [record] = [r for r in world.broker.records("examples", partition) if r.offset == offset]
    assert decode(Example, record.value or b"").prediction_id == "p777"


def test_learning_on_begins_where_the_parent_stopped(tmp_path: Path) -> None:
    world = World(ArtefactStore(tmp_path))
    world.ask(asked("r1", mode="incremental"))
    world.run()
    [first] = world.candidates()
    artefact = first.artefact
    assert artefact is not None
    # The parent has read up to here; its last label time would say otherwise.
    lineage = first.lineage.model_copy(
        update={"examples": {0: (0, 400), 1: (0, 500)}, "last_label_time_ms": 0}
    )
    parent = ModelVersion(
        model="m", version="k1", status="champion", artefact=artefact,
        feature_schema=first.feature_schema, classes=first.classes, lineage=lineage,
        sequence=1, changed_ms=0,
    )  # fmt: skip
    world.broker.append("model-versions", b"m/k1", encode(parent))
    world.ask(asked("r2", mode="incremental"))
    world.run()
    second = world.candidates()[1]
    # Nobody said a base version: the champion is it.
    assert second.parent == "k1"
    fresh = sum(
        record.offset >= (400, 500)[p] and b'"model":"m"' in (record.value or b"")
        for p in range(PARTITIONS)
        for record in world.broker.records("examples", p)
    )
    held = second.metrics["n"]
    assert held == min(200, fresh // 4)
    if second.failure is None:
        assert second.lineage.rows == fresh


def test_a_parent_whose_artefact_was_tampered_with_fails_the_training(tmp_path: Path) -> None:
    world = World(ArtefactStore(tmp_path))
    artefact = world.store.put(b"{}", "river-json")
    [file] = list(tmp_path.rglob("*.json"))
    file.write_bytes(b"[]")
    parent = ModelVersion(
        model="m", version="k1", status="champion", artefact=artefact,
        feature_schema=[FeatureColumn(name="a", type="numeric")], classes=["no", "yes"],
        lineage=Lineage(), sequence=1, changed_ms=0,
    )  # fmt: skip
    world.broker.append("model-versions", b"m/k1", encode(parent))
    world.ask(asked("r1", base_version="k1"))
    world.run()
    [candidate] = world.candidates()
    assert "sha256" in (candidate.failure or "")


# ------------------------------------------------------------------ as a subprocess


def plan_of(**budget: Any) -> Plan:
    request = asked("r1", budget=RetrainBudget(**budget))
    return Plan(offset=0, request=request, monitor=MONITOR, ranges={}, seed=1, created_ms=0)


def run_program(code: str, **budget: Any) -> Subprocess:
    return Subprocess(plan_of(**budget), Settings(), program=(sys.executable, "-S", "-c", code))


def outcome(job: Subprocess) -> Result:
    while (result := job.poll()) is None:
        threading.Event().wait(0.02)
    job.close()
    return result


def test_what_takes_too_long_is_killed() -> None:
    job = run_program("import time; time.sleep(600)", seconds=0.2)
    assert outcome(job).failure == "the training took longer than 0.2 s"
    assert not psutil.pid_exists(job.pid)


def test_what_takes_too_much_memory_is_killed() -> None:
    job = run_program("import time; x = b'x' * (200 << 20); time.sleep(600)", memory_mb=100)
    assert outcome(job).failure == "the training took more than 100 MB"
    assert not psutil.pid_exists(job.pid)


def test_a_child_that_dies_is_a_failed_attempt() -> None:
    result = outcome(run_program("import sys; sys.exit(3)"))
    assert result.failure == "the training ended with status 3"
    assert not result.is_final


def test_what_the_child_is_told_is_private_and_gone_afterwards() -> None:
    code = (
        "import json, os, pathlib, sys; order = pathlib.Path(sys.argv[1])\n"
        "mode = oct(order.parent.stat().st_mode)[-3:]\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps({'failure': mode + str(order)}))"
    )
    result = outcome(run_program(code))
    assert result.failure[:3] == "700"
    assert not Path(result.failure[3:]).parent.exists()


def test_closing_kills_the_child() -> None:
    job = run_program("import time; time.sleep(600)")
    assert job.poll() is None
    job.close()
    assert not psutil.pid_exists(job.pid)


def test_the_child_ends_with_its_parent_even_when_that_is_killed() -> None:
    child = (
        "import os, time; from kedge_services.trainer.job import _end_with\n"
        "_end_with(os.getppid()); print(os.getpid(), flush=True); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process_of_child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process_of_child.wait(timeout=10)


def test_the_service_itself_stays_light() -> None:
    code = (
        "import sys, kedge_services.trainer.service\n"
        "print([m for m in ('sklearn', 'river', 'skops', 'scipy', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
