"""The sequential error-rate detector: golden alarms, checkpoints, and its mean run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_services.core.sequential import ErrorRateDetector, upper_rate


class Fixed(ErrorRateDetector):
    """The detector at a threshold of 100,000."""

    __slots__ = ()

    def threshold(self, now_ms: int, false_alarms_per_week: float) -> float:  # noqa: ARG002
        return 1e5


def golden_error(t: int) -> bool:
    return (7919 * t) % 1000 < (200 if t <= 2000 else 400)


def run(cell: int) -> tuple[int, float]:
    detector = Fixed(n=5_000.0, errors=1_000.0)
    for first in range(1, 5_000, cell):
        errors = sum(golden_error(t) for t in range(first, first + cell))
        alarm = detector.update(
            labelled=cell, errors=errors, start_ms=first, end_ms=first + cell, per_week=1.0
        )
        if alarm is not None:
            return first + cell - 1, alarm
    raise AssertionError("no alarm")


def test_golden_alarm_event_by_event() -> None:
    at, evidence = run(1)
    assert at == 2086
    assert evidence == pytest.approx(105530.656, abs=1e-3)


def test_golden_alarm_in_cells_of_25() -> None:
    assert run(25)[0] == 2125


def test_upper_rate_is_two_standard_errors_above_and_never_zero() -> None:
    assert upper_rate(5_000, 1_000) == pytest.approx(0.2 + 2 * (0.16 / 5000) ** 0.5)
    assert upper_rate(1_000, 0) == 3 / 1_000


cells = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), max_size=40)


@given(cells, st.integers(0, 39))
def test_a_checkpoint_between_any_two_cells_changes_no_bit(
    stream: list[tuple[int, float]], cut: int
) -> None:
    def fed(detector: ErrorRateDetector, part: list[tuple[int, float]], at: int) -> int:
        for n, share in part:
            detector.update(
                labelled=n, errors=round(n * share), start_ms=at, end_ms=at + 10, per_week=1
            )
            at += 10
        return at

    whole = ErrorRateDetector(n=1_000.0, errors=100.0)
    fed(whole, stream, 0)
    first = ErrorRateDetector(n=1_000.0, errors=100.0)
    at = fed(first, stream[:cut], 0)
    second = ErrorRateDetector.decode(first.encode())
    fed(second, stream[cut:], at)
    assert second.encode() == whole.encode()


def test_it_learns_its_reference_from_the_first_labels() -> None:
    detector = ErrorRateDetector()
    for start in range(0, 1_000, 50):
        assert detector.learning
        detector.update(labelled=50, errors=5, start_ms=start, end_ms=start + 50, per_week=1)
    assert not detector.learning
    assert (detector.n, detector.errors, detector.seen) == (1_000, 100, 0)


def test_after_an_alarm_it_is_silent_until_the_pause_is_over() -> None:
    detector = ErrorRateDetector(n=1_000.0, errors=100.0)

    def cell(start: int) -> float | None:
        return detector.update(
            labelled=100, errors=60, start_ms=start, end_ms=start + 10, per_week=1e9
        )

    assert cell(0) is not None
    detector.reset(until_ms=50)
    assert [cell(start) for start in (10, 20, 30, 40)] == [None] * 4
    assert cell(50) is not None


def test_the_threshold_grows_with_the_rate_of_labels() -> None:
    detector = ErrorRateDetector(seen=1_000, since_ms=0)
    assert detector.threshold(604_800_000, 1.0) == 1e4
    assert detector.threshold(604_800, 1.0) == pytest.approx(4e6)


def test_no_false_alarm_in_300_000_labels_and_a_quick_true_one() -> None:
    rng = np.random.default_rng(5)
    detector = Fixed(n=5_000.0, errors=1_000.0)
    for i in range(6_000):
        errors = int(rng.binomial(50, 0.2))
        alarm = detector.update(labelled=50, errors=errors, start_ms=i, end_ms=i + 1, per_week=1e9)
        assert alarm is None
    for i in range(6_000, 6_020):
        errors = int(rng.binomial(50, 0.3))
        alarm = detector.update(labelled=50, errors=errors, start_ms=i, end_ms=i + 1, per_week=1e9)
        if alarm is not None:
            break
    assert alarm is not None
