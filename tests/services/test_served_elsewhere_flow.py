"""A model served elsewhere: predictions and outcomes come in, no requests.

Registry, serving and panes on the broker in memory, with processes that die.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kedge import (
    Artefact,
    Candidate,
    Example,
    FeatureColumn,
    ModelVersion,
    Monitor,
    Outcome,
    Output,
    Prediction,
)
from kedge.base import Event, Scalar
from kedge.codec import decode, encode
from kedge.topics import CHANGELOGS, TOPICS, request_partition
from kedge_services.panes.service import make as make_panes
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.ports import Service
from kedge_services.runtime.settings import Settings
from kedge_services.serving.parts import Serving

STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
PARTITIONS = 2
START_MS = 1_800_000_000_000
ROWS = 900
STEP_MS = 20
MONITOR = Monitor.model_validate(
    {"model": "m", "task": "binary", "classes": ["DOWN", "UP"], "features": {"x": "numeric"},
     "label_horizon": "1m", "outcome_wait": "5s", "windows": {"pane": "1s", "grace": "2s"}}
)  # fmt: skip


class Half:
    """Says "UP" for an x above one half."""

    def predict(self, rows: Sequence[Mapping[str, Scalar | None]]) -> list[Output]:
        return [Output(label="UP" if float(row["x"] or 0) > 0.5 else "DOWN") for row in rows]


def make_serving(settings: Settings) -> Service:
    return Serving(settings, lambda _: Half()).service


MAKERS = {"registry": make_registry, "serving": make_serving, "panes": make_panes}


@dataclass
class World:
    """One process of each service, started anew when it dies."""

    directory: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(START_MS))
    crashes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = Settings(
            request_partitions=PARTITIONS, model_partitions=PARTITIONS,
            state_dir=self.directory / "state",
        )  # fmt: skip
        topics = [*TOPICS.values(), *CHANGELOGS.values()]
        self.broker = MemoryBroker(self.clock, {topic.name: PARTITIONS for topic in topics})
        self.loops = {name: self.loop(name) for name in MAKERS}

    def loop(self, name: str) -> Loop:
        return Loop(MAKERS[name](self.settings), self.broker, self.settings, self.clock)

    def send(self, topic: str, key: str, event: Event) -> None:
        partition = None if TOPICS[topic].partitioned_by == "model" else request_partition(key, 2)
        self.broker.append(topic, key.encode(), encode(event), partition=partition)

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            for name in MAKERS:
                try:
                    for _ in range(3):
                        self.loops[name].step()
                except Crash:
                    self.crashes.append(name)
                    self.loops[name].close()
                    self.loops[name] = self.loop(name)
            self.clock.advance(200)

    def read(self, topic: str, cls: type[Any]) -> list[Any]:
        return [decode(cls, record.value or b"") for record in self.broker.records(topic)]


def offer(world: World) -> None:
    """Register the version that is served elsewhere, and one that could be served here."""
    world.send("monitors", "m", MONITOR)
    foreign = Candidate(
        request_id="a", model="m", version="12", as_champion=True, created_ms=START_MS
    )
    world.send("candidates", "m", foreign)
    own = Candidate(
        request_id="b", model="m", parent="12", classes=["DOWN", "UP"], created_ms=START_MS,
        artefact=Artefact(uri="k1", sha256="0" * 64, format="skops", size=1),
        feature_schema=[FeatureColumn(name="x", type="numeric")],
    )  # fmt: skip
    world.send("candidates", "m", own)
    world.run(10)


def play(world: World, *, rows: int = ROWS, right: float = 0.6, start: int = 0) -> None:
    """Let version 12 answer, right so often; labels come a second later."""
    chance = random.Random(start + 1)
    waiting: list[tuple[int, Outcome]] = []
    for i in range(start, start + rows):
        x = chance.random()
        label = "UP" if x > 0.5 else "DOWN"
        answer = label if chance.random() < right else {"UP": "DOWN", "DOWN": "UP"}[label]
        now_ms = world.clock()
        prediction = Prediction(
            prediction_id=f"r-{i}", model="m", version="12", event_time_ms=now_ms,
            features={"x": x}, output={"label": answer},
        )  # fmt: skip
        world.send("predictions", f"r-{i}", prediction)
        outcome = Outcome(prediction_id=f"r-{i}", label=label, event_time_ms=now_ms + 1_000)
        waiting.append((now_ms + 1_000, outcome))
        while waiting and waiting[0][0] <= now_ms:
            due = waiting.pop(0)[1]
            world.send("outcomes", due.prediction_id, due)
        world.clock.advance(STEP_MS)
        if i % 20 == 19:
            world.run(1)
    for at_ms, outcome in waiting:
        world.clock.advance(max(0, at_ms - world.clock()))
        world.send("outcomes", outcome.prediction_id, outcome)
    world.run(40)


def standing(world: World) -> list[tuple[str, str, Any]]:
    found: list[ModelVersion] = world.read("model-versions", ModelVersion)
    return [(v.version, v.status, v.evidence["decision"]) for v in found]


def made(world: World) -> Counter[tuple[str, str, str]]:
    predictions: list[Prediction] = world.read("predictions", Prediction)
    return Counter((p.prediction_id, p.version, p.role) for p in predictions)


def examples(world: World) -> dict[str, dict[str, Any]]:
    best: dict[str, Example] = {}
    for example in world.read("examples", Example):
        if example.revision >= best.get(example.prediction_id, example).revision:
            best[example.prediction_id] = example
    return {name: example.model_dump() for name, example in best.items()}


def expected(rows: int) -> Counter[tuple[str, str, str]]:
    both = [("12", "champion"), ("k1", "shadow")]
    return Counter((f"r-{i}", version, role) for i in range(rows) for version, role in both)


PROMOTED = [
    ("12", "champion", "first"),
    ("k1", "shadow", "shadow"),
    ("k1", "champion", "paired-test"),
    ("12", "shadow", "watch"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("undisturbed"))
    offer(world)
    play(world)
    return world


def test_a_challenger_proves_itself_beside_a_model_served_elsewhere(undisturbed: World) -> None:
    assert standing(undisturbed) == PROMOTED
    assert made(undisturbed) == expected(ROWS)
    assert undisturbed.broker.records("dead-letters") == []
    found = examples(undisturbed)
    assert len(found) == ROWS
    assert all(set(e["outputs"]) == {"12", "k1"} for e in found.values())
    assert {e["served_by"] for e in found.values()} == {"12"}


def test_the_promoted_version_goes_back_when_the_one_that_still_answers_is_better(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    offer(world)
    play(world)
    assert standing(world) == PROMOTED
    world.clock.advance(5_000)

    # Out there somebody mends version 12's input: the truth has changed for k1 alone.
    def turned(i: int, chance: random.Random) -> tuple[Prediction, Outcome]:
        x = chance.random()
        label = "DOWN" if x > 0.5 else "UP"
        now_ms, name = world.clock(), f"s-{i}"
        prediction = Prediction(
            prediction_id=name, model="m", version="12", event_time_ms=now_ms,
            features={"x": x}, output={"label": label},
        )  # fmt: skip
        return prediction, Outcome(prediction_id=name, label=label, event_time_ms=now_ms + 1)

    chance = random.Random(5)
    for i in range(400):
        prediction, outcome = turned(i, chance)
        world.send("predictions", prediction.prediction_id, prediction)
        world.clock.advance(STEP_MS)
        world.send("outcomes", prediction.prediction_id, outcome)
        if i % 20 == 19:
            world.run(1)
    world.run(40)
    assert standing(world) == [
        *PROMOTED, ("12", "champion", "rollback"), ("k1", "retired", "rolled-back"),
    ]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "after", [1, 101, *(pytest.param(n, marks=pytest.mark.long) for n in (0, 6))]
)
def test_a_crash_at_any_step_of_a_commit_changes_nothing(
    undisturbed: World, tmp_path: Path, step: Step, after: int
) -> None:
    world = World(tmp_path)
    offer(world)
    world.broker.inject(step, Crash(), after=after)
    play(world)
    assert len(world.crashes) == 1
    assert standing(world) == standing(undisturbed)
    assert made(world) == made(undisturbed)
    assert examples(world) == examples(undisturbed)
    assert world.broker.records("dead-letters") == []
