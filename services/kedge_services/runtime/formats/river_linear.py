"""Linear models of River in ``river-json``: weights, intercept, moments, categories seen so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
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
from kedge_services.runtime.formats.river_json import Z_BOUND, Moments, decode, encode

__all__ = ["Function", "LinearPredictor", "LinearState", "dump", "load", "read"]


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One linear function of the columns.

    Attributes
    ----------
    index
        Of the class it belongs to (softmax only).
    intercept
        The constant; River's softmax has none and learns the weight of column
        ``""``, which is 1 in every row.
    terms
        Column, category and weight; for a number the category is None and the
        weight that of its z-score.  In the order of learning: floats are added
        up in it, so another order would give other last bits.
    """

    index: int = 0
    intercept: float = 0.0
    terms: list[tuple[str, str | None, float]] = []

    def numeric(self) -> dict[str, float]:
        """Give the weights of the numeric columns."""
        return {column: weight for column, category, weight in self.terms if category is None}

    def categorical(self) -> dict[str, dict[str, float]]:
        """Give the weights by column and category."""
        result: dict[str, dict[str, float]] = {}
        for column, category, weight in self.terms:
            if category is not None:
                result.setdefault(column, {})[category] = weight
        return result


class LinearState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a linear model knows.

    Attributes
    ----------
    kind
        ``logistic`` and ``linear`` have one function; ``softmax`` has one for
        each class seen so far, named by its index, in the order first seen.
    iterations
        Rows learnt.
    scaler
        Moments of the numeric columns; a missing number becomes its mean.
    target
        Moments of the label (``linear`` only); the function gives its z-score.
    """

    kind: Literal["logistic", "softmax", "linear"]
    iterations: int
    scaler: dict[str, Moments]
    functions: list[Function]
    target: Moments = Moments()
    format: Literal["kedge-linear-1"] = "kedge-linear-1"


def _is_bounded(state: LinearState) -> bool:
    """Say whether every number is finite, with room for reckoning."""
    moments = (*state.scaler.values(), state.target)
    weights = [w for f in state.functions for w in (f.intercept, *(t[2] for t in f.terms))]
    means = [of.mean for of in moments]
    return all(abs(number) <= 2 * LARGEST for number in (*weights, *means)) and all(
        math.isfinite(of.variance) for of in moments
    )


def dump(state: LinearState) -> bytes:
    """Write a state; equal states give equal bytes.

    Raises
    ------
    ValueError
        A number is not finite: the model has diverged.
    """
    if not _is_bounded(state):
        raise ValueError("the linear model has diverged: a weight is beyond all bounds")
    return encode(state)


def read(data: bytes) -> LinearState:
    """Read what :func:`dump` wrote.

    Raises
    ------
    UnsafeArtefact
        The bytes are no such state.
    """
    state = decode(data, LinearState)
    moments = (*state.scaler.values(), state.target)
    least = min(state.iterations, *(n for of in moments for n in (of.count, of.variance)))
    if least < 0 or not _is_bounded(state):
        raise UnsafeArtefact("a river-json file holds a number that cannot be")
    return state


def load(
    data: bytes, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]
) -> LinearPredictor:
    """Read a file and make it ready to predict.

    Raises
    ------
    UnsafeArtefact
        The bytes are no such state, or one of other classes.
    """
    return LinearPredictor(read(data), schema, classes)


class LinearPredictor:
    """Scores batches with a linear model.

    Raises
    ------
    UnsafeArtefact
        The state is of another kind or of other classes than the version.
    """

    def __init__(
        self, state: LinearState, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]
    ) -> None:
        kind = {0: "linear", 2: "logistic"}.get(len(classes), "softmax")
        indices = [function.index for function in state.functions]
        if state.kind != kind or (kind != "softmax" and len(indices) != 1):
            raise UnsafeArtefact(f"a river-json file is {state.kind!r}, its version needs {kind!r}")
        if kind == "softmax" and not set(indices) <= set(range(len(classes))):
            raise UnsafeArtefact("a river-json file has other classes than its manifest says")
        names = set(state.scaler) | {term[0] for f in state.functions for term in f.terms}
        if not names <= {"", *(column.name for column in schema)}:
            raise UnsafeArtefact("a river-json file has other columns than its manifest says")
        self._state = state
        self._classes = list(classes)
        self._functions = [
            (f.intercept + f.numeric().get("", 0.0), f.numeric(), f.categorical())
            for f in state.functions
        ]
        self._numbers = [column.name for column in schema if not is_text(column)]
        self._texts = [column.name for column in schema if is_text(column)]

    def predict(self, rows: Sequence[Row]) -> list[Output]:
        """Score a batch; see :class:`~kedge_services.runtime.formats.Predictor`."""
        if not rows:
            return []
        raw = self._raw(rows)
        if self._state.kind == "linear":
            target = self._state.target
            values = raw[:, 0] * math.sqrt(target.variance) + target.mean
            return [Output(value=value) for value in values.tolist()]
        probabilities = np.zeros((len(rows), len(self._classes)))
        if self._state.kind == "logistic":
            probabilities[:, 1] = 1.0 / (1.0 + np.exp(-np.clip(raw[:, 0], -700.0, 700.0)))
            probabilities[:, 0] = 1.0 - probabilities[:, 1]
        elif raw.shape[1]:
            powers = np.exp(raw - raw.max(axis=1, keepdims=True))
            indices = [function.index for function in self._state.functions]
            probabilities[:, indices] = powers / powers.sum(axis=1, keepdims=True)
        return class_outputs(probabilities, self._classes)

    def _raw(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Give the linear functions' values, shape (n, functions)."""
        functions = self._functions
        result = np.tile([constant for constant, _, _ in functions], (len(rows), 1))
        for name in self._numbers:
            moments = self._state.scaler.get(name)
            if moments is None or moments.variance == 0:
                continue
            column = known_numbers([row.get(name) for row in rows])
            score = (column - moments.mean) / math.sqrt(moments.variance)
            score = np.clip(np.nan_to_num(score), -Z_BOUND, Z_BOUND)
            for index, (_, numeric, _) in enumerate(functions):
                result[:, index] += score * numeric.get(name, 0.0)
        for name in self._texts:
            categories = texts([row.get(name) for row in rows])
            for index, (_, _, categorical) in enumerate(functions):
                weights = categorical.get(name, {})
                result[:, index] += [
                    0.0 if category is None else weights.get(category, 0.0)
                    for category in categories
                ]
        return result
