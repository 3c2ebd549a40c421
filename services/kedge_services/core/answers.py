"""Open Inference Protocol v2 (JSON), what goes out: answers and feature schemas as tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kedge.base import Scalar, label_text
from kedge.errors import DeadLetter
from kedge.events import Output
from kedge.versions import FeatureColumn

__all__ = ["encode_outputs", "metadata"]

_DATATYPES = {"numeric": "FP64", "categorical": "BYTES", "boolean": "BOOL"}


def encode_outputs(
    answers: Sequence[Output], classes: Sequence[Scalar], wanted: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Give the output tensors: ``predict``, and ``score`` or ``probabilities`` if there are.

    Parameters
    ----------
    answers
        One for each row.
    classes
        The order of the columns of ``probabilities``.
    wanted
        Names of the tensors to give; empty means all.

    Raises
    ------
    DeadLetter
        A wanted tensor does not exist.
    """
    tensors = [_predict(answers)]
    if any(answer.score is not None for answer in answers):
        scores = [_json_number(answer.score) for answer in answers]
        tensors.append(_output("score", "FP64", [len(answers)], scores))
    if any(answer.scores is not None for answer in answers):
        names = [label_text(each) for each in classes]
        names = names or sorted({name for answer in answers for name in answer.scores or {}})
        flat = [
            _json_number((answer.scores or {}).get(name)) for answer in answers for name in names
        ]
        tensor = _output("probabilities", "FP64", [len(answers), len(names)], flat)
        tensors.append({**tensor, "parameters": {"classes": names}})
    known = [tensor["name"] for tensor in tensors]
    if unknown := [name for name in wanted if name not in known]:
        raise DeadLetter(
            "schema-mismatch", f"no output {unknown[0]!r}; there are {', '.join(known)}"
        )
    return [tensor for tensor in tensors if not wanted or tensor["name"] in wanted]


def metadata(schema: Sequence[FeatureColumn]) -> list[dict[str, Any]]:
    """Describe the input tensors of a version, one for each feature."""
    return [
        {"name": column.name, "datatype": _DATATYPES[column.type], "shape": [-1]}
        for column in schema
    ]


def _predict(answers: Sequence[Output]) -> dict[str, Any]:
    shape = [len(answers)]
    labels = [answer.label if answer.label is not None else answer.value for answer in answers]
    if all(isinstance(label, bool) for label in labels):
        return _output("predict", "BOOL", shape, labels)
    if all(type(label) is int for label in labels):
        return _output("predict", "INT64", shape, labels)
    if all(label is None or isinstance(label, int | float) for label in labels):
        return _output("predict", "FP64", shape, [_json_number(label) for label in labels])
    texts = [None if label is None else label_text(label) for label in labels]
    return _output("predict", "BYTES", shape, texts)


def _output(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def _json_number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
