"""The sequential detector of losses: golden alarms, checkpoints, ranks, and its mean run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_services.core.references import build_reference
from kedge_services.core.sequential import LossDetector, Losses, mid_ranks, threshold

C = 1e5


def errors(n: int, wrong: int) -> Losses:
    return [(0.0, n - wrong), (1.0, wrong)]


def first_alarm(detector: LossDetector, cells: Iterator[Losses]) -> tuple[int, float] | None:
    """Give how many labels it took, and the evidence."""
    seen = 0
    for losses in cells:
        seen += sum(count for _, count in losses)
        evidence = detector.update(losses, start_ms=seen)
        if evidence is not None and evidence >= C:
            return seen, evidence
    return None


def golden(cell: int) -> Iterator[Losses]:
    for first in range(1, 5_000, cell):
        wrong = [
            (7919 * t) % 1000 < (200 if t <= 2000 else 400) for t in range(first, first + cell)
        ]
        yield errors(cell, sum(wrong))


def test_golden_alarm_event_by_event() -> None:
    found = first_alarm(LossDetector.of_errors(5_000, 1_000), golden(1))
    assert found is not None
    assert found[0] == 2086
    assert found[1] == pytest.approx(105530.656, abs=1e-3)


def test_golden_alarm_in_cells_of_25() -> None:
    found = first_alarm(LossDetector.of_errors(5_000, 1_000), golden(25))
    assert found is not None
    assert found[0] == 2125


def test_p0_is_two_standard_errors_above_and_never_the_mean_itself() -> None:
    assert LossDetector.of_errors(5_000, 1_000).p0 == pytest.approx(0.2 + 2 * (0.16 / 5000) ** 0.5)
    assert LossDetector.of_errors(1_000, 0).p0 == 3 / 1_000
    ranks = LossDetector.of_ranks([200] * 32)
    variance = (32**2 - 1) / 12 / 32**2  # of a uniform rank in 32 steps
    assert ranks.p0 == pytest.approx(0.5 + 2 * math.sqrt(variance / 6_400))
    assert LossDetector.of_ranks([0, 1_000, 0]).p0 == 0.5 + 1.5 / 1_000


@given(st.lists(st.integers(0, 500), min_size=1, max_size=70).filter(any))
def test_ranks_of_the_reference_have_mean_one_half_whatever_its_atoms(counts: list[int]) -> None:
    ranks = mid_ranks(counts)
    assert ranks == sorted(ranks)
    assert 0 <= ranks[0] <= ranks[-1] <= 1
    mean = math.fsum(u * n for u, n in zip(ranks, counts, strict=True)) / sum(counts)
    assert mean == pytest.approx(0.5)


cells = st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), max_size=40)


@given(cells, st.integers(0, 39), st.sampled_from(["errors", "ranks"]))
def test_a_checkpoint_between_any_two_cells_changes_no_bit(
    stream: list[tuple[int, float]], cut: int, losses: str
) -> None:
    def fed(detector: LossDetector, part: list[tuple[int, float]], at: int) -> None:
        for i, (n, share) in enumerate(part):
            detector.update(errors(n, round(n * share)), start_ms=at + i)

    def fresh() -> LossDetector:
        return (
            LossDetector.of_ranks([50] * 32)
            if losses == "ranks"
            else LossDetector.of_errors(1e3, 1e2)
        )

    whole, first = fresh(), fresh()
    fed(whole, stream, 0)
    fed(first, stream[:cut], 0)
    second = LossDetector.decode(first.encode())
    fed(second, stream[cut:], cut)
    assert second.encode() == whole.encode()


def test_it_learns_its_reference_from_the_first_labels() -> None:
    detector = LossDetector()
    for start in range(0, 1_000, 50):
        assert detector.learning
        assert detector.update(errors(50, 5), start_ms=start) is None
    assert not detector.learning
    assert (detector.n, detector.total, detector.seen) == (1_000, 100, 0)


def test_after_an_alarm_it_is_silent_until_the_pause_is_over() -> None:
    detector = LossDetector.of_errors(1_000, 100)
    assert (detector.update(errors(100, 60), start_ms=0) or 0) > 1e9
    detector.reset(until_ms=50)
    assert [detector.update(errors(100, 60), start_ms=at) for at in (10, 20, 49)] == [None] * 3
    assert (detector.update(errors(100, 60), start_ms=50) or 0) > 1e9


def test_an_empty_cell_is_no_test_and_models_that_always_err_have_no_alternative() -> None:
    assert LossDetector.of_errors(1_000, 100).update([], start_ms=0) is None
    hopeless = LossDetector.of_errors(1_000, 1_000)
    assert hopeless.update(errors(10, 10), start_ms=0) == 0.0


def test_the_threshold_is_shared_by_the_losses_of_all_detectors() -> None:
    week = 604_800_000
    detector = LossDetector(seen=1_000, since_ms=0)
    assert detector.per_week(week) == 1_000
    assert detector.per_week(0) == 0
    assert threshold(1_000, 1.0) == 1e4
    assert threshold(detector.per_week(week // 1_000), 1.0) == pytest.approx(4e6)
    assert threshold(1_000, 0.0) == math.inf


def test_the_stretch_is_where_the_rate_rose_not_all_there_was() -> None:
    detector = LossDetector.of_errors(5_000, 1_000)
    for at in range(100):
        detector.update(errors(50, 9), start_ms=at)
    for at in range(100, 104):
        detector.update(errors(50, 20), start_ms=at)
    labels, rate = detector.stretch
    assert 200 <= labels <= 400
    assert rate > 0.3 > detector.p0


def uniform(scale: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, n: np.abs(rng.normal(0, scale, n))


def rounded_down(scale: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Errors of which many are equal: a third of them is zero."""
    return lambda rng, n: np.maximum(0, np.abs(rng.normal(0, scale, n)) - 0.43)


@pytest.mark.parametrize("errors_of", [uniform, rounded_down])
def test_ranks_see_a_larger_error_soon_and_no_equal_one(
    errors_of: Callable[[float], Callable[[np.random.Generator, int], np.ndarray]],
) -> None:
    rng = np.random.default_rng(3)
    losses = errors_of(1.0)(rng, 5_000)
    reference = build_reference(
        model="m", version="1", columns={"x": [0.0]}, kinds={"x": "numeric"},
        losses=losses.tolist(), regression=True,
    )  # fmt: skip
    ranks = mid_ranks(reference.loss_counts)

    def cells_of(scale: float, n: int) -> Iterator[Losses]:
        for _ in range(n):
            at = np.searchsorted(reference.loss_cuts, errors_of(scale)(rng, 50))
            counts = np.bincount(at, minlength=len(ranks)).tolist()
            yield [(u, count) for u, count in zip(ranks, counts, strict=True) if count]

    detector = LossDetector.of_ranks(reference.loss_counts)
    assert first_alarm(detector, cells_of(1.0, 2_000)) is None
    found = first_alarm(detector, cells_of(1.5, 40))
    assert found is not None
    assert found[0] <= 500


def test_no_false_alarm_in_300_000_labels_and_a_quick_true_one() -> None:
    rng = np.random.default_rng(5)
    detector = LossDetector.of_errors(5_000, 1_000)
    steady = (errors(50, int(rng.binomial(50, 0.2))) for _ in range(6_000))
    assert first_alarm(detector, steady) is None
    risen = (errors(50, int(rng.binomial(50, 0.3))) for _ in range(20))
    assert first_alarm(detector, risen) is not None
