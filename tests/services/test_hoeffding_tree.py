"""The Hoeffding tree equals River's own at every row, across every stop, in every process."""

from __future__ import annotations

import hashlib
import math
import os
import random
import subprocess
import sys
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.linear_model import LinearRegression
from river.preprocessing import StandardScaler
from river.tree import HoeffdingTreeClassifier, HoeffdingTreeRegressor
from river.tree.splitter import TEBSTSplitter

from kedge.base import Scalar
from kedge.events import Output
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats.river_tree import load, read
from kedge_services.runtime.formats.river_tree_checks import CATEGORIES, DEPTH
from kedge_services.runtime.formats.river_tree_state import Branch, TreeState
from kedge_services.trainer.families import Shape, Table
from kedge_services.trainer.hoeffding_tree import HoeffdingTree, TreeLearner, grown

Task = Literal["binary", "multiclass", "regression"]
NUMERIC = tuple(FeatureColumn(name=name, type="numeric") for name in "abc")
MIXED = (
    *NUMERIC,
    FeatureColumn(name="k", type="categorical"),
    FeatureColumn(name="v", type="boolean"),
)
CLASSES: dict[Task, tuple[Scalar, ...]] = {
    "binary": (False, True), "multiclass": ("x", "y", "z"), "regression": (),
}  # fmt: skip
FAMILY = HoeffdingTree()


def stream(
    task: Task,
    n: int,
    seed: int,
    columns: tuple[FeatureColumn, ...] = MIXED,
    missing: float = 0.1,
) -> Table:
    """Rows whose label steps with ``a``, hangs on ``k``, and turns around beyond ``b``."""
    chance = random.Random(seed)
    rows: list[dict[str, Scalar | None]] = []
    targets: list[float] = []
    for _ in range(n):
        row: dict[str, Scalar | None] = {name: chance.gauss(5, 2) for name in "abc"}
        value = 8.0 * (float(row["a"] or 0) > 5) + chance.gauss(0, 0.3)
        if len(columns) > 3:
            row |= {"k": chance.choice("uvw"), "v": chance.random() > 0.5}
            value += 2.0 * (row["k"] == "u")
        if float(row["b"] or 0) > 7:
            value = 8.0 - value
        for name in row:
            if chance.random() < missing:
                row[name] = None
        rows.append(row)
        edges = {"binary": [5.0], "multiclass": [5.0, 9.0], "regression": []}[task]
        targets.append(float(sum(value > edge for edge in edges)) if edges else value)
    return Table(rows, targets)


def shape_of(task: Task, columns: tuple[FeatureColumn, ...] = MIXED) -> Shape:
    return Shape(columns, CLASSES[task])


def branches(data: bytes, shape: Shape) -> list[Branch]:
    state = read(data, shape.columns, shape.classes)
    return [node for node in state.nodes if isinstance(node, Branch)]


