"""What panes sends beside the join's laws: drift, learning, several models, Progress, stores."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from kedge.panes import Calibrator
from kedge_services.core.deltas import DriftDelta, LearningDelta
from kedge_services.core.references import build_reference
from kedge_services.core.sketches import FIXED_POINT
from kedge_services.panes.task import FEWEST_AHEAD
from kedge_services.runtime.ports import Position

if TYPE_CHECKING:
    from tests.panes.conftest import Driver

MONITOR: dict[str, Any] = {
    "model": "fraud",
    "task": "binary",
    "classes": ["ok", "fraud"],
    "features": {"amount": "numeric", "country": "categorical"},
    "label_horizon": "10s",
    "outcome_wait": "2s",
    "windows": {"pane": "1s", "grace": "100ms"},
}
REFERENCE = build_reference(
    model="fraud",
    version="1",
    columns={"amount": [float(i % 100) for i in range(1_000)], "country": ["NO", "SE"] * 500},
    kinds={"amount": "numeric", "country": "categorical"},
    predictions=["ok", "fraud"] * 500,
    scores=[i / 1_000 for i in range(1_000)],
    labels=None,
    losses=None,
)


def prediction(name: str = "r-1", time_ms: int = 10_000, **changes: Any) -> dict[str, Any]:
    return {
        "prediction_id": name,
        "model": "fraud",
        "version": "1",
        "event_time_ms": time_ms,
        "features": {"amount": 12.5, "country": "NO"},
        "output": {"label": "ok", "score": 0.1},
    } | changes


def outcome(name: str = "r-1", time_ms: int = 11_000, **changes: Any) -> dict[str, Any]:
    return {"prediction_id": name, "label": "ok", "event_time_ms": time_ms} | changes


@pytest.fixture
def panes(driver: type[Driver]) -> Driver:
    made = driver()
    made.monitor(**MONITOR)
    return made


def test_rows_are_counted_on_the_bins_of_their_reference_pane_by_pane(panes: Driver) -> None:
    # panes   | 10 ........ 11 | 11 ........ 12 |
    # rows      10.000  10.999   11.000
    panes.reference(REFERENCE)
    for i, (time_ms, amount) in enumerate([(10_000, 5), (10_999, None), (11_000, "x")]):
        panes.send("predictions", prediction(f"r-{i}", time_ms, features={"amount": amount}))
    panes.run()
    drift = {p.start_ms: DriftDelta.decode(p.counts) for p in panes.panes() if p.kind == "drift"}
    assert {start: delta.rows for start, delta in drift.items()} == {10_000: 2, 11_000: 1}
    amounts = drift[10_000].features["amount"]
    assert (amounts.bins.sum(), amounts.null) == (1, 1)
    assert drift[11_000].features["amount"].type_error == 1
    assert drift[10_000].features["country"].null == 2
    prediction_counts, score = drift[10_000].prediction, drift[10_000].score
    assert prediction_counts is not None
    assert score is not None
    assert (prediction_counts.total, score.total) == (2, 2)
    assert {p.reference_id for p in panes.panes()} == {REFERENCE.reference_id}


@pytest.mark.parametrize("multivariate", [True, False])
def test_relations_of_features_are_counted_unless_the_monitor_says_no(
    driver: type[Driver], *, multivariate: bool
) -> None:
    panes = driver()
    panes.monitor(**MONITOR, drift={"multivariate": multivariate})
    panes.reference(REFERENCE)
    for i in range(3):
        panes.send("predictions", prediction(f"r-{i}"))
    panes.run()
    [delta] = [DriftDelta.decode(p.counts) for p in panes.panes() if p.kind == "drift"]
    # Rows, and one pair: three rows alike.
    assert (delta.projection is not None) is multivariate
    if delta.projection is not None:
        assert delta.projection.shape == (2,)
        assert delta.projection[0] == 3
        assert delta.projection[1] % 3 == 0 != delta.projection[1]


def test_scores_of_two_classes_are_told_apart_by_answer_and_are_the_positive_ones(
    panes: Driver,
) -> None:
    """The score that labels are compared with is the positive class's, however it came."""
    calibrator = Calibrator(x=[0.0, 1.0], y=[0.0, 0.5], error=0.0)
    panes.reference(REFERENCE.model_copy(update={"calibrator": calibrator}))
    outputs = [
        {"label": "ok", "score": 0.25},
        {"label": "ok", "scores": {"ok": 0.75, "fraud": 0.25}},
        {"label": "fraud", "scores": {"ok": 0.25, "fraud": 0.75}},
        {"label": "fraud"},
    ]
    for i, output in enumerate(outputs):
        panes.send("predictions", prediction(f"r-{i}", output=output))
    panes.run()
    (drift,) = [DriftDelta.decode(p.counts) for p in panes.panes() if p.kind == "drift"]
    assert {answer: int(scores.n.sum()) for answer, scores in drift.scores.items()} == {
        "ok": 2, "fraud": 1,
    }  # fmt: skip
    # Half of each score: that is what the calibrator says they stand for.
    assert drift.scores["ok"].total.sum() == 2 * 0.125 * FIXED_POINT
    assert drift.scores["fraud"].total.sum() == 0.375 * FIXED_POINT


