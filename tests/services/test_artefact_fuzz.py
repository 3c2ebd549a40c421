"""Whatever is done to a model file, it is refused in a sentence or it still answers."""

from __future__ import annotations

import io
import json
import math
import os
import random
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import pytest
import skops.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import linear_model, preprocessing
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from kedge.base import Scalar
from kedge.errors import UnsafeArtefact
from kedge.trainers import TRAINERS, Task
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Predictor, Row, river_json, skops_files
from kedge_services.trainer.families import Shape, Table, family

COLUMNS = (
    FeatureColumn(name="a", type="numeric"),
    FeatureColumn(name="b", type="numeric"),
    FeatureColumn(name="k", type="categorical"),
)
CLASSES: dict[Task, tuple[Scalar, ...]] = {
    "binary": ("no", "yes"), "multiclass": ("x", "y", "z"), "regression": (),
}  # fmt: skip
CASES = [(name, task) for name, tasks in TRAINERS.items() for task in tasks]
RIVER = [(name, task) for name, task in CASES if name.startswith("river-")]
SKOPS = [(name, task) for name, task in CASES if name.startswith("sklearn-")]
ROWS: Sequence[Row] = [
    {}, {"a": 1.0, "b": -3.0, "k": "u"}, {"a": 1e99, "k": "?"}, {"a": -1e99, "b": 0, "k": "v"},
]  # fmt: skip
#: What a value may be replaced with.
ODD: list[Any] = [
    None, True, -1, 0, 1, 7, 10**30, -0.5, 1e-320, 1e99, 1e200, 1e308, "", "u", "zz", [], [1], {},
    {"a": 1},
]  # fmt: skip


def shape_of(task: Task) -> Shape:
    return Shape(COLUMNS, CLASSES[task])


def table_of(task: Task, n: int = 900) -> Table:
    chance = random.Random(1)
    rows: list[dict[str, Scalar | None]] = []
    targets: list[float] = []
    for _ in range(n):
        row: dict[str, Any] = {
            "a": chance.gauss(0, 1),
            "b": chance.gauss(5, 3),
            "k": chance.choice("uv"),
        }
        value = 3.0 * (row["a"] > 0) + (row["k"] == "u") + chance.gauss(0, 0.1)
        rows.append(row)
        k = len(CLASSES[task])
        targets.append(value if not k else float(min(k - 1, max(0, int(value - 1)))))
    return Table(rows, targets)


@cache
def artefact(name: str, task: Task) -> bytes:
    return family(name, task).fit(table_of(task), shape_of(task), seed=0).dump()


def load(name: str, data: bytes, shape: Shape) -> Predictor:
    read = skops_files.load if name.startswith("sklearn-") else river_json.load
    return read(data, shape.columns, shape.classes)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give the way to everything within a JSON value."""
    inside = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list)
        else ()
    )  # fmt: skip
    return [at] * bool(at) + [p for key, item in inside for p in places(item, (*at, key))]


def spoil(value: Any, draw: Any) -> None:
    """Replace, remove or double something within a JSON value."""
    everywhere = places(value)
    *way, last = everywhere[draw(st.integers(0, len(everywhere) - 1))]
    for key in way:
        value = value[key]
    how = draw(st.sampled_from(["replace", "remove", "double"]))
    if how == "replace":
        value[last] = draw(st.sampled_from(ODD))
    elif how == "remove":
        del value[last]
    elif isinstance(value, list):
        value.insert(last, json.loads(json.dumps(value[last])))
    else:
        value["other"] = value[last]


def must_answer(predictor: Predictor) -> None:
    outputs = predictor.predict(ROWS)
    assert len(outputs) == len(ROWS)
    for output in outputs:
        numbers = [output.score, output.value, *(output.scores or {}).values()]
        assert all(math.isfinite(number) for number in numbers if number is not None)


many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(("name", "task"), RIVER)
@given(data=st.data())
@many
def test_a_spoilt_river_file_is_refused_or_answers_and_learns(
    name: str, task: Task, data: st.DataObject
) -> None:
    shape = shape_of(task)
    state = json.loads(artefact(name, task))
    spoil(state, data.draw)
    spoilt = json.dumps(state).encode()
    try:
        predictor = load(name, spoilt, shape)
    except UnsafeArtefact:
        return
    must_answer(predictor)
    with suppress(ValueError, UnsafeArtefact):
        family(name, task).fit(table_of(task, 30), shape, seed=0, start=spoilt)


@pytest.mark.parametrize(("name", "task"), CASES)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
@some
def test_a_damaged_file_is_refused_or_answers(
    name: str, task: Task, at: float, byte: int, *, cut: bool
) -> None:
    whole = artefact(name, task)
    place = int(at * len(whole))
    damaged = whole[:place] if cut else whole[:place] + bytes([byte]) + whole[place + 1 :]
    try:
        predictor = load(name, damaged, shape_of(task))
    except UnsafeArtefact:
        return
    must_answer(predictor)


def repacked(data: bytes, draw: Any) -> bytes:
    """Spoil one part of a skops file: its schema, or the numbers of an array."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w") as target:
        names = sorted(source.namelist())
        chosen = draw(st.sampled_from([*names, *["schema.json"] * len(names)]))
        for name in names:
            part = source.read(name)
            if name == chosen == "schema.json":
                schema = json.loads(part)
                spoil(schema, draw)
                part = json.dumps(schema).encode()
            elif name == chosen:
                array = np.load(io.BytesIO(part))
                spoilt = array
                if array.dtype.names is None and array.ndim:
                    others = [array[:0], array.astype(str), array * 0, array[:1]]
                    spoilt = draw(st.sampled_from(others))
                buffer = io.BytesIO()
                np.save(buffer, spoilt)
                part = buffer.getvalue()
            target.writestr(name, part)
    return result.getvalue()


