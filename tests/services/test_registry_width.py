"""Several registries for many models: what they write does not depend on who owns what when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import Artefact, Candidate, Command, ModelVersion
from kedge.base import Event
from kedge.codec import decode, encode
from kedge.panes import Pane, PaneSource, Progress
from kedge.topics import CHANGELOGS, TOPICS, model_partition
from kedge_services.core.deltas import PairDelta
from kedge_services.registry.service import make
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.settings import Settings

PARTITIONS = 4


def _place(model: str) -> int:
    return model_partition(model, PARTITIONS)


#: Every partition has two of them.
MODELS = [
    name
    for partition in range(PARTITIONS)
    for name in islice((f"m{i}" for i in count() if _place(f"m{i}") == partition), 2)
]
ARTEFACT = Artefact(uri="a", sha256="0" * 64, format="onnx", size=1)
PROGRESS = Progress(
    partition=0, partitions=1, sequence=1, offsets={}, clock_ms={}, since_ms={},
    predictions={}, outcomes={}, fates={},
)  # fmt: skip


def candidate(model: str, request: str, **changes: Any) -> tuple[str, str, Event]:
    fields = {"request_id": f"{model}-{request}", "model": model, "created_ms": 1, **changes}
    return "candidates", model, Candidate.model_validate(fields)


def command(model: str, action: str, **changes: Any) -> tuple[str, str, Event]:
    name = f"{model}-{action}-{changes}"
    fields = {"command_id": name, "model": model, "action": action, "by": "ann", **changes}
    return "commands", model, Command.model_validate({**fields, "event_time_ms": 1})


def pairs(model: str, version: str, champion: str) -> tuple[str, str, Event]:
    pane = Pane(
        model=model, version=version, kind="pair", start_ms=0, end_ms=1,
        counts=PairDelta(champion, {32: 60, 0: 200}).encode(),
        source=PaneSource(topic="outcomes", partition=0, from_offset=0, to_offset=1),
    )  # fmt: skip
    return "panes", model, pane


def chapter(model: str) -> Iterator[tuple[str, str, Event]]:
    """Give all that happens to one model."""
    yield candidate(model, "a", version="2024.1")  # served elsewhere
    yield candidate(model, "b", version=f"{model}/ours")
    yield candidate(model, "c", artefact=ARTEFACT)  # becomes k1
    yield candidate(model, "c", artefact=ARTEFACT)  # a repetition
    other = MODELS[(MODELS.index(model) + 1) % len(MODELS)]
    yield command(model, "promote", version=f"{other}/ours")  # refused
    yield command(model, "promote", version=f"{model}/ours", expected_champion="2024.1")
    yield pairs(model, "k1", f"{model}/ours")
    yield "panes", model, PROGRESS
    yield command(model, "rollback")
    yield candidate(model, "d", version="2024.1")  # refused: it exists


#: The models take turns.
STORY = [event for turn in zip(*map(chapter, MODELS), strict=True) for event in turn]


@dataclass
class Cluster:
    """A broker, and the registries that run at present by ordinal."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000))
    loops: dict[int, Loop] = field(default_factory=dict)

    def __post_init__(self) -> None:
        topics = [*TOPICS.values(), *CHANGELOGS.values()]
        self.broker = MemoryBroker(self.clock, {topic.name: PARTITIONS for topic in topics})

    def start(self, ordinal: int) -> None:
        if ordinal not in self.loops:
            chosen = Settings(ordinal=ordinal, model_partitions=PARTITIONS)
            self.loops[ordinal] = Loop(make(chosen), self.broker, chosen, self.clock)

    def kill(self, ordinal: int) -> None:
        """Let a process vanish, unless it is the last; its session ends."""
        if ordinal in self.loops and len(self.loops) > 1:
            del self.loops[ordinal]
            self.broker.expel("registry", f"registry-{ordinal}")

    def step(self, times: int) -> bool:
        is_busy = False
        for _ in range(times):
            self.clock.advance(1_000)
            for loop in list(self.loops.values()):
                is_busy |= bool(loop.step()) or not loop.is_ready
        return is_busy

    def owned(self) -> list[int]:
        return sorted(place for loop in self.loops.values() for place in loop.running)

    def settle(self) -> None:
        for _ in range(200):
            if not self.step(3) and self.owned() == list(range(PARTITIONS)):
                return
        raise AssertionError(f"no rest: {self.owned()} of {PARTITIONS} partitions are owned")

    def send(self, topic: str, model: str, event: Event) -> None:
        self.broker.append(topic, model.encode(), encode(event), partition=_place(model))

    def versions(self) -> dict[str, list[dict[str, Any]]]:
        """Give what was written of each model, in order; times depend on the processes."""
        found: dict[str, list[dict[str, Any]]] = {}
        for record in self.broker.records("model-versions"):
            version = decode(ModelVersion, record.value or b"")
            found.setdefault(version.model, []).append(version.model_dump(exclude={"changed_ms"}))
        return found

    def refusals(self) -> list[tuple[bytes, bytes]]:
        headers = [dict(record.headers) for record in self.broker.records("dead-letters")]
        return sorted((each["kedge-reason"], each["kedge-detail"]) for each in headers)


