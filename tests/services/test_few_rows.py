"""A few rows, asked for beside scikit-learn: the same answers to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline

from kedge import FeatureColumn
from kedge.base import Scalar
from kedge_services.runtime.formats import Row, skops_files
from kedge_services.runtime.formats.few_rows import FewRows
from kedge_services.runtime.formats.skops_files import one_thread

COLUMNS = 4
KINDS = ("binary", "multiclass", "numbers", "one round", "stumps", "no split")
VALUES = st.one_of(
    st.floats(-3, 3), st.floats(allow_subnormal=True), st.sampled_from([0.0, -0.0, float("nan")])
)


@cache
def both(kind: str) -> tuple[Any, FewRows]:
    model = fitted(kind)
    few = FewRows.of(model, COLUMNS)
    assert few is not None
    return model, few


@cache
def fitted(kind: str) -> Any:
    with one_thread().limit(limits=1):
        return fit(kind)


def fit(kind: str) -> Any:
    random = np.random.default_rng(7)
    rows = random.normal(size=(600, COLUMNS)).round(1)
    rows[random.random(rows.shape) < 0.1] = np.nan
    signal = np.nan_to_num(rows[:, 0] + rows[:, 1] * rows[:, 2]) + random.normal(size=600)
    more: dict[str, Any] = {"max_iter": 30, "early_stopping": False, "random_state": 0}
    if kind == "numbers":
        return HistGradientBoostingRegressor(**more).fit(rows, signal)
    if kind == "multiclass":
        return HistGradientBoostingClassifier(**more).fit(rows, np.digitize(signal, [-1, 1]))
    more |= {"one round": {"max_iter": 1}, "stumps": {"max_leaf_nodes": 2}}.get(kind, {})
    labels = (signal > 0).astype(int)
    if kind == "no split":
        more |= {"min_samples_leaf": 600}
    return HistGradientBoostingClassifier(**more).fit(rows, labels)


def asked(model: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    with one_thread().limit(limits=1):
        return np.asarray(
            model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows)
        )


def nodes(model: Any) -> Iterator[NDArray[Any]]:
    for of_round in model._predictors:  # noqa: SLF001 -- scikit-learn has no other name for them
        yield from (tree.nodes for tree in of_round)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_few_rows_are_answered_as_scikit_learn_does(kind: str, data: st.DataObject) -> None:
    model, few = both(kind)
    cuts = [float(cut) for tree in nodes(model) for cut in tree["num_threshold"]]
    value = st.one_of(VALUES, st.sampled_from(cuts))
    row = st.lists(value, min_size=COLUMNS, max_size=COLUMNS)
    rows = np.array(data.draw(st.lists(row, min_size=1, max_size=6)), dtype=np.float64)
    assert few.answer(rows).tobytes() == asked(model, rows).tobytes()


def test_what_scikit_learn_prepares_itself_is_left_to_it() -> None:
    rows = np.random.default_rng(1).integers(0, 4, size=(200, 2)).astype(float)
    model = HistGradientBoostingClassifier(categorical_features=[1], max_iter=3)
    model.fit(rows, (rows[:, 0] > 1).astype(int))
    assert FewRows.of(model, 2) is None


def test_trees_that_would_answer_otherwise_than_scikit_learn_are_left_to_it() -> None:
    model = HistGradientBoostingClassifier(max_iter=3, early_stopping=False)
    rows = np.random.default_rng(1).normal(size=(200, 2))
    model.fit(rows, (rows[:, 0] > 0).astype(int))
    # As if a later release knew of a node that is told apart otherwise.
    for tree in nodes(model):
        tree["is_categorical"][0] = 1
    for of_round in model._predictors:  # noqa: SLF001 -- see above
        of_round[0].raw_left_cat_bitsets = np.zeros((1, 8), dtype=np.uint32)
    assert FewRows.of(model, 2) is None


def test_the_cost_decides_which_way_is_taken() -> None:
    _, few = both("binary")
    assert few.is_quicker(1)
    assert not few.is_quicker(1_000)


def test_a_row_has_one_answer_alone_and_among_many() -> None:
    model = fitted("binary")
    schema = [FeatureColumn(name=f"f{i}", type="numeric") for i in range(COLUMNS)]
    classes: list[Scalar] = ["no", "yes"]
    file = skops_files.dump(Pipeline([("encode", "passthrough"), ("model", model)]))
    predictor = skops_files.load(file, schema, classes)
    random = np.random.default_rng(3)
    rows: list[Row] = [
        {column.name: value for column, value in zip(schema, row, strict=True) if value < 2}
        for row in random.normal(size=(300, COLUMNS)).tolist()
    ]
    assert [predictor.predict([row])[0] for row in rows] == predictor.predict(rows)
