"""Model files: how bytes become something that predicts, without running what they say.

Only formats that hold data, never code, are read: ``skops`` with an exact list
of types, ``river-json``, and ``onnx`` with the standard's operators alone.
Pickle is not among them and never will be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from kedge.base import Scalar
from kedge.errors import UnsafeArtefact
from kedge.events import Output
from kedge.versions import Candidate, ModelVersion

__all__ = ["Predictor", "Row", "load_predictor"]

Row = Mapping[str, Scalar | None]


class Predictor(Protocol):
    """A loaded version of a model."""

    def predict(self, rows: Sequence[Row]) -> list[Output]:
        """Score a batch, one output a row in the same order.

        Columns the version does not know are ignored; absent, None and NaN are
        missing values; a category never seen in training is a missing value.

        Returns
        -------
        list of Output
            Binary: ``label`` and ``score``, the probability of the positive
            class, ``classes[1]``.  Multiclass: ``label`` and ``scores`` by the
            text of each class.  Regression: ``value``.

        Raises
        ------
        ValueError
            A model from elsewhere has no answer to a row, say because a value is
            missing; Kedge's own answer every row.
        """


def load_predictor(version: ModelVersion | Candidate, data: bytes) -> Predictor:
    """Load a model file; ``data`` comes checked from the artefact store.

    Raises
    ------
    UnsafeArtefact
        The version has no file, its format is not one we load, or the file
        holds anything but a model of this version's columns and classes.
    """
    if version.artefact is None:
        raise UnsafeArtefact(f"model {version.model!r}: this version has no artefact to load")
    if version.artefact.format == "skops":
        from kedge_services.runtime.formats import skops_files

        return skops_files.load(data, version.feature_schema, version.classes)
    if version.artefact.format == "river-json":
        from kedge_services.runtime.formats import river_json

        return river_json.load(data, version.feature_schema, version.classes)
    if version.artefact.format == "onnx":
        from kedge_services.runtime.formats import onnx_model

        return onnx_model.load(data, version.feature_schema, version.classes)
    raise UnsafeArtefact(
        f"model {version.model!r}: artefacts of format {version.artefact.format!r} are not loaded "
        "here; serve that version elsewhere"
    )