def play(disturbances: dict[int, tuple[int, str, int]] | None = None) -> Cluster:
    """Send the story; a disturbance comes some steps after its event was sent."""
    cluster = Cluster()
    cluster.start(0)
    cluster.settle()
    for place, (topic, model, event) in enumerate(STORY):
        cluster.send(topic, model, event)
        if disturbances and place in disturbances:
            steps, action, ordinal = disturbances[place]
            cluster.step(steps)
            getattr(cluster, action)(ordinal)
        cluster.settle()
    return cluster


@cache
def alone() -> Cluster:
    """Give what one process makes of the story that nobody disturbs."""
    return play()


def test_a_story_ends_the_same_for_every_model() -> None:
    written = alone().versions()
    assert sorted(written) == sorted(MODELS)
    for model, versions in written.items():
        ours = f"{model}/ours"
        assert [(v["version"], v["status"], v["sequence"]) for v in versions] == [
            ("2024.1", "champion", 1),
            (ours, "shadow", 2),
            ("k1", "shadow", 3),
            (ours, "champion", 4),
            ("2024.1", "shadow", 5),
            ("k1", "champion", 6),
            ("2024.1", "retired", 7),
            (ours, "shadow", 8),
            (ours, "champion", 9),
            ("k1", "retired", 10),
        ]
    details = [detail.decode() for _, detail in alone().refusals()]
    other = MODELS[1]
    assert f"{MODELS[0]} has no version {other}/ours" in details
    assert details.count("2024.1 is a version already, and a version never changes") == len(MODELS)
    assert len(details) == 2 * len(MODELS)


def test_two_registries_share_the_models() -> None:
    cluster = Cluster()
    cluster.start(0)
    cluster.start(1)
    cluster.settle()
    assert sorted(len(loop.running) for loop in cluster.loops.values()) == [2, 2]
    for topic, model, event in STORY:
        cluster.send(topic, model, event)
        cluster.settle()
    assert cluster.versions() == alone().versions()
    assert cluster.refusals() == alone().refusals()


Disturbance = st.tuples(st.integers(0, 2), st.sampled_from(["start", "kill"]), st.integers(0, 2))


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.integers(0, len(STORY) - 1), Disturbance, max_size=12),
    st.integers(0, len(STORY) - 1),
)
def test_rebalances_and_deaths_in_the_middle_lose_and_double_no_version(
    disturbances: dict[int, tuple[int, str, int]], first: int
) -> None:
    cluster = play({first: (1, "start", 1), **disturbances})
    assert cluster.versions() == alone().versions()
    assert cluster.refusals() == alone().refusals()
