"""Moments and latencies of windows, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Measure, Reference
from kedge_services.core.binning import Binner
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.describing import Describer
from kedge_services.core.measuring import measures_of
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.references import build_reference

chance = np.random.default_rng(3)
COLUMNS = {
    "normal": chance.normal(5, 2, 2_000),
    "skewed": chance.lognormal(0, 1, 2_000),
    "tiny": chance.normal(1e-9, 1e-12, 2_000),
    "count": chance.integers(0, 5, 2_000).astype(np.float64),
}
REFERENCE: Reference = build_reference(
    model="m", version="1",
    columns={**COLUMNS, "letter": ["a", "b"] * 1_000},
    kinds={**dict.fromkeys(COLUMNS, "numeric"), "letter": "categorical"},
)  # fmt: skip


DESCRIBER = Describer(REFERENCE)


def described(window: DriftDelta) -> dict[tuple[str | None, str], Measure]:
    return {(m.feature, m.name): m for m in measures_of(DESCRIBER.text(PaneCounts.of(window)))}


@pytest.mark.parametrize("panes", [1, 3, 40])
def test_moments_of_merged_panes_are_those_of_all_their_rows(panes: int) -> None:
    window, binner = DriftDelta(), Binner(REFERENCE)
    live = {name: values[:1_200] * 1.1 for name, values in COLUMNS.items()}
    for part in range(panes):
        mine = {name: values[part::panes] for name, values in live.items()}
        window.add(binner.count(mine, rows=len(mine["normal"])))
    found = described(window)
    for name, values in live.items():
        # Values are kept in steps of 1/1024 of the distance of the quartiles, or finer.
        step = REFERENCE.features[name].step
        assert found[name, "mean"].value == pytest.approx(values.mean(), abs=step)
        assert found[name, "std"].value == pytest.approx(values.std(ddof=1), abs=step)
        assert found[name, "min"].value == values.min()
        assert found[name, "max"].value == values.max()
        assert found[name, "mean"].n == 1_200
    assert not [key for key in found if key[0] == "letter"]


def test_values_far_out_are_noted_and_do_not_drown_the_others() -> None:
    window = Binner(REFERENCE).count({"normal": [5.0] * 99 + [1e300, None, "x"]}, rows=102)
    found = described(window)
    mean = found["normal", "mean"]
    assert mean.note == "1 values too far out were taken as if they were nearer"
    assert (mean.n, found["normal", "max"].value) == (100, 1e300)
    assert mean.value is not None
    assert mean.value < 5 + 2**20 * REFERENCE.features["normal"].step / 99


def test_a_feature_without_a_finite_value_is_not_described() -> None:
    window = Binner(REFERENCE).count({"normal": [None, float("nan"), float("inf")]}, rows=3)
    assert described(window) == {}
    one = described(Binner(REFERENCE).count({"normal": [7.0]}, rows=1))
    assert {name for _, name in one} == {"mean", "min", "max"}


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200))
def test_latencies_are_at_most_a_fifth_too_high(latencies: list[float]) -> None:
    rows = len(latencies)
    found = described(Binner(REFERENCE).count({}, rows=rows, latencies=latencies))
    for name, share in (("latency_p50_ms", 0.5), ("latency_p99_ms", 0.99)):
        value = found[None, name].value
        exact = float(np.quantile(latencies, share, method="inverted_cdf"))
        assert value is not None
        assert exact <= value * (1 + 1e-9)
        assert value <= exact * 2**0.25 * (1 + 1e-9)
        assert found[None, name].n == rows
