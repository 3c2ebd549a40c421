"""Fairness: golden intervals, their coverage, and when they alarm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Detection, Measure
from kedge.monitor import Segment
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.fairness import MEASURES, Group, difference, judge, ratio

SEGMENT = Segment(name="region")


def judged(
    one: Group, other: Group, segment: Segment = SEGMENT
) -> tuple[dict[str, Measure], list[Detection], bool]:
    measures, detections, tested = judge(
        one, other, names=("region=NO", "the rest"), segment=segment, alpha=1e-4
    )
    assert [m.name for m in measures] == sorted(MEASURES, key=[m.name for m in measures].index)
    return {measure.name: measure for measure in measures}, detections, tested


def group(chosen: int, answered: int, found: int = 0, positives: int = 0) -> Group:
    return Group(chosen, answered, found, positives, answered, answered)


def test_golden_intervals() -> None:
    assert difference((30, 100), (60, 300)) == pytest.approx((0.00533, 0.20438), abs=5e-6)
    value, (low, high) = ratio((30, 100), (60, 300))
    assert value == pytest.approx(1.5)
    half = 1.959964 * (1 / 30 - 1 / 100 + 1 / 60 - 1 / 300) ** 0.5
    assert (low, high) == pytest.approx((1.5 * np.exp(-half), 1.5 * np.exp(half)))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    draws = zip(rng.binomial(120, 0.3, 4_000), rng.binomial(400, 0.2, 4_000), strict=True)
    covered = np.zeros(2)
    for one, other in draws:
        low, high = difference((int(one), 120), (int(other), 400))
        covered[0] += low <= 0.1 <= high
        low, high = ratio((int(one), 120), (int(other), 400))[1]
        covered[1] += low <= 1.5 <= high
    assert ((covered / 4_000 >= 0.94) & (covered / 4_000 <= 0.965)).all()


def test_a_group_is_read_from_the_counts_of_a_window() -> None:
    counts = PerformanceDelta(
        predicted=300, labelled=280, answers={"yes": 90, "no": 205},
        confusion={"yes": {"yes": 40, "no": 20}, "no": {"yes": 45, "no": 175}},
    )  # fmt: skip
    found = Group.of(counts, "yes")
    assert (found.parity, found.opportunity) == ((90, 295), (40, 60))
    few = PerformanceDelta(predicted=300, labelled=120, confusion=counts.confusion)
    assert Group.of(few, "yes").opportunity == (0, 0)
    assert (found + found) - found == found


def test_a_clear_difference_alarms_and_says_who_and_how_much() -> None:
    measures, detections, tested = judged(group(400, 1_000, 90, 100), group(600, 3_000, 80, 300))
    assert tested
    assert [d.detector for d in detections] == list(MEASURES)
    assert {d.kind for d in detections} == {"fairness"}
    assert measures[MEASURES[0]].value == pytest.approx(0.2)
    assert measures[MEASURES[1]].value == pytest.approx(2.0)
    assert measures[MEASURES[2]].value == pytest.approx(0.9 - 80 / 300)
    assert "region=NO 40.0%, the rest 20.0%" in detections[0].summary
    assert (detections[0].threshold, detections[1].threshold) == (0.1, 1.25)
    low = judged(group(200, 1_000), group(1_200, 3_000))[1]
    assert [(d.detector, d.threshold) for d in low] == [(MEASURES[0], -0.1), (MEASURES[1], 0.8)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (group(30, 99), group(3, 3_000)),  # too few rows
        (group(320, 1_000), group(600, 3_000)),  # beyond the limit, but not surely
        (group(220, 1_000), group(630, 3_000)),  # surely different, but within the limits
    ],
)
def test_no_alarm_without_rows_certainty_and_size(one: Group, other: Group) -> None:
    assert MEASURES[0] not in {d.detector for d in judged(one, other)[1]}


def test_opportunity_takes_thirty_positives_on_both_sides() -> None:
    def alarms(positives: int) -> bool:
        other = group(3_000, 10_000, 10, 1_000)
        found = judged(group(300, 1_000, positives, positives), other)[1]
        return MEASURES[2] in {d.detector for d in found}

    assert not alarms(29)
    assert alarms(30)


def test_limits_and_silence_are_the_monitors() -> None:
    one, other = group(400, 1_000), group(600, 3_000)
    wide = Segment(name="region", statistical_parity_difference=0.5, disparate_impact=(0.2, 5.0))
    assert judged(one, other, wide)[1] == []
    measures, detections, tested = judged(one, other, Segment(name="region", alarm=False))
    assert (detections, tested) == ([], True)
    assert measures[MEASURES[0]].value == pytest.approx(0.2)


def test_what_cannot_be_compared_says_why() -> None:
    measures, detections, tested = judged(Group(), group(10, 300))
    assert (detections, tested) == ([], False)
    assert {m.note for m in measures.values()} == {"no answered row of region=NO"}
    measures, *_ = judged(group(10, 300), Group())
    assert {m.note for m in measures.values()} == {"no answered row of the rest"}
    measures, detections, tested = judged(group(0, 300), group(0, 900))
    assert measures[MEASURES[0]].value == 0.0
    assert measures[MEASURES[1]].note == "no positive answer on either side"
    assert (detections, tested) == ([], True)
    never = judged(group(0, 500), group(500, 1_000))
    assert never[0][MEASURES[1]].value == pytest.approx(0.002)
    assert MEASURES[1] in {d.detector for d in never[1]}


counts = st.integers(-5, 200)


@given(*[st.builds(Group, *[counts] * 6)] * 2)
def test_no_counts_raise(one: Group, other: Group) -> None:
    for measure in judged(one, other)[0].values():
        if measure.value is not None:
            assert measure.low is not None
            assert measure.high is not None
            assert measure.low - 1e-9 <= measure.value <= measure.high + 1e-9
