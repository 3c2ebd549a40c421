"""Sketches: their algebra, and what they say against plain loops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_services.core.sketches import (
    FIXED_POINT,
    SCORE_BINS,
    LabelledScores,
    LatencyCounts,
    ScoreCounts,
)

shares = st.floats(0, 1)
labelled = st.tuples(shares, st.booleans(), st.sampled_from([1, 1, 1, -1]))
SKETCHES: dict[str, tuple[Callable[[Any], Any], st.SearchStrategy[Any]]] = {
    "scores": (lambda rows: ScoreCounts.of(np.array(rows, dtype=np.float64)), shares),
    "labelled": (LabelledScores.of, labelled),
    "latency": (LatencyCounts.of, st.one_of(st.none(), st.floats())),
}


@pytest.mark.parametrize("name", SKETCHES)
@given(data=st.data())
def test_adding_equals_counting_the_concatenation(name: str, data: st.DataObject) -> None:
    make, rows = SKETCHES[name]
    left, right = data.draw(st.lists(rows)), data.draw(st.lists(rows))
    total = make(left)
    total.add(make(right))
    assert total.encode() == make(left + right).encode()


@pytest.mark.parametrize("name", SKETCHES)
@given(data=st.data())
def test_what_was_encoded_comes_back(name: str, data: st.DataObject) -> None:
    make, rows = SKETCHES[name]
    counts = make(data.draw(st.lists(rows)))
    again = type(counts).decode(json.loads(json.dumps(counts.encode())))
    assert json.dumps(again.encode()) == json.dumps(counts.encode())


@given(st.lists(shares))
def test_scores_lie_in_bins_of_equal_width(scores: list[float]) -> None:
    counts = ScoreCounts.of(np.array(scores, dtype=np.float64))
    n, total = [0] * SCORE_BINS, [0] * SCORE_BINS
    for score in scores:
        at = min(99, math.floor(score * 100))
        n[at] += 1
        total[at] += round(score * FIXED_POINT)
    assert (counts.n.tolist(), counts.total.tolist()) == (n, total)


@given(st.lists(st.tuples(shares, st.booleans())))
def test_the_brier_score_is_the_mean_square(rows: list[tuple[float, bool]]) -> None:
    counts = LabelledScores.of([(score, positive, 1) for score, positive in rows])
    squares = math.fsum((score - positive) ** 2 for score, positive in rows)
    assert counts.squares / FIXED_POINT == pytest.approx(squares, abs=1e-8)
    assert int(counts.positive.sum()) == sum(positive for _, positive in rows)


@given(st.lists(labelled, min_size=1))
def test_a_row_that_is_taken_out_leaves_nothing(rows: list[tuple[float, bool, int]]) -> None:
    counts = LabelledScores.of(rows)
    counts.add(LabelledScores.of([(score, positive, -sign) for score, positive, sign in rows]))
    assert counts.encode() == LabelledScores().encode()


def test_latencies_that_are_no_number_are_left_out() -> None:
    counts = LatencyCounts.of([None, math.nan, math.inf, -math.inf, 2.0])
    assert counts.n == 1
    assert LatencyCounts().quantile_ms(0.5) is None


@pytest.mark.parametrize("latencies", [[0.001, 5.0, 5.1, 900.0], [0.0, -3.0, 1e12, 7.0]])
def test_a_quantile_is_at_most_a_bin_too_large(latencies: Sequence[float]) -> None:
    counts = LatencyCounts.of(latencies)
    for share in (0.25, 0.5, 0.75):
        true = sorted(latencies)[math.ceil(share * len(latencies)) - 1]
        found = counts.quantile_ms(share)
        assert found is not None
        assert true <= found
        assert found <= max(true, 2**-10) * 2**0.25 * 1.0001
