"""Answers given elsewhere, and what serving adds in their shadow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from kedge import Artefact, FeatureColumn, ModelVersion, Monitor, Output, Prediction, ScoringRequest
from kedge.base import Scalar
from kedge.codec import decode, encode
from kedge.topics import CHANGELOGS, TOPICS, request_partition
from kedge_services.runtime import metrics as m
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.settings import LoopSettings, Settings
from kedge_services.serving.following import CURRENT_MS, FULL, SLICE
from kedge_services.serving.parts import Serving

PARTITIONS = 2
START_MS = 1_800_000_000_000
GRACE_MS = 5_000
STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
SCHEMA = [FeatureColumn(name="x", type="numeric")]


@dataclass
class Constant:
    """Always answers with its version's name; fails on an x below zero."""

    name: str

    def predict(self, rows: Sequence[Mapping[str, Scalar | None]]) -> list[Output]:
        if any(isinstance(x := row["x"], int) and x < 0 for row in rows):
            raise ValueError("x is negative")
        return [Output(label=self.name) for _ in rows]


def version(model: str, name: str, status: str, sequence: int, **changes: Any) -> ModelVersion:
    artefact = Artefact(uri=name, sha256="0" * 64, format="skops", size=1)
    fields = {
        "model": model, "version": name, "status": status, "sequence": sequence, "changed_ms": 0,
        "artefact": artefact, "feature_schema": SCHEMA, **changes,
    }  # fmt: skip
    return ModelVersion.model_validate(fields)


def elsewhere(model: str, name: str, sequence: int, status: str = "champion") -> ModelVersion:
    return version(model, name, status, sequence, artefact=None)


@dataclass
class World:
    """Serving on the broker in memory, started anew when it dies."""

    models: tuple[str, ...] = ("m",)
    poll_records: int = 10_000
    clock: ManualClock = field(default_factory=lambda: ManualClock(START_MS))
    metrics: m.Metrics = field(default_factory=lambda: m.Metrics("serving"))
    crashes: int = 0

    def __post_init__(self) -> None:
        topics = [*TOPICS.values(), *CHANGELOGS.values()]
        self.broker = MemoryBroker(self.clock, {topic.name: PARTITIONS for topic in topics})
        self.settings = Settings(
            request_partitions=PARTITIONS,
            model_partitions=PARTITIONS,
            loop=LoopSettings(poll_records=self.poll_records),
        )
        for model in self.models:
            monitor = Monitor.model_validate(
                {"model": model, "task": "binary", "classes": ["a", "b"],
                 "features": {"x": "numeric"},
                 "windows": {"pane": "1m", "grace": f"{GRACE_MS}ms"}}
            )  # fmt: skip
            self.broker.append("monitors", model.encode(), encode(monitor))
        self.start()

    def start(self) -> None:
        serving = Serving(self.settings, lambda version: Constant(version.version))
        self.loop = Loop(serving.service, self.broker, self.settings, self.clock, self.metrics)

    def stop(self) -> None:
        self.loop.commit()
        self.loop.close()

    def write(self, *versions: ModelVersion) -> None:
        for each in versions:
            self.broker.append(
                "model-versions", f"{each.model}/{each.version}".encode(), encode(each)
            )
        self.run()

    def step(self) -> None:
        try:
            self.loop.step()
        except Crash:
            self.crashes += 1
            self.start()

    def run(self, rounds: int = 12) -> None:
        for _ in range(rounds):
            self.clock.advance(110)
            self.step()

    def answer(self, name: str, **changes: Any) -> Prediction:
        """Let a server elsewhere send what it answered."""
        fields = {
            "prediction_id": name, "model": "m", "version": "12", "features": {"x": 7, "y": "n"},
            "event_time_ms": self.clock(), "output": {"label": "a", "score": 0.25},
            "segments": {"region": "NO"}, **changes,
        }  # fmt: skip
        sent = Prediction.model_validate(fields)
        self.append(sent.prediction_id.partition("#")[0], encode(sent))
        return sent

    def append(self, key: str, value: bytes | None, *, partition: int | None = None) -> None:
        own = request_partition(key, PARTITIONS) if partition is None else partition
        self.broker.append("predictions", key.encode(), value, partition=own)

    def shadows(self) -> list[Prediction]:
        records = self.broker.records("predictions")
        mine = [r for r in records if ("kedge-origin", b"serving") in r.headers]
        found = [decode(Prediction, record.value or b"") for record in mine]
        for record, prediction in zip(mine, found, strict=True):
            key = prediction.prediction_id.partition("#")[0]
            assert (record.key, record.partition) == (
                key.encode(), request_partition(key, PARTITIONS)
            )  # fmt: skip
        return found

    def seen(self) -> list[tuple[str, str]]:
        return [(p.prediction_id, p.version) for p in self.shadows()]


