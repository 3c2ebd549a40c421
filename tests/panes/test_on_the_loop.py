"""panes on the real loop and the broker in memory, dying at every step of a commit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from kedge import Monitor
from kedge.codec import encode
from kedge.topics import CHANGELOGS, TOPICS, request_partition
from kedge_services.panes.service import make
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.settings import Settings

STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
MONITOR = Monitor.model_validate(
    {
        "model": "fraud",
        "task": "binary",
        "classes": ["ok", "fraud"],
        "features": {"amount": "numeric"},
        "label_horizon": "20s",
        "outcome_wait": "2s",
        "windows": {"pane": "1s", "grace": "100ms"},
    }
)


def outcome_of(directory: Path, *, crash_at: tuple[Step, int] | None) -> dict[str, Any]:
    """Run a fixed stream through panes; give what must not depend on crashes."""
    settings = Settings(state_dir=directory, request_partitions=2, model_partitions=2)
    clock = ManualClock(1_000_000)
    tables = {**TOPICS, "panes-changelog": CHANGELOGS["panes"]}
    broker = MemoryBroker(
        clock, {name: topic.partitions(requests=2, models=2) for name, topic in tables.items()}
    )
    broker.append("monitors", b"fraud", encode(MONITOR))
    chance = random.Random(7)
    loop: Loop | None = None
    crashes = 0
    for turn in range(40):
        for i in range(15):
            time_ms = clock.now_ms + i
            name = f"r-{turn}-{i}"
            fields = {"prediction_id": name, "model": "fraud", "event_time_ms": time_ms}
            kind = {"version": "1", "features": {"amount": i}, "output": {"label": "ok"}}
            send(broker, "predictions", fields | kind)
            if turn >= 3 and i % 3:
                about = f"r-{turn - 3}-{i}" if i % 5 else f"never-{turn}-{i}"
                said = {"label": chance.choice(["ok", "fraud"]), "event_time_ms": time_ms}
                send(broker, "outcomes", {"prediction_id": about} | said)
        if crash_at is not None and turn in (10, 25):
            broker.inject(crash_at[0], Crash("here"), after=crash_at[1])
        clock.advance(600)
        loop = loop or Loop(make(settings), broker, settings, clock)
        try:
            for _ in range(4):
                loop.step()
        except Crash:
            crashes += 1
            loop = None  # what is dead closes nothing
    for _ in range(20):
        clock.advance(600)
        loop = loop or Loop(make(settings), broker, settings, clock)
        loop.step()
    assert loop is not None
    loop.close()
    assert crashes == (2 if crash_at else 0)
    return summary(broker)


def send(broker: MemoryBroker, topic: str, event: dict[str, Any]) -> None:
    name = event["prediction_id"]
    place = request_partition(name, 2)
    broker.append(topic, name.encode(), json.dumps(event).encode(), partition=place)


def summary(broker: MemoryBroker) -> dict[str, Any]:
    counts: dict[Any, int] = {}
    fates: dict[int, Any] = {}
    for record in broker.records("panes"):
        pane = json.loads(record.value or b"")
        if pane["type"] == "progress":
            fates[pane["partition"]] = pane["fates"]
        elif pane["kind"] in {"performance", "labels"}:
            for name in ("predicted", "labelled", "loss"):
                key = (pane["kind"], pane["start_ms"], name)
                counts[key] = counts.get(key, 0) + pane["counts"].get(name, 0)
    examples = {
        record.key: json.loads(record.value or b"")["label"]
        for record in broker.records("examples")
    }
    dead = sorted((r.value or b"", dict(r.headers)["kedge-reason"])
                  for r in broker.records("dead-letters"))  # fmt: skip
    return {"counts": counts, "fates": fates, "examples": examples, "dead": dead}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcome_of(tmp_path_factory.mktemp("state"), crash_at=None)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [0, 1])
def test_a_process_that_dies_in_a_commit_leaves_no_trace(
    tmp_path: Path, undisturbed: dict[str, Any], step: Step, after: int
) -> None:
    assert outcome_of(tmp_path, crash_at=(step, after)) == undisturbed


def test_every_record_of_the_stream_has_its_fate(undisturbed: dict[str, Any]) -> None:
    total: dict[str, dict[str, int]] = {"predictions": {}, "outcomes": {}}
    for fates in undisturbed["fates"].values():
        for topic, counts in total.items():
            for fate, n in fates[topic].items():
                counts[fate] = counts.get(fate, 0) + n
    assert total["predictions"] == {"counted": 600}
    assert sum(total["outcomes"].values()) == 37 * 10
    assert len(undisturbed["examples"]) == total["outcomes"]["matched"]
    assert len(undisturbed["dead"]) == total["outcomes"]["unmatched-outcome"]
