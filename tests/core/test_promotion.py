from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_services.core.deltas import LOSS_STEPS
from kedge_services.core.promotion import (
    CHALLENGE,
    FRACTIONS,
    LARGEST,
    WATCH,
    Decision,
    confidence_interval,
    e_value,
    verdict,
)

histograms = st.dictionaries(
    st.integers(-LOSS_STEPS, LOSS_STEPS), st.integers(0, 3_000), max_size=6
)


def zero_one(wins: int, losses: int, n: int) -> dict[int, int]:
    return {LOSS_STEPS: wins, -LOSS_STEPS: losses, 0: n - wins - losses}


def test_e_value_golden() -> None:
    assert e_value(zero_one(60, 40, 1_000)) == pytest.approx(2.7726971, abs=5e-8)
    assert e_value(zero_one(60, 40, 1_000), 0.005) == pytest.approx(1.4646610, abs=5e-8)
    assert e_value(zero_one(120, 60, 2_000), 0.005) == pytest.approx(173.55379, abs=5e-6)


def test_confidence_interval_golden() -> None:
    interval = confidence_interval(zero_one(120, 60, 2_000))
    assert interval == pytest.approx((0.008282, 0.052302), abs=1e-6)


def test_no_pairs_say_nothing() -> None:
    assert e_value({}) == 1.0
    assert confidence_interval({}) == pytest.approx((-1.0, 1.0))
    assert verdict({}).decision == "undecided"


@given(histograms)
def test_histogram_gives_what_betting_pair_by_pair_gives(differences: dict[int, int]) -> None:
    few = {d: count % 7 for d, count in differences.items()}
    wealth = dict.fromkeys(FRACTIONS, 1.0)
    for d, count in few.items():
        for _ in range(count):
            for g in FRACTIONS:
                wealth[g] *= 1 - g + g * (1 + d / LOSS_STEPS) / 1.005
    assert e_value(few, 0.005) == pytest.approx(sum(wealth.values()) / 6, rel=1e-9)


@given(histograms, st.floats(-0.9, 0.9), st.floats(0.001, 0.1))
def test_a_larger_margin_never_gives_more_evidence(
    differences: dict[int, int], margin: float, more: float
) -> None:
    assert e_value(differences, margin + more) <= e_value(differences, margin) * (1 + 1e-9)


@given(histograms)
def test_interval_holds_the_mean_and_mirrors(differences: dict[int, int]) -> None:
    low, high = confidence_interval(differences)
    n = sum(differences.values())
    if n:
        mean = sum(d * c for d, c in differences.items()) / (n * LOSS_STEPS)
        assert low <= mean + 1e-9
        assert mean <= high + 1e-9
    mirrored = confidence_interval({-d: c for d, c in differences.items()})
    assert mirrored == pytest.approx((-high, -low))


def test_huge_evidence_stays_a_number() -> None:
    assert e_value({LOSS_STEPS: 10**7}) == pytest.approx(LARGEST)
    assert math.isfinite(e_value({-LOSS_STEPS: 10**7}))


def test_counts_below_zero_are_no_pairs() -> None:
    # A corrected label may take out a pair that was counted in an earlier contest.
    assert verdict({LOSS_STEPS: -3, 0: 10}).n == 10


def test_no_decision_before_200_pairs() -> None:
    assert verdict(zero_one(199, 0, 199)).decision == "undecided"
    assert verdict(zero_one(200, 0, 200)).decision == "promote"
    assert verdict(zero_one(0, 199, 199)).decision == "undecided"
    assert verdict(zero_one(0, 200, 200)).decision == "drop"


def test_champion_is_kept_when_20000_pairs_leave_it_open() -> None:
    assert verdict(zero_one(1_000, 1_000, 19_999)).decision == "undecided"
    assert verdict(zero_one(1_000, 1_000, 20_000)).decision == "keep"


def test_a_watch_wants_more_evidence_but_no_margin() -> None:
    pairs = zero_one(30, 10, 1_000)
    assert 1 / CHALLENGE.alpha < e_value(pairs, WATCH.margin) < 1 / WATCH.alpha
    assert verdict(pairs, WATCH).decision == "undecided"
    assert verdict(zero_one(45, 10, 1_000), WATCH).decision == "promote"


def decisions(gap: float, runs: int, seed: int) -> list[tuple[Decision, int]]:
    """Run the test to its end, looked at every 100 pairs; versions disagree on a tenth."""
    rng = np.random.default_rng(seed)
    win, loss = (0.1 + gap) / 2, (0.1 - gap) / 2
    ends = []
    for _ in range(runs):
        total = np.zeros(3, dtype=np.int64)
        for _ in range(200):
            total += rng.multinomial(100, [win, loss, 1 - win - loss])
            wins, losses, ties = (int(x) for x in total)
            found = verdict(zero_one(wins, losses, wins + losses + ties))
            if found.decision != "undecided":
                break
        ends.append((found.decision, found.n))
    return ends


def test_a_challenger_that_is_no_better_is_hardly_ever_promoted() -> None:
    ends = decisions(gap=0.005, runs=120, seed=1)
    # alpha = .05 bounds the probability; simulated 2.4 %.
    assert sum(decision == "promote" for decision, _ in ends) <= 9


def test_a_better_challenger_is_promoted_soon() -> None:
    ends = decisions(gap=0.05, runs=40, seed=2)
    assert [decision for decision, _ in ends].count("promote") >= 38
    assert np.median([n for _, n in ends]) <= 700
