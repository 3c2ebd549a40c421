"""The output tensors of an ONNX graph as answers.

Classifiers come in three forms: a label with probabilities as a map for each
row (scikit-learn's ``ZipMap``), a label with probabilities as a tensor, and
probabilities alone; those of two classes may be one column, the positive's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar, label_text
from kedge.errors import UnsafeArtefact
from kedge.events import Output
from kedge_services.runtime.formats.columns import class_outputs
from kedge_services.runtime.formats.onnx_inputs import Tensor

__all__ = ["ClassOutputs", "NoAnswer", "ValueOutput", "match_outputs"]

#: What the probabilities of a row may miss 1 by: they are sums of single precision.
SLACK = 1e-3
#: By how much a class must lead before a label that names another contradicts it.
LEAD = 1e-2

_FLOATS = frozenset({"tensor(float16)", "tensor(float)", "tensor(double)"})
_LABELS = frozenset({"tensor(string)", "tensor(int64)", "tensor(int32)", "tensor(bool)"})


class NoAnswer(ValueError):
    """A row is answered with what is no number."""


@dataclass(frozen=True, slots=True)
class ValueOutput:
    """Of a regression: one number a row."""

    names: Sequence[str]

    def read(self, results: Sequence[Any], rows: int) -> list[Output]:
        """Give the answers; see :class:`ClassOutputs`."""
        values = _floats(results[0], rows)
        if values.shape[1] != 1:
            raise ValueError(f"it answers {values.shape[1]} numbers a row where one is expected")
        return [Output(value=value) for value in values[:, 0].tolist()]


@dataclass(frozen=True, slots=True)
class ClassOutputs:
    """Of a classification: labels, probabilities or both.

    Attributes
    ----------
    names
        The outputs to ask for: that of labels, if there is one, then that of
        probabilities, if there is one.
    has_label, has_maps
        What is among them.
    classes
        As the version declares them.
    columns
        Classes of the columns of probabilities, as indices into ``classes``.
    is_named
        Whether the graph itself names the classes of its columns.
    """

    names: Sequence[str]
    classes: Sequence[Scalar]
    has_label: bool
    has_maps: bool
    columns: Sequence[int]
    is_named: bool

    def read(self, results: Sequence[Any], rows: int) -> list[Output]:
        """Give the answers.

        Raises
        ------
        ValueError
            They are not of the right shape, not finite, no probabilities, or of
            classes that the version does not declare.
        """
        labels = self._labels(results[0], rows) if self.has_label else None
        if len(results) == self.has_label:
            return [Output(label=self.classes[index]) for index in labels or ()]
        probabilities = self._probabilities(results[-1], rows)
        outputs = class_outputs(probabilities, self.classes)
        if labels is None:
            return outputs
        if not (self.is_named or self.has_maps):
            _check_order(labels, probabilities)
        return [
            Output.model_construct(label=self.classes[i], score=o.score, scores=o.scores)
            for i, o in zip(labels, outputs, strict=True)
        ]

    def _labels(self, result: Any, rows: int) -> list[int]:
        labels = np.asarray(result)
        if labels.shape not in ((rows,), (rows, 1)):
            raise ValueError(f"it answers labels of shape {list(labels.shape)} to {rows} rows")
        known = class_index(self.classes)
        return [_place(known, label) for label in labels.ravel().tolist()]

    def _probabilities(self, result: Any, rows: int) -> NDArray[np.float64]:
        if self.has_maps:
            found = self._from_maps(result, rows)
        else:
            values = _floats(result, rows)
            if values.shape[1] == 1 and len(self.classes) == 2:
                values = np.column_stack([1 - values[:, 0], values[:, 0]])
            if values.shape[1] != len(self.columns):
                raise ValueError(
                    f"it answers {values.shape[1]} probabilities a row where there are "
                    f"{len(self.columns)} classes"
                )
            found = np.zeros((rows, len(self.classes)))
            found[:, self.columns] = values
        sums = found.sum(axis=1)
        if found.min() < -SLACK or found.max() > 1 + SLACK or abs(sums - 1).max() > SLACK:
            raise ValueError(
                "it answers scores that are no probabilities (each in [0, 1], together 1); "
                "calibrate the model, or convert it without them"
            )
        return found.clip(0, 1)

    def _from_maps(self, result: Any, rows: int) -> NDArray[np.float64]:
        if len(result) != rows:
            raise ValueError(f"it answers {len(result)} of {rows} rows")
        known = class_index(self.classes)
        found = np.zeros((rows, len(self.classes)))
        for row, scores in enumerate(result):
            for name, score in scores.items():
                found[row, _place(known, name)] = score
        return _finite(found)


def match_outputs(
    tensors: Sequence[Tensor], classes: Sequence[Scalar], orders: Iterable[Sequence[Scalar]]
) -> ClassOutputs | ValueOutput:
    """Find out which output is what.

    Parameters
    ----------
    orders
        The lists of classes that the graph names.

    Raises
    ------
    UnsafeArtefact
        It cannot be told; the message says why.
    """
    floats = [tensor.name for tensor in tensors if tensor.type in _FLOATS]
    if not classes:
        return ValueOutput([_one("a regression's number", floats, "variable", tensors)])
    maps = [tensor.name for tensor in tensors if tensor.type.startswith("seq(map(")]
    labels = [tensor.name for tensor in tensors if tensor.type in _LABELS]
    label = [_one("the label", labels, "label", tensors)] if labels else []
    score = maps or floats
    if score or not label:
        score = [_one("the probabilities", score, "prob", tensors)]
    columns = _columns(classes, orders)
    return ClassOutputs(
        names=[*label, *score],
        classes=classes,
        has_label=bool(label),
        has_maps=bool(maps),
        columns=range(len(classes)) if columns is None else columns,
        is_named=columns is not None,
    )


def _one(what: str, names: Sequence[str], hint: str, tensors: Sequence[Tensor]) -> str:
    if len(names) > 1:
        names = [name for name in names if hint in name.lower()] or names
    if len(names) == 1:
        return names[0]
    shown = ", ".join(f"{tensor.name} ({tensor.type})" for tensor in tensors)
    raise UnsafeArtefact(
        f"an ONNX file has {'no output' if not names else 'several outputs'} that could be {what}; "
        f"its outputs are {shown}"
    )


def _columns(classes: Sequence[Scalar], orders: Iterable[Sequence[Scalar]]) -> list[int] | None:
    """Give the places of the classes in the order of the graph; None: it names none, or several.

    Raises
    ------
    UnsafeArtefact
        The classes it names are others.
    """
    known = class_index(classes)
    named = {tuple(map(label_text, order)) for order in orders}
    # One against the rest has classifiers inside whose classes are numbers.
    ours = {tuple(known[name] for name in order) for order in named if known.keys() >= set(order)}
    if not ours and len(named) == 1:
        (order,) = named
        raise UnsafeArtefact(
            f"an ONNX file answers the classes {', '.join(order)} where the version has "
            f"{', '.join(map(label_text, classes))}"
        )
    return list(ours.pop()) if len(ours) == 1 else None


def class_index(classes: Sequence[Scalar]) -> dict[str, int]:
    """Give the place of each class by its text; converters write true and false as 1 and 0.

    >>> class_index(["no", "yes"]), class_index([False, True])["1"]
    ({'no': 0, 'yes': 1}, 1)
    """
    places = {label_text(label): place for place, label in enumerate(classes)}
    for place, label in enumerate(classes):
        if isinstance(label, bool):
            places.setdefault(str(int(label)), place)
    return places


def _place(known: dict[str, int], label: Any) -> int:
    text = label_text(label)
    if text not in known:
        raise ValueError(f"it answers the class {text!r}, which is none of {', '.join(known)}")
    return known[text]


def _check_order(labels: Sequence[int], probabilities: NDArray[np.float64]) -> None:
    best = probabilities.argmax(axis=1)
    rows = np.arange(len(best))
    leads = probabilities[rows, best] - probabilities[rows, labels] > LEAD
    if leads.any():
        raise ValueError(
            "its label is not its most probable class, so its classes are in another order than "
            "the version's; convert it with the classes' names (skl2onnx: zipmap=True)"
        )


def _floats(result: Any, rows: int) -> NDArray[np.float64]:
    values = np.asarray(result, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, np.newaxis]
    if values.ndim != 2 or len(values) != rows:
        raise ValueError(f"it answers a tensor of shape {list(values.shape)} to {rows} rows")
    return _finite(values)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        where = f" to row {bad[0] + 1}" if len(values) > 1 else ""
        raise NoAnswer(f"it answers no finite number{where}; can it deal with missing values?")
    return values
