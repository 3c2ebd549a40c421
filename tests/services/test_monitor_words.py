"""The words a monitor may use are those the services understand."""

from __future__ import annotations

from typing import get_args

import pytest

from kedge.monitor import Performance
from kedge.monitor_checks import (
    FAIRNESS_METRICS,
    FEATURE_METRICS,
    PERFORMANCE_METRICS,
    WINDOW_METRICS,
)
from kedge.trainers import TRAINERS, Task
from kedge_services.core.binning import FeatureBinner
from kedge_services.core.budget import Budget
from kedge_services.core.deltas import DriftDelta, PerformanceDelta
from kedge_services.core.detectors import DriftJudge
from kedge_services.core.fairness import MEASURES
from kedge_services.core.performance import performance_measures
from kedge_services.core.references import build_reference
from kedge_services.core.river_detectors import RIVER
from kedge_services.core.sketches import LabelledScores
from kedge_services.trainer.families import family, learns_on


@pytest.mark.parametrize(("name", "tasks"), TRAINERS.items())
def test_the_trainers_a_monitor_may_name_are_the_families_there_are(
    name: str, tasks: tuple[Task, ...]
) -> None:
    for task in tasks:
        assert family(name, task).name == name
        assert learns_on(family(name, task), task).kinds


@pytest.mark.parametrize(
    ("task", "classes", "positive"),
    [("binary", ["a", "b"], "b"), ("multiclass", ["a", "b", "c"], None), ("regression", [], None)],
)
def test_rules_may_be_about_every_metric_of_performance(
    task: str, classes: list[str], positive: str | None
) -> None:
    table = {"a": {"a": 5, "b": 1}, "b": {"a": 1, "b": 5}, "c": {"c": 1}}
    scores = LabelledScores.of([(0.2, False, 1), (0.7, True, 1), (0.4, True, 1)])
    counts = PerformanceDelta(
        predicted=13, labelled=13, confusion={k: table[k] for k in classes}, absolute_error=9,
        scores=scores,
    )  # fmt: skip
    found = {m.name for m in performance_measures(counts, classes=classes, positive=positive)}
    # How far binning moves the area is no figure to hold a model to.
    assert found - {"auc_binning_bound"} == set(PERFORMANCE_METRICS[task])


def test_rules_may_be_about_every_measure_of_fairness() -> None:
    assert FAIRNESS_METRICS == MEASURES


def test_the_detectors_a_monitor_may_name_are_those_there_are() -> None:
    named = get_args(get_args(Performance.model_fields["detectors"].annotation)[0])
    assert named == ("e-sr", *RIVER)


def test_rules_may_be_about_every_measure_of_drift() -> None:
    numbers = [float(i) for i in range(500)]
    words = ["a", "b"] * 250
    reference = build_reference(
        model="m", version="1", columns={"n": numbers, "c": words},
        kinds={"n": "numeric", "c": "categorical"}, predictions=words,
        scores=[i / 500 for i in range(500)], regression=False,
    )  # fmt: skip
    window = DriftDelta(rows=500)
    for name, values in (("n", numbers), ("c", words)):
        window.features[name] = FeatureBinner(reference.features[name]).count(values)
    assert reference.prediction is not None
    assert reference.score is not None
    window.prediction = FeatureBinner(reference.prediction).count(words)
    window.score = FeatureBinner(reference.score).count([i / 500 for i in range(500)])
    found = DriftJudge(reference).judge(window, budget=Budget(per_pane=0.01, per_week=1.0)).measures
    assert {m.name for m in found if m.feature} <= set(FEATURE_METRICS)
    assert {m.name for m in found if not m.feature} <= set(WINDOW_METRICS)
    assert len({m.name for m in found}) > 8
