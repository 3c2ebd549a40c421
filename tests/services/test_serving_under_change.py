"""Requests while versions are swapped and processes die: each is answered once, rightly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from kedge import Artefact, FeatureColumn, ModelVersion, Output, Prediction, ScoringRequest
from kedge.base import Scalar
from kedge.codec import decode, encode
from kedge.topics import CHANGELOGS, TOPICS, request_partition
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.settings import Settings
from kedge_services.serving.parts import Serving

PARTITIONS = 4
STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
REQUESTS = 200
EVERY_MS = 5
MODELS = ("m", "n", "o")
SCHEMA = [FeatureColumn(name="x", type="numeric")]


@dataclass
class Named:
    """Answers with its version's name and the row's x."""

    name: str

    def predict(self, rows: Sequence[Mapping[str, Scalar | None]]) -> list[Output]:
        return [Output(label=f"{self.name}:{row['x']}") for row in rows]


def version(model: str, name: str, status: str, sequence: int) -> ModelVersion:
    artefact = Artefact(uri=name, sha256="0" * 64, format="skops", size=1)
    fields: dict[str, Any] = {
        "model": model, "version": name, "status": status, "sequence": sequence, "changed_ms": 0,
        "artefact": artefact, "feature_schema": SCHEMA,
    }  # fmt: skip
    return ModelVersion.model_validate(fields)


@dataclass
class World:
    """Processes of serving on the broker in memory; one that dies is started anew."""

    processes: int = 1
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000_000))
    crashes: int = 0
    sequence: int = 0
    champions: list[str] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        topics = [*TOPICS.values(), *CHANGELOGS.values()]
        self.broker = MemoryBroker(self.clock, {topic.name: PARTITIONS for topic in topics})
        self.loops = {ordinal: self.start(ordinal) for ordinal in range(self.processes)}

    def start(self, ordinal: int) -> Loop:
        settings = Settings(
            request_partitions=PARTITIONS, model_partitions=PARTITIONS, ordinal=ordinal
        )
        serving = Serving(settings, lambda version: Named(version.version))
        return Loop(serving.service, self.broker, settings, self.clock)

    def put(self, name: str, status: str) -> None:
        """Write a version of every model, as the registry does."""
        self.sequence += 1
        for model in MODELS:
            each = version(model, name, status, self.sequence)
            self.broker.append("model-versions", f"{model}/{name}".encode(), encode(each))

    def promote(self, name: str, *, loser: str = "shadow") -> None:
        self.put(name, "champion")
        self.run()
        if self.champions:
            self.put(self.champions[-1], loser)
        self.champions.append(name)

    def ask(self, rows: int) -> None:
        name = f"r-{len(self.asked)}"
        asked = ScoringRequest(
            request_id=name, model=MODELS[len(self.asked) % len(MODELS)],
            rows=[{"x": f"{name}#{k}"} for k in range(rows)], event_time_ms=self.clock(),
        )  # fmt: skip
        self.asked[name] = rows
        partition = request_partition(name, PARTITIONS)
        self.broker.append("requests", name.encode(), encode(asked), partition=partition)
        self.clock.advance(EVERY_MS)

    def run(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            for ordinal, loop in list(self.loops.items()):
                try:
                    loop.step()
                except Crash:
                    self.crashes += 1
                    self.loops[ordinal] = self.start(ordinal)

    def settle(self) -> None:
        for _ in range(30):
            self.clock.advance(200)
            self.run()

    def answers(self) -> list[tuple[int, Prediction]]:
        """Give partition and prediction, in the order of every partition."""
        records = self.broker.records("predictions")
        return [(record.partition, decode(Prediction, record.value or b"")) for record in records]


def story(world: World, *, processes_die: bool = False) -> None:
    """Ask 200 times a second; promote, roll back, promote again, replace a shadow."""
    for name, status in (("k1", "champion"), ("k2", "shadow"), ("k3", "shadow")):
        world.put(name, status)
    world.champions.append("k1")
    world.settle()
    changes = {
        40: lambda: world.promote("k2"),
        80: lambda: world.promote("k3"),
        120: lambda: world.promote("k2", loser="retired"),
        160: lambda: world.promote("k4"),
    }
    for i in range(REQUESTS):
        world.ask(rows=1 + i % 3)
        if i in changes:
            changes[i]()
        if i % 4 == 3:
            world.run()
        if processes_die and i % 50 == 25:
            die(world, i // 50 % world.processes)
    world.settle()


def die(world: World, ordinal: int) -> None:
    """Let a process die without a word; the group gives its partitions to the others."""
    del world.loops[ordinal]
    world.broker.expel("serving", f"serving-{ordinal}")
    world.run(6)
    world.loops[ordinal] = world.start(ordinal)


def check(world: World) -> None:
    """Each row has one answer; it is its version's own; versions never go back by themselves."""
    found: dict[str, list[str]] = defaultdict(list)
    order: dict[tuple[int, str], list[str]] = defaultdict(list)
    pairs: dict[tuple[str, str], int] = defaultdict(int)
    for partition, prediction in world.answers():
        row = prediction.features["x"]
        assert prediction.output == Output(label=f"{prediction.version}:{row}")
        pairs[prediction.prediction_id, prediction.version] += 1
        if prediction.role == "champion":
            found[prediction.prediction_id].append(prediction.version)
            order[partition, prediction.model].append(prediction.version)
    expected = {
        name if rows == 1 else f"{name}#{k}" for name, rows in world.asked.items()
        for k in range(rows)
    }  # fmt: skip
    assert found.keys() == expected
    assert {len(versions) for versions in found.values()} == {1}
    assert set(pairs.values()) == {1}
    assert len(order) == PARTITIONS * len(MODELS)
    for versions in order.values():
        assert is_in_order(turns(versions), world.champions)
    assert {version for versions in order.values() for version in versions} == {*world.champions}
    assert world.broker.records("dead-letters") == []


def turns(versions: Sequence[str]) -> list[str]:
    """Give each run of equal versions once."""
    before: list[str | None] = [None, *versions]
    return [new for old, new in zip(before, versions, strict=False) if new != old]


def is_in_order(some: Sequence[str], everything: Sequence[str]) -> bool:
    """Say whether the one is the other with some left out."""
    rest = iter(everything)
    return all(each in rest for each in some)


def test_every_request_is_answered_once_by_who_served_then() -> None:
    world = World()
    story(world)
    check(world)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", range(10))
def test_a_crash_at_any_step_of_any_commit_shows_in_no_answer(step: Step, after: int) -> None:
    world = World()
    # There are ten commits and many records in each.
    world.broker.inject(step, Crash(), after=after * 40 if step == "produce" else after)
    story(world)
    assert world.crashes == 1
    check(world)


@pytest.mark.parametrize("processes", [2, 3])
def test_requests_are_answered_once_while_processes_come_and_go(processes: int) -> None:
    world = World(processes)
    story(world, processes_die=True)
    check(world)
