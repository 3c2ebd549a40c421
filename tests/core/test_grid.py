"""Many rows counted together give what the same rows give in handfuls, one value after another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import Reference
from kedge.panes import FeatureReference
from kedge_services.core.binning import Binner, FeatureBinner
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.few_numbers import FewNumbers
from kedge_services.core.grid import BLOCK_ROWS, Grid
from kedge_services.core.references import build_reference
from kedge_services.core.sketches import LatencyCounts

ROWS = 1_000
HANDFUL = 20
chance = np.random.default_rng(6)
REFERENCE_ROWS: dict[str, np.ndarray[Any, Any]] = {
    "normal": chance.normal(size=ROWS),
    "heavy": chance.lognormal(0.0, 4.0, ROWS),
    "few": chance.integers(0, 5, ROWS).astype(float),
    "constant": np.full(ROWS, 3.5),
    "large": chance.integers(-(10**9), 10**9, ROWS).astype(float),
    "tiny": chance.random(ROWS) * 1e-300,
    "atom": np.where(chance.random(ROWS) < 0.5, 0.0, chance.normal(size=ROWS)),
    "huge": np.array([1e308, -1e308] * (ROWS // 2)),
    "empty": np.full(ROWS, np.nan),
}
COLOURS = ["red", "green", "blue"]


def made(classes: int = 2) -> Reference:
    columns: dict[str, Any] = {name: rows.tolist() for name, rows in REFERENCE_ROWS.items()}
    columns["colour"] = [COLOURS[i % 3] for i in range(ROWS)]
    return build_reference(
        model="m",
        version="1",
        columns=columns,
        kinds={name: "categorical" if name == "colour" else "numeric" for name in columns},
        predictions=[f"class {i % classes}" for i in range(ROWS)],
        scores=(chance.random(ROWS)).tolist(),
    )


REFERENCE = made()


def in_handfuls(
    binner: Binner, columns: dict[str, list[Any]], rows: int, **beside: list[Any]
) -> DriftDelta:
    whole = DriftDelta()
    for at in range(0, rows, HANDFUL):
        end = min(rows, at + HANDFUL)
        whole.add(
            binner.count(
                {name: values[at:end] for name, values in columns.items()},
                rows=end - at,
                **{name: values[at:end] for name, values in beside.items()},  # type: ignore[arg-type]
            )
        )
    return whole


def shown(delta: DriftDelta) -> dict[str, Any]:
    data = delta.encode()
    return data | {"scores": sorted(data["scores"].items())}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([41, 700, BLOCK_ROWS + 300]))
def test_arrays_count_like_handfuls_of_values(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    odd = [None, math.nan, math.inf, -math.inf, 0.0, -0.0, 3.5, 1e308, 5e-324, -1e9]
    columns: dict[str, list[Any]] = {}
    arrays: dict[str, Any] = {}
    nulls: dict[Any, int] = {}
    for name, known in REFERENCE_ROWS.items():
        factor = random.choice([1.0, 1.5, 1e9])
        with np.errstate(over="ignore"):
            values: list[Any] = (random.choice(known, rows) * factor).tolist()
        if random.random() < 0.5:
            for i in random.integers(0, rows, 25).tolist():
                values[i] = odd[i % len(odd)]
        columns[name] = values
        arrays[name] = np.array(values, dtype=np.float64)
        nulls[name] = values.count(None)
    columns["colour"] = arrays["colour"] = [
        [*COLOURS, "violet", None][i] for i in random.integers(0, 5, rows).tolist()
    ]
    answers = [f"class {i}" for i in random.integers(0, 2, rows).tolist()]
    scores = random.normal(0.5, 0.3, rows).tolist()
    beside = {"predictions": answers, "scores": scores, "answers": answers}
    binner = Binner(REFERENCE)
    expected = in_handfuls(binner, columns, rows, **beside)
    found = binner.count(arrays, rows=rows, nulls=nulls, **beside)
    assert shown(found) == shown(expected)
    assert shown(binner.count(columns, rows=rows, **beside)) == shown(expected)


def test_wide_rows_are_paired_on_their_ring_as_in_handfuls() -> None:
    names = [f"x{i}" for i in range(60)]
    reference = build_reference(
        model="m", version="1", kinds=dict.fromkeys(names, "numeric"),
        columns={name: chance.normal(size=300).tolist() for name in names},
    )  # fmt: skip
    columns = {name: chance.normal(size=2_500) for name in names}
    del columns["x7"]
    binner = Binner(reference)
    lists = {name: values.tolist() for name, values in columns.items()}
    found = binner.count(columns, rows=2_500)
    assert shown(found) == shown(in_handfuls(binner, lists, 2_500))


CUTS = st.lists(
    st.floats(allow_nan=False, allow_infinity=False), min_size=0, max_size=12
) | st.lists(st.integers(0, 600).map(float), max_size=40)


@given(CUTS, st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_number_has_the_place_a_search_finds(cuts: list[float], values: list[float]) -> None:
    edges = sorted({cut + 0.0 for cut in cuts})
    edges = sorted({*edges, *(math.nextafter(cut, -math.inf) for cut in edges[:3])})
    edges = [cut for cut in edges if math.isfinite(cut)]
    reference = FeatureReference(kind="numeric", cuts=edges, counts=[0] * (len(edges) + 1), total=0)
    grid = Grid([reference, reference])
    row = np.array([*values, *edges])
    expected = np.searchsorted(np.array(edges), row)
    places = grid.places(np.array([row, row]))
    assert places[0].tolist() == expected.tolist()
    assert (places[1] - len(edges) - 1).tolist() == expected.tolist()


def test_squares_beyond_64_bits_are_added_exactly() -> None:
    reference = FeatureReference(kind="numeric", cuts=[0.0], counts=[0, 0], total=0, step=1e-9)
    grid = Grid([reference])
    counts = grid.counts()
    block = np.full((1, BLOCK_ROWS), 1e30)
    for _ in range(2_049):
        counts.add(block)
    found = counts.feature(0)
    assert found.squares_z == 2_049 * BLOCK_ROWS << 40
    assert found.squares_z > 1 << 62
    assert found.clipped == 2_049 * BLOCK_ROWS


@pytest.mark.parametrize("name", sorted(REFERENCE_ROWS))
def test_three_ways_to_count_numbers_are_one(name: str) -> None:
    feature = REFERENCE.features[name]
    values = [*REFERENCE_ROWS[name].tolist(), math.nan, 1e308, -1e308, -0.0]
    grid = Grid([feature]).counts()
    grid.add(np.array([values]))
    assert grid.feature(0).encode() == FewNumbers(feature).count(values).encode()
    assert grid.feature(0).encode() == FeatureBinner(feature).count(np.array(values)).encode()


@given(st.lists(st.floats(min_value=-1.0, max_value=1e12) | st.integers(-160, 160).map(
    lambda k: 2.0 ** (k / 4))))  # fmt: skip
def test_latencies_in_an_array_are_counted_like_a_list(values: list[float]) -> None:
    assert LatencyCounts.of(np.array(values)).encode() == LatencyCounts.of(values).encode()
