"""Registry and serving on the broker in memory: from a candidate to an answer, through crashes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kedge import Candidate, Command, FeatureColumn, ModelVersion, Prediction, ScoringRequest
from kedge.base import Event
from kedge.codec import decode, encode
from kedge.panes import Pane, PaneSource, Progress
from kedge.topics import CHANGELOGS, TOPICS
from kedge_services.core.deltas import PairDelta
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.settings import Settings
from kedge_services.serving.service import make as make_serving

STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
SCHEMA = [FeatureColumn(name="x", type="numeric")]
PARTITIONS = 2


@cache
def tree(threshold: float) -> bytes:
    """Fit a model that says "UP" for an x above the threshold."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline

    from kedge_services.runtime.formats.skops_files import dump

    x = np.linspace(0, 1, 200).reshape(-1, 1)
    model = HistGradientBoostingClassifier(max_iter=5, early_stopping=False, random_state=0)
    pipeline = Pipeline([("encode", "passthrough"), ("model", model)])
    pipeline.fit(x, (x[:, 0] > threshold).astype(int))
    return dump(pipeline)


def pairs(version: str, champion: str, differences: dict[int, int]) -> Pane:
    return Pane(
        model="m", version=version, kind="pair", start_ms=0, end_ms=1,
        counts=PairDelta(champion, differences).encode(),
        source=PaneSource(topic="outcomes", partition=0, from_offset=0, to_offset=1),
    )  # fmt: skip


PROGRESS = Progress(
    partition=0, partitions=1, sequence=1, offsets={}, clock_ms={}, since_ms={},
    predictions={}, outcomes={}, fates={},
)  # fmt: skip


@dataclass
class World:
    """A broker and both services, each started anew when it dies."""

    settings: Settings
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000))
    crashes: int = 0

    def __post_init__(self) -> None:
        topics = [*TOPICS.values(), *CHANGELOGS.values()]
        self.broker = MemoryBroker(self.clock, {topic.name: PARTITIONS for topic in topics})
        self.loops = {name: self.loop(name) for name in ("registry", "serving")}

    def loop(self, name: str) -> Loop:
        make = make_registry if name == "registry" else make_serving
        return Loop(make(self.settings), self.broker, self.settings, self.clock)

    def send(self, topic: str, key: str, event: Event) -> None:
        self.broker.append(topic, key.encode(), encode(event))
        self.run()

    def run(self) -> None:
        for name in self.loops:
            idle = 0
            while idle < 3:
                self.clock.advance(1_000)
                try:
                    idle = (
                        0 if self.loops[name].step() or not self.loops[name].is_ready else idle + 1
                    )
                except Crash:
                    self.crashes += 1
                    self.loops[name] = self.loop(name)

    def versions(self) -> list[dict[str, Any]]:
        found = [
            decode(ModelVersion, r.value or b"") for r in self.broker.records("model-versions")
        ]
        # When something is decided depends on when a crashed process is back.
        return [version.model_dump(exclude={"changed_ms"}) for version in found]

    def predictions(self) -> list[Prediction]:
        records = self.broker.records("predictions")
        found = [decode(Prediction, record.value or b"") for record in records]
        return [p.model_copy(update={"latency_ms": None}) for p in found]


def story(world: World) -> None:
    """Register, shadow, promote by pairs, roll back by hand; ask before and after each."""
    store = ArtefactStore(world.settings.artefacts)

    def candidate(request: str, threshold: float) -> None:
        artefact = store.put(tree(threshold), "skops")
        offered = Candidate(
            request_id=request, model="m", artefact=artefact, feature_schema=SCHEMA,
            classes=["DOWN", "UP"], created_ms=1,
        )  # fmt: skip
        world.send("candidates", "m", offered)

    def ask(name: str) -> None:
        rows: list[Any] = [{"x": 0.3}, {"x": 0.9}, {"x": None}]
        asked = ScoringRequest(request_id=name, model="m", rows=rows, event_time_ms=5)
        world.send("requests", name, asked)

    ask("too-early")
    candidate("a", 0.5)
    ask("first")
    candidate("b", 0.1)
    ask("shadowed")
    world.send("panes", "m", pairs("k2", "k1", {32: 60, 0: 200}))
    world.send("panes", "m", PROGRESS)
    ask("promoted")
    command = Command(command_id="c", model="m", action="rollback", by="ann", event_time_ms=1)
    world.send("commands", "m", command)
    ask("rolled-back")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        request_partitions=PARTITIONS, model_partitions=PARTITIONS, artefacts=str(tmp_path)
    )


def test_versions_come_serve_and_go(settings: Settings) -> None:
    world = World(settings)
    story(world)
    assert [(v["version"], v["status"], v["sequence"]) for v in world.versions()] == [
        ("k1", "champion", 1), ("k2", "shadow", 2), ("k2", "champion", 3), ("k1", "shadow", 4),
        ("k1", "champion", 5), ("k2", "retired", 6),
    ]  # fmt: skip
    found = world.predictions()
    serves = {
        name: [(p.version, p.role) for p in found if p.prediction_id == f"{name}#0"]
        for name in ("first", "shadowed", "promoted", "rolled-back")
    }
    assert serves == {
        "first": [("k1", "champion")],
        "shadowed": [("k1", "champion"), ("k2", "shadow")],
        "promoted": [("k2", "champion"), ("k1", "shadow")],
        "rolled-back": [("k1", "champion")],
    }
    labels = {(p.version, p.prediction_id[-1]): p.output and p.output.label for p in found}
    assert [labels["k1", "0"], labels["k1", "1"]] == ["DOWN", "UP"]
    assert [labels["k2", "0"], labels["k2", "1"]] == ["UP", "UP"]
    letters = world.broker.records("dead-letters")
    assert [dict(letter.headers)["kedge-reason"] for letter in letters] == [b"unknown-model"]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_of_any_commit_changes_nothing(step: Step, settings: Settings) -> None:
    undisturbed = World(settings)
    story(undisturbed)
    crashes = 0
    for after in range(0, 14, 3):
        world = World(settings)
        world.broker.inject(step, Crash(), after=after)
        story(world)
        crashes += world.crashes
        assert world.versions() == undisturbed.versions()
        assert world.predictions() == undisturbed.predictions()
    assert crashes >= 3
