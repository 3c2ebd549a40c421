"""What a series of 500 features takes: the figures of docs/references.md, held as limits."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from kedge import Monitor, Pane, Progress, Reference, Window
from kedge.codec import decode, encode
from kedge.panes import ModelClock, PaneSource
from kedge_services.core.binning import Binner
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.lookup import Lookup
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.references import build_reference
from kedge_services.core.seasons import HOURS, pack
from kedge_services.core.strata import MOST_BYTES, RowTimes, slot_counts
from kedge_services.core.windows import Windows
from kedge_services.runtime.ports import RECORD_BYTES

FEATURES, ROWS = 500, 1_500
KINDS: dict[str, Any] = {
    f"feature_{i:03}": "numeric" if i % 5 else "categorical" for i in range(FEATURES)
}
MONITOR = Monitor.model_validate(
    {
        "model": "m", "task": "binary", "classes": ["a", "b"], "features": KINDS,
        "windows": {"pane": "1s", "scales": [1, 2, 4, 8], "grace": "0s"},
    }
)  # fmt: skip


def table(rows: int) -> dict[str, list[Any]]:
    chance = np.random.default_rng(rows)
    letters = [f"value-{k}" for k in range(20)]
    return {
        name: (
            chance.lognormal(size=rows) if kind == "numeric" else chance.choice(letters, rows)
        ).tolist()
        for name, kind in KINDS.items()
    }


@pytest.fixture(scope="module")
def reference() -> Reference:
    times = np.sort(np.random.default_rng(1).integers(0, 4 * HOURS * 3_600_000, ROWS))
    return build_reference(
        model="m", version="1", columns=table(ROWS), kinds=KINDS,
        predictions=["a", "b"] * (ROWS // 2), scores=[i / ROWS for i in range(ROWS)],
        labels=["a", "b"] * (ROWS // 2), losses=[0.0, 1.0] * (ROWS // 2),
        times=RowTimes("UTC", times),
    )  # fmt: skip


@pytest.fixture(scope="module")
def delta(reference: Reference) -> DriftDelta:
    return Binner(reference).count(
        table(500), rows=500, predictions=["a"] * 500, scores=[i / 500 for i in range(500)],
        answers=["a"] * 500, latencies=[1.5] * 500,
    )  # fmt: skip


def test_a_reference_fits_into_a_record_with_and_without_strata(reference: Reference) -> None:
    plain = reference.model_copy(
        update={"seasons": None, "features": {
            name: f.model_copy(update={"seasonal": None}) for name, f in reference.features.items()
        }}
    )  # fmt: skip
    assert len(encode(plain)) < 1_500_000
    # The most that strata may take, beside it.
    assert len(encode(plain)) + 1.2 * MOST_BYTES < RECORD_BYTES


def test_a_pane_takes_100_kb(reference: Reference, delta: DriftDelta) -> None:
    assert len(json.dumps(delta.encode(), separators=(",", ":"))) < 100_000
    # An hour of a seasonal reference that is being learnt, 504 times.
    assert len(pack(slot_counts(delta, reference))) < 30_000


def test_eight_closed_panes_in_memory_take_less_than_1_mb(delta: DriftDelta) -> None:
    text = json.dumps(delta.encode())
    gc.collect()
    tracemalloc.start()
    kept = [PaneCounts.decode(json.loads(text)) for _ in range(8)]
    for pane in kept:
        pane.rest()
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(kept) == 8
    assert taken < 1 << 20


def windows_of(reference: Reference, delta: DriftDelta) -> tuple[list[Window], int]:
    """Close eight panes; give the windows, and the size of the state that is kept."""
    look = Lookup(lambda *_: MONITOR, lambda _: reference, lambda *_: reference)
    core = Windows(look, idle_after_ms=30_000, revise_interval_ms=0)
    source = PaneSource(topic="predictions", partition=0, from_offset=0, to_offset=0)
    for pane in range(9):
        core.add(
            Pane(model="m", version="1", reference_id=reference.reference_id, kind="drift",
                 start_ms=pane * 1_000, end_ms=pane * 1_000 + 1_000, counts=delta.encode(),
                 source=source), 0,
        )  # fmt: skip
    clocks = {"predictions": 0, "outcomes": 0}
    core.progress(
        Progress(partition=0, partitions=1, sequence=0, offsets={}, clock_ms=clocks,
                 since_ms=clocks, predictions={"m": ModelClock(max_ms=8_500, seen_ms=0)},
                 outcomes={}, fates={})
    )  # fmt: skip
    core.tick(0)
    sent = [decode(Window, one.value) for one in core.take()[0]]
    return sent, sum(len(key) + len(value or b"") for key, value in core.changes())


def test_a_window_and_the_state_of_nine_panes_are_smaller_than_1_mb(
    reference: Reference, delta: DriftDelta
) -> None:
    sent, state = windows_of(reference, delta)
    assert max(len(encode(window)) for window in sent) < 1_000_000
    assert state < 1_000_000
    # Moments are for people, and stand in the windows of one pane.
    described = {w.scale for w in sent if any(m.name == "mean" for m in w.measures)}
    assert described == {1}
    named = {m.name: m.value for m in sent[0].measures if m.feature is None}
    assert named["latency_p50_ms"] == named["latency_p99_ms"] == pytest.approx(1.5, rel=0.2)
