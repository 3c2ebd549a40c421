"""A pipeline of the user's own in ``skops``: made of trusted types, run as scikit-learn runs it.

It is the one step ``own`` of a pipeline, so that nobody takes it for one of
Kedge's.  It is asked with the array that
:func:`~kedge_services.runtime.formats.columns.matrix` gives, and its classes
are those that the monitor declares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kedge.base import Scalar, label_text
from kedge.errors import UnsafeArtefact
from kedge.events import Output
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Row
from kedge_services.runtime.formats.columns import class_outputs, matrix
from kedge_services.runtime.formats.skops_files import estimators, one_thread
from kedge_services.runtime.formats.skops_trees import check_trees

__all__ = ["PipelinePredictor"]


class PipelinePredictor:
    """Scores batches with a pipeline of trusted types.

    Raises
    ------
    UnsafeArtefact
        The pipeline does not do what the version's task needs, or has a tree
        that points outside itself.
    """

    def __init__(
        self, pipeline: Any, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]
    ) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        self._model = pipeline.named_steps["own"]
        self._schema = list(schema)
        self._classes = list(classes)
        for part in _parts(self._model):
            if isinstance(part, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
                check_trees(part, columns=part.n_features_in_)
        if not classes:
            if not hasattr(self._model, "predict") or hasattr(self._model, "classes_"):
                raise UnsafeArtefact("a skops file holds a pipeline that predicts no numbers")
            return
        if not hasattr(self._model, "predict_proba"):
            raise UnsafeArtefact("a skops file holds a pipeline without predict_proba")
        known = [label_text(label) for label in classes]
        found = [label_text(label) for label in np.asarray(self._model.classes_).tolist()]
        if len(set(found)) != len(found) or not set(found) <= set(known):
            raise UnsafeArtefact(
                f"a skops file has the classes {', '.join(found):.200}, not the monitor's "
                f"{', '.join(known):.200}"
            )
        self._indices = [known.index(text) for text in found]

    def predict(self, rows: Sequence[Row]) -> list[Output]:
        """Score a batch; see :class:`~kedge_services.runtime.formats.Predictor`.

        Raises
        ------
        ValueError
            The pipeline cannot answer one of the rows.
        """
        if not rows:
            return []
        values = matrix(rows, self._schema)
        with one_thread().limit(limits=1):
            found = np.asarray(
                self._model.predict_proba(values) if self._classes else self._model.predict(values),
                dtype=np.float64,
            )
        if not np.isfinite(found).all():
            raise ValueError("the pipeline answers with what is no number")
        if not self._classes:
            return [Output(value=value) for value in found.reshape(len(rows)).tolist()]
        probabilities = np.zeros((len(rows), len(self._classes)))
        probabilities[:, self._indices] = found
        return class_outputs(probabilities, self._classes)


def _parts(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Give every estimator within a value, however deep."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    inside: Sequence[Any] = ()
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list | tuple | set):
        inside = list(value)
    elif isinstance(value, estimators()):
        yield value
        inside = list(vars(value).values())
    elif isinstance(value, np.ndarray) and value.dtype == object:
        inside = value.ravel().tolist()
    for item in inside:
        yield from _parts(item, seen)
