"""Families ``river-logistic`` and ``river-linear``: linear models that learn row by row, for ever.

Numbers are scaled by their running mean and deviation, within bounds; a missing
number counts as its mean.  A category is a weight of its own; a missing one has
none.  Two classes: logistic regression; more: softmax; numbers: linear
regression on the scaled target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from river.linear_model import LinearRegression, LogisticRegression, SoftmaxRegression
from river.optim import SGD
from river.utils import VectorDict

from kedge.base import label_text
from kedge.events import Output
from kedge_services.runtime.formats import Row
from kedge_services.runtime.formats.columns import is_text
from kedge_services.runtime.formats.river_json import Moments, number_of, text_of
from kedge_services.runtime.formats.river_linear import (
    Function,
    LinearPredictor,
    LinearState,
    dump,
    read,
)
from kedge_services.trainer.families import Fitted, Shape, Table
from kedge_services.trainer.river_scaling import learning_rate, moments_of, scaler_of, z_scores

__all__ = ["CATEGORIES", "Learner", "RiverLinear", "RiverLogistic"]

#: Categories of one column that get a weight; later ones count as missing.
CATEGORIES = 1_000
LEARNING_RATE = 0.01

#: A name inside River: a column, and its category if it has any.
Key = tuple[str, str | None]
#: The constant of softmax.
_ONE: Key = ("", None)
#: The label of a regression.
_TARGET = "target"


class RiverLogistic:
    """The family for classes; all that it knows about a training is in its :class:`Learner`."""

    name = "river-logistic"
    kinds: tuple[str, ...] = ("logistic", "softmax")
    libraries: tuple[str, ...] = ("river",)

    def parameters(self, shape: Shape) -> dict[str, Any]:
        """Give the parameters of the gradient descent."""
        return {"learning_rate": _rate(shape), "categories": CATEGORIES}

    def fit(self, table: Table, shape: Shape, *, seed: int, start: bytes | None = None) -> Fitted:  # noqa: ARG002 -- nothing is drawn
        """Train; see :class:`~kedge_services.trainer.families.Family`."""
        learner = Learner(shape, None if start is None else read(start))
        outputs = [
            learner.learn(row, target)
            for row, target in zip(table.rows, table.targets, strict=True)
        ]
        state = learner.state()
        data = dump(state)
        predictor = LinearPredictor(state, shape.columns, shape.classes)
        return Fitted(predictor, lambda: data, "river-json", outputs)


class RiverLinear(RiverLogistic):
    """The family for numbers; the learner tells by the shape what to do."""

    name = "river-linear"
    kinds = ("linear",)


def _rate(shape: Shape) -> float:
    # The gradient of a class is at most 1, that of a number has no such bound.
    return LEARNING_RATE if shape.classes else learning_rate(len(shape.columns))


class Learner:
    """A scaler and a linear model of River, made from a state and turned into one again.

    Raises
    ------
    UnsafeArtefact
        The state is of another kind than the shape.
    """

    def __init__(self, shape: Shape, state: LinearState | None = None) -> None:
        self._shape = shape
        self._texts = [column.name for column in shape.columns if is_text(column)]
        self._numbers = [column.name for column in shape.columns if not is_text(column)]
        self._kind: Literal["logistic", "softmax", "linear"] = (
            "linear" if not shape.classes else "logistic" if len(shape.classes) == 2 else "softmax"
        )
        if state is None:
            functions = [] if self._kind == "softmax" else [Function()]
            state = LinearState(self._kind, iterations=0, scaler={}, functions=functions)
        # A predictor refuses what does not fit together.
        LinearPredictor(state, shape.columns, shape.classes)
        self._scaler = scaler_of(state.scaler)
        self._target = scaler_of({_TARGET: state.target})
        self._seen = {
            name: {text for f in state.functions for text in f.categorical().get(name, {})}
            for name in self._texts
        }
        self._iterations = state.iterations
        self._model = self._restored(state)

    def learn(self, row: Row, target: float) -> Output:
        """Answer a row, then learn its target: a class's index, or a number."""
        known = self._known(row)
        answer = self._answer(self._inputs(row, known))
        self._scaler.learn_one(known)
        for name in self._texts:
            text = text_of(row.get(name))
            if text is not None and len(self._seen[name]) < CATEGORIES:
                self._seen[name].add(text)
        self._iterations += 1
        inputs = self._inputs(row, known)
        if self._kind == "linear":
            self._target.learn_one({_TARGET: target})
            self._model.learn_one(inputs, self._target.transform_one({_TARGET: target})[_TARGET])
        elif self._kind == "logistic":
            self._model.learn_one(inputs, target == 1)
        else:
            self._model.learn_one(inputs, int(target))
        return answer

    def state(self) -> LinearState:
        """Give everything that learning needs to go on."""
        if self._kind == "softmax":
            functions = [
                Function(index, 0.0, _terms(weights))
                for index, weights in self._model.weights.items()
            ]
        else:
            functions = [Function(0, float(self._model.intercept), _terms(self._model.weights))]
        target = moments_of(self._target).get(_TARGET, Moments())
        return LinearState(
            self._kind, self._iterations, moments_of(self._scaler), functions, target
        )

    # ------------------------------------------------------------------ inside

    def _known(self, row: Row) -> dict[str, float]:
        """Give the numbers that are there; absent ones stay out of River's sums."""
        found = ((name, number_of(row.get(name))) for name in self._numbers)
        return {name: number for name, number in found if number is not None}

    def _inputs(self, row: Row, known: Mapping[str, float]) -> dict[Key, float]:
        inputs: dict[Key, float] = {
            (name, None): score for name, score in z_scores(self._scaler, known).items()
        }
        for name in self._texts:
            text = text_of(row.get(name))
            if text is not None and text in self._seen[name]:
                inputs[name, text] = 1.0
        if self._kind == "softmax":
            # River's softmax has no intercept; a constant input gives it one.
            inputs[_ONE] = 1.0
        return inputs

    def _answer(self, inputs: Mapping[Key, float]) -> Output:
        classes = self._shape.classes
        if self._kind == "linear":
            deviation = math.sqrt(self._target.vars[_TARGET])
            value = self._model.predict_one(inputs) * deviation + self._target.means[_TARGET]
            return Output(value=float(value))
        found: Mapping[Any, float] = self._model.predict_proba_one(inputs)
        if self._kind == "logistic":
            score = float(found[True])
            return Output(label=classes[1] if score > 0.5 else classes[0], score=score)
        scores = {label_text(label): found.get(i, 0.0) for i, label in enumerate(classes)}
        best = max(range(len(classes)), key=lambda i: found.get(i, 0.0))
        return Output(label=classes[best], scores=scores)

    def _restored(self, state: LinearState) -> Any:
        rate = _rate(self._shape)
        if self._kind == "softmax":
            softmax = SoftmaxRegression(optimizer=SGD(rate))
            for function in state.functions:
                softmax.weights[function.index].update(_flat(function))
            return softmax
        kind = LogisticRegression if self._kind == "logistic" else LinearRegression
        model: Any = kind(optimizer=SGD(rate), intercept_lr=rate)
        [function] = state.functions
        # River has no public way to set weights; the tests compare with it at every row.
        model._weights = VectorDict(_flat(function))  # noqa: SLF001
        model.intercept = function.intercept
        model.optimizer.n_iterations = state.iterations
        return model


def _flat(function: Function) -> dict[Key, float]:
    return {(column, category): weight for column, category, weight in function.terms}


def _terms(flat: Mapping[Key, float]) -> list[tuple[str, str | None, float]]:
    return [(column, category, float(weight)) for (column, category), weight in flat.items()]
