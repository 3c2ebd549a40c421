"""What is said about the name of a trainer, before anything is trained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.monitor import Monitor
from kedge.monitor_checks import mistakes
from kedge.trainers import TRAINERS, Task, is_own_trainer, trainer_mistake

TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_is_right_for_the_tasks_it_can_do(name: str, task: Task) -> None:
    mistake = trainer_mistake(name, task)
    if task in TRAINERS[name]:
        assert mistake is None
    else:
        assert mistake is not None
        # Whoever reads it knows what to write instead.
        assert [n for n in TRAINERS if n in mistake.partition("known:")[2]]


@pytest.mark.parametrize(
    "name",
    [
        "river-adaptive-random-forest", "river-hoeffding-adaptive-tree", "river-arf", "river-hat",
        "river.forest.ARFClassifier", "river-adwin-bagging", "river-leveraging-bagging",
        "river-extremely-fast-decision-tree", "river_knn", "river-srp",
    ],
)  # fmt: skip
def test_models_of_rivers_without_a_safe_format_are_refused_with_what_there_is(name: str) -> None:
    mistake = trainer_mistake(name, "binary") or ""
    assert mistake.startswith(f'"{name}" has no safe format')
    assert "river-hoeffding-tree, river-logistic" in mistake
    assert "pickle" in mistake


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("river-logistics", "river-logistic"),
        ("river-hoefding-tree", "river-hoeffding-tree"),
        ("sklearn-hist-gradient-bosting", "sklearn-hist-gradient-boosting"),
    ],
)
def test_a_slip_of_the_pen_gets_a_suggestion(name: str, meant: str) -> None:
    assert f'did you mean "{meant}"?' in (trainer_mistake(name, "binary") or "")


@pytest.mark.parametrize("name", ["a:b", "fraud.training:train", "_x.y2:z_1"])
def test_the_form_of_a_function_is_all_that_is_looked_at(name: str) -> None:
    assert trainer_mistake(name, "regression") is None


@pytest.mark.parametrize(
    "name",
    [
        "a:b:c",
        ":train",
        "a.b:",
        "a..b:c",
        "a-b:c",
        "a/b:c",
        "a:b.c",
        "a:b()",
        " a:b",
        "a:b\n",
        "ä:b",
    ],
)
def test_what_only_looks_like_a_function_is_refused(name: str) -> None:
    assert not is_own_trainer(name)
    assert "package.module:function" in (trainer_mistake(name, "binary") or "")


@given(st.text(), st.sampled_from(TASKS))
def test_any_name_is_right_or_gets_a_sentence(name: str, task: Task) -> None:
    mistake = trainer_mistake(name, task)
    assert (mistake is None) == (task in TRAINERS.get(name, ()) or is_own_trainer(name))


def test_a_monitor_names_the_place_of_the_mistake() -> None:
    monitor = Monitor.model_validate(
        {
            "model": "m", "task": "regression", "features": {"a": "numeric"},
            "retrain": {"trainer": "river-logistic"},
        }
    )  # fmt: skip
    [(place, text)] = mistakes(monitor)
    assert place == ("retrain", "trainer")
    assert text.startswith('"river-logistic" is no trainer for regression; known: sklearn-')
