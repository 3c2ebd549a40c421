"""The flow from predictions to retrain requests and a promotion, through crashes everywhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kedge import Candidate, Monitor
from kedge_services.core.references import build_reference
from kedge_services.local.recount.recount import recount
from kedge_services.runtime.memory import Step
from kedge_services.runtime.settings import Settings
from world import World

START_MS = 1_800_000_000_000
PANE_MS = 2_000
ROWS_PER_PANE = 150
PANES = 16
BROKEN_FROM = 8
CHALLENGER_FROM = 10
STEPS: tuple[Step, ...] = ("begin", "produce", "send_offsets", "commit", "committed")

MONITOR = Monitor.model_validate(
    {
        "model": "loans",
        "task": "binary",
        "classes": ["no", "yes"],
        "features": {"x": "numeric", "c": "categorical"},
        "label_horizon": "8s",
        "outcome_wait": "2s",
        "windows": {"pane": "2s", "scales": [1, 2], "grace": "500ms"},
        "rules": [{"name": "accuracy-low", "metric": "accuracy", "below": 0.75,
                   "for": "2 windows"}],
        "retrain": {"on": ["error-rate", "accuracy-low"], "cooldown": "10m", "min_labels": 100},
    }
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A record of the input and when it is appended."""

    topic: str
    key: str
    event: dict[str, Any]
    append_ms: int


def row(chance: random.Random) -> dict[str, Any]:
    return {"x": round(chance.gauss(0, 1), 6), "c": chance.choice(["a", "b"])}


def traffic() -> list[Sent]:
    """Make good answers, from a pane on bad ones, later a challenger that is good again."""
    chance = random.Random(3)
    sent = []
    for number in range(PANES * ROWS_PER_PANE):
        at_ms = START_MS + number * PANE_MS // ROWS_PER_PANE
        pane = number // ROWS_PER_PANE
        identity, label = f"p{number}", chance.choice(["no", "yes"])
        base = {"model": "loans", "event_time_ms": at_ms, "features": row(chance)}
        wrong_by_version = {"v1": 0.05 if pane < BROKEN_FROM else 0.5}
        if pane >= CHALLENGER_FROM:
            wrong_by_version["v2"] = 0.05
        for version, wrong in wrong_by_version.items():
            answer = {"no": "yes", "yes": "no"}[label] if chance.random() < wrong else label
            prediction = {
                "prediction_id": identity, "version": version, **base,
                "role": "champion" if version == "v1" else "shadow",
                "output": {"label": answer, "score": 0.9 if answer == "yes" else 0.1},
            }  # fmt: skip
            sent.append(Sent("predictions", identity, prediction, at_ms + 5))
        if number % 100 != 99:  # one in a hundred is never labelled
            label_ms = at_ms + chance.randrange(200, 1_500)
            outcome = {"prediction_id": identity, "label": label, "event_time_ms": label_ms}
            sent.append(Sent("outcomes", identity, outcome, label_ms + 5))
    orphan = {"prediction_id": "nobody", "label": "no", "event_time_ms": START_MS + 4_000}
    sent.append(Sent("outcomes", "nobody", orphan, START_MS + 4_005))
    alien = {"prediction_id": "q", "model": "alien", "version": "1", "features": {},
             "event_time_ms": START_MS}  # fmt: skip
    sent.append(Sent("predictions", "q", alien, START_MS + 5))
    return sorted(sent, key=lambda s: s.append_ms)


def candidate(version: str, *, as_champion: bool) -> dict[str, Any]:
    chance = random.Random(version)
    rows = [row(chance) for _ in range(1_500)]
    answers = [chance.choice(["no", "yes"]) for _ in rows]
    reference = build_reference(
        model="loans",
        version=version,
        columns={name: [r[name] for r in rows] for name in ("x", "c")},
        kinds={"x": "numeric", "c": "categorical"},
        predictions=answers,
        scores=[0.9 if a == "yes" else 0.1 for a in answers],
        labels=answers,
        losses=[float(chance.random() < 0.05) for _ in rows],
        origin="held-out",
    )
    offer = Candidate(
        request_id=f"register-{version}", model="loans", version=version,
        as_champion=as_champion, reference=reference, created_ms=START_MS,
    )  # fmt: skip
    data: dict[str, Any] = offer.model_dump(mode="json", by_alias=True, exclude_none=True)
    return data


def flush(world: World, chunk: Sequence[Sent]) -> None:
    for sent in chunk:
        world.send(sent.topic, sent.key, sent.event, append_ms=sent.append_ms)


def play(
    directory: Path,
    *,
    sent: Sequence[Sent] | None = None,
    partitions: int = 2,
    crash: tuple[Step, int] | None = None,
    loses_disk: bool = False,
    flush: Callable[[World, Sequence[Sent]], None] = flush,
) -> World:
    """Send everything in the order of its append times and let the services run beside it."""
    settings = Settings(
        request_partitions=partitions, model_partitions=2, state_dir=directory / "state"
    )
    world = World(settings, start_ms=START_MS - 60_000)
    monitor = MONITOR.model_dump(mode="json", by_alias=True, exclude_none=True)
    world.send("monitors", "loans", monitor, append_ms=START_MS - 60_000)
    offer = candidate("v1", as_champion=True)
    world.send("candidates", offer["request_id"], offer, append_ms=START_MS - 60_000)
    offer = candidate("v2", as_champion=False)
    world.send("candidates", offer["request_id"], offer, append_ms=START_MS - 60_000)
    world.run(8)
    world.clock.advance(START_MS - world.clock())
    world.loses_disk = loses_disk
    if crash is not None:
        world.crash(crash[0], after=crash[1])
    chunk: list[Sent] = []
    for record in traffic() if sent is None else sent:
        chunk.append(record)
        if record.append_ms >= world.clock():
            flush(world, chunk)
            chunk = []
            world.run(1)
    flush(world, chunk)
    world.run(80)
    world.close()
    return world