def test_a_reference_counts_from_the_pane_it_takes_effect_in(panes: Driver) -> None:
    panes.reference(REFERENCE.model_copy(update={"effective_ms": 12_000}))
    for i, time_ms in enumerate([11_999, 12_000]):
        panes.send("predictions", prediction(f"r-{i}", time_ms))
    panes.run()
    kinds = {(p.kind, p.start_ms) for p in panes.panes() if p.kind in {"drift", "learning"}}
    assert kinds == {("learning", 11_000), ("drift", 12_000)}


def test_a_reference_that_was_just_committed_is_looked_for_before_learning(panes: Driver) -> None:
    panes.on_refresh = lambda: panes.reference(REFERENCE)
    panes.send("predictions", prediction())
    panes.run()
    assert {p.kind for p in panes.panes()} == {"drift", "performance"}


def test_the_learning_sample_does_not_depend_on_commits(
    panes: Driver, driver: type[Driver]
) -> None:
    other = driver()
    other.monitor(**MONITOR)
    for i in range(5_000):
        for one in (panes, other):
            one.send("predictions", prediction(f"r-{i}", 10_000 + i // 6))
    panes.run()
    while other.step("predictions", 0, 701):
        other.commit(0)
    sums = []
    for one in (panes, other):
        total = LearningDelta()
        for pane in one.panes():
            if pane.kind == "learning":
                total.add(LearningDelta.decode(pane.counts))
        sums.append(total)
    assert sums[0].encode() == sums[1].encode()
    assert (sums[0].rows, len(sums[0].sample)) == (5_000, 2_048)
    row = next(iter(sums[0].sample.values()))
    assert row == [{"amount": 12.5, "country": "NO"}, {"label": "ok", "score": 0.1}]


def test_labels_without_a_model_go_to_the_model_that_has_the_id(panes: Driver) -> None:
    panes.monitor(**(MONITOR | {"model": "churn", "classes": ["stay", "leave"]}))
    panes.monitor(**(MONITOR | {"model": "clicks", "labelled": False}))
    panes.send("predictions", prediction("a"))
    panes.send("predictions", prediction("b", model="churn", output={"label": "stay"}))
    panes.send("predictions", prediction("c", model="clicks"))
    for name, label in (("a", "ok"), ("b", "leave"), ("c", "ok"), ("d", "ok"), ("a", "nobody's")):
        panes.send("outcomes", outcome(name, label=label))
    panes.run()
    assert {key: e.label for key, e in panes.examples().items()} == {
        ("fraud", "a"): "ok", ("churn", "b"): "leave",
    }  # fmt: skip
    assert panes.fates("outcomes") == {
        "matched": 2, "unlabelled": 1, "waiting": 1, "bad-value": 1,
    }  # fmt: skip
    assert set(panes.progress()[0].outcomes) == {"fraud", "churn"}


def test_an_id_of_two_models_needs_the_models_name_only_where_labels_differ(panes: Driver) -> None:
    panes.monitor(**(MONITOR | {"model": "churn"}))
    panes.send("predictions", prediction("a"))
    panes.send("predictions", prediction("a", model="churn"))
    panes.send("outcomes", outcome("a", label="fraud", model="churn"))
    panes.run()
    assert set(panes.examples()) == {("churn", "a")}
    panes.send("outcomes", outcome("a", label="ok"))
    panes.run()
    found = {model: (e.label, e.revision) for (model, _), e in panes.examples().items()}
    assert found == {"fraud": ("ok", 0), "churn": ("ok", 1)}


def test_regression_sums_errors_in_fixed_point_and_takes_corrections_out(
    driver: type[Driver],
) -> None:
    panes = driver()
    panes.monitor(**(MONITOR | {"task": "regression", "classes": []}))
    panes.send("predictions", prediction(output={"value": 10.0}))
    panes.send("outcomes", outcome(label=14))
    panes.send("outcomes", outcome(label=12.5, time_ms=11_500))
    panes.send("outcomes", outcome(label="high"))
    panes.send("outcomes", outcome(label=True))
    panes.run()
    one = 1 << 30
    sums = {key[0]: data for key, data in panes.sums().items()}
    assert sums["performance"]["absolute_error"] == int(2.5 * one)
    assert sums["performance"]["squared_error"] == int(6.25 * one)
    assert sums["labels"] == {"labelled": 1, "loss": 4 * one}
    assert panes.fates("outcomes") == {"matched": 2, "bad-value": 2}


def test_progress_follows_the_deltas_to_every_partition(panes: Driver) -> None:
    panes.send("predictions", prediction(), at_ms=10_050)
    panes.clock_ms = 10_500
    panes.run()
    kinds = [b'"progress"' in (o.value or b"") for o in panes.outputs if o.topic == "panes"]
    assert kinds == [False, False, True, True, True]
    last = [o.partition for o in panes.outputs[-3:]]
    assert last == [0, 1, 2]
    progress = panes.progress()[0]
    assert progress.clock_ms == {"predictions": 10_500, "outcomes": 10_500}
    assert progress.since_ms == {"predictions": 10_050, "outcomes": 10_500}
    clock = progress.predictions["fraud"]
    assert (clock.max_ms, clock.seen_ms, progress.sequence) == (10_000, 10_050, 1)


def test_an_idle_partition_reports_once_a_second_and_a_busy_one_with_every_commit(
    panes: Driver,
) -> None:
    sequences = []
    for now_ms in (1_000, 1_500, 1_999, 2_000, 2_500, 3_000):
        panes.clock_ms = now_ms
        panes.step("predictions", 0, 1)
        panes.commit(0)
        sequences.append(panes.progress()[0].sequence)
    assert sequences == [1, 1, 1, 2, 2, 3]


def test_a_partition_that_is_not_read_to_its_end_does_not_claim_the_present(
    driver: type[Driver],
) -> None:
    panes = driver(at_end=False, clock_ms=99_000)
    panes.monitor(**MONITOR)
    panes.send("predictions", prediction(), at_ms=10_050)
    panes.run()
    assert panes.progress()[0].clock_ms == {"predictions": 10_050, "outcomes": 0}


def sent_each_second(panes: Driver, count: int) -> Driver:
    """Send a prediction and its outcome at every second from 10 on; their ends are far."""
    panes.at_end = False
    for i in range(count):
        panes.send("predictions", prediction(f"r-{i}", 10_000 + 1_000 * i))
        panes.send("outcomes", outcome(f"r-{i}", 10_000 + 1_000 * i))
    return panes


def test_predictions_begin_and_outcomes_never_run_ahead_of_those_that_are_behind(
    panes: Driver,
) -> None:
    sent_each_second(panes, 40).clock_ms = 99_000
    paused = panes.task(0).paused
    assert paused() == {"outcomes"}
    panes.step("predictions", 0, 11)
    assert paused() == {"outcomes"}
    panes.step("predictions", 0, 1)
    assert paused() == frozenset()
    panes.step("outcomes", 0, 1)
    assert paused() == {"predictions"}
    panes.step("outcomes", 0, 11)
    assert paused() == frozenset()
    panes.step("outcomes", 0, 1)
    # 22 against 21: what is held back follows at a distance.
    assert paused() == {"outcomes"}
    panes.step("predictions", 0, 8)
    assert paused() == {"outcomes"}
    panes.step("predictions", 0, 1)
    assert paused() == frozenset()
    panes.step("outcomes", 0, 27)
    assert paused() == {"outcomes"}
    panes.at_end = True
    panes.step("predictions", 0, 100)
    assert paused() == frozenset()


def test_outcomes_are_not_held_back_at_once_where_predictions_are_read_as_they_come(
    panes: Driver,
) -> None:
    sent_each_second(panes, 4).clock_ms = 12_000
    panes.step("predictions", 0, 1)
    panes.step("outcomes", 0, 2)
    assert panes.task(0).paused() == frozenset()
    panes.step("outcomes", 0, 1)
    assert panes.task(0).paused() == {"outcomes"}


def test_outcomes_follow_before_too_many_predictions_wait_for_them(panes: Driver) -> None:
    panes.at_end, panes.clock_ms = False, 99_000
    for i in range(2 * FEWEST_AHEAD):
        panes.send("predictions", prediction(f"r-{i}", 10_000))
        panes.send("outcomes", outcome(f"r-{i}", 10_000))
    paused = panes.task(0).paused
    assert paused() == {"outcomes"}
    panes.step("predictions", 0, FEWEST_AHEAD)
    assert paused() == {"outcomes"}
    panes.step("predictions", 0, 1)
    assert paused() == frozenset()
    # Let go they stay so, though it takes until the first of them is there.
    panes.step("predictions", 0, 1)
    assert paused() == frozenset()
    panes.step("outcomes", 0, 1)
    assert paused() == frozenset()


def test_outcomes_alone_are_not_held_back_for_ever(panes: Driver) -> None:
    panes.send("outcomes", outcome())
    panes.step("predictions", 0, 1)
    assert panes.task(0).paused() == frozenset()


def test_a_store_ahead_of_the_commit_is_built_anew(panes: Driver) -> None:
    # The store knows of an outcome that Kafka has not: its label must be counted yet.
    panes.send("predictions", prediction())
    panes.run()
    changelog, positions = copy.deepcopy((panes.changelogs, panes.positions))
    outputs = list(panes.outputs)
    panes.send("outcomes", outcome())
    panes.run()
    panes.changelogs, panes.positions, panes.outputs = changelog, positions, outputs
    panes.start(0)
    panes.run()
    assert panes.fates("outcomes") == {"matched": 1}
    assert len(panes.examples()) == 1


def test_what_nobody_can_need_any_more_leaves_the_store_and_is_not_read_again(
    panes: Driver,
) -> None:
    for i in range(60):
        panes.send("predictions", prediction(f"r-{i}", 10_000 + 1_000 * i))
        panes.send("outcomes", outcome(f"r-{i}", 10_000 + 1_000 * i))
    while panes.step("predictions", 0, 1) + panes.step("outcomes", 0, 1):
        panes.commit(0)
    # Watermarks at 68.9: 12 s (and what is left of a segment) are held.
    first = json_low(panes, "predictions")
    assert 40 <= first <= 47
    kept = [r for r in panes.stores[0].get([f"r-{i}".encode() for i in range(60)]) if r]
    assert len(kept) == 60 - first


def json_low(panes: Driver, topic: str) -> int:
    low: int = json.loads(panes.positions[0][topic].metadata)["low"]
    assert len(panes.positions[0][topic].metadata) < 200
    return low


def test_a_topic_that_was_never_read_needs_nothing_read_again(panes: Driver) -> None:
    panes.send("predictions", prediction())
    panes.run()
    # The group began in the middle of outcomes, whose older records are deleted.
    panes.positions[0]["outcomes"] = Position(1_000)
    panes.task(0).close()
    panes.start(0)
    assert panes.read["outcomes", 0] == 1_000


def test_an_outcome_nobody_can_own_yet_expires_with_those_that_speak(driver: type[Driver]) -> None:
    panes = driver()
    panes.monitor(**MONITOR)
    panes.monitor(**(MONITOR | {"model": "churn"}))
    panes.send("predictions", prediction("a"), at_ms=10_000)
    panes.send("predictions", prediction("b", model="churn"), at_ms=10_000)
    panes.send("outcomes", outcome("lost"))
    panes.run()
    assert panes.fates("outcomes") == {"waiting": 1}
    # churn falls silent; 30 s later by the partition's clock only fraud speaks.
    panes.send("predictions", prediction("c", 41_000), at_ms=41_000)
    panes.run()
    assert panes.fates("outcomes") == {"unmatched-outcome": 1}


def test_an_outcome_read_before_its_prediction_waits_for_a_model_that_was_idle(
    driver: type[Driver],
) -> None:
    """Of a batch scored hours late the outcomes may be read first, though they came second."""
    panes = driver()
    panes.monitor(**MONITOR)
    panes.monitor(**(MONITOR | {"model": "churn"}))
    panes.send("predictions", prediction("earlier", model="churn"), at_ms=10_000)
    panes.send("predictions", prediction("a", 7_200_000))
    panes.send("predictions", prediction("b", 11_000, model="churn"), at_ms=7_230_000)
    panes.send("outcomes", outcome("b", 12_000), at_ms=7_230_001)
    for topic, records in (("predictions", 2), ("outcomes", 1)):
        panes.step(topic, 0, records)
    panes.commit(0)
    assert panes.fates("outcomes") == {"waiting": 1}
    panes.run()
    assert panes.fates("outcomes") == {"matched": 1}