@pytest.fixture
def world() -> World:
    world = World()
    world.write(elsewhere("m", "12", 1), version("m", "k1", "shadow", 2))
    return world


def test_a_challenger_predicts_in_the_shadow_of_an_answer_given_elsewhere(world: World) -> None:
    sent = world.answer("r-1")
    world.run()
    (shadow,) = world.shadows()
    assert shadow.latency_ms is not None
    assert 0 <= shadow.latency_ms <= 1_000
    changes = {"version": "k1", "role": "shadow", "output": Output(label="k1")}
    changes["latency_ms"] = shadow.latency_ms
    assert shadow == sent.model_copy(update=changes)
    assert world.metrics.value(m.ELSEWHERE, model="m", version="12") == 1
    world.run(30)
    assert len(world.shadows()) == 1


def test_rows_of_a_batch_are_followed_on_their_requests_partition(world: World) -> None:
    for k in range(5):
        world.answer(f"r-1#{k}")
    world.run()
    assert world.seen() == [(f"r-1#{k}", "k1") for k in range(5)]


def test_what_need_not_be_followed_is_not(world: World) -> None:
    world.write(elsewhere("alone", "7", 1))
    world.answer("shadow", role="shadow")
    world.answer("own", version="k1")
    world.answer("other", model="alone")
    world.answer("unknown", model="nobody")
    world.append("deleted", None)
    world.append("bad", b"{")
    world.append("bytes", b"\xff\xfe")
    world.append("wrong", b'{"prediction_id":"wrong","model":"m","version":"12","event_time_ms":1}')
    world.answer("ahead", event_time_ms=world.clock() + 301_000)
    good = Prediction(
        prediction_id="r-1", model="m", version="12", features={}, event_time_ms=world.clock()
    )
    world.append("another", encode(good))
    world.append("r-1", encode(good), partition=1 - request_partition("r-1", PARTITIONS))
    world.run(20)
    assert world.seen() == []
    assert world.broker.records("dead-letters") == []
    world.answer("r-2")
    world.run()
    assert world.seen() == [("r-2", "k1")]


def test_a_model_without_monitor_is_not_followed() -> None:
    world = World(models=())
    world.write(elsewhere("m", "12", 1), version("m", "k1", "shadow", 2))
    world.answer("r-1")
    world.run()
    assert world.seen() == []


def test_a_request_answered_here_is_not_followed_a_second_time(world: World) -> None:
    world.write(version("m", "k1", "champion", 3), version("m", "k2", "shadow", 4))
    asked = ScoringRequest(request_id="q", model="m", rows=[{"x": 1}], event_time_ms=world.clock())
    partition = request_partition("q", PARTITIONS)
    world.broker.append("requests", b"q", encode(asked), partition=partition)
    world.run(20)
    assert [(p.prediction_id, p.version, p.role) for p in world.shadows()] == [
        ("q", "k1", "champion"), ("q", "k2", "shadow"),
    ]  # fmt: skip


def test_two_challengers_and_three_models_at_once() -> None:
    world = World(models=("m", "n", "o"))
    for model in world.models:
        challengers = [version(model, f"k{i}", "shadow", 1 + i) for i in (1, 2)]
        world.write(elsewhere(model, "12", 1), *challengers)
    for i in range(60):
        world.answer(f"r-{i}", model=world.models[i % 3])
    world.run()
    found = world.shadows()
    assert sorted((p.prediction_id, p.version) for p in found) == sorted(
        (f"r-{i}", name) for i in range(60) for name in ("k1", "k2")
    )
    assert all(p.model == world.models[int(p.prediction_id[2:]) % 3] for p in found)
    assert all(p.output is not None and p.output.label == p.version for p in found)


def test_while_another_answers_elsewhere_the_champion_predicts_in_its_shadow(world: World) -> None:
    world.answer("before")
    world.run()
    world.write(version("m", "k1", "champion", 3), elsewhere("m", "12", 4, "shadow"))
    world.write(version("m", "k2", "shadow", 5))
    world.answer("after")
    world.run()
    world.answer("switched", version="k1")
    world.run()
    found = sorted(world.shadows(), key=lambda p: p.event_time_ms)
    assert [(p.prediction_id, p.version, p.role) for p in found] == [
        ("before", "k1", "shadow"),
        ("after", "k1", "shadow"), ("after", "k2", "shadow"),
        ("switched", "k2", "shadow"),
    ]  # fmt: skip


