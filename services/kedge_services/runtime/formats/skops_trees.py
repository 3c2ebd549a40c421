"""Histogram gradient boosting in ``skops``: a pipeline of two steps, made ready for batches.

``encode`` turns categories into numbers (the text columns come first, in the
order of the feature schema), ``model`` is the boosting.  scikit-learn follows
the indices of its nodes unchecked, so they are checked here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.errors import UnsafeArtefact
from kedge.events import Output
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Row
from kedge_services.runtime.formats.columns import (
    class_outputs,
    is_text,
    number_columns,
    texts,
)
from kedge_services.runtime.formats.few_rows import FewRows
from kedge_services.runtime.formats.skops_files import one_thread

__all__ = ["TreesPredictor", "check_trees"]


class TreesPredictor:
    """A pipeline of ``encode`` and ``model``.

    The columns are encoded here instead of by the pipeline: one dictionary
    look-up a category is several times as fast as going through an array of
    objects, with the same result.

    Raises
    ------
    UnsafeArtefact
        The pipeline is not of the expected shape.
    """

    def __init__(
        self, pipeline: Any, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]
    ) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        self._texts = [column.name for column in schema if is_text(column)]
        self._numbers = [column.name for column in schema if not is_text(column)]
        self._classes = list(classes)
        try:
            self._model = pipeline.named_steps["model"]
            encoder = pipeline.named_steps["encode"]
            categories = (
                encoder.named_transformers_["categories"].categories_ if self._texts else []
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise UnsafeArtefact("a skops file holds no pipeline of encode and model") from error
        expected = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        if type(self._model) is not expected:
            raise UnsafeArtefact(
                f"a skops file holds a {type(self._model).__name__}, not a {expected.__name__}"
            )
        if len(categories) != len(self._texts):
            raise UnsafeArtefact("a skops file was made for other columns than its manifest says")
        self._codes: list[dict[str | None, float]] = [
            {text: float(code) for code, text in enumerate(known) if isinstance(text, str)}
            for known in categories
        ]
        check_trees(self._model, columns=len(schema))
        if classes:
            self._indices = [int(index) for index in self._model.classes_]
            if not set(self._indices) <= set(range(len(classes))):
                raise UnsafeArtefact("a skops file has other classes than its manifest says")
        with one_thread().limit(limits=1):
            self._few = FewRows.of(self._model, len(schema))

    def matrix(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Give the rows as the model wants them, shape (n, columns)."""
        result = np.empty((len(rows), len(self._texts) + len(self._numbers)), order="F")
        for index, (name, codes) in enumerate(zip(self._texts, self._codes, strict=True)):
            column = texts([row.get(name) for row in rows])
            # A category that training has not seen is a missing value.
            result[:, index] = [codes.get(text, math.nan) for text in column]
        result[:, len(self._texts) :] = number_columns(rows, self._numbers)
        return result

    def predict(self, rows: Sequence[Row]) -> list[Output]:
        """Score a batch; see :class:`~kedge_services.runtime.formats.Predictor`."""
        if not rows:
            return []
        values = self.matrix(rows)
        if self._few is not None and self._few.is_quicker(len(rows)):
            return self._outputs(self._few.answer(values))
        with one_thread().limit(limits=1):
            model = self._model
            return self._outputs(
                model.predict_proba(values) if self._classes else model.predict(values)
            )

    def _outputs(self, answers: NDArray[np.float64]) -> list[Output]:
        if not self._classes:
            return [Output(value=value) for value in answers.tolist()]
        probabilities = np.zeros((len(answers), len(self._classes)))
        probabilities[:, self._indices] = answers
        return class_outputs(probabilities, self._classes)


def check_trees(model: Any, *, columns: int) -> None:
    """Check every index that scikit-learn follows without looking.

    Raises
    ------
    UnsafeArtefact
        A tree points outside itself or outside the columns.
    """
    if model.n_features_in_ != columns:
        raise UnsafeArtefact(
            f"a skops file was made for {model.n_features_in_} columns where its manifest "
            f"has {columns}"
        )
    wanted = getattr(model, "n_trees_per_iteration_", 1)
    for trees in model._predictors:  # noqa: SLF001 -- scikit-learn has no other name for them
        if len(trees) != wanted:
            raise UnsafeArtefact("a skops file has a round with trees missing")
        for tree in trees:
            nodes = tree.nodes
            inner = nodes[nodes["is_leaf"] == 0]
            here = np.flatnonzero(nodes["is_leaf"] == 0)
            # Children lie behind their parent, so that walking a tree comes to an end.
            sound = (
                nodes.ndim == 1
                and len(nodes) > 0
                and bool((inner["left"] > here).all() and (inner["right"] > here).all())
                and bool((inner["left"] < len(nodes)).all())
                and bool((inner["right"] < len(nodes)).all())
                and bool(((inner["feature_idx"] >= 0) & (inner["feature_idx"] < columns)).all())
                and not bool(inner["is_categorical"].any())
            )
            if not sound:
                raise UnsafeArtefact("a skops file has a tree that points outside itself")