@pytest.mark.parametrize(("name", "task"), SKOPS)
@given(data=st.data())
@settings(parent=many, max_examples=25)
def test_a_spoilt_skops_file_is_refused_or_answers(
    name: str, task: Task, data: st.DataObject
) -> None:
    try:
        predictor = load(name, repacked(artefact(name, task), data.draw), shape_of(task))
    except UnsafeArtefact:
        return
    must_answer(predictor)


# ------------------------------------------------------------------ nothing is executed


class Evil:
    """A pickle of it would run a program."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /nonexistent/kedge",)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (RandomForestClassifier(2), r"sklearn\.tree\._tree\.Tree"),
        (KNeighborsClassifier(), "KNeighborsClassifier"),
        (Pipeline([("f", FunctionTransformer(np.abs)), ("m", LogisticRegression())]), "absolute"),
    ],
)
def test_what_is_not_in_the_list_is_refused_by_its_name(model: Any, named: str) -> None:
    model.fit([[0.0], [1.0]] * 10, [0, 1] * 10)
    for whole in (model, Pipeline([("own", model)])):
        with pytest.raises(UnsafeArtefact, match=named):
            skops_files.load(skops.io.dumps(whole), COLUMNS[:1], ("no", "yes"))


@pytest.mark.parametrize(
    ("loader", "module", "name"),
    [
        ("FunctionNode", "os", "system"),
        ("ObjectNode", "subprocess", "Popen"),
        ("DictNode", "collections", "ChainMap"),
        ("TypeNode", "os", "system"),
        ("MethodNode", "sklearn.linear_model._logistic", "LogisticRegression"),
        ("OperatorFuncNode", "operator", "methodcaller"),
        ("PartialNode", "functools", "partial"),
    ],
)
def test_a_part_that_names_code_is_refused_before_anything_is_built(
    loader: str, module: str, name: str
) -> None:
    """skops is not even asked; it has its own list, and trusts more."""
    schema = {"__class__": name, "__module__": module, "__loader__": loader, "content": {}}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        file.writestr("schema.json", json.dumps(schema))
    with pytest.raises(UnsafeArtefact):
        skops_files.read(written.getvalue())


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skops_files, "UNPACKED_LIMIT", 1_000)
    shape = shape_of("binary")
    with pytest.raises(UnsafeArtefact, match="unpacks to"):
        load("sklearn-linear", artefact("sklearn-linear", "binary"), shape)


def test_a_river_file_beyond_its_limit_is_not_parsed() -> None:
    with pytest.raises(UnsafeArtefact, match="bytes"):
        river_json.load(b" " * (river_json.LIMIT + 1), COLUMNS, ())
    with pytest.raises(UnsafeArtefact):
        river_json.load(b"[" * 1_000_000, COLUMNS, ())


def test_boosting_within_a_pipeline_of_ones_own_is_checked_node_by_node() -> None:
    scaled = Pipeline([("s", StandardScaler()), ("m", HistGradientBoostingClassifier(max_iter=2))])
    values = np.random.default_rng(0).normal(size=(200, 2))
    labels = np.where(values[:, 0] > 0, "yes", "no")
    whole = Pipeline([("own", scaled.fit(values, labels))])
    skops_files.load(skops_files.dump(whole), COLUMNS[:2], ("no", "yes"))
    trees = scaled.named_steps["m"]._predictors  # noqa: SLF001 -- what an attacker would change
    trees[0][0].nodes["feature_idx"][0] = 99
    with pytest.raises(UnsafeArtefact, match="points outside"):
        skops_files.load(skops_files.dump(whole), COLUMNS[:2], ("no", "yes"))


TRANSFORMERS = (
    preprocessing.KBinsDiscretizer(n_bins=3, quantile_method="averaged_inverted_cdf"),
    preprocessing.FunctionTransformer(),
    preprocessing.MaxAbsScaler(),
    preprocessing.MinMaxScaler(),
    preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    preprocessing.PowerTransformer(),
    preprocessing.QuantileTransformer(n_quantiles=10),
    preprocessing.RobustScaler(),
    preprocessing.StandardScaler(),
    PCA(1),
    FeatureUnion([("all", SimpleImputer()), ("gaps", MissingIndicator(features="all"))]),
    ColumnTransformer(
        [("k", preprocessing.OneHotEncoder(handle_unknown="ignore"), [0])], remainder="passthrough"
    ),
)
CLASSIFIERS = (
    LogisticRegression(), GaussianNB(), LinearDiscriminantAnalysis(),
    HistGradientBoostingClassifier(max_iter=3),
)  # fmt: skip
REGRESSORS = (
    linear_model.BayesianRidge(), linear_model.ElasticNet(), linear_model.HuberRegressor(),
    linear_model.Lasso(), linear_model.LinearRegression(), Ridge(),
    HistGradientBoostingRegressor(max_iter=3),
)  # fmt: skip
PIPELINES = [
    *(make_pipeline(SimpleImputer(), t, LogisticRegression()) for t in TRANSFORMERS),
    *(make_pipeline(SimpleImputer(), model) for model in (*CLASSIFIERS, *REGRESSORS)),
]


@pytest.mark.parametrize(
    "pipeline", PIPELINES, ids=lambda p: type(p[-2]).__name__ + type(p[-1]).__name__
)
def test_what_is_in_the_list_is_stored_and_answers_as_it_did(pipeline: Any) -> None:
    values = np.random.default_rng(1).normal(size=(120, 2)).round(1)
    values[::7, 0] = np.nan
    is_class = is_classifier(pipeline)
    labels = np.where(values[:, 1] > 0, "yes", "no") if is_class else values[:, 1] * 3
    pipeline.fit(values, labels)
    data = skops_files.dump(Pipeline([("own", pipeline)]))
    loaded = skops_files.load(data, COLUMNS[:2], ("no", "yes") if is_class else ())
    asked = np.array([[0.3, -0.2], [np.nan, 1.0], [np.nan, np.nan]])
    found = [o.score if is_class else o.value for o in loaded.predict(
        [{"a": 0.3, "b": -0.2}, {"b": 1.0}, {}])]  # fmt: skip
    expected = pipeline.predict_proba(asked)[:, 1] if is_class else pipeline.predict(asked)
    assert found == expected.tolist()


def test_every_type_in_the_list_is_tried() -> None:
    tried = {type(step) for pipeline in PIPELINES for step in pipeline.named_steps.values()}
    # Those stand inside of others.
    inside = {Pipeline, MissingIndicator, preprocessing.OneHotEncoder, preprocessing.LabelEncoder}
    assert tried | inside == set(skops_files.estimators())


def test_a_regression_is_not_served_as_a_classifier_nor_the_other_way_round() -> None:
    values, numbers = [[0.0], [1.0]] * 10, [0.0, 1.0] * 10
    ridge = skops_files.dump(Pipeline([("own", Ridge().fit(values, numbers))]))
    logistic = skops_files.dump(Pipeline([("own", LogisticRegression().fit(values, [0, 1] * 10))]))
    with pytest.raises(UnsafeArtefact, match="predict_proba"):
        skops_files.load(ridge, COLUMNS[:1], ("no", "yes"))
    with pytest.raises(UnsafeArtefact, match="predicts no numbers"):
        skops_files.load(logistic, COLUMNS[:1], ())
