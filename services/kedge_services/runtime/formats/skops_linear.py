"""Linear models of scikit-learn in ``skops``: a pipeline whose numbers alone are used.

``prepare`` has ``categories`` (one-hot, of the text columns, which come first)
and ``numbers`` (the mean where one is missing, then scaled); ``linear`` is a
logistic regression or a ridge regression.  Of all that only arrays are taken
out, looked at, and multiplied here: no step of the pipeline ever runs.
"""

from __future__ import annotations

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
    LARGEST,
    class_outputs,
    is_text,
    known_numbers,
    texts,
)

__all__ = ["SklearnLinearPredictor"]

#: With it and the largest numbers there are, a sum still stays finite.
_LEAST_SCALE = 1e-100


class SklearnLinearPredictor:
    """Scores batches with the coefficients of a pipeline of ``prepare`` and ``linear``.

    Raises
    ------
    UnsafeArtefact
        The pipeline is not of the expected shape.
    """

    def __init__(
        self, pipeline: Any, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]
    ) -> None:
        from sklearn.linear_model import LogisticRegression, Ridge

        self._texts = [column.name for column in schema if is_text(column)]
        self._numbers = [column.name for column in schema if not is_text(column)]
        self._classes = list(classes)
        model = pipeline.named_steps["linear"]
        expected = LogisticRegression if classes else Ridge
        if type(model) is not expected:
            raise UnsafeArtefact(
                f"a skops file holds a {type(model).__name__}, not a {expected.__name__}"
            )
        parts = pipeline.named_steps["prepare"].named_transformers_
        known: Sequence[Any] = parts["categories"].categories_ if self._texts else ()
        self._places: list[dict[str | None, int]] = []
        places = 0
        for texts_known in known:
            self._places.append({text: places + k for k, text in enumerate(texts_known)})
            places += len(texts_known)
        count = len(self._numbers)
        if self._numbers:
            steps = parts["numbers"].named_steps
            self._fill = _array(steps["impute"].statistics_, count)
            self._mean = _array(steps["scale"].mean_, count)
            self._scale = _array(steps["scale"].scale_, count)
        self._indices = [int(index) for index in model.classes_] if classes else []
        functions = 1 if len(self._indices) <= 2 else len(self._indices)
        coefficients = _array(model.coef_, functions * (places + count))
        self._coefficients = coefficients.reshape(functions, places + count)
        self._intercepts = _array(model.intercept_, functions)
        if len(known) != len(self._texts) or (self._numbers and self._scale.min() < _LEAST_SCALE):
            raise UnsafeArtefact("a skops file was made for other columns than its manifest says")
        distinct = set(self._indices)
        if classes and not (len(distinct) == len(self._indices) > 1):
            raise UnsafeArtefact("a skops file has classes twice, or only one")
        if not distinct <= set(range(len(classes))):
            raise UnsafeArtefact("a skops file has other classes than its manifest says")

    def predict(self, rows: Sequence[Row]) -> list[Output]:
        """Score a batch; see :class:`~kedge_services.runtime.formats.Predictor`."""
        if not rows:
            return []
        raw = self._raw(rows)
        if not self._classes:
            return [Output(value=value) for value in raw[:, 0].tolist()]
        probabilities = np.zeros((len(rows), len(self._classes)))
        if len(self._indices) == 2:
            positive = 1.0 / (1.0 + np.exp(-np.clip(raw[:, 0], -700.0, 700.0)))
            probabilities[:, self._indices] = np.column_stack([1.0 - positive, positive])
        else:
            powers = np.exp(raw - raw.max(axis=1, keepdims=True))
            probabilities[:, self._indices] = powers / powers.sum(axis=1, keepdims=True)
        return class_outputs(probabilities, self._classes)

    def _raw(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Give the linear functions' values, shape (n, functions)."""
        result = np.tile(self._intercepts, (len(rows), 1))
        # A row of zeros stands for a category that is missing or was never seen.
        nothing = np.zeros((1, len(self._intercepts)))
        weights = np.concatenate([self._coefficients.T, nothing])
        for name, places in zip(self._texts, self._places, strict=True):
            column = texts([row.get(name) for row in rows])
            result += weights[[places.get(text, -1) for text in column]]
        first = self._coefficients.shape[1] - len(self._numbers)
        for index, name in enumerate(self._numbers):
            known = known_numbers([row.get(name) for row in rows])
            filled = np.where(np.isnan(known), self._fill[index], known)
            score = (filled - self._mean[index]) / self._scale[index]
            # Column by column: sums do not depend on how many rows are asked at once.
            result += score[:, None] * self._coefficients[:, first + index]
        return result


def _array(values: Any, size: int) -> NDArray[np.float64]:
    """Give finite floats, as many as there must be."""
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.shape != (size,) or not bool((np.abs(array) <= 2 * LARGEST).all()):
        raise UnsafeArtefact("a skops file was made for other columns than its manifest says")
    return array
