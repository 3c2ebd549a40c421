"""Batches through crashes, and beside JSON; and a batch whose bytes are fixed."""

from __future__ import annotations

import base64
import random
from typing import TYPE_CHECKING, Any

import pytest

from kedge.batch_layout import CONTENT_TYPE
from kedge.batches import pieces, table_of
from kedge_services.panes.arrow import ArrowReader
from kedge_services.panes.arrow_rows import ArrowRows
from kedge_services.runtime.stores import MemoryStore

if TYPE_CHECKING:
    from tests.panes.conftest import Crash, Driver

HEADERS = [("content-type", CONTENT_TYPE)]
MONITOR: dict[str, Any] = {
    "model": "fraud",
    "task": "binary",
    "classes": ["ok", "fraud"],
    "features": {"amount": "numeric", "country": "categorical"},
    "label_horizon": "10s",
    "outcome_wait": "2s",
    "windows": {"pane": "1s", "grace": "100ms"},
}


def fill(panes: Driver, seed: int) -> None:
    """Append batches and single events in turn, with repeated ids, and their outcomes."""
    from tests.panes.conftest import Input

    chance = random.Random(seed)
    for turn in range(12):
        at_ms = 10_000 + 400 * turn
        names = [f"r-{chance.randrange(150)}#{chance.randrange(2)}" for _ in range(20)]
        rows = {
            "prediction_id": names,
            "event_time_ms": sorted(at_ms + chance.randrange(-40, 360) for _ in names),
            "features": {
                "amount": [chance.choice([None, 1.5, 7.0]) for _ in names],
                "country": [chance.choice(["NO", "SE", None]) for _ in names],
            },
            "output": {"label": [chance.choice(["ok", "fraud", "maybe"]) for _ in names]},
            "version": [chance.choice(["1", "2"]) for _ in names],
        }
        for piece in pieces(table_of(rows, {"model": "fraud"}, now_ms=0), partitions=2):
            record = Input(piece.key.encode(), piece.value, at_ms + 400, HEADERS)
            panes.append("predictions", piece.partition, record)
        for name in names[:5]:
            event = {"prediction_id": name, "model": "fraud", "version": "3", "features": {},
                     "event_time_ms": at_ms + 360}  # fmt: skip
            panes.send("predictions", event, at_ms=at_ms + 400)
            outcome = {"prediction_id": name, "label": "ok", "event_time_ms": at_ms + 380}
            panes.send("outcomes", outcome, at_ms=at_ms + 400)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("crash", ["before", "durable"])
@pytest.mark.parametrize("loses_disk", [True, False])
def test_crashes_change_nothing(
    driver: type[Driver], crash: Crash, *, labelled: bool, loses_disk: bool
) -> None:
    found = []
    for crashes in (False, True):
        panes = driver(partitions=2)
        panes.monitor(**MONITOR, labelled=labelled)
        fill(panes, seed=1)
        # First all predictions: what waits for whom must not depend on the steps.
        for topic in ("predictions", "outcomes"):
            for partition in range(2):
                step = 0
                while panes.step(topic, partition, 3):
                    step += 1
                    if crashes and step % 3 == 2:
                        panes.commit(partition, crash)
                        if loses_disk:
                            panes.stores[partition] = MemoryStore()
                    elif step % 2:
                        panes.commit(partition)
                panes.commit(partition)
        found.append(
            (panes.sums(), panes.fates("predictions"), panes.fates("outcomes"),
             panes.dead_letters(), {k: e.model_dump() for k, e in panes.examples().items()})
        )  # fmt: skip
    assert found[0] == found[1]
    assert {"counted", "duplicate", "bad-value"} <= found[0][1].keys()


