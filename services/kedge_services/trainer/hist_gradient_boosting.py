"""Family ``sklearn-hist-gradient-boosting``: trees on all rows at once, missing values and all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kedge_services.runtime.artefacts import Format
from kedge_services.runtime.formats.columns import is_text, numbers, texts
from kedge_services.runtime.formats.skops_trees import TreesPredictor, dump, one_thread
from kedge_services.trainer.families import Fitted, Shape, Table

__all__ = ["HistGradientBoosting"]

_PARAMETERS: dict[str, Any] = {
    "max_iter": 60,
    "learning_rate": 0.15,
    "max_leaf_nodes": 31,
    "early_stopping": False,
}


class HistGradientBoosting:
    """Histogram gradient boosting of scikit-learn behind an ordinal encoder.

    On one thread: sums over several differ in the last bit with their number,
    and the same seed must give the same bytes on any machine.
    """

    name = "sklearn-hist-gradient-boosting"
    format: Format = "skops"
    is_incremental = False
    libraries: tuple[str, ...] = ("scikit-learn", "skops", "numpy")

    def parameters(self) -> dict[str, Any]:
        """Give the parameters of the boosting."""
        return dict(_PARAMETERS)

    def fit(self, table: Table, shape: Shape, *, seed: int, start: bytes | None = None) -> Fitted:
        """Train; see :class:`~kedge_services.trainer.families.Family`."""
        if start is not None:
            raise ValueError(f"{self.name} cannot go on from an earlier model")
        if shape.classes and len(set(table.targets)) < 2:
            raise ValueError(f"all {len(table)} rows have the same label")
        pipeline = _pipeline(shape, seed)
        target = np.asarray(table.targets, dtype=np.int64 if shape.classes else np.float64)
        with one_thread().limit(limits=1):
            pipeline.fit(_columns(table, shape), target)
        predictor = TreesPredictor(pipeline, shape.columns, shape.classes)
        return Fitted(predictor, lambda: dump(pipeline))


def _pipeline(shape: Shape, seed: int) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    # Neither a category that training has not seen nor a missing one is a number.
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    boosting = HistGradientBoostingClassifier if shape.classes else HistGradientBoostingRegressor
    first = list(range(sum(map(is_text, shape.columns))))
    steps = ColumnTransformer([("categories", encoder, first)], remainder="passthrough")
    model = boosting(**_PARAMETERS, random_state=seed)
    return Pipeline([("encode", steps), ("model", model)])


def _columns(table: Table, shape: Shape) -> Any:
    """Give the features, shape (n, columns): texts first, then numbers."""
    ordered = sorted(shape.columns, key=is_text, reverse=True)
    if not any(map(is_text, ordered)):
        columns: list[Any] = [numbers([r.get(c.name) for r in table.rows]) for c in ordered]
        return np.column_stack(columns)
    result = np.empty((len(table), len(ordered)), dtype=object)
    for index, column in enumerate(ordered):
        values = [row.get(column.name) for row in table.rows]
        if is_text(column):
            # None would become a category of its own; NaN stays missing.
            result[:, index] = [math.nan if text is None else text for text in texts(values)]
        else:
            result[:, index] = numbers(values)
    return result
