"""The benchmarks run end to end on tiny sizes, without peers; the figures mean nothing then."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bench_stats import data
from bench_stats.__main__ import TABLES, measured
from bench_stats.figures import Figure, Result, Target, pivot, quantile, rate, wilson
from bench_stats.hindsight import best_of
from bench_stats.page import ORDER, page, table
from bench_stats.peers import SCRIPTS
from bench_stats.scale import Scale

TINY = Scale("tiny")


def test_every_table_is_listed() -> None:
    assert set(TABLES) == set(ORDER)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("A", "Kedge, any alarm, all scales"),
        ("ERROR", "Kedge e-SR, cells of 25"),
        ("C", "fast, no delay"),
        ("COST", "one by one, us per event and feature"),
    ],
)
def test_kedges_side_of_a_table_runs(name: str, row: str) -> None:
    result = measured(name, TINY)
    figures = [figure for figure in result.figures if figure.row == row]
    assert any(figure.value is not None for figure in figures), result.figures
    assert result.quick
    again = Result.decode(json.loads(json.dumps(result.encode())))
    assert again == result
    text = table(again)
    assert "Quick run" in text
    assert all(target.judged(again.figures) in text for target in again.targets)


def test_a_shift_and_nulls_are_seen_at_once() -> None:
    result = measured("B", TINY)
    medians = {f.row: f.value for f in result.figures if f.column == "Kedge, median, events"}
    assert medians == {"mean +.5 sigma": 500, "nulls, 0 to 5 %": 500}


def test_estimates_run_where_there_is_data() -> None:
    result = measured("CBPE", TINY)
    has_data = data.find("california_housing_nannyml.csv.gz") is not None
    assert any(f.value is not None for f in result.figures) == has_data


def test_made_streams_have_the_shape_they_claim() -> None:
    rng = np.random.default_rng(3)
    rows = data.made(rng, 40_000, phi=0.7).rows
    lagged = [float(np.corrcoef(rows[1:, i], rows[:-1, i])[0, 1]) for i in range(10)]
    assert np.mean(lagged) == pytest.approx(0.7, abs=0.02)
    assert float(np.mean(rows[:, 0])) == pytest.approx(0, abs=0.05)
    assert float(np.std(rows[:, :10])) == pytest.approx(1, abs=0.03)
    assert float(np.mean(rows[:, 25])) == pytest.approx(1, abs=0.06)
    shares = [float((rows[:, data.NUMERIC] == k).mean()) for k in range(data.LEVELS)]
    assert shares == pytest.approx(data.SHARES.tolist(), abs=0.03)


def test_drifts_are_as_large_as_they_are_called() -> None:
    rng = np.random.default_rng(4)
    rows = data.made(rng, 40_000).rows
    for name, (place, drift) in data.DRIFTS.items():
        moved = rows.copy()
        drift(moved, rng)
        others = [i for i in range(rows.shape[1]) if i != place]
        assert np.array_equal(moved[:, others], rows[:, others]), name
    place, drift = data.DRIFTS["category, 5 points"]
    moved = rows.copy()
    drift(moved, rng)
    share = (moved[:, place] == 1).mean() - (rows[:, place] == 1).mean()
    assert share == pytest.approx(0.05, abs=0.005)


def test_intervals_are_those_of_the_textbooks() -> None:
    assert wilson(0.3, 100) == pytest.approx((0.21895, 0.39585), abs=1e-4)
    figure = rate("r", "c", [[True, False], [False, True], [True, False], [False, False]])
    assert figure.value == pytest.approx(375)
    middle = quantile("r", "c", list(range(1, 41)))
    assert (middle.value, middle.low, middle.high) == (20, 14, 27)
    late = quantile("r", "c", [5.0, None, None])
    assert late.value == math.inf
    assert late.note == "missed in 2 of 3"


def test_runs_that_differ_widen_the_interval() -> None:
    alike = rate("r", "c", [[True, False]] * 10)
    apart = rate("r", "c", [[True, True], [False, False]] * 5)
    assert alike.value == apart.value
    assert apart.low is not None
    assert alike.low is not None
    assert apart.low < alike.low


def test_targets_say_by_how_much_they_are_missed() -> None:
    figures = [Figure("a", "b", 3.0), Figure("a", "late", math.inf, note="missed in 2 of 3")]
    assert "| met |" in Target("a", "b", 3.0).judged(figures)
    assert "**missed by 1**" in Target("a", "b", 2.0).judged(figures)
    assert "**missed by 2**" in Target("a", "b", 5.0, at_least=True).judged(figures)
    assert "| **missed** |" in Target("a", "late", 2.0).judged(figures)
    assert "not measured" in Target("a", "none", 2.0).judged(figures)


def test_a_target_is_met_with_doubt_where_the_interval_reaches_beyond() -> None:
    figures = [Figure("a", "b", 0.5, 0.2, 1.2), Figure("a", "c", 0.9, 0.7, 1.0)]
    doubt = "met, but the interval reaches beyond"
    assert doubt in Target("a", "b", 1.0).judged(figures)
    assert "| met |" in Target("a", "b", 1.2).judged(figures)
    assert doubt in Target("a", "c", 0.8, at_least=True).judged(figures)
    assert "| met |" in Target("a", "c", 0.7, at_least=True).judged(figures)


def test_a_page_says_what_was_not_run() -> None:
    text = page([Result("A", "title", [Figure("Kedge", "iid", 0.5, 0.1, 0.9, 40)])])
    assert "Not run yet: B, ERROR, CBPE, C, COST" in text
    assert "| Kedge | 0.5 (0.1-0.9) |" in text
    assert pivot([Figure("a", "x", 1.0), Figure("b", "y", note="no data")])[2:] == [
        "| a | 1.0 | - |",
        "| b | - | no data |",
    ]


def test_the_frontier_takes_the_best_places() -> None:
    # Three blocks of 10 rows; a model trained at block 1 is perfect until the end.
    seg = np.array([[0, 8, 10, 12], [0, 0, 10, 20], [0, 0, 0, 9], [0, 0, 0, 0]])
    assert best_of(seg, rows=30)[:2] == pytest.approx([12 / 30, 28 / 30])


def test_peers_are_pinned_and_name_no_host() -> None:
    for name in ("evidently", "nannyml"):
        lines = (SCRIPTS / f"{name}.txt").read_text(encoding="utf-8").split()
        assert all("==" in line and "/" not in line for line in lines)
