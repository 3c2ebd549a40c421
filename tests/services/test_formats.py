"""Model files: exact round trips, and nothing loaded that is not a model of the version."""

from __future__ import annotations

import io
import json
import math
import random
import zipfile
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from kedge.base import Scalar
from kedge.errors import UnsafeArtefact
from kedge.events import Output
from kedge.trainers import TRAINERS, Task
from kedge.versions import Artefact, Candidate, FeatureColumn
from kedge_services.runtime.formats import (
    Row,
    load_predictor,
    river_json,
    river_linear,
    skops_files,
)
from kedge_services.trainer.families import Shape, Table, family

COLUMNS = (
    FeatureColumn(name="amount", type="numeric"),
    FeatureColumn(name="country", type="categorical"),
    FeatureColumn(name="age", type="numeric"),
    FeatureColumn(name="vip", type="boolean"),
)
CLASSES: dict[str, tuple[Scalar, ...]] = {
    "binary": ("no", "yes"), "multiclass": (1, 2, 3), "regression": (),
}  # fmt: skip
FORMATS = {name: "skops" if name.startswith("sklearn-") else "river-json" for name in TRAINERS}
TREES = "sklearn-hist-gradient-boosting"
CASES = [(name, task) for name, tasks in TRAINERS.items() for task in tasks]


def make(task: str, n: int = 400, seed: int = 1) -> tuple[Table, Shape]:
    chance = random.Random(seed)
    rows: list[dict[str, Scalar | None]] = []
    targets: list[float] = []
    for _ in range(n):
        row: dict[str, Scalar | None] = {
            "amount": chance.gauss(100, 30) if chance.random() > 0.1 else None,
            "country": chance.choice(["NO", "DE", "", None]),
            "age": chance.randint(18, 80),
            "vip": chance.random() > 0.5,
        }
        value = float(row["amount"] or 100) / 50 + (row["country"] == "NO") + chance.gauss(0, 0.1)
        rows.append(row)
        classes = len(CLASSES[task])
        targets.append(value if not classes else min(classes - 1, max(0, int(value - 1))))
    return Table(rows, targets), Shape(COLUMNS, CLASSES[task])


def candidate(name: str, shape: Shape) -> Candidate:
    artefact = Artefact.model_validate(
        {"uri": "", "sha256": "0" * 64, "format": FORMATS[name], "size": 0}
    )
    return Candidate(
        request_id="r",
        model="m",
        artefact=artefact,
        feature_schema=list(shape.columns),
        classes=list(shape.classes),
        created_ms=0,
    )


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_loaded_model_answers_exactly_as_the_trained_one(name: str, task: Task) -> None:
    table, shape = make(task)
    fitted = family(name, shape.task).fit(table, shape, seed=3)
    loaded = load_predictor(candidate(name, shape), fitted.dump())
    assert loaded.predict(table.rows) == fitted.predictor.predict(table.rows)
    assert loaded.predict([]) == []


@pytest.mark.parametrize("task", CLASSES)
def test_trees_answer_as_scikit_learns_own_pipeline_does(task: str) -> None:
    table, shape = make(task)
    data = family(TREES, shape.task).fit(table, shape, seed=3).dump()
    pipeline = skops.io.loads(data, trusted=list(skops_files.TRUSTED))
    texts = [
        [math.nan if (c := r["country"]) is None else c, "true" if r["vip"] else "false"]
        for r in table.rows
    ]
    whole = [[*t, r["amount"], r["age"]] for t, r in zip(texts, table.rows, strict=True)]
    matrix = np.array(whole, dtype=object)
    outputs = skops_files.load(data, shape.columns, shape.classes).predict(table.rows)
    if task == "regression":
        assert [output.value for output in outputs] == pipeline.predict(matrix).tolist()
    elif task == "binary":
        assert [o.score for o in outputs] == pipeline.predict_proba(matrix)[:, 1].tolist()
        expected = [CLASSES[task][i] for i in pipeline.predict(matrix)]
        assert [output.label for output in outputs] == expected
    else:
        found = [list((output.scores or {}).values()) for output in outputs]
        assert found == pipeline.predict_proba(matrix).tolist()
        assert list(outputs[0].scores or ()) == ["1", "2", "3"]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_whatever_a_row_holds_it_is_answered(name: str, task: Task) -> None:
    table, shape = make(task)
    predictor = family(name, shape.task).fit(table, shape, seed=3).predictor
    missing: Row = dict.fromkeys(["amount", "country", "age", "vip"])
    odd: list[Row] = [
        {},
        missing,
        {"amount": math.nan, "country": math.nan},
        {"amount": math.inf, "age": -math.inf},
        {"amount": 10**400, "age": 1e300},
        {"amount": "12", "country": 7, "vip": "maybe", "unknown": 1},
    ]
    outputs = predictor.predict(odd)
    assert len(outputs) == len(odd)
    assert outputs[0] == outputs[1] == outputs[2]
    for output in outputs:
        numbers = [output.score, output.value, *(output.scores or {}).values()]
        assert all(math.isfinite(number) for number in numbers if number is not None)
    # A category that training has not seen is a missing one.
    new, none = predictor.predict([{"country": "XX"}, {"country": None}])
    assert new == none


