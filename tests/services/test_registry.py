from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import Artefact, Candidate, Command, FeatureReference, ModelVersion, Monitor, Reference
from kedge.base import Event
from kedge.codec import decode, encode
from kedge.panes import ModelClock, Pane, PaneSource, Progress
from kedge.topics import model_partition
from kedge_services.core.deltas import PairDelta
from kedge_services.registry.task import RegistryTask
from kedge_services.runtime.metrics import DECISIONS
from kedge_services.runtime.ports import Batch, Commit, Count, TaskContext

PARTITIONS = 2
MODEL = next(name for name in ("m", "n", "o", "p") if model_partition(name, PARTITIONS) == 1)
ELSEWHERE = next(name for name in ("m", "n", "o", "p") if model_partition(name, PARTITIONS) == 0)


def batch(topic: str, *values: bytes | None, start: int = 0) -> Batch:
    n = len(values)
    offsets = range(start, start + n)
    return Batch(topic, 1, offsets, [10 + o for o in offsets], [b"k"] * n, values, [()] * n)


def topic_of(event: Event) -> str:
    return {"Candidate": "candidates", "Command": "commands"}.get(type(event).__name__, "panes")


def new_task(monitors: dict[str, Monitor] | None = None) -> RegistryTask:
    context = TaskContext(1, lambda: 0, lambda: None, lambda _: PARTITIONS)
    task = RegistryTask(context, (monitors or {}).get)
    task.start({})
    return task


def restarted(changelog: Iterable[tuple[bytes, bytes | None]]) -> RegistryTask:
    context = TaskContext(1, lambda: 0, lambda: None, lambda _: PARTITIONS)
    task = RegistryTask(context, lambda _: None)
    kept = dict(changelog)
    size = len(kept)
    task.restore(
        Batch("registry-changelog", 1, range(size), [0] * size, list(kept), list(kept.values()), [()] * size)  # noqa: E501
    )  # fmt: skip
    task.start({})
    return task


def feed(task: RegistryTask, *events: Event) -> None:
    for offset, event in enumerate(events):
        task.process(batch(topic_of(event), encode(event), start=offset))


def versions(commit: Commit) -> list[ModelVersion]:
    outputs = [out for out in commit.outputs if out.topic == "model-versions"]
    assert all(out.partition == 1 for out in outputs)
    return [decode(ModelVersion, out.value or b"") for out in outputs]


def statuses(found: list[ModelVersion]) -> list[tuple[str, str]]:
    return [(version.version, version.status) for version in found]


def reasons(commit: Commit) -> list[str]:
    letters = [out for out in commit.outputs if out.topic == "dead-letters"]
    return [dict(letter.headers)["kedge-reason"].decode() for letter in letters]


def candidate(request: str, **changes: Any) -> Candidate:
    artefact = Artefact(uri="a", sha256="0" * 64, format="skops", size=1)
    fields = {"model": MODEL, "created_ms": 1, "artefact": artefact, **changes}
    return Candidate(request_id=request, **fields)


def reference() -> Reference:
    return Reference(
        reference_id="abc", model=MODEL, version="?", effective_ms=5, origin="held-out", rows=1,
        features={"x": FeatureReference(kind="numeric", counts=[1], total=1)},
    )  # fmt: skip


def command(action: str, **changes: Any) -> Command:
    fields = {"command_id": f"c-{action}-{changes}", "model": MODEL, "by": "ann"}
    return Command.model_validate({**fields, "event_time_ms": 5, "action": action, **changes})


def pairs(version: str, champion: str, differences: dict[int, int]) -> Pane:
    return Pane(
        model=MODEL, version=version, kind="pair", start_ms=0, end_ms=1,
        counts=PairDelta(champion, differences).encode(),
        source=PaneSource(topic="outcomes", partition=0, from_offset=0, to_offset=1),
    )  # fmt: skip


PROGRESS = Progress(
    partition=0, partitions=1, sequence=1, offsets={}, clock_ms={}, since_ms={},
    predictions={MODEL: ModelClock(max_ms=1, seen_ms=1)}, outcomes={}, fates={},
)  # fmt: skip
WINS = {32: 60, 0: 200}


def test_an_accepted_version_follows_its_reference_in_one_transaction() -> None:
    task = new_task()
    feed(task, candidate("a", reference=reference()))
    commit = task.commit()
    assert [(out.topic, out.key) for out in commit.outputs] == [
        ("references", f"{MODEL}/abc".encode()),
        ("model-versions", f"{MODEL}/k1".encode()),
    ]
    published = decode(Reference, commit.outputs[0].value or b"")
    assert (published.version, published.effective_ms) == ("k1", 0)
    assert statuses(versions(commit)) == [("k1", "champion")]
    assert task.commit() == Commit()


def test_pairs_decide_when_progress_comes_and_not_before() -> None:
    task = new_task()
    feed(task, candidate("a"), candidate("b"))
    task.commit()
    feed(task, pairs("k2", "k1", {32: 30}), pairs("k2", "k1", {32: 30, 0: 200}))
    assert versions(task.commit()) == []
    feed(task, PROGRESS)
    found = versions(task.commit())
    assert statuses(found) == [("k2", "champion"), ("k1", "shadow")]
    assert found[0].evidence["n"] == 260
    assert [version.sequence for version in found] == [3, 4]


