"""The ``skops`` format: scikit-learn's models as files without code.

skops itself trusts every estimator of scikit-learn and more.  Here a file may
hold only what stands in :func:`estimators` and, inside of these, plain values
and arrays; each part is looked at before anything is built from it.  Left out
are trees and forests (scikit-learn follows the indices of their nodes without a
look; histogram gradient boosting is checked for that, node by node), whatever
calls a function that a file names, and neighbours and kernels, which would
carry the training data.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import skops.io
from threadpoolctl import ThreadpoolController

from kedge.base import Scalar
from kedge.errors import UnsafeArtefact
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Predictor, Row
from kedge_services.runtime.formats.columns import is_text

__all__ = ["TRUSTED", "dump", "estimators", "load", "one_thread", "read"]

#: What is trusted beyond skops' own list.
TRUSTED = ("numpy.dtype", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor")

#: Bytes a file may unpack to; one of 60 rounds and 31 leaves has half a megabyte.
UNPACKED_LIMIT = 1 << 29

#: How skops may build a part: values, containers and arrays; never functions or methods.
_PLAIN = frozenset(
    ("DTypeNode", "DictNode", "JsonNode", "ListNode", "NdArrayNode", "SliceNode", "TupleNode",
     "TypeNode")
)  # fmt: skip
#: Modules that the types of plain parts may come from.
_PLAIN_MODULES = frozenset(("builtins", "numpy"))

_BOOSTING = "sklearn.ensemble._hist_gradient_boosting"
#: What histogram gradient boosting has inside.
_INSIDE = frozenset(
    (
        ("numpy.random._generator", "Generator"),
        ("sklearn._loss._loss", "CyHalfBinomialLoss"),
        ("sklearn._loss._loss", "CyHalfMultinomialLoss"),
        ("sklearn._loss._loss", "CyHalfSquaredError"),
        ("sklearn._loss.link", "IdentityLink"),
        ("sklearn._loss.link", "Interval"),
        ("sklearn._loss.link", "LogitLink"),
        ("sklearn._loss.link", "MultinomialLogit"),
        ("sklearn._loss.loss", "HalfBinomialLoss"),
        ("sklearn._loss.loss", "HalfMultinomialLoss"),
        ("sklearn._loss.loss", "HalfSquaredError"),
        (f"{_BOOSTING}.binning", "_BinMapper"),
        (f"{_BOOSTING}.predictor", "TreePredictor"),
        ("sklearn.compose._column_transformer", "_RemainderColsList"),
    )
)


@cache
def estimators() -> tuple[type, ...]:
    """Give the types of scikit-learn that a file may hold."""
    from sklearn import (
        compose,
        decomposition,
        discriminant_analysis,
        ensemble,
        impute,
        linear_model,
        naive_bayes,
        pipeline,
        preprocessing,
    )

    return (
        pipeline.Pipeline,
        pipeline.FeatureUnion,
        compose.ColumnTransformer,
        impute.SimpleImputer,
        impute.MissingIndicator,
        preprocessing.FunctionTransformer,
        preprocessing.KBinsDiscretizer,
        preprocessing.LabelEncoder,
        preprocessing.MaxAbsScaler,
        preprocessing.MinMaxScaler,
        preprocessing.OneHotEncoder,
        preprocessing.OrdinalEncoder,
        preprocessing.PowerTransformer,
        preprocessing.QuantileTransformer,
        preprocessing.RobustScaler,
        preprocessing.StandardScaler,
        decomposition.PCA,
        linear_model.BayesianRidge,
        linear_model.ElasticNet,
        linear_model.HuberRegressor,
        linear_model.Lasso,
        linear_model.LinearRegression,
        linear_model.LogisticRegression,
        linear_model.Ridge,
        discriminant_analysis.LinearDiscriminantAnalysis,
        naive_bayes.GaussianNB,
        ensemble.HistGradientBoostingClassifier,
        ensemble.HistGradientBoostingRegressor,
    )


@cache
def one_thread() -> ThreadpoolController:
    """Give the controller that keeps OpenMP to one thread: ``one_thread().limit(limits=1)``.

    Sums over threads depend on their number in the last bit, and on a busy
    machine threads that wait for each other cost more than they save.
    """
    import sklearn.ensemble  # noqa: F401 -- the controller knows only what is loaded

    return ThreadpoolController().select(user_api="openmp")


def load(data: bytes, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]) -> Predictor:
    """Read a file that :func:`dump` wrote and make it ready to predict.

    The names of a pipeline's steps say whose it is: ``encode`` and ``model``
    are the boosting's, ``prepare`` and ``linear`` the linear family's, ``own``
    is a pipeline that a function of the user's own has given.

    Raises
    ------
    UnsafeArtefact
        The file is damaged, holds a type that is not trusted (the message names
        it), or a model of other columns or classes.
    """
    pipeline = read(data)
    try:
        predictor = _predictor(pipeline, schema, classes)
        _try(predictor, schema)
    except UnsafeArtefact:
        raise
    except Exception as error:
        # Trusted types whose attributes are not what they should be.
        raise UnsafeArtefact(f"a skops file holds no sound model: {error!r:.300}") from error
    return predictor


def _predictor(
    pipeline: Any, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]
) -> Predictor:
    steps = _steps(pipeline)
    if steps == ["prepare", "linear"]:
        from kedge_services.runtime.formats.skops_linear import SklearnLinearPredictor

        return SklearnLinearPredictor(pipeline, schema, classes)
    if steps == ["own"]:
        from kedge_services.runtime.formats.skops_pipeline import PipelinePredictor

        return PipelinePredictor(pipeline, schema, classes)
    from kedge_services.runtime.formats.skops_trees import TreesPredictor

    return TreesPredictor(pipeline, schema, classes)


def _try(predictor: Predictor, schema: Sequence[FeatureColumn]) -> None:
    """Have rows answered that a model must be able to answer, however strange they are."""
    zeros: dict[str, Scalar] = {column.name: 0 for column in schema if not is_text(column)}
    strange: dict[str, Scalar] = {column.name: "\x00" for column in schema if is_text(column)}
    rows: list[Row] = [{}, zeros, strange, {**zeros, **strange}]
    outputs = predictor.predict(rows)
    numbers = [n for o in outputs for n in (o.score, o.value, *(o.scores or {}).values())]
    if len(outputs) != len(rows) or not all(math.isfinite(n) for n in numbers if n is not None):
        raise UnsafeArtefact("a skops file holds a model that answers with what is no number")


def read(data: bytes) -> Any:
    """Read a file that holds nothing but what is trusted.

    Raises
    ------
    UnsafeArtefact
        The file is damaged or holds a type that is not trusted.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            # Asked of the index alone, before anything is unpacked.
            unpacked = sum(entry.file_size for entry in file.infolist())
            is_small = unpacked <= UNPACKED_LIMIT
            foreign = set(_foreign(json.loads(file.read("schema.json")))) if is_small else set()
        if is_small:
            foreign |= set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED)
        model = skops.io.loads(data, trusted=list(TRUSTED)) if is_small and not foreign else None
    except Exception as error:
        # Whatever a damaged or hostile file provokes inside zipfile, json, NumPy or skops.
        raise UnsafeArtefact(f"a skops file cannot be read: {error!r:.300}") from error
    if not is_small:
        raise UnsafeArtefact(f"a skops file unpacks to {unpacked} bytes")
    if foreign:
        names = ", ".join(sorted(foreign))
        raise UnsafeArtefact(f"a skops file holds types that are not trusted: {names:.500}")
    return model