def present(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def equal(one: Output, other: Output) -> bool:
    numbers = [
        (o.score, o.value, *(v for _, v in sorted((o.scores or {}).items()))) for o in (one, other)
    ]
    return one.label == other.label and all(
        a == b or math.isclose(a or 0, b or 0, rel_tol=1e-9, abs_tol=1e-12)
        for a, b in zip(*numbers, strict=True)
    )


# ------------------------------------------------------------------- as River does it


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_classes_equal_rivers_tree_at_every_row(task: Task) -> None:
    table, shape = stream(task, 3_000, 1, NUMERIC), shape_of(task, NUMERIC)
    oracle: Any = HoeffdingTreeClassifier(binary_split=True, max_depth=DEPTH)
    learner = TreeLearner(shape)
    for row, target in zip(table.rows, table.targets, strict=True):
        expected = oracle.predict_proba_one(present(row))
        answer = learner.learn(row, target)
        if expected:
            found = answer.scores or {"0": 1 - (answer.score or 0), "1": answer.score or 0}
            for index, name in enumerate(found):
                assert found[name] == pytest.approx(expected.get(index, 0.0), rel=1e-12, abs=1e-15)
        oracle.learn_one(present(row), int(target))
    assert len(branches(FAMILY.fit(table, shape, seed=0).dump(), shape)) == oracle.n_branches > 1


def test_categories_equal_rivers_nominal_columns() -> None:
    table, shape = stream("multiclass", 4_000, 2, missing=0.0), shape_of("multiclass")
    oracle: Any = HoeffdingTreeClassifier(
        binary_split=True, max_depth=DEPTH, nominal_attributes=["k", "v"]
    )
    learner = TreeLearner(shape)
    codes: dict[str, dict[Any, int]] = {"k": {}, "v": {}}
    for number, (row, target) in enumerate(zip(table.rows, table.targets, strict=True)):
        for name, known in codes.items():
            known.setdefault(row[name], len(known))
        x = {**row, **{name: known[row[name]] for name, known in codes.items()}}
        expected = oracle.predict_proba_one(x)
        answer = learner.learn(row, target)
        if number > 10:
            assert [*(answer.scores or {}).values()] == [expected.get(i, 0.0) for i in range(3)]
        oracle.learn_one(x, int(target))
    data = FAMILY.fit(table, shape, seed=0).dump()
    assert any(branch.code is not None for branch in branches(data, shape))


def test_numbers_equal_rivers_tree_of_scaled_columns() -> None:
    table, shape = (
        stream("regression", 4_000, 3, NUMERIC, missing=0.0),
        shape_of("regression", NUMERIC),
    )
    scaler: Any = StandardScaler()
    oracle: Any = HoeffdingTreeRegressor(
        binary_split=True,
        max_depth=DEPTH,
        leaf_model=LinearRegression(),
        splitter=TEBSTSplitter(digits=1),
    )

    def scaled(row: Any) -> dict[str, float]:
        return {name: min(max(z, -10), 10) for name, z in scaler.transform_one(row).items()}

    learner = TreeLearner(shape)
    for row, target in zip(table.rows, table.targets, strict=True):
        expected = oracle.predict_one(scaled(row))
        assert learner.learn(row, target).value == pytest.approx(expected, rel=1e-9, abs=1e-12)
        scaler.learn_one(row)
        oracle.learn_one(scaled(row), target)
    assert len([n for n in learner.state().nodes if isinstance(n, Branch)]) == oracle.n_branches
    assert oracle.n_branches > 2


# ------------------------------------------------------------------- stored and loaded


@pytest.mark.parametrize("task", CLASSES)
@given(cuts=st.lists(st.integers(0, 700), max_size=3).map(sorted), seed=st.integers(0, 1000))
@settings(max_examples=12, deadline=None)
def test_stopping_and_going_on_is_as_if_never_stopped(
    task: Task, cuts: list[int], seed: int
) -> None:
    table, shape = stream(task, 700, seed), shape_of(task)
    whole = FAMILY.fit(table, shape, seed=0)
    data: bytes | None = None
    outputs: list[Output] = []
    for start, end in zip([0, *cuts], [*cuts, 700], strict=True):
        fitted = FAMILY.fit(table.part(start, end), shape, seed=0, start=data)
        data = fitted.dump()
        outputs += fitted.outputs
    assert data == whole.dump()
    assert outputs == whole.outputs


@pytest.mark.parametrize("task", CLASSES)
def test_a_grown_tree_that_stops_many_times_is_the_same(task: Task) -> None:
    table, shape = stream(task, 6_000, 7), shape_of(task)
    data: bytes | None = None
    for start in range(0, 6_000, 750):
        data = FAMILY.fit(table.part(start, start + 750), shape, seed=0, start=data).dump()
    whole = FAMILY.fit(table, shape, seed=0).dump()
    assert data == whole
    assert len(branches(whole, shape)) >= 3


@pytest.mark.parametrize("task", CLASSES)
def test_a_loaded_tree_answers_as_the_one_that_learns(task: Task) -> None:
    table, shape = stream(task, 4_000, 4), shape_of(task)
    learner = TreeLearner(shape)
    for row, target in zip(table.rows, table.targets, strict=True):
        learner.learn(row, target)
    fitted = FAMILY.fit(table, shape, seed=0)
    loaded = load(fitted.dump(), shape.columns, shape.classes)
    fresh = stream(task, 60, 5, missing=0.3)
    strange: list[Any] = [{}, {"k": "never seen", "a": 1e300}, {"a": "5", "b": True, "v": "maybe"}]
    rows = [*fresh.rows, *strange]
    answers = loaded.predict(rows)
    assert answers == fitted.predictor.predict(rows)
    # What the learner says of a row before it learns it is what the loaded tree says.
    for row, answer in zip(rows, answers, strict=True):
        probe = TreeLearner(shape, read(fitted.dump(), shape.columns, shape.classes))
        assert equal(probe.learn(row, 0.0), answer)


@pytest.mark.parametrize("task", CLASSES)
def test_a_tree_learns_what_there_is_to_learn(task: Task) -> None:
    table, shape = stream(task, 8_000, 6, missing=0.0), shape_of(task)
    predictor = FAMILY.fit(table, shape, seed=0).predictor
    fresh = stream(task, 1_000, 60, missing=0.0)
    outputs = predictor.predict(fresh.rows)
    if task == "regression":
        guess = sum(table.targets) / len(table)
        errors = [abs(o.value - t) for o, t in zip(outputs, fresh.targets, strict=True)]  # type: ignore[operator]
        assert sum(errors) < 0.5 * sum(abs(guess - t) for t in fresh.targets)
    else:
        right = [
            o.label == shape.classes[int(t)] for o, t in zip(outputs, fresh.targets, strict=True)
        ]
        assert sum(right) > 850


def test_a_tree_is_the_same_in_every_process() -> None:
    script = (
        f"import sys; sys.path.insert(0, {__file__.rpartition('/')[0]!r})\n"
        "import hashlib, test_hoeffding_tree as t\n"
        "for task in t.CLASSES:\n"
        "    data = t.FAMILY.fit(t.stream(task, 1_000, 9), t.shape_of(task), seed=0).dump()\n"
        "    print(hashlib.sha256(data).hexdigest())"
    )
    here = [
        hashlib.sha256(FAMILY.fit(stream(t, 1_000, 9), shape_of(t), seed=0).dump()).hexdigest()
        for t in CLASSES
    ]
    for hash_seed in ("1", "20"):
        out = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        assert out.stdout.split() == here


# ------------------------------------------------------------------- within bounds


def test_a_wide_model_has_a_shallow_tree() -> None:
    wide = tuple(FeatureColumn(name=f"f{i}", type="numeric") for i in range(500))
    assert grown(Shape(NUMERIC, ())).max_depth == DEPTH
    assert grown(Shape(wide, ())).max_depth == 5


def test_an_endless_stream_of_new_categories_stays_small() -> None:
    rows: list[dict[str, Scalar | None]] = [{"k": f"id-{i}", "a": 1.0} for i in range(1_500)]
    shape = shape_of("binary")
    data = FAMILY.fit(Table(rows, [i % 2 for i in range(1_500)]), shape, seed=0).dump()
    assert len(read(data, shape.columns, shape.classes).categories["k"]) == CATEGORIES


@pytest.mark.parametrize("task", CLASSES)
def test_a_huge_number_does_not_spoil_the_tree(task: Task) -> None:
    table, shape = stream(task, 1_500, 8), shape_of(task)
    odd: list[dict[str, Scalar | None]] = [
        {"a": 1e300}, {"a": math.inf}, {"a": 10**400}, {"a": math.nan}, {"a": 1e99, "b": -1e99},
    ]  # fmt: skip
    rows = [*table.rows[:700], *odd, *table.rows[700:]]
    targets = [*table.targets[:700], *[0.0] * len(odd), *table.targets[700:]]
    fitted = FAMILY.fit(Table(rows, targets), shape, seed=0)
    for output in load(fitted.dump(), shape.columns, shape.classes).predict(rows):
        numbers = [output.score, output.value, *(output.scores or {}).values()]
        assert all(math.isfinite(number) for number in numbers if number is not None)


def test_a_label_beyond_all_bounds_is_a_model_that_has_diverged() -> None:
    table, shape = stream("regression", 300, 8), shape_of("regression")
    targets = [*table.targets[:-1], 1e300]
    with pytest.raises(ValueError, match="diverged"):
        FAMILY.fit(Table(table.rows, targets), shape, seed=0)


def test_a_tree_that_has_seen_nothing_finds_all_classes_equally_likely() -> None:
    shape = shape_of("multiclass")
    state = TreeState("tree-classifier", 0, [], {}, {}, [])
    data = FAMILY.fit(Table([], []), shape, seed=0).dump()
    assert read(data, shape.columns, shape.classes) == state
    [output] = load(data, shape.columns, shape.classes).predict([{}])
    assert output == Output(label="x", scores=dict.fromkeys("xyz", 1 / 3))