def test_other_panes_are_not_even_decoded() -> None:
    task = new_task()
    task.process(batch("panes", b'{"kind": "drift", "counts": not even JSON', None))
    task.process(batch("panes", b'{"kind":"drift","counts":{"features":{"pair":1,"progress":2}}}'))
    assert task.commit() == Commit()


def test_spaces_in_json_hide_no_pair() -> None:
    task = new_task()
    feed(task, candidate("a"), candidate("b"))
    for event in (pairs("k2", "k1", WINS), PROGRESS):
        task.process(batch("panes", json.dumps(json.loads(encode(event)), indent=1).encode()))
    assert ("k2", "champion") in statuses(versions(task.commit()))


def test_what_cannot_be_read_or_obeyed_is_put_aside_with_its_reason() -> None:
    task = new_task()
    task.process(batch("candidates", b"{", None, encode(candidate("x", model=ELSEWHERE))))
    feed(
        task,
        candidate("a", version="7"),
        candidate("b", version="7"),
        command("promote", version="9"),
    )
    task.process(batch("panes", b'{"kind":"pair"}'))
    commit = task.commit()
    assert reasons(commit) == [
        "undecodable", "missing-field", "misrouted", "conflicting-duplicate", "unknown-version",
        "undecodable",
    ]  # fmt: skip
    assert statuses(versions(commit)) == [("7", "champion")]


@pytest.mark.parametrize("name", ["", "v" * 256])
def test_a_version_whose_name_cannot_be_written_is_put_aside_and_no_death(name: str) -> None:
    task = new_task()
    wrong = json.loads(encode(candidate("a"))) | {"version": name}
    task.process(batch("candidates", json.dumps(wrong).encode()))
    commit = task.commit()
    assert reasons(commit) == ["bad-value"]
    assert versions(commit) == []


def test_a_failed_candidate_is_counted_and_changes_nothing() -> None:
    task = new_task()
    feed(task, candidate("a", failure="out of memory", artefact=None))
    assert task.commit() == Commit(counts=[Count(DECISIONS, 1, {"decision": "failed"})])


def test_the_monitor_says_whether_a_gate_is_enough() -> None:
    monitor = Monitor.model_validate(
        {"model": MODEL, "task": "binary", "classes": ["a", "b"], "features": {"x": "numeric"},
         "retrain": {"promotion": "fast"}}
    )  # fmt: skip
    task = new_task({MODEL: monitor})
    better = candidate(
        "b", parent="k1", metrics={"accuracy": 0.9}, parent_metrics={"accuracy": 0.8}
    )
    feed(task, candidate("a"), better)
    assert statuses(versions(task.commit()))[1:] == [("k2", "champion"), ("k1", "shadow")]


def test_evidence_seen_during_a_pause_counts_when_it_is_over() -> None:
    task = new_task()
    feed(task, candidate("a"), candidate("b"), command("pause", until_ms=1_000))
    feed(task, pairs("k2", "k1", WINS), PROGRESS)
    task.commit()
    late = batch("panes", encode(PROGRESS), start=2_000)
    task.process(late)
    assert ("k2", "champion") in statuses(versions(task.commit()))


EVENTS: list[Event] = [
    candidate("a", reference=reference()),
    candidate("b"),
    pairs("k2", "k1", {32: 20, 0: 50}),
    PROGRESS,
    candidate("b"),
    candidate("c", version="2024"),
    pairs("k2", "k1", {32: 40, 0: 190}),
    PROGRESS,
    command("pause"),
    pairs("k1", "k2", WINS),
    PROGRESS,
    command("resume"),
    candidate("d"),
    PROGRESS,
    command("promote", version="k3"),
    command("promote", version="k3"),
    command("rollback"),
]


@settings(max_examples=30)
@given(st.sets(st.integers(0, len(EVENTS))))
def test_a_restart_at_any_commit_gives_the_same_versions(commits: set[int]) -> None:
    straight = new_task()
    for i, event in enumerate(EVENTS):
        straight.process(batch(topic_of(event), encode(event), start=i))
    expected = straight.commit().outputs

    task, changelog, outputs = new_task(), dict[bytes, bytes | None](), []
    for i, event in enumerate(EVENTS):
        task.process(batch(topic_of(event), encode(event), start=i))
        if i in commits:
            done = task.commit()
            outputs += done.outputs
            changelog.update(done.changelog)
            task = restarted(changelog.items())
    outputs += task.commit().outputs
    assert outputs == expected
    assert len([out for out in outputs if out.topic == "model-versions"]) == 12


@pytest.mark.parametrize("seed", range(3))
def test_pairs_may_come_in_any_order(seed: int) -> None:
    deltas = [pairs("k2", "k1", {d: 3 + d % 5}) for d in range(-4, 20)]
    shuffled = random.Random(seed).sample(deltas, len(deltas))
    found = []
    for sequence in (deltas, shuffled):
        task = new_task()
        feed(task, candidate("a"), candidate("b"), *sequence, PROGRESS)
        found.append([version.evidence for version in versions(task.commit())])
    assert found[0] == found[1]
