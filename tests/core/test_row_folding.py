"""Rows are counted the same wherever they are cut, be they as declared or odd."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.errors import DeadLetter
from kedge.monitor import Monitor
from kedge_services.core.columns import coded
from kedge_services.core.decoding import NO_OUTPUT, PredictionDecoder, PredictionRow
from kedge_services.core.groups import Answers, Group, Slot
from kedge_services.core.plans import Plan
from kedge_services.core.references import build_reference
from kedge_services.core.row_folding import RowFold

FEATURES: dict[str, Literal["numeric", "categorical"]] = {"amount": "numeric", "age": "numeric"}
MONITOR = Monitor.model_validate(
    {"model": "m", "task": "binary", "classes": ["ok", "bad"], "features": FEATURES}
)
REFERENCE = build_reference(
    model="m",
    version="1",
    columns={name: [float(i) for i in range(100)] for name in FEATURES},
    kinds=FEATURES,
    predictions=["ok", "bad"] * 50,
    scores=[i / 100 for i in range(100)],
)
PLAN = Plan.of(MONITOR)
DECODER = PredictionDecoder({"m": tuple(FEATURES)}, {"m": tuple(FEATURES)})
COLUMNS = DECODER.models["m"]
SLOT = Slot(PLAN, "1", REFERENCE.reference_id, 0)


def decoded(rows: int, odd: float, seed: int) -> list[PredictionRow]:
    """Give rows of which a share has no number where one belongs."""
    chance = random.Random(seed)
    values: list[bytes] = []
    for i in range(rows):
        strange: list[Any] = ["x", True, 10**400]
        amount = chance.choice(strange) if chance.random() < odd else chance.randrange(-5, 120)
        event = {
            "prediction_id": f"r-{i}", "model": "m", "version": "1", "event_time_ms": 1,
            "features": {"amount": amount, "age": chance.random() * 100},
            "output": {"label": chance.choice(["ok", "bad"]), "score": chance.random()},
        }  # fmt: skip
        values.append(json.dumps(event).encode())
    found = [row for row in DECODER.decode(values) if not isinstance(row, DeadLetter)]
    assert len(found) == rows
    return found


def counted(rows: list[PredictionRow], cuts: list[int]) -> Any:
    fold = RowFold({REFERENCE.reference_id: REFERENCE}.get)
    for start, end in pairwise([0, *cuts, len(rows)]):
        part = rows[start:end]
        if not part:
            continue
        answers = None
        if {type(row) for row in part} == {COLUMNS.row}:
            outputs = [row.output or NO_OUTPUT for row in part]
            answers = Answers(outputs, coded([output.label for output in outputs]))
        fold.rows(SLOT, COLUMNS, part, answers)
    (delta,) = fold.take()
    assert fold.take() == []
    return delta.delta.encode()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([1, 30, 700]),
    st.sampled_from([0.0, 0.02, 0.6, 1.0]),
    st.integers(0, 99),
    st.lists(st.integers(1, 699), max_size=6),
)
def test_cuts_change_nothing(rows: int, odd: float, seed: int, cuts: list[int]) -> None:
    every = decoded(rows, odd, seed)
    alone = counted(every, list(range(1, rows)))
    assert counted(every, sorted({min(cut, rows) for cut in cuts})) == alone


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12)), min_size=1, max_size=20))
def test_a_part_of_a_group_has_the_rows_chosen(runs: list[tuple[bool, int]]) -> None:
    chosen = [is_chosen for is_chosen, length in runs for _ in range(length)]
    size = len(chosen)
    rows: Any = [f"row-{i}" for i in range(size)]
    outputs: Any = [f"output-{i}" for i in range(size)]
    times = np.arange(size) * 7
    group = Group(
        PLAN, COLUMNS, rows, range(10, 10 + size), [f"id-{i}" for i in range(size)],
        [f"v-{i}" for i in range(size)], outputs, coded([i % 3 for i in range(size)]),
        times, times - 5,
    )  # fmt: skip
    at = [i for i in range(size) if chosen[i]]
    part = group.part(at)
    for name in ("rows", "at", "ids", "versions", "outputs"):
        assert getattr(part, name) == [getattr(group, name)[i] for i in at]
    assert part.labels.codes.tolist() == [group.labels.codes[i] for i in at]
    assert part.times_ms.tolist() == [7 * i for i in at]
    assert part.watermarks_ms.tolist() == [7 * i - 5 for i in at]