def test_a_row_one_challenger_fails_on_costs_nobody_else(world: World) -> None:
    world.answer("bad", features={"x": -1})
    world.answer("good")
    world.run()
    assert world.seen() == [("good", "k1")]
    assert world.metrics.value(m.SKIPPED_SHADOWS) == 1


def test_a_group_without_position_begins_at_the_end() -> None:
    world = World()
    world.answer("before-its-first-start")
    world.write(elsewhere("m", "12", 1), version("m", "k1", "shadow", 2))
    world.run()
    world.answer("later")
    world.run()
    assert world.seen() == [("later", "k1")]
    world.stop()
    world.answer("while-it-was-down")
    world.start()
    world.run(20)
    assert world.seen() == [("later", "k1"), ("while-it-was-down", "k1")]


def of_one_partition(count: int) -> list[str]:
    names = (f"r-{i}" for i in range(100 * count))
    return [n for n, _ in zip(filter(on_first, names), range(count), strict=False)]


def on_first(name: str) -> bool:
    return request_partition(name, PARTITIONS) == 0


def test_what_would_be_late_is_skipped_and_counted(world: World) -> None:
    for age, name in zip((0, GRACE_MS, GRACE_MS + 1), of_one_partition(3), strict=True):
        world.answer(name, event_time_ms=START_MS - age)
    world.run()
    assert [name for name, _ in world.seen()] == of_one_partition(2)
    assert world.metrics.value(m.SKIPPED_SHADOWS) == 1


def test_after_a_stand_still_it_reads_on_before_it_follows() -> None:
    """Ten seconds of answers wait; those of the last five are not late.

    ::

        read in steps of 100   |····|····|····|····|····|····|····|····|····|····| end
        late for panes         xxxxxxxxxxxxxxxxxxxxxxxxx|---- followed once each --|
    """
    world = World(poll_records=100)
    world.write(elsewhere("m", "12", 1), version("m", "k1", "shadow", 2))
    world.stop()
    names = of_one_partition(1_001)
    for i, name in enumerate(names):
        world.clock.advance(10 if i else 0)
        world.answer(name)
    world.clock.advance(CURRENT_MS + 60_000)
    world.start()
    for _ in range(40):
        world.step()
    world.run()
    assert [name for name, _ in world.seen()] == names[1_000 - GRACE_MS // 10 :]
    assert world.metrics.value(m.SKIPPED_SHADOWS) == 1_000 - GRACE_MS // 10


def test_a_request_waits_for_no_more_than_a_slice(world: World) -> None:
    names = of_one_partition(2 * SLICE + 1)
    for name in names:
        world.answer(name)
    world.run(1)
    assert len(world.seen()) <= 2 * SLICE
    world.run(20)
    assert world.seen() == [(name, "k1") for name in names]


def test_too_many_that_wait_are_not_read_and_not_lost() -> None:
    world = World(poll_records=FULL)
    world.write(elsewhere("m", "12", 1), version("m", "k1", "shadow", 2))
    name = of_one_partition(1)[0]
    for k in range(FULL + 500):
        world.answer(f"{name}#{k}")
    world.run(2 * FULL // SLICE)
    assert [p.prediction_id for p in world.shadows()] == [f"{name}#{k}" for k in range(FULL + 500)]


def test_skipping_alone_commits_once_a_second(world: World) -> None:
    before = world.metrics.value(m.COMMITS)
    for i in range(100):
        world.answer(f"r-{i}", version="k1")
        world.clock.advance(100)
        world.step()
    commits = world.metrics.value(m.COMMITS) - before
    assert 9 <= commits <= 2 * 11
    world.stop()
    world.answer("r-last")
    world.start()
    world.run(20)
    assert world.seen() == [("r-last", "k1")]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", range(6))
def test_one_shadow_prediction_each_whatever_commit_the_process_dies_in(
    step: Step, after: int
) -> None:
    world = World()
    world.write(elsewhere("m", "12", 1), version("m", "k1", "shadow", 2))
    assert world.broker.committed("serving")  # before, a new group owes nothing
    world.broker.inject(step, Crash(), after=after)
    names = [f"r-{i}" for i in range(60)]
    for i, name in enumerate(names):
        world.answer(name)
        if i == 30:
            world.write(version("m", "k1", "champion", 3), elsewhere("m", "12", 4, "shadow"))
        if i % 5 == 4:
            world.run(2)
    world.run(30)
    assert world.crashes == 1
    assert sorted(world.seen()) == sorted((name, "k1") for name in names)
