"""Rows in order, windows, scores and the choice."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.events import Example, Output
from kedge_services.core import selection
from kedge_services.core.selection import Choice, Window


def example(i: str, label_ms: int, revision: int = 0, **more: Any) -> Example:
    return Example(
        **{
            "prediction_id": i,
            "model": "m",
            "features": {"a": 1.5},
            "label": "yes",
            "outputs": {},
            "event_time_ms": 0,
            "label_time_ms": label_ms,
            "revision": revision,
            **more,
        }
    )


def test_the_digest_sees_order_values_and_revisions_but_no_outputs() -> None:
    rows = [example("a", 1), example("b", 2)]
    digest = selection.digest(rows)
    served = [e.model_copy(update={"outputs": {"k1": Output(label="no")}}) for e in rows]
    assert selection.digest(served) == digest
    for other in (
        rows[::-1],
        rows[:1],
        [rows[0], example("b", 2, 1)],
        [rows[0], example("b", 2, label="no")],
        [rows[0], example("b", 2, features={"a": 1.5000000000000002})],
    ):
        assert selection.digest(other) != digest


def test_a_quarter_is_held_out_and_at_most_200() -> None:
    assert [selection.hold_out(n) for n in (100, 800, 100_000)] == [25, 200, 200]


def test_windows_end_with_all_rows_and_the_time_of_the_change() -> None:
    times = list(range(3_000))
    assert [w.length for w in selection.windows(times, None)] == [500, 1_000, 2_000, 3_000]
    assert [w.length for w in selection.windows(times[:500], None)] == [500]
    assert [w.length for w in selection.windows(times[:300], None)] == [300]
    assert selection.windows(times, 2_700)[-1] == Window(3_000, 2_700)
    # Too few rows since then, or all of them: there is nothing to try.
    assert selection.windows(times, 2_950)[-1] == Window(3_000)
    assert selection.windows(times, 0)[-1] == Window(3_000)


def test_a_window_since_a_time_takes_rows_wherever_they_stand() -> None:
    assert Window(9, since_ms=5).of([1, 7, 4, 5]) == [1, 3]
    assert Window(2).of([1, 7, 4, 5]) == [2, 3]
    assert Window(9).of([1, 7]) == [0, 1]


@pytest.mark.parametrize(
    ("output", "classes", "expected"),
    [
        (Output(label="b"), ["a", "b"], 1),
        (Output(label=1), [False, True], None),
        (Output(label=1.0), [0, 1], 1),
        (Output(score=0.6), ["a", "b"], 1),
        (Output(score=0.5), ["a", "b"], 0),
        (Output(scores={"a": 0.2, "c": 0.5, "b": 0.3}), ["a", "b", "c"], 2),
        (Output(value=2.5), [], 2.5),
        (Output(label=2), [], 2),
        (Output(label="x"), ["a", "b"], None),
        (Output(), ["a", "b"], None),
        (Output(score=0.6), ["a", "b", "c"], None),
        (None, [], None),
    ],
)
def test_an_output_says_a_class_or_a_number_or_nothing(
    output: Output | None, classes: list[Any], expected: float | None
) -> None:
    assert selection.answer(output, classes) == expected


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1))
def test_metrics_of_two_classes_follow_from_the_confusion_matrix(
    pairs: list[tuple[int, int]],
) -> None:
    answers, targets = [float(a) for a, _ in pairs], [float(t) for _, t in pairs]
    found = selection.metrics(answers, targets, ["no", "yes"])
    tp, fp = pairs.count((1, 1)), pairs.count((1, 0))
    fn, tn = pairs.count((0, 1)), pairs.count((0, 0))
    assert found["n"] == len(pairs)
    assert found["accuracy"] == (tp + tn) / len(pairs)
    assert found.get("precision") == (tp / (tp + fp) if tp + fp else None)
    assert found.get("recall") == (tp / (tp + fn) if tp + fn else None)
    assert found.get("f1") == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None)


def test_metrics_of_numbers() -> None:
    found = selection.metrics([1.0, 2.0, 6.0], [1.0, 4.0, 3.0], [])
    assert found == {"n": 3.0, "mae": 5 / 3, "rmse": pytest.approx((13 / 3) ** 0.5)}


def test_a_guess_without_features_is_the_commonest_class_or_the_median() -> None:
    assert selection.naive([1.0, 0.0, 1.0], ["a", "b"]) == 1.0
    assert selection.naive([1.0, 0.0], ["a", "b"]) == 0.0
    assert selection.naive([9.0, 1.0, 2.0], []) == 2.0


def test_gain_is_in_accuracy_or_in_shares_of_the_error() -> None:
    assert selection.gain({"accuracy": 0.75}, {"accuracy": 0.5}) == 0.25
    assert selection.gain({"mae": 5.0}, {"mae": 10.0}) == 0.5
    assert selection.gain({"mae": 0.0}, {"mae": 0.0}) == 0.0
    assert selection.gain({"mae": 0.1}, {"mae": 0.0}) < 0


@given(st.randoms(use_true_random=False))
def test_the_best_wins_and_among_equals_the_one_of_more_rows(chance: random.Random) -> None:
    choices = [
        Choice(str(i), {"accuracy": chance.choice([0.5, 0.6, 0.7])}, chance.choice([1, 2, 3]))
        for i in range(6)
    ]
    best = selection.choose(choices)
    order = [(c.metrics["accuracy"], c.rows) for c in choices]
    assert (best.metrics["accuracy"], best.rows) == max(order)
    assert best is choices[order.index(max(order))]


def test_with_slack_more_rows_win_over_a_little_luck() -> None:
    short, longer = Choice("s", {"accuracy": 0.81}, 500), Choice("l", {"accuracy": 0.8}, 2_000)
    worse = Choice("w", {"accuracy": 0.7}, 9_000)
    assert selection.choose([short, longer, worse]) is short
    assert selection.choose([short, longer, worse], slack=0.02) is longer


@pytest.mark.parametrize(
    ("wins", "defeats", "is_sure"), [(0, 0, False), (4, 0, True), (12, 7, False), (30, 17, True)]
)
def test_a_gain_is_sure_when_noise_would_not_make_it(
    *, wins: int, defeats: int, is_sure: bool
) -> None:
    """z = (wins - defeats) / sqrt(wins + defeats), all but: 1.15 and 1.91 of the last two."""
    both = 200 - wins - defeats
    mine = [0.0] * wins + [1.0] * defeats + [1.0] * both
    other = [1.0] * wins + [0.0] * defeats + [1.0] * both
    assert selection.is_sure(mine, other) is is_sure
    assert not selection.is_sure(other, mine) or wins == defeats == 0


def test_losses_are_mistakes_or_absolute_errors() -> None:
    assert selection.losses([1.0, 0.0], [1.0, 1.0], ["a", "b"]) == (0.0, 1.0)
    assert selection.losses([1.0, 0.5], [-1.0, 1.0], []) == (2.0, 0.5)