def verdicts(world: World) -> dict[str, Any]:
    """Give all that must not depend on what happened to any process."""
    alerts = {
        (a["alert_id"], a["status"]): (a["rule"], a["starts_ms"]) for a in world.events("alerts")
    }
    versions = [
        (v["version"], v["status"]) for v in world.events("model-versions")
    ]  # the order of one model's records
    return {
        "fates": world.fates(),
        "examples": world.examples(),
        "windows": world.final_windows(),
        "alerts": alerts,
        "requests": sorted(r["request_id"] for r in world.events("retrain-requests")),
        "versions": versions,
        "dead letters": sorted(
            (dict(r.headers)["kedge-reason"], r.value) for r in world.broker.records("dead-letters")
        ),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> World:
    return play(tmp_path_factory.mktemp("undisturbed"))


def test_the_loop_sees_the_change_asks_and_promotes(undisturbed: World) -> None:
    fired = {a["rule"] for a in undisturbed.events("alerts") if a["status"] == "firing"}
    assert {"error-rate", "accuracy-low"} <= fired
    requests = undisturbed.events("retrain-requests")
    assert len(requests) == 1
    assert requests[0]["base_version"] == "v1"
    firing = {a["alert_id"] for a in undisturbed.events("alerts") if a["status"] == "firing"}
    assert set(requests[0]["cause"]["alert_ids"]) <= firing
    standing = {v["version"]: v["status"] for v in undisturbed.events("model-versions")}
    assert standing["v2"] == "champion"


def test_nothing_fires_before_the_change(undisturbed: World) -> None:
    early = [a for a in undisturbed.events("alerts") if a["starts_ms"] < START_MS + 8 * PANE_MS]
    assert early == []


def test_every_record_has_one_fate(undisturbed: World) -> None:
    sent = traffic()
    fates = undisturbed.fates()
    predictions = [s for s in sent if s.topic == "predictions"]
    outcomes = [s for s in sent if s.topic == "outcomes"]
    assert sum(fates["predictions"].values()) == len(predictions)
    assert fates["predictions"]["unknown-model"] == 1
    assert sum(fates["outcomes"].values()) == len(outcomes)
    assert fates["outcomes"] == {"matched": len(outcomes) - 1, "unmatched-outcome": 1}


def test_the_counter_of_records_by_fate_says_the_same_as_progress(undisturbed: World) -> None:
    shown = undisturbed.metrics["panes"].render().decode()
    counted: dict[str, dict[str, int]] = {}
    for family in text_string_to_metric_families(shown):
        for sample in family.samples:
            if sample.name == "kedge_records_total":
                fates = counted.setdefault(sample.labels["topic"], {})
                fates[sample.labels["fate"]] = int(sample.value)
    assert counted == undisturbed.fates()


def test_examples_and_windows_count_what_was_sent(undisturbed: World) -> None:
    labelled = [s for s in traffic() if s.topic == "outcomes" and s.key != "nobody"]
    examples = undisturbed.examples()
    assert set(examples) == {s.key for s in labelled}
    windows = undisturbed.final_windows().values()
    drift = [w for w in windows if (w["kind"], w["scale"], w["version"]) == ("drift", 1, "v1")]
    assert sum(w["n"] for w in drift) == PANES * ROWS_PER_PANE
    performance = [
        w for w in windows if (w["kind"], w["scale"], w["version"]) == ("performance", 1, "v1")
    ]
    assert sum(w["labelled"] for w in performance) == len(labelled)


def test_a_label_counts_once_however_many_versions_answered(undisturbed: World) -> None:
    labelled = [s for s in traffic() if s.topic == "outcomes" and s.key != "nobody"]
    assert max(w["labelled_total"] for w in undisturbed.events("windows")) == len(labelled)


@pytest.mark.parametrize("partitions", [1, 4])
def test_the_number_of_partitions_changes_nothing(
    undisturbed: World, tmp_path: Path, partitions: int
) -> None:
    other = play(tmp_path, partitions=partitions)
    assert verdicts(other)["windows"] == verdicts(undisturbed)["windows"]
    assert verdicts(other)["examples"] == verdicts(undisturbed)["examples"]
    assert verdicts(other)["fates"] == verdicts(undisturbed)["fates"]


# Commits go round the services, so the number of calls before the crash decides whose it is.
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "after", [0, 3, 23, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2, 4))]
)
def test_a_crash_at_any_step_of_a_commit_changes_nothing(
    undisturbed: World, tmp_path: Path, step: Step, after: int
) -> None:
    crashed = play(tmp_path, crash=(step, after), loses_disk=after % 2 == 1)
    assert len(crashed.crashes) == 1
    assert verdicts(crashed) == verdicts(undisturbed)
    assert recount(crashed.log()).differences == []
