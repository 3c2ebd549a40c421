"""Blocks of live panes: what a reference without a table in order is dispersed by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from kedge import Monitor, Reference
from kedge_services.core.binning import Binner
from kedge_services.core.blocks import BLOCKS, LiveBlocks, counter_blocks, with_blocks
from kedge_services.core.deltas import DriftDelta, LearningDelta
from kedge_services.core.folding import Series
from kedge_services.core.learning import COUNTED_PANES, LEAST_PANES, Learner
from kedge_services.core.overdispersion import overdispersion
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.references import build_reference, learn_cuts

REFERENCE = build_reference(
    model="m",
    version="1",
    columns={"x": [float(i % 100) for i in range(2_000)], "c": list("ab") * 1_000},
    kinds={"x": "numeric", "c": "categorical"},
    predictions=list("ab") * 1_000,
)
MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": ["a", "b"],
        "features": {"x": "numeric", "c": "categorical"},
        "windows": {"pane": "1s"},
    }
)


def pane(number: int, rows: int = 10, reference: Reference = REFERENCE) -> DriftDelta:
    """Give the counts of rows that are all alike; every third x is null."""
    answers = ["ab"[number % 2]] * rows
    columns: dict[str, Any] = {
        "x": [None if i % 3 == 0 else float(number % 100) for i in range(rows)],
        "c": answers,
    }
    return Binner(reference).count(columns, rows=rows, predictions=answers)


def bins(parts: Sequence[DriftDelta]) -> list[list[int]]:
    return [part.features["c"].bins.tolist() for part in parts]


def test_blocks_are_merged_in_pairs_when_there_are_too_many() -> None:
    blocks, owner = LiveBlocks(), ("m", "1")
    assert [blocks.add(owner, pane(0)) for _ in range(2 * BLOCKS)] == list(range(1, 21))
    assert blocks.add(owner, pane(1)) == BLOCKS + 1
    assert bins(blocks.get(owner)) == [[20, 0, 0]] * BLOCKS + [[0, 10, 0]]
    blocks.drop(owner)
    assert blocks.get(owner) == []


def test_blocks_survive_a_restart_and_do_not_share_counts_with_panes() -> None:
    blocks, after, owner = LiveBlocks(), LiveBlocks(), ("m", "1")
    first = pane(0)
    kept: dict[bytes, bytes | None] = {}
    for number in range(2 * BLOCKS + 3):
        blocks.add(owner, first if number == 0 else pane(number))
        kept |= dict(blocks.shelf.changes())
    first.add(pane(0))
    for key, value in kept.items():
        _, *name = json.loads(key)
        after.shelf.restore(tuple(name), value)
    assert bins(after.get(owner)) == bins(blocks.get(owner))
    assert bins(after.get(owner))[0] == [10, 10, 0]


def test_a_reference_takes_blocks_and_their_counters_beside_its_counts() -> None:
    made = with_blocks(REFERENCE, [pane(0), pane(1, rows=30)])
    x, before = made.features["x"], REFERENCE.features["x"]
    assert (x.counts, x.total) == (before.counts, before.total)
    assert [sum(block) for block in x.blocks] == [6, 20]
    assert x.counter_blocks == {"total": [10, 30], "null": [4, 10]}
    assert made.features["c"].counter_blocks == {}
    assert made.prediction is not None
    assert made.prediction.blocks == [[10, 0, 0], [0, 30, 0]]


def test_counters_that_are_zero_are_left_out() -> None:
    assert counter_blocks([pane(0).features["c"]] * 3) == {}


def learnt(rows: Iterator[int]) -> tuple[Reference, int]:
    """Count panes of so many rows until there is a reference; give it and their number."""
    learner, rng = Learner(), np.random.default_rng(1)
    sample = LearningDelta(
        2_000, {i: [{"x": rng.normal(), "c": "a"}, {"label": "a"}] for i in range(2_000)}
    )
    series = Series("m", "1", "", "")
    learner.add(series, 0, sample)
    learner.close(series, 0, watermark_ms=0, monitor=MONITOR)
    [cuts] = learner.take()
    counted = Series("m", "1", "", cuts.reference_id)
    for number, n in enumerate(rows):
        end_ms = cuts.effective_ms + (number + 1) * 1_000
        # The mean of a pane goes up and down.
        columns: dict[str, Any] = {"x": rng.normal(number % 2, 1, n), "c": ["a"] * n}
        delta = Binner(cuts).count(columns, rows=n, predictions=["a"] * n)
        learner.count(counted, end_ms, PaneCounts.of(delta), MONITOR)
        if made := learner.take():
            return made[0], number + 1
    raise AssertionError("too few panes")


@pytest.mark.parametrize(("rows", "panes"), [(20_000, LEAST_PANES), (300, COUNTED_PANES)])
def test_a_learnt_reference_knows_how_much_its_panes_vary(rows: int, panes: int) -> None:
    reference, counted = learnt(iter([rows] * 100))
    assert counted == panes
    x = reference.features["x"]
    assert [sum(block) for block in x.blocks] == [rows] * panes
    assert [sum(column) for column in zip(*x.blocks, strict=True)] == x.counts
    assert overdispersion(reference)["x"] > 20
    assert overdispersion(reference)["c"] == 1.0


def test_the_bins_of_a_sample_have_no_blocks_yet() -> None:
    sample = LearningDelta(2, {1: [{"x": 1.0}], 2: [{"x": 2.0}]})
    cuts = learn_cuts(
        sample, model="m", version="1", kinds={"x": "numeric"}, regression=True, effective_ms=0
    )
    assert overdispersion(cuts) == {"x": 1.0}
