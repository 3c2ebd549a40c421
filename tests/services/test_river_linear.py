"""The incremental family equals River's own pipeline at every row, across every stop."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import compose, linear_model, preprocessing

from kedge.base import Scalar
from kedge.events import Output
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import river_linear
from kedge_services.runtime.formats.river_json import Z_BOUND
from kedge_services.trainer.families import Shape, Table
from kedge_services.trainer.river_linear import Learner, RiverLinear, RiverLogistic

NUMERIC = tuple(FeatureColumn(name=name, type="numeric") for name in "abc")
MIXED = (*NUMERIC, FeatureColumn(name="k", type="categorical"))
CLASSES: dict[str, tuple[Scalar, ...]] = {
    "binary": (False, True), "multiclass": ("x", "y", "z"), "regression": (),
}  # fmt: skip


def stream(task: str, n: int, seed: int, columns: tuple[FeatureColumn, ...] = MIXED) -> Table:
    chance = random.Random(seed)
    rows: list[dict[str, Scalar | None]] = []
    targets: list[float] = []
    for _ in range(n):
        row: dict[str, Scalar | None] = {name: chance.gauss(5, 2) for name in "abc"}
        if chance.random() < 0.2:
            row[chance.choice("abc")] = None
        if len(columns) > 3:
            row["k"] = chance.choice(["u", "v", "w", None])
        value = (row["a"] or 0) - (row["b"] or 0) + (row.get("k") == "u") + chance.gauss(0, 1)  # type: ignore[operator]
        rows.append(row)
        classes = len(CLASSES[task])
        targets.append(value if not classes else sum(value > edge for edge in range(classes - 1)))
    return Table(rows, targets)


def bounded() -> Any:
    """What Kedge puts between River's scaler and River's model."""
    return preprocessing.StandardScaler() | compose.FuncTransformer(bound)


def bound(x: dict[str, float]) -> dict[str, float]:
    return {name: min(max(score, -Z_BOUND), Z_BOUND) for name, score in x.items()}


def present(row: Any) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None}


def test_binary_equals_rivers_pipeline_at_every_prefix() -> None:
    table = stream("binary", 400, 1, NUMERIC)
    oracle = bounded() | linear_model.LogisticRegression()
    learner = Learner(Shape(NUMERIC, CLASSES["binary"]))
    for row, target in zip(table.rows, table.targets, strict=True):
        expected = oracle.predict_proba_one(present(row))[True]
        loaded = river_linear.LinearPredictor(learner.state(), NUMERIC, CLASSES["binary"])
        [batched] = loaded.predict([row])
        answer = learner.learn(row, target)
        assert answer.score == expected
        assert batched.score == pytest.approx(expected, rel=1e-12)
        oracle.learn_one(present(row), target == 1)


def test_categories_equal_rivers_one_hot_encoder() -> None:
    table = stream("binary", 400, 2)
    numbers: Any = bounded()
    model: Any = linear_model.LogisticRegression()
    learner = Learner(Shape(MIXED, CLASSES["binary"]))
    known: set[Any] = set()
    for row, target in zip(table.rows, table.targets, strict=True):
        x = {name: value for name, value in present(row).items() if name != "k"}

        def inputs(x: dict[str, float] = x, category: Any = row["k"]) -> dict[str, float]:
            hot = {f"k={category}": 1.0} if category in known else {}
            return {**numbers.transform_one(x), **hot}

        assert learner.learn(row, target).score == pytest.approx(
            model.predict_proba_one(inputs())[True], rel=1e-12
        )
        numbers.learn_one(x)
        if row["k"] is not None:
            known.add(row["k"])
        model.learn_one(inputs(), target == 1)


def test_softmax_equals_rivers_with_a_constant_column() -> None:
    table = stream("multiclass", 300, 3, NUMERIC)
    scaler: Any = bounded()
    model: Any = linear_model.SoftmaxRegression()
    shape = Shape(NUMERIC, CLASSES["multiclass"])
    learner = Learner(shape)
    for row, target in zip(table.rows, table.targets, strict=True):
        x = present(row)
        found = model.predict_proba_one({**scaler.transform_one(x), "one": 1.0})
        [batched] = river_linear.LinearPredictor(learner.state(), NUMERIC, shape.classes).predict(
            [row]
        )
        answer = learner.learn(row, target)
        for index, label in enumerate("xyz"):
            assert (answer.scores or {})[label] == pytest.approx(found.get(index, 0.0), rel=1e-12)
            assert (batched.scores or {})[label] == pytest.approx(found.get(index, 0.0), rel=1e-9)
        scaler.learn_one(x)
        model.learn_one({**scaler.transform_one(x), "one": 1.0}, int(target))


def test_regression_equals_river_on_the_scaled_target() -> None:
    table = stream("regression", 300, 4, NUMERIC)
    oracle = bounded() | preprocessing.TargetStandardScaler(linear_model.LinearRegression())
    shape = Shape(NUMERIC, ())
    learner = Learner(shape)
    for number, (row, target) in enumerate(zip(table.rows, table.targets, strict=True)):
        x = present(row)
        [batched] = river_linear.LinearPredictor(learner.state(), NUMERIC, ()).predict([row])
        answer = learner.learn(row, target)
        assert batched.value == pytest.approx(answer.value, rel=1e-9, abs=1e-12)
        # River divides the target's squares by n - 1, its own StandardScaler by n:
        # with many rows that is the same.
        if number > 200:
            assert answer.value == pytest.approx(oracle.predict_one(x), rel=0.05, abs=0.1)
        oracle.learn_one(x, target)


@pytest.mark.parametrize("task", CLASSES)
@given(cuts=st.lists(st.integers(0, 60), max_size=4).map(sorted), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_stopping_and_going_on_is_as_if_never_stopped(
    task: str, cuts: list[int], seed: int
) -> None:
    table, shape = stream(task, 60, seed), Shape(MIXED, CLASSES[task])
    family = RiverLogistic() if shape.classes else RiverLinear()
    whole = family.fit(table, shape, seed=0)
    data: bytes | None = None
    outputs: list[Output] = []
    for start, end in zip([0, *cuts], [*cuts, 60], strict=True):
        fitted = family.fit(table.part(start, end), shape, seed=0, start=data)
        data = fitted.dump()
        outputs += fitted.outputs
    assert data == whole.dump()
    assert outputs == whole.outputs


def test_an_endless_stream_of_new_categories_stays_small() -> None:
    rows: list[dict[str, Scalar | None]] = [{"k": f"id-{i}", "a": 1.0} for i in range(1_500)]
    fitted = RiverLogistic().fit(
        Table(rows, [i % 2 for i in range(1_500)]), Shape(MIXED, CLASSES["binary"]), seed=0
    )
    assert len(river_linear.read(fitted.dump()).functions[0].categorical()["k"]) == 1_000


def test_a_huge_number_does_not_spoil_the_model() -> None:
    shape = Shape(MIXED, CLASSES["binary"])
    rows: list[dict[str, Scalar | None]] = [{"a": 1e300}, {"a": math.inf}, {"a": 10**400}]
    table = stream("binary", 100, 5)
    fitted = RiverLogistic().fit(
        Table([*rows, *table.rows], [1, 0, 1, *table.targets]), shape, seed=0
    )
    assert all(math.isfinite(w) for _, _, w in river_linear.read(fitted.dump()).functions[0].terms)
