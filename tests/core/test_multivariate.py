"""Multivariate drift: exact sums, stationary windows, and relations that change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal, stats

from kedge import Reference
from kedge.base import Scalar
from kedge_services.core.binning import Binner
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.multivariate import (
    CORRELATION_FLOOR,
    NAME,
    PairJudge,
    PairTrial,
    try_pairs,
)
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.rank_pairs import MOST_PAIRS, order_of, pairs_of, rank_scores
from kedge_services.core.references import Kind, build_reference
from kedge_services.core.stacks import Stack

Column = Sequence[Scalar | None] | NDArray[np.float64]
Columns = dict[str, Column]

#: The threshold of one test among eleven at four scales.
ALPHA = 1e-3 / 44


def reference_of(columns: Columns, **kinds: Kind) -> Reference:
    all_kinds: dict[str, Kind] = {name: kinds.get(name, "numeric") for name in columns}
    return build_reference(model="m", version="1", columns=columns, kinds=all_kinds)


def normals(rows: int, features: int, seed: int, *, phi: float = 0.0) -> NDArray[np.float64]:
    """Independent columns; of each row phi comes from the row before."""
    noise = np.random.default_rng(seed).normal(size=(rows, features))
    made: NDArray[np.float64] = signal.lfilter([math.sqrt(1 - phi * phi)], [1, -phi], noise, axis=0)
    return made


def named(rows: NDArray[np.float64]) -> Columns:
    return {f"x{i}": rows[:, i] for i in range(rows.shape[1])}


def counted(reference: Reference, columns: Columns) -> DriftDelta:
    return Binner(reference).count(columns, rows=len(next(iter(columns.values()))))


def trial_of(judge: PairJudge, window: DriftDelta) -> PairTrial:
    """Test a window by itself."""
    return try_pairs([judge], [Stack([PaneCounts.of(window)], [1])])[0][0]


def related(rows: int, rho: float, seed: int, features: int = 10) -> Columns:
    """Normal columns of which x3 and x7 are correlated; every margin stays normal."""
    made = normals(rows, features, seed)
    made[:, 7] = rho * made[:, 3] + math.sqrt(1 - rho * rho) * made[:, 7]
    return named(made)


# ------------------------------------------------------------------------- sums

MIXED = reference_of(
    {
        "a": [0.5, 1.5, 2.5, 4.0, None, 9.0] * 20,
        "b": [3, 1, 4, 1, 5, 9] * 20,
        "c": ["x", "y", "x", True, 1, None] * 20,
    },
    c="categorical",
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.sampled_from(["x", "y", "never seen"]),
)


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=30), st.data())
def test_sums_do_not_depend_on_batches_or_order(
    rows: list[tuple[Scalar | None, Scalar | None, Scalar | None]], data: st.DataObject
) -> None:
    def count(part: list[tuple[Scalar | None, Scalar | None, Scalar | None]]) -> DriftDelta:
        columns: Columns = {name: [row[i] for row in part] for i, name in enumerate("abc")}
        return Binner(MIXED).count(columns, rows=len(part))

    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    merged = count(shuffled[:cut])
    merged.add(count(shuffled[cut:]))
    whole = count(rows).projection
    assert whole is not None
    assert merged.projection is not None
    assert merged.projection.tobytes() == whole.tobytes()


def test_sums_are_the_products_of_rank_scores_one_by_one() -> None:
    delta = counted(MIXED, {"a": [0.5, 9.0, None], "b": [9, 1, 9], "c": ["x", "new", "x"]})
    scores = {name: rank_scores(name, f).tolist() for name, f in MIXED.features.items()}

    def score(name: str, value: Scalar) -> int:
        [place] = np.flatnonzero(counted(MIXED, {name: [value]}).features[name].bins)
        return int(scores[name][place])

    a = [score("a", 0.5), score("a", 9.0), 0]
    b = [score("b", 9), score("b", 1), score("b", 9)]
    c = [score("c", "x"), int(scores["c"][-2]), score("c", "x")]
    expected = [sum(x * y for x, y in zip(p, q, strict=True)) for p, q in ((a, b), (a, c), (b, c))]
    assert delta.projection is not None
    assert delta.projection.tolist() == [3, *expected]


@pytest.mark.parametrize("size", [1, 24, 25, 999])
def test_batches_of_any_size_add_up_to_the_same(size: int) -> None:
    rng = np.random.default_rng(30)
    numbers: list[Scalar | None] = [
        *rng.normal(4, 3, 300).tolist(), None, math.nan, math.inf, -math.inf, "x", True, 4,
        2**53 + 1, 10**400, 1e308, -0.0,
    ]  # fmt: skip
    rng.shuffle(numbers)
    codes: list[Scalar | None] = ["x", "y", True, 1, 1.0, None, "new", math.nan]
    codes = [codes[i % len(codes)] for i in range(len(numbers))]
    columns: Columns = {"a": numbers, "b": numbers[::-1], "c": codes}
    parts = DriftDelta()
    for start in range(0, len(numbers), size):
        parts.add(counted(MIXED, {n: v[start : start + size] for n, v in columns.items()}))
    whole = counted(MIXED, columns).projection
    assert whole is not None
    assert parts.projection is not None
    assert parts.projection.tolist() == whole.tolist()


def test_long_batches_add_exactly_too() -> None:
    columns = named(normals(20_000, 4, seed=1))
    reference = reference_of(columns)
    whole = counted(reference, columns)
    parts = DriftDelta()
    for start in range(0, 20_000, 777):
        parts.add(counted(reference, {n: v[start : start + 777] for n, v in columns.items()}))
    assert whole.projection is not None
    assert parts.projection is not None
    assert parts.projection.tobytes() == whole.projection.tobytes()
    assert reference.projection is not None
    assert whole.projection.tolist() == reference.projection.sums


def test_the_correlation_is_spearmans_but_for_the_width_of_the_bins() -> None:
    columns = related(5_000, 0.5, seed=2)
    reference = reference_of(columns)
    other = related(2_000, -0.3, seed=3)
    [pair] = trial_of(PairJudge(reference), counted(reference, other)).moved
    before = stats.spearmanr(columns["x3"], columns["x7"]).statistic
    now = stats.spearmanr(other["x3"], other["x7"]).statistic
    assert pair.names == ("x3", "x7")
    assert pair.before == pytest.approx(before, abs=0.01)
    assert pair.now == pytest.approx(now, abs=0.01)


def test_a_feature_that_moves_or_spreads_is_not_another_relation() -> None:
    columns = related(5_000, 0.6, seed=4)
    reference = reference_of(columns)
    window = related(1_000, 0.6, seed=5)
    moved = {**window, "x3": np.asarray(window["x3"]) + 0.5, "x7": np.asarray(window["x7"]) * 1.5}
    trial = trial_of(PairJudge(reference), counted(reference, moved))
    assert trial.detection(ALPHA) is None


# ------------------------------------------------------------------ calibration


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_stationary_windows_do_not_alarm(phi: float) -> None:
    worst = []
    for seed in range(4):
        rows = normals(5_000 + 60 * 500, 10, seed, phi=phi)
        reference = reference_of(named(rows[:5_000]))
        judge, binner = PairJudge(reference), Binner(reference)
        for start in range(5_000, rows.shape[0], 500):
            window = binner.count(named(rows[start : start + 500]), rows=500)
            [measure] = trial_of(judge, window).measures
            assert measure.evidence is not None
            worst.append(measure.evidence)
    # 240 windows: none below 1/10,000, and at most their due below 1 in 20.
    assert min(worst) > math.log(1e-4)
    assert sum(ln_p < math.log(0.05) for ln_p in worst) <= 0.05 * len(worst)


def test_dependent_rows_count_for_less() -> None:
    independent, dependent = (
        reference_of(named(normals(5_000, 6, seed=6, phi=phi))).projection for phi in (0.0, 0.9)
    )
    assert independent is not None
    assert dependent is not None
    assert np.mean(independent.dispersions) < 1.5
    assert np.mean(dependent.dispersions) > 4


def test_a_relation_that_comes_up_is_seen_within_two_windows_of_500() -> None:
    found = 0
    for seed in range(10):
        reference = reference_of(related(5_000, 0.0, seed=100 + seed))
        window = counted(reference, related(1_000, 0.5, seed=200 + seed))
        detection = trial_of(PairJudge(reference), window).detection(ALPHA)
        found += detection is not None and detection.summary.startswith(
            "other relations between x3 and x7 (rank correlation "
        )
    assert found == 10


def test_a_column_of_other_rows_is_seen_though_its_distribution_is_the_same() -> None:
    reference = reference_of(related(5_000, 0.8, seed=7))
    window = related(500, 0.8, seed=8)
    joined_wrongly = {**window, "x7": np.roll(np.asarray(window["x7"]), 1)}
    trial = trial_of(PairJudge(reference), counted(reference, joined_wrongly))
    detection = trial.detection(ALPHA)
    assert detection is not None
    assert (detection.kind, detection.detector, detection.feature) == ("data-drift", NAME, None)
    assert detection.threshold == CORRELATION_FLOOR
    effects = trial.effects(ALPHA)
    assert set(effects) == {"x3", "x7"}
    assert effects["x3"] == effects["x7"] > 1


def test_categories_have_relations_too() -> None:
    def rows(size: int, seed: int, *, apart: bool) -> Columns:
        rng = np.random.default_rng(seed)
        group = rng.integers(0, 4, size)
        other = rng.integers(0, 4, size) if apart else group
        return {"group": [f"g{i}" for i in group], "amount": other + rng.normal(size=size)}

    reference = reference_of(rows(5_000, 9, apart=False), group="categorical")
    judge = PairJudge(reference)
    same = trial_of(judge, counted(reference, rows(500, 10, apart=False)))
    apart = trial_of(judge, counted(reference, rows(500, 11, apart=True)))
    assert same.detection(ALPHA) is None
    assert apart.detection(ALPHA) is not None


# ------------------------------------------------------------------- bad input


def test_a_reference_of_one_feature_or_few_rows_has_no_relations() -> None:
    assert reference_of({"x": [1.0, 2.0] * 50}).projection is None
    assert reference_of({"x": [1.0], "y": [2.0]}).projection is None
    empty = reference_of({"x": [], "y": []})
    assert empty.projection is None
    trial = trial_of(PairJudge(empty), DriftDelta(rows=500))
    assert (list(trial.measures), trial.detection(1.0)) == ([], None)
    assert PairJudge(empty).tests == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0] * 2_000, normals(2_000, 1, 12)[:, 0]),
        ([None] * 2_000, normals(2_000, 1, 12)[:, 0]),
        (["text"] * 2_000, normals(2_000, 1, 12)[:, 0]),
        ([math.nan, math.inf] * 1_000, [-math.inf, math.nan] * 1_000),
    ],
)
def test_what_never_varies_has_no_relations(first: Column, second: Column) -> None:
    reference = reference_of({"x": first, "y": second})
    [measure] = trial_of(
        PairJudge(reference), counted(reference, {"x": first, "y": second})
    ).measures
    assert (measure.value, measure.evidence) == (None, None)
    assert measure.note == "not enough data: no two features vary"


def test_a_feature_that_becomes_constant_leaves_the_others_tested() -> None:
    reference = reference_of(named(normals(3_000, 3, seed=13)))
    window = {**named(normals(500, 3, seed=14)), "x0": [5.0] * 500}
    trial = trial_of(PairJudge(reference), counted(reference, window))
    assert trial.measures[0].evidence is not None
    assert trial.detection(ALPHA) is None


def test_too_few_rows_are_not_tested() -> None:
    reference = reference_of(named(normals(3_000, 3, seed=15)))
    small = reference_of(named(normals(900, 3, seed=16)))
    window = named(normals(500, 3, seed=17))
    few: Columns = {name: np.asarray(column)[:99] for name, column in window.items()}
    for held, rows in ((reference, few), (small, window)):
        [measure] = trial_of(PairJudge(held), counted(held, rows)).measures
        assert measure.value is None
        assert measure.note is not None
        assert measure.note.startswith("not enough data")


def test_rows_counted_without_it_leave_a_window_untested() -> None:
    reference = reference_of(named(normals(3_000, 3, seed=18)))
    columns = named(normals(500, 3, seed=19))
    merged = counted(reference, columns)
    merged.add(Binner(reference, multivariate=False).count(columns, rows=500))
    [measure] = trial_of(PairJudge(reference), merged).measures
    assert (measure.value, measure.note) == (None, "not counted in every row")


def test_undeclared_features_are_left_out() -> None:
    reference = reference_of(related(5_000, 0.5, seed=20))
    declared = [name for name in reference.features if name != "x7"]
    window = Binner(reference, declared).count(related(500, 0.0, seed=21), rows=500)
    trial = trial_of(PairJudge(reference), window)
    assert trial.measures[0].evidence is not None
    assert trial.detection(ALPHA) is None


def test_pairs_of_many_features_are_bounded_and_each_feature_has_some() -> None:
    for features in (2, 10, 51, 52, 100, 500, 2_000):
        first, second = pairs_of(features)
        assert first.size <= max(MOST_PAIRS, features)
        assert set(first.tolist()) | set(second.tolist()) == set(range(features))
        pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
        assert len(pairs) == first.size
        assert all(len(pair) == 2 for pair in pairs)
    names = [f"x{i}" for i in range(500)]
    assert sorted(order_of(names)) == sorted(names) != order_of(names)
    assert order_of(names) == order_of(names[::-1])


def test_five_hundred_features_work_and_a_shuffled_half_is_seen() -> None:
    def rows(size: int, seed: int) -> NDArray[np.float64]:
        common = np.random.default_rng(seed).normal(size=(size, 1))
        return common + normals(size, 500, seed + 1)

    reference = reference_of(named(rows(1_500, 22)))
    judge, same, wrong = PairJudge(reference), rows(500, 24), rows(500, 26)
    wrong[:, :250] = wrong[::-1, :250]
    assert trial_of(judge, counted(reference, named(same))).detection(ALPHA) is None
    assert trial_of(judge, counted(reference, named(wrong))).detection(ALPHA) is not None
