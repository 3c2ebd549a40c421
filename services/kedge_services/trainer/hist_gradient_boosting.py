"""Family ``sklearn-hist-gradient-boosting``: trees on all rows at once, missing values and all."""

from __future__ import annotations

from typing import Any

import numpy as np

from kedge_services.runtime.formats.columns import is_text, numbers, texts_first
from kedge_services.runtime.formats.skops_files import dump, one_thread
from kedge_services.runtime.formats.skops_trees import TreesPredictor
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
    kinds: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ("scikit-learn", "skops", "numpy")

    def parameters(self, shape: Shape) -> dict[str, Any]:  # noqa: ARG002 -- the same for all
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
            pipeline.fit(table.matrix(texts_first(shape.columns), read=numbers), target)
        predictor = TreesPredictor(pipeline, shape.columns, shape.classes)
        return Fitted(predictor, lambda: dump(pipeline), "skops")


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
