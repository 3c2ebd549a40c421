"""Rows taken together fare as rows taken alone, wherever batches, commits and crashes fall."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kedge_services.core.references import build_reference
from kedge_services.runtime.stores import MemoryStore

if TYPE_CHECKING:
    from tests.panes.conftest import Driver

BASE: dict[str, Any] = {
    "task": "binary",
    "classes": ["ok", "fraud"],
    "features": {"amount": "numeric", "country": "categorical"},
    "label_horizon": "10s",
    "outcome_wait": "2s",
    "windows": {"pane": "5s", "grace": "500ms"},
}
MONITORS: list[dict[str, Any]] = [
    BASE | {"model": "watched", "labelled": False},
    BASE | {"model": "joined"},
    BASE | {"model": "changing", "labelled": False},
    BASE
    | {
        "model": "changing",
        "labelled": False,
        "effective_ms": 110_000,
        "features": {"amount": "categorical", "age": "numeric"},
        "windows": {"pane": "5s", "grace": "2s"},
    },
]
REFERENCE = build_reference(
    model="watched",
    version="1",
    columns={"amount": [float(i) for i in range(50)], "country": ["NO", "SE"] * 25},
    kinds={"amount": "numeric", "country": "categorical"},
    predictions=["ok", "fraud"] * 25,
    scores=[i / 50 for i in range(50)],
)
AMOUNTS = [0, 1, 7.5, -3, True, None, "x", 1e308, 10**400, 2**53 + 1, 49.0, 60]
OUTPUTS: list[Any] = [
    {"label": "ok", "score": 0.25},
    {"label": "fraud", "score": 0.75},
    {"label": "fraud"},
    {"score": 0.5},
    {"scores": {"ok": 0.3, "fraud": 0.7}},
    {"label": "unheard-of"},
    {"value": 3.5},
    None,
]


def sent(seed: int, rows: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    time_ms, found = 100_000, []
    for _ in range(rows):
        time_ms += chance.choice([0, 3, 40, 700])
        row: dict[str, Any] = {
            "prediction_id": f"id-{chance.randrange(rows)}",
            "model": chance.choice(["watched", "watched", "joined", "changing", "nobody"]),
            "version": chance.choice(["1", "1", "1", "2"]),
            "event_time_ms": time_ms - chance.choice([0, 0, 0, 20, 600, 5_000]),
            "features": {"amount": chance.choice(AMOUNTS), "country": chance.choice(["NO", "DK"])},
            "output": chance.choice(OUTPUTS),
        }
        if chance.random() < 0.05:
            del row[chance.choice(sorted(row))]
        if chance.random() < 0.3:
            row["latency_ms"] = chance.choice([0, 0.5, 12, 1e9])
        found.append(row)
    return found


def made(driver: type[Driver], rows: list[dict[str, Any]]) -> Driver:
    panes = driver(partitions=1)
    for monitor in MONITORS:
        panes.monitor(**monitor)
    panes.reference(REFERENCE)
    for i, row in enumerate(rows):
        named = {"prediction_id": "x", "event_time_ms": 100_000} | row
        if "prediction_id" in row and "event_time_ms" in row:
            panes.send("predictions", named, at_ms=100_000 + 400 * i)
        else:
            panes.send("predictions", named | {"event_time_ms": "soon"}, at_ms=100_000 + 400 * i)
    return panes


def result(panes: Driver) -> Any:
    return panes.sums(), panes.fates("predictions"), panes.dead_letters()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.sampled_from([20, 300]), st.booleans())
def test_batches_commits_and_crashes_change_nothing(
    driver: type[Driver],
    seed: int,
    rows: int,
    store_is_lost: bool,  # noqa: FBT001
) -> None:
    events = sent(seed, rows)
    whole = made(driver, events)
    whole.run()
    chance = random.Random(seed)
    pieces = made(driver, events)
    while pieces.step("predictions", 0, chance.choice([1, 2, 7, 100])):
        fate = chance.random()
        if fate < 0.2:
            pieces.commit(0)
        elif fate < 0.4:
            pieces.commit(0, crash="durable" if chance.random() < 0.5 else "before")
            if store_is_lost:
                pieces.stores[0] = MemoryStore()
            pieces.start(0, seed=seed)
    pieces.commit(0)
    assert result(pieces) == result(whole)
    assert sum(whole.fates("predictions").values()) == rows


def test_ids_without_labels_are_known_after_a_restart_with_an_empty_store(
    driver: type[Driver],
) -> None:
    panes = driver(partitions=1)
    panes.monitor(**MONITORS[0])
    row = {"prediction_id": "a", "model": "watched", "version": "1", "event_time_ms": 100_000,
           "features": {}}  # fmt: skip
    panes.send("predictions", row)
    panes.run()
    panes.stores[0] = MemoryStore()
    panes.start(0)
    panes.send("predictions", row)
    panes.run()
    assert panes.fates("predictions") == {"counted": 1, "duplicate": 1}