def _foreign(node: Any) -> Iterator[str]:
    """Give the types that are not allowed, of a part and all within it."""
    if isinstance(node, list):
        for item in node:
            yield from _foreign(item)
    elif isinstance(node, dict):
        if "__loader__" in node and not _is_allowed(node):
            yield f"{node.get('__module__')}.{node.get('__class__')}"
        for item in node.values():
            yield from _foreign(item)


def _is_allowed(node: dict[str, Any]) -> bool:
    module, name, loader = node.get("__module__"), node.get("__class__"), node["__loader__"]
    if loader in _PLAIN:
        return module in _PLAIN_MODULES
    known = {(cls.__module__, cls.__qualname__) for cls in estimators()} | _INSIDE
    is_object = loader in ("ObjectNode", "LossNode", "RandomGeneratorNode")
    return is_object and (module, name) in known


def _steps(pipeline: Any) -> list[Any]:
    from sklearn.pipeline import Pipeline

    try:
        return [name for name, _ in pipeline.steps] if type(pipeline) is Pipeline else []
    except (AttributeError, TypeError, ValueError):
        return []


def dump(pipeline: Any) -> bytes:
    """Write a fitted pipeline; equal pipelines give equal bytes.

    skops names parts by their address in memory and files carry the time of
    writing; both are replaced by what does not change from run to run.
    """
    names: dict[str, str] = {}

    def renumbered(node: Any) -> Any:
        if isinstance(node, list):
            return [renumbered(item) for item in node]
        if not isinstance(node, dict):
            return node
        result: dict[str, Any] = {}
        for key, value in node.items():
            if key == "__id__":
                result[key] = int(names.setdefault(str(value), str(len(names) + 1)))
            elif key == "file" and isinstance(value, str):
                stem, dot, suffix = value.partition(".")
                result[key] = names.setdefault(stem, str(len(names) + 1)) + dot + suffix
            else:
                result[key] = renumbered(value)
        return result

    written = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(skops.io.dumps(pipeline))) as source,
        zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as target,
    ):
        schema = renumbered(json.loads(source.read("schema.json")))
        parts = {"schema.json": json.dumps(schema, separators=(",", ":")).encode()}
        for name in source.namelist():
            stem, dot, suffix = name.partition(".")
            if stem in names:
                parts[names[stem] + dot + suffix] = source.read(name)
        for name in sorted(parts):
            target.writestr(_entry(name), parts[name])
    return written.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