@pytest.mark.parametrize(("name", "task"), CASES)
def test_equal_trainings_give_equal_bytes(name: str, task: Task) -> None:
    table, shape = make(task)
    first = family(name, shape.task).fit(table, shape, seed=3).dump()
    assert family(name, shape.task).fit(table, shape, seed=3).dump() == first


def test_a_foreign_type_is_refused_by_its_name() -> None:
    shape = make("binary")[1]
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    fitted.extra = random.Random(1)
    with pytest.raises(UnsafeArtefact, match=r"random\.Random"):
        skops_files.load(skops.io.dumps(fitted), shape.columns, shape.classes)


def test_a_trusted_type_that_is_no_such_pipeline_is_refused() -> None:
    shape = make("binary")[1]
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(UnsafeArtefact, match="pipeline"):
        skops_files.load(skops.io.dumps(fitted), shape.columns, shape.classes)


def test_a_pickle_is_never_loaded() -> None:
    shape = make("binary")[1]
    for data in (b"\x80\x04K\x01.", b"", b"PK\x03\x04 nothing"):
        with pytest.raises(UnsafeArtefact):
            skops_files.load(data, shape.columns, shape.classes)


def test_a_model_of_other_columns_or_classes_is_refused() -> None:
    table, shape = make("multiclass")
    data = family(TREES, shape.task).fit(table, shape, seed=3).dump()
    for columns, classes in (
        (shape.columns[:-1], shape.classes),
        (shape.columns[:1], shape.classes),
        (shape.columns, shape.classes[:2]),
        (shape.columns, ()),
    ):
        with pytest.raises(UnsafeArtefact):
            skops_files.load(data, columns, classes)


def _changed(data: bytes, change: Callable[[Any], None]) -> bytes:
    """Change the nodes of the first tree found in a skops file."""
    result = io.BytesIO()
    is_done = False
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w") as target:
        for name in sorted(source.namelist()):
            part = source.read(name)
            if name.endswith(".npy") and not is_done:
                array = np.load(io.BytesIO(part))
                if array.dtype.names:
                    change(array)
                    buffer = io.BytesIO()
                    np.save(buffer, array)
                    part, is_done = buffer.getvalue(), True
            target.writestr(name, part)
    assert is_done
    return result.getvalue()


@pytest.mark.parametrize(
    ("field", "value"),
    [("left", 4_000_000), ("right", 0), ("feature_idx", 99), ("feature_idx", -1)],
)
def test_a_tree_that_points_outside_itself_is_refused(field: str, value: int) -> None:
    table, shape = make("binary")
    data = family(TREES, shape.task).fit(table, shape, seed=3).dump()
    skops_files.load(_changed(data, lambda _: None), shape.columns, shape.classes)

    def change(nodes: Any) -> None:
        nodes[field][0] = value

    with pytest.raises(UnsafeArtefact, match="points outside"):
        skops_files.load(_changed(data, change), shape.columns, shape.classes)


def test_a_version_without_an_artefact_says_so() -> None:
    offered = candidate("river-logistic", make("binary")[1])
    with pytest.raises(UnsafeArtefact, match="no artefact"):
        load_predictor(offered.model_copy(update={"artefact": None}), b"")


finite = st.floats(-1e100, 1e100)


@given(
    terms=st.lists(st.tuples(st.text(), st.none() | st.text(), finite), max_size=5),
    intercept=finite,
    mean=finite,
    variance=finite.map(abs),
)
def test_a_linear_state_reads_back_as_the_same_floats(
    terms: list[tuple[str, str | None, float]], intercept: float, mean: float, variance: float
) -> None:
    state = river_linear.LinearState(
        kind="logistic",
        iterations=3,
        scaler={"a": river_json.Moments(2, mean, variance)},
        functions=[river_linear.Function(0, intercept, terms)],
    )
    again = river_linear.read(river_linear.dump(state))
    assert again == state
    assert river_linear.dump(again) == river_linear.dump(state)
    assert math.copysign(1, again.functions[0].intercept) == math.copysign(1, intercept)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "kedge-linear-2"},
        {"kind": "forest"},
        {"functions": []},
        {"functions": [{"index": 0}, {"index": 1}]},
        {"scaler": {"amount": {"count": 1, "mean": 0.0, "variance": -1.0}}},
        {"surprise": 1},
        {"iterations": "1"},
    ],
)
def test_a_damaged_linear_state_is_refused(change: dict[str, Any]) -> None:
    shape = make("binary")[1]
    whole = river_linear.LinearState("logistic", 0, {}, [river_linear.Function()])
    river_linear.load(river_linear.dump(whole), shape.columns, shape.classes)
    data = json.dumps({**msgspec.to_builtins(whole), **change}).encode()
    with pytest.raises(UnsafeArtefact):
        river_linear.load(data, shape.columns, shape.classes)


def test_a_diverged_model_is_not_written() -> None:
    function = river_linear.Function(0, math.inf)
    with pytest.raises(ValueError, match="diverged"):
        river_linear.dump(river_linear.LinearState("logistic", 0, {}, [function]))


def test_a_tie_goes_to_the_first_class() -> None:
    shape = make("binary")[1]
    untaught = river_linear.LinearState("logistic", 0, {}, [river_linear.Function()])
    predictor = river_linear.LinearPredictor(untaught, shape.columns, shape.classes)
    assert predictor.predict([{}]) == [Output(label="no", score=0.5)]
