"""Predictions sent as Arrow batches: the same verdicts, and the recount reads them, too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kedge.batch_layout import CONTENT_TYPE
from kedge.batches import pieces, table_of
from kedge.topics import request_partition
from kedge_services.local.recount.recount import recount
from kedge_services.runtime.memory import Step
from test_flow_memory import PANE_MS, START_MS, Sent, flush, play, traffic, verdicts
from test_recount import disorder
from world import World

HEADERS = [("content-type", CONTENT_TYPE)]


def columns(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("prediction_id", "model", "version", "role", "event_time_ms", "output", "features")
    return {name: [event.get(name) for event in events] for name in names}


def flush_batches(world: World, chunk: Sequence[Sent]) -> None:
    """Send the predictions of a chunk as batches, what no batch can hold as it is."""
    fits = [s for s in chunk if s.topic == "predictions" and is_regular(world, s)]
    flush(world, [sent for sent in chunk if sent not in fits])
    if not fits:
        return
    table = table_of(columns([sent.event for sent in fits]), {}, now_ms=0)
    partitions = world.settings.request_partitions
    for piece in pieces(table, partitions=partitions, most_rows=40):
        world.broker.append(
            "predictions", piece.key.encode(), piece.value, partition=piece.partition,
            timestamp_ms=chunk[-1].append_ms, headers=HEADERS,
        )  # fmt: skip


def is_regular(world: World, sent: Sent) -> bool:
    partitions = world.settings.request_partitions
    mine = request_partition(str(sent.event["prediction_id"]), partitions)
    return isinstance(sent.event["features"], dict) and mine == request_partition(
        sent.key, partitions
    )


def without_letters(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out the letters' bytes, which of a row are its event written anew."""
    letters = [(reason, json.loads(value or b"")) for reason, value in found["dead letters"]]
    return found | {"dead letters": [(reason, v["prediction_id"]) for reason, v in letters]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return play(tmp_path_factory.mktemp("batches"), flush=flush_batches)


def test_batches_lead_to_the_same_verdicts_as_events(world: World, tmp_path: Path) -> None:
    plain = play(tmp_path)
    assert len(world.broker.records("predictions")) < 0.1 * len(plain.broker.records("predictions"))
    assert without_letters(verdicts(world)) == without_letters(verdicts(plain))


def test_the_recount_reads_batches(world: World) -> None:
    report = recount(world.log(), drift_started_ms=START_MS + 8 * PANE_MS)
    assert report.differences == []
    assert report.is_right
    assert report.records_in == len(traffic())
    assert report.decided_by_dead_letter == {}


@pytest.mark.parametrize(("seed", "crash"), [(4, None), (5, ("committed", 21))])
def test_the_recount_agrees_on_disorder_in_batches(
    tmp_path: Path, seed: int, crash: tuple[Step, int] | None
) -> None:
    world = play(
        tmp_path, sent=disorder(seed), crash=crash, loses_disk=crash is not None,
        flush=flush_batches,
    )  # fmt: skip
    report = recount(world.log())
    assert report.differences == []
    assert report.is_right
    fates = {fate for fates in report.fates.values() for fate, number in fates.items() if number}
    assert fates >= {"counted", "duplicate", "late", "matched", "unknown-model", "unreadable"}
