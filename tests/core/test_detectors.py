"""When drift and integrity alarm, and when they must not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kedge import Measure, Monitor, Reference
from kedge_services.core import distances
from kedge_services.core.binning import Binner
from kedge_services.core.budget import Budget
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.detectors import DriftJudge, Verdict
from kedge_services.core.measuring import trusted_measure
from kedge_services.core.references import build_reference
from kedge_services.core.shifts import categorical_shift

WEEKLY = Budget(per_pane=1 / 2016, per_week=1.0)
Columns = dict[str, Any]


def rows(seed: int, n: int, *, shift: float = 0.0, nulls: float = 0.0) -> Columns:
    rng = np.random.default_rng(seed)
    x: list[float | None] = rng.normal(shift, 1, n).tolist()
    for i in np.flatnonzero(rng.random(n) < nulls):
        x[i] = None
    few = rng.integers(0, 5, n).tolist()
    return {
        "x": x,
        "y": rng.lognormal(0, 1, n).tolist(),
        "few": few,
        "c": rng.choice(list("abcdef"), n, p=[0.4, 0.2, 0.15, 0.1, 0.1, 0.05]).tolist(),
        "constant": [1.0] * n,
    }


def made(n: int = 5_000, **arguments: Any) -> Reference:
    columns = rows(1, n)
    return build_reference(
        model="m",
        version="1",
        columns=columns,
        kinds={name: "categorical" if name == "c" else "numeric" for name in columns},
        predictions=columns["c"],
        **arguments,
    )


def independent(reference: Reference) -> Reference:
    """Give the reference as that of independent rows: an overdispersion of one throughout."""
    features = {
        name: feature.model_copy(update={"dispersion": 1.0})
        for name, feature in reference.features.items()
    }
    return reference.model_copy(update={"features": features})


def judged(reference: Reference, columns: Columns, budget: Budget = WEEKLY) -> Verdict:
    n = len(columns["x"])
    window = Binner(reference).count(columns, rows=n, predictions=columns["c"])
    return DriftJudge(reference).judge(window, budget=budget)


def named(verdict: Verdict) -> set[tuple[str | None, str]]:
    return {(d.feature, d.detector) for d in verdict.detections}


def test_the_same_distribution_does_not_alarm() -> None:
    reference = made()
    for seed in range(10, 60):
        verdict = judged(reference, rows(seed, 500))
        assert verdict.tested == 6
        assert not verdict.detections


def test_half_a_standard_deviation_is_seen_in_500_rows() -> None:
    verdict = judged(made(), rows(2, 500, shift=0.5))
    assert named(verdict) == {("x", "kolmogorov_smirnov")}
    [detection] = verdict.detections
    assert detection.kind == "data-drift"
    assert detection.threshold == 0.05
    assert detection.evidence is not None
    assert detection.evidence < math.log(WEEKLY.drift / 24)


def test_a_trifle_does_not_alarm_in_a_million_rows() -> None:
    # A shift of .08 sigma moves the distribution function by .03 at most: below the floor.
    reference = made(200_000)
    verdict = judged(reference, rows(3, 1_000_000, shift=0.08))
    [x] = [m for m in verdict.measures if (m.name, m.feature) == ("kolmogorov_smirnov", "x")]
    assert x.evidence is not None
    assert x.evidence < -300
    assert not verdict.detections


@pytest.mark.parametrize(("reference_rows", "window_rows"), [(999, 500), (5_000, 99)])
def test_too_few_rows_are_measured_but_not_tested(reference_rows: int, window_rows: int) -> None:
    verdict = judged(made(reference_rows), rows(4, window_rows, shift=3))
    assert verdict.tested == 0
    assert not [d for d in verdict.detections if d.kind != "integrity"]
    assert any(m.name == "kolmogorov_smirnov" and m.value for m in verdict.measures)


def test_an_empty_window_has_no_measures() -> None:
    reference = made(1_000)
    verdict = judged(reference, rows(1, 0))
    assert verdict == Verdict([], [], 0)


def test_nulls_wrong_types_and_values_out_of_range_are_integrity() -> None:
    columns = rows(5, 500, nulls=0.05)
    columns["y"][:20] = ["?"] * 20
    columns["few"][:30] = [2.5] * 30
    columns["c"][:30] = ["new"] * 30
    columns["constant"][:30] = [2.0] * 30
    verdict = judged(made(), columns)
    integrity = {(d.feature, d.detector) for d in verdict.detections if d.kind == "integrity"}
    assert integrity == {
        ("x", "null_share"),
        ("y", "type_error_share"),
        ("few", "unseen_share"),
        ("c", "unseen_share"),
        ("constant", "above_share"),
    }


def test_fewer_nulls_than_before_is_an_alarm_fewer_outliers_is_none() -> None:
    columns = rows(6, 5_000, nulls=0.2)
    reference = build_reference(
        model="m", version="1", columns={"x": columns["x"]}, kinds={"x": "numeric"}
    )
    verdict = judged(reference, {**rows(7, 500), "x": rows(7, 500)["x"]})
    assert named(verdict) == {("x", "null_share")}


def test_rare_categories_of_a_long_tail_do_not_alarm() -> None:
    # Every window has categories the reference never saw; Good-Turing expects them.
    rng = np.random.default_rng(8)

    def tail(n: int) -> list[str]:
        return [str(min(z, 10**9)) for z in rng.zipf(1.5, n)]

    reference = build_reference(
        model="m", version="1", columns={"c": tail(5_000)}, kinds={"c": "categorical"}
    )
    judge, binner = DriftJudge(reference), Binner(reference)
    for _ in range(40):
        window = binner.count({"c": tail(500)}, rows=500)
        assert window.features["c"].unseen > 0
        assert not judge.judge(window, budget=WEEKLY).detections


def test_the_counter_test_is_the_exact_hypergeometric_tail() -> None:
    # Of n = 500 and N = 5,000: 7 against 0, and 25 against 100.
    for k, known, p in ((7, 0, 4.94e-8), (25, 100, 1.1346e-4)):
        # Spread evenly: nulls in one part of the reference would raise their overdispersion.
        before = [None if known and not i % (5_000 // known) else 1.0 for i in range(5_000)]
        reference = build_reference(
            model="m", version="1", columns={"x": before}, kinds={"x": "numeric"}
        )
        window = Binner(reference).count({"x": [None] * k + [1.0] * (500 - k)}, rows=500)
        verdict = DriftJudge(reference).judge(window, budget=WEEKLY)
        [nulls] = [m for m in verdict.measures if m.name == "null_share"]
        assert nulls.evidence is not None
        assert math.exp(nulls.evidence) == pytest.approx(2 * p, rel=1e-3)


@given(
    st.integers(3, 8).flatmap(
        lambda k: st.tuples(*[st.lists(st.integers(60, 300), min_size=k, max_size=k)] * 2)
    )
)
def test_without_rare_categories_the_test_is_plain_chi_square(
    pair: tuple[list[int], list[int]],
) -> None:
    r, c = pair
    test = categorical_shift(np.array(r), np.array(c))
    chi = distances.chi_square(r, c)
    assert chi is not None
    assert test.effect == pytest.approx(distances.effect_w(r, c), abs=1e-12)
    assert test.ln_p == pytest.approx(max(-690, math.log(max(chi.p, 1e-300))), rel=1e-8)
    assert test.low <= test.effect + 1e-12


def test_a_few_unseen_rows_do_not_pretend_to_a_chi_square_tail() -> None:
    # Four rows of a new category have probability (1/11)^4, not the tail's 1e-8.
    r, c = np.array([3_000, 2_000, 0]), np.array([298, 198, 4])
    assert categorical_shift(r, c).ln_p > math.log((1 / 11) ** 4)


def test_the_vectorised_tests_equal_the_distances_one_by_one() -> None:
    reference = independent(made(2_000))
    columns = rows(9, 400, shift=0.3)
    window = Binner(reference).count(columns, rows=400, predictions=columns["c"])
    verdict = DriftJudge(reference).judge(window, budget=WEEKLY)
    found = {(m.feature, m.name): m for m in verdict.measures}
    for name, feature in reference.features.items():
        bins = window.features[name].bins
        assert found[name, "psi"].value == pytest.approx(distances.psi(feature.counts, bins))
        js = distances.jensen_shannon(feature.counts, bins)
        assert found[name, "jensen_shannon"].value == pytest.approx(js, abs=1e-9)
        if feature.kind == "numeric":
            ks = distances.kolmogorov_smirnov(feature.counts, bins)
            assert ks is not None
            measure = found[name, "kolmogorov_smirnov"]
            assert measure.value == ks.distance
            assert measure.evidence == pytest.approx(math.log(ks.p), rel=1e-8)
            assert measure.low is not None
            assert measure.low <= ks.distance


@given(st.permutations(range(6)))
def test_a_verdict_does_not_depend_on_how_the_window_was_cut(order: list[int]) -> None:
    reference = CUT_REFERENCE
    parts = [rows(100 + i, 120, shift=0.4) for i in order]
    window = DriftDelta()
    for part in parts:
        window.add(Binner(reference).count(part, rows=120, predictions=part["c"]))
    expected = DriftDelta()
    for i in range(6):
        part = rows(100 + i, 120, shift=0.4)
        expected.add(Binner(reference).count(part, rows=120, predictions=part["c"]))
    judge = DriftJudge(reference)
    assert judge.judge(window, budget=WEEKLY) == judge.judge(expected, budget=WEEKLY)


CUT_REFERENCE = made(1_500)


def test_a_trusted_measure_is_as_any_other() -> None:
    fields: dict[str, Any] = {"low": 0.1, "threshold": 0.2, "evidence": -3.0}
    trusted = trusted_measure("psi", "x", 0.25, 500, **fields)
    plain = Measure(name="psi", feature="x", value=0.25, n=500, **fields)
    assert trusted == plain
    assert trusted.model_dump_json(exclude_none=True) == plain.model_dump_json(exclude_none=True)
    changed = trusted.model_copy(update={"note": "why"})
    assert (changed.note, trusted.note) == ("why", None)
    assert set(vars(trusted)) == set(Measure.model_fields)


def monitor(**windows: Any) -> Monitor:
    return Monitor.model_validate(
        {
            "model": "m",
            "task": "binary",
            "classes": ["a", "b"],
            "features": {"x": "numeric"},
            **windows,
        }
    )


def test_the_budget_is_shared_by_the_panes_of_a_week() -> None:
    weekly = Budget.of(monitor(windows={"pane": "1h"}))
    assert weekly.per_pane == pytest.approx(1 / 168)
    assert weekly.drift == 1e-3
    assert weekly.integrity == 2.5e-4
    fast = Budget.of(monitor(windows={"pane": "2s"}, drift={"false_alarms": "2 per week"}))
    assert fast.drift == pytest.approx(0.5 * 2 / 302_400)
    by_window = Budget.of(
        monitor(windows={"pane": "1h"}, drift={"false_alarms": "1 per 1000 windows"})
    )
    assert by_window.drift == pytest.approx(5e-4)
    assert by_window.per_week == pytest.approx(0.168)


def test_ks_p_is_conservative_on_bins() -> None:
    # The bound must lie above the exact two-sample tail for bins without ties.
    for d in (0.05, 0.1, 0.2):
        bound = 2 * math.exp(-2 * d * d * 500 * 5_000 / 5_500)
        exact = stats.kstwo.sf(d, 500 * 5_000 // 5_500)
        assert bound >= exact


# ------------------------------------------------- several features, several scales

GRID = [(i + 0.5) / 500 for i in range(500)]
TEN = [f"f{i}" for i in range(10)]
HOURLY = Budget(per_pane=1 / 168, per_week=1.0)


def moved(rows: int) -> list[float]:
    """Give a uniform column of 500 rows of which so many went from the lower half to the upper."""
    return [x + 0.5 if i < rows else x for i, x in enumerate(GRID)]


def of_ten(columns: Columns) -> tuple[DriftJudge, DriftDelta]:
    even = [x for _ in range(10) for x in GRID]
    reference = build_reference(
        model="m",
        version="1",
        columns=dict.fromkeys(TEN, even),
        kinds=dict.fromkeys(TEN, "numeric"),
    )
    reference = reference.model_copy(update={"projection": None})
    window = Binner(reference).count({**dict.fromkeys(TEN, GRID), **columns}, rows=500)
    return DriftJudge(reference), window


def test_what_almost_alarms_is_near_and_alarms_nothing() -> None:
    # 53 of 500 rows: ln p = -9.5, the limit of one of ten features at four scales is -10.6.
    judge, window = of_ten({"f0": moved(53)})
    verdict = judge.judge(window, budget=HOURLY)
    assert (verdict.detections, verdict.near) == ([], ["data-drift"])
    for rows in (30, 40):
        judge, window = of_ten({"f0": moved(rows)})
        assert judge.judge(window, budget=HOURLY).near == []


def test_an_alarm_names_those_that_many_together_make_clear() -> None:
    # f0 alarms by itself; f1 and f2 would not, and f3 is not clear at all.
    columns = {"f0": moved(100), "f1": moved(53), "f2": moved(53), "f3": moved(30)}
    judge, window = of_ten(columns)
    verdict = judge.judge(window, budget=HOURLY)
    assert [d.feature for d in verdict.detections] == ["f0", "f1", "f2"]
    assert "f1 moved with others" in verdict.detections[1].summary
    [drifted] = [m for m in verdict.measures if m.name == "drifted_features"]
    assert drifted.value == 3
    # Without one that alarms nothing is named.
    judge, window = of_ten({"f1": moved(53), "f2": moved(53)})
    assert judge.judge(window, budget=HOURLY).detections == []


def test_naming_asks_all_scales_that_end_with_the_pane() -> None:
    judge, now = of_ten({"f0": moved(100), "f1": moved(53)})
    _, before = of_ten({"f0": moved(100)})
    both = DriftDelta()
    both.add(now)
    both.add(before)
    alone = judge.decide({1: judge.test(now)}, budget=HOURLY)
    assert [d.feature for d in alone[1].detections] == ["f0", "f1"]
    # In the longer window f1 has moved by half as much: its e-values average to less.
    together = judge.decide({1: judge.test(now), 2: judge.test(both)}, budget=HOURLY)
    assert [d.feature for d in together[1].detections] == ["f0"]
    assert [d.feature for d in together[2].detections] == ["f0"]


def test_a_budget_of_nothing_alarms_never() -> None:
    judge, window = of_ten({"f0": moved(200)})
    assert judge.judge(window, budget=Budget(0.0, 0.0)).detections == []