#: One row: r-1 of version 12, amount 12.5, country null, label fraud, score .93.
GOLDEN = base64.b64decode(
    "/////xACAAAQAAAAAAAKAA4ABgAFAAgACgAAAAABBAAQAAAAAAAKAAwAAAAEAAgACgAAAGwAAAAEAAAAAgAAADgA"
    "AAAEAAAA2P///xAAAAAEAAAAAgAAADEyAAANAAAAa2VkZ2UudmVyc2lvbgAAAAgADAAEAAgACAAAABQAAAAEAAAA"
    "BQAAAGZyYXVkAAAACwAAAGtlZGdlLm1vZGVsAAYAAAA8AQAA6AAAAKgAAABwAAAAPAAAAAQAAADs/v//AAABAxAA"
    "AAAgAAAABAAAAAAAAAAMAAAAb3V0cHV0LnNjb3JlAAAAAGb///8AAAIAIP///wAAAQUQAAAAIAAAAAQAAAAAAAAA"
    "DAAAAG91dHB1dC5sYWJlbAAAAAAQ////UP///wAAAQEQAAAAJAAAAAQAAAAAAAAAEAAAAGZlYXR1cmVzLmNvdW50"
    "cnkAAAAARP///4T///8AAAEDEAAAACgAAAAEAAAAAAAAAA8AAABmZWF0dXJlcy5hbW91bnQAAAAGAAgABgAGAAAA"
    "AAACAMD///8AAAECEAAAACgAAAAEAAAAAAAAAA0AAABldmVudF90aW1lX21zAAAACAAMAAgABwAIAAAAAAAAAUAA"
    "AAAQABQACAAGAAcADAAAABAAEAAAAAAAAQUQAAAAJAAAAAQAAAAAAAAADQAAAHByZWRpY3Rpb25faWQAAAAEAAQA"
    "BAAAAAAAAAD/////eAEAABQAAAAAAAAADAAWAAYABQAIAAwADAAAAAADBAAYAAAAOAAAAAAAAAAAAAoAGAAMAAQA"
    "CAAKAAAA3AAAABAAAAABAAAAAAAAAAAAAAAMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACAAAAAAAAAAIAAAA"
    "AAAAAAMAAAAAAAAAEAAAAAAAAAAAAAAAAAAAABAAAAAAAAAACAAAAAAAAAAYAAAAAAAAAAAAAAAAAAAAGAAAAAAA"
    "AAAIAAAAAAAAACAAAAAAAAAAAAAAAAAAAAAgAAAAAAAAAAgAAAAAAAAAKAAAAAAAAAAFAAAAAAAAADAAAAAAAAAA"
    "AAAAAAAAAAAwAAAAAAAAAAgAAAAAAAAAAAAAAAYAAAABAAAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAEA"
    "AAAAAAAAAAAAAAAAAAABAAAAAAAAAAEAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AwAAAHItMQAAAAAAcLp2+6EBAAAAAAAAAAApQAAAAAAFAAAAZnJhdWQAAADD9Shcj8LtP/////8AAAAA"
)


def test_a_batch_that_was_written_once_is_read_for_ever() -> None:
    layout, batch, _ = ArrowReader().open(GOLDEN)
    rows = ArrowRows.of(layout, [batch])
    assert rows.refused == {}
    assert rows.event(0).decode() == (
        '{"model": "fraud", "version": "12", "prediction_id": "r-1", '
        '"event_time_ms": 1795220224624, "features": {"amount": 12.5, "country": null}, '
        '"output": {"label": "fraud", "score": 0.93}}'
    )


def test_what_is_written_is_what_was_written() -> None:
    rows = {
        "prediction_id": ["r-1"],
        "event_time_ms": [1_795_220_224_624],
        "features": {"amount": [12.5], "country": [None]},
        "output": {"label": ["fraud"], "score": [0.93]},
    }
    table = table_of(rows, {"model": "fraud", "version": "12"}, now_ms=0)
    [piece] = pieces(table, partitions=8)
    assert (piece.partition, piece.key, piece.rows) == (7, "r-1", 1)
    layout, batch, _ = ArrowReader().open(GOLDEN)
    again, mine, _ = ArrowReader().open(piece.value)
    assert (again, mine.to_pydict()) == (layout, batch.to_pydict())
