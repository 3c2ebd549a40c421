"""Family ``sklearn-linear``: logistic and ridge regression on all rows at once.

A missing number is filled with the mean, numbers are scaled, a category is a
weight of its own; a missing category, and a rare one beyond the commonest
thousand, has none.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from kedge.errors import UnsafeArtefact
from kedge_services.runtime.formats.columns import is_text, texts_first
from kedge_services.runtime.formats.skops_files import dump
from kedge_services.runtime.formats.skops_linear import SklearnLinearPredictor
from kedge_services.trainer.families import Fitted, Shape, Table

__all__ = ["CATEGORIES", "SklearnLinear"]

#: Categories of one column that get a weight: the commonest.
CATEGORIES = 1_000

_CLASSES: dict[str, Any] = {"C": 1.0, "max_iter": 500}
_NUMBERS: dict[str, Any] = {"alpha": 1.0}


class SklearnLinear:
    """Linear models of scikit-learn, on one thread so that equal trainings give equal bytes."""

    name = "sklearn-linear"
    kinds: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ("scikit-learn", "skops", "numpy", "scipy")

    def parameters(self, shape: Shape) -> dict[str, Any]:
        """Give the parameters of the regression."""
        return {**(_CLASSES if shape.classes else _NUMBERS), "categories": CATEGORIES}

    def fit(self, table: Table, shape: Shape, *, seed: int, start: bytes | None = None) -> Fitted:  # noqa: ARG002 -- nothing is drawn
        """Train; see :class:`~kedge_services.trainer.families.Family`."""
        from sklearn.exceptions import ConvergenceWarning

        if start is not None:
            raise ValueError(f"{self.name} cannot go on from an earlier model")
        if shape.classes and len(set(table.targets)) < 2:
            raise ValueError(f"all {len(table)} rows have the same label")
        values = table.matrix(texts_first(shape.columns))
        pipeline = _pipeline(values, sum(map(is_text, shape.columns)), shape)
        target = np.asarray(table.targets, dtype=np.int64 if shape.classes else np.float64)
        with threadpool_limits(limits=1), warnings.catch_warnings():
            # A model that stops early is one all the same: its scores will tell.
            warnings.simplefilter("ignore", ConvergenceWarning)
            pipeline.fit(values, target)
        try:
            predictor = SklearnLinearPredictor(pipeline, shape.columns, shape.classes)
        except UnsafeArtefact as error:
            raise ValueError(f"the model has diverged: {error}") from error
        return Fitted(predictor, lambda: dump(pipeline), "skops")


def _pipeline(values: NDArray[Any], texts: int, shape: Shape) -> Any:
    """Give the pipeline for an array whose first columns are those of categories."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    known = [_commonest(values[:, index]) for index in range(texts)]
    encoder = OneHotEncoder(categories=known, handle_unknown="ignore")
    numbers = Pipeline(
        [("impute", SimpleImputer(keep_empty_features=True)), ("scale", StandardScaler())]
    )
    parts = [
        ("categories", encoder, list(range(texts))),
        ("numbers", numbers, list(range(texts, len(shape.columns)))),
    ]
    model = LogisticRegression(**_CLASSES) if shape.classes else Ridge(**_NUMBERS)
    return Pipeline([("prepare", ColumnTransformer([p for p in parts if p[2]])), ("linear", model)])


def _commonest(column: NDArray[Any]) -> list[str]:
    """Give a column's categories in the order of the alphabet; there has to be one."""
    counts = Counter(text for text in column.tolist() if isinstance(text, str))
    common = sorted(counts, key=lambda text: (-counts[text], text))[:CATEGORIES]
    return sorted(common) or [""]
