"""Windows become alerts and alerts become requests, on one broker, with processes that die."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedge.topics import CHANGELOGS, TOPICS, model_partition
from kedge_services.alerts.service import make as make_alerts
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.ports import Service, TransactionAborted
from kedge_services.runtime.settings import Settings
from kedge_services.triggers.service import make as make_triggers

GOLDEN = Path(__file__).parent.parent / "golden" / "alerts" / "promotion-supersedes"
SETTINGS = Settings(request_partitions=2, model_partitions=2)
MAKERS: dict[str, Callable[[Settings], Service]] = {
    "alerts": make_alerts,
    "triggers": make_triggers,
}
STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")
START_MS = 1_795_220_000_000


class World:
    """A broker and one process of each service."""

    def __init__(self) -> None:
        self.clock = ManualClock(START_MS)
        topics = {**TOPICS, **{topic.name: topic for topic in CHANGELOGS.values()}}
        partitions = {n: t.partitions(requests=2, models=2) for n, t in topics.items()}
        self.broker = MemoryBroker(self.clock, partitions)
        self.loops: dict[str, Loop] = {}
        self.died: list[str] = []

    def send(self, topic: str, value: dict[str, Any]) -> None:
        key = {"monitors": value["model"], "model-versions": f"{value['model']}/k"}.get(topic, "k")
        partition = model_partition(value["model"], 2)
        data = json.dumps(value).encode()
        self.broker.append(topic, key.encode(), data, partition=partition)

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            for name, make in MAKERS.items():
                loop = self.loops.get(name)
                if loop is None:
                    loop = Loop(make(SETTINGS), self.broker, SETTINGS, self.clock)
                    self.loops[name] = loop
                try:
                    loop.step()
                except Crash:
                    # What is dead neither commits nor closes; the next turn starts it anew.
                    self.died.append(name)
                    del self.loops[name]
            self.clock.advance(300)

    def close(self) -> None:
        for loop in self.loops.values():
            loop.close()

    def sent(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(record.value or b"") for record in self.broker.records(topic)]


def play(prepare: Callable[[World], None] = lambda _: None) -> World:
    world = World()
    world.run(4)
    prepare(world)
    lines = (GOLDEN / "input.ndjson").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        record = json.loads(line)
        value = record["value"]
        if record["topic"] == "monitors":
            value = {**value, "retrain": {"on": ["error-rate", "accuracy-low"], "cooldown": "15m"}}
        if record["topic"] != "windows":
            # A promotion lands somewhere; here everybody has read what was before it.
            world.run(12)
            world.send(record["topic"], value)
            world.run(12)
            continue
        world.send("windows", value)
        if number % 7 == 0:
            # Triggers read alerts beside windows: how far one is behind the other decides
            # whether an alert that is about to end asks once more.  Here nobody is far behind.
            world.run(8)
    world.run(20)
    world.close()
    return world


@pytest.fixture(scope="module")
def undisturbed() -> World:
    return play()


def requests(world: World) -> list[tuple[str, Any, Any]]:
    return [
        (r["request_id"], r["since_ms"], r["cause"]["attempt"])
        for r in world.sent("retrain-requests")
    ]


def test_the_alerts_are_those_of_the_golden_stream(undisturbed: World) -> None:
    expected = (GOLDEN / "alerts.ndjson").read_text(encoding="utf-8").splitlines()
    assert undisturbed.sent("alerts") == [json.loads(line) for line in expected]
    assert undisturbed.sent("dead-letters") == []


def test_the_alert_asks_and_asks_again_while_it_fires(undisturbed: World) -> None:
    found = undisturbed.sent("retrain-requests")
    firing = [a for a in undisturbed.sent("alerts") if a["status"] == "firing"]
    error = next(a for a in firing if a["rule"] == "error-rate")
    assert all(error["alert_id"] in r["cause"]["alert_ids"] for r in found)
    assert [r["cause"]["attempt"] for r in found] == list(range(len(found)))
    assert len(found) >= 2
    assert {r["base_version"] for r in found} == {"k1"}
    # It fires from its window on, waits for 300 labels, and is superseded with the promotion.
    times = [r["event_time_ms"] for r in found]
    assert times[0] > error["fired_ms"]
    over = next(
        a for a in undisturbed.sent("alerts") if a.get("ends_ms") and a["rule"] == "error-rate"
    )
    assert times[-1] <= over["ends_ms"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 9, 14])
def test_a_crash_at_any_step_of_a_commit_changes_nothing(
    undisturbed: World, step: Step, after: int
) -> None:
    crashed = play(lambda world: world.broker.inject(step, Crash(), after=after))
    assert len(crashed.died) == 1
    assert crashed.sent("alerts") == undisturbed.sent("alerts")
    assert requests(crashed) == requests(undisturbed)
    assert crashed.sent("dead-letters") == []


@pytest.mark.parametrize("step", ["produce", "send_offsets", "commit"])
@pytest.mark.parametrize("after", [0, 4])
def test_an_aborted_transaction_changes_nothing(undisturbed: World, step: Step, after: int) -> None:
    aborted = play(lambda world: world.broker.inject(step, TransactionAborted("gone"), after=after))
    assert aborted.died == []
    assert aborted.sent("alerts") == undisturbed.sent("alerts")
    assert requests(aborted) == requests(undisturbed)


def test_both_die_again_and_again(undisturbed: World) -> None:
    def script(world: World) -> None:
        for calls in (0, 1, 2, 1, 4, 0, 3):
            for step in STEPS:
                world.broker.inject(step, Crash(), after=calls)

    crashed = play(script)
    assert set(crashed.died) == set(MAKERS)
    assert len(crashed.died) > 3
    assert crashed.sent("alerts") == undisturbed.sent("alerts")
    assert requests(crashed) == requests(undisturbed)
