"""Hoeffding trees of River in ``river-json``: reading, writing, predicting.

What is supported, and no more: binary splits; leaves that answer by naive Bayes
where that was right at least as often as the majority (classes), or by a linear
model where that was at least as close as the mean (numbers); Gaussians by
class, or a search tree of z-scores to one decimal, for numeric columns; counts
or moments for categorical ones.  A missing value, and a category that training
has not seen, go the way most rows went.

Categories are numbered in the order first seen: River keeps them in sets, whose
order is the same in every process for small numbers, but not for texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kedge.base import Scalar
from kedge.events import Output
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Row
from kedge_services.runtime.formats.columns import class_outputs, is_text
from kedge_services.runtime.formats.river_bayes import NaiveBayes
from kedge_services.runtime.formats.river_json import (
    Z_BOUND,
    Moments,
    decode,
    encode,
    number_of,
    text_of,
)
from kedge_services.runtime.formats.river_tree_checks import check, is_bounded
from kedge_services.runtime.formats.river_tree_state import (
    Branch,
    ClassLeaf,
    Leaf,
    NumberLeaf,
    TreeState,
)

__all__ = ["TreePredictor", "class_answers", "dump", "load", "read"]

#: The values of a row that are there: numbers (z-scores in a regressor) and codes.
Inputs = Mapping[str, float]


def dump(state: TreeState) -> bytes:
    """Write a state; equal states give equal bytes.

    Raises
    ------
    ValueError
        A number has grown beyond all bounds: the model has diverged; or the
        tree has grown too large.
    """
    if not is_bounded(state):
        raise ValueError("the tree has diverged: a number in it is beyond all bounds")
    return encode(state)


def read(data: bytes, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]) -> TreeState:
    """Read what :func:`dump` wrote for a model of these columns and classes.

    Raises
    ------
    UnsafeArtefact
        The bytes are no such state.
    """
    state = decode(data, TreeState)
    check(state, schema, len(classes))
    return state


def load(data: bytes, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]) -> TreePredictor:
    """Read a file and make it ready to predict.

    Raises
    ------
    UnsafeArtefact
        The bytes are no such state, or one of other columns or classes.
    """
    return TreePredictor(read(data, schema, classes), schema, classes)


def _scaled(number: float, moments: Moments | None) -> float:
    """Give the z-score of a number, within its bound; nothing known of a column is 0."""
    if moments is None or moments.variance == 0:
        return 0.0
    # A power and no square root: as River does it, to the last bit.
    score: float = (number - moments.mean) / moments.variance**0.5
    return min(max(score, -Z_BOUND), Z_BOUND)


class TreePredictor:
    """Scores rows with a tree that has been checked."""

    def __init__(
        self, state: TreeState, schema: Sequence[FeatureColumn], classes: Sequence[Scalar]
    ) -> None:
        self._classes = list(classes)
        self._numbers = [column.name for column in schema if not is_text(column)]
        self._scaler = None if classes else state.scaler
        self._codes = {
            column.name: {
                text: code for code, text in enumerate(state.categories.get(column.name, ()))
            }
            for column in schema
            if is_text(column)
        }
        self._nodes = state.nodes
        #: Of every branch: its second child, and which child has more rows.
        self._second: dict[int, int] = {}
        self._common: dict[int, int] = {}
        if self._nodes:
            self._measure(0)
        self._bayes = {
            index: NaiveBayes(node)
            for index, node in enumerate(self._nodes)
            if isinstance(node, ClassLeaf)
        }

    def predict(self, rows: Sequence[Row]) -> list[Output]:
        """Score a batch; see :class:`~kedge_services.runtime.formats.Predictor`."""
        if not self._classes:
            return [Output(value=self._value(self._inputs(row))) for row in rows]
        return class_answers(
            [self._probabilities(self._inputs(row)) for row in rows], self._classes
        )

    # ------------------------------------------------------------------- the way down

    def _measure(self, index: int) -> tuple[int, float]:
        """Give the node after this one's subtree, and its weight."""
        node = self._nodes[index]
        if not isinstance(node, Branch):
            return index + 1, weight_of(node)
        second, first_weight = self._measure(index + 1)
        end, second_weight = self._measure(second)
        self._second[index] = second
        self._common[index] = second if first_weight < second_weight else index + 1
        return end, first_weight + second_weight

    def _inputs(self, row: Row) -> Inputs:
        result: dict[str, float] = {}
        for name in self._numbers:
            number = number_of(row.get(name))
            if number is not None:
                scaler = self._scaler
                result[name] = number if scaler is None else _scaled(number, scaler.get(name))
        for name, codes in self._codes.items():
            text = text_of(row.get(name))
            if text in codes:
                result[name] = codes[text]
        return result

    def _leaf(self, inputs: Inputs) -> int:
        """Give the place of the leaf that a row comes to."""
        index = 0
        while isinstance(node := self._nodes[index], Branch):
            value = inputs.get(node.column)
            if value is None:
                index = self._common[index]
            elif value <= node.threshold if node.threshold is not None else value == node.code:
                index += 1
            else:
                index = self._second[index]
        return index

    # ------------------------------------------------------------------- the answers

    def _value(self, inputs: Inputs) -> float:
        leaf = self._nodes[self._leaf(inputs)] if self._nodes else None
        if not isinstance(leaf, NumberLeaf):
            return 0.0
        if leaf.mean_error < leaf.model_error:
            return leaf.mean
        result = 0.0
        for column, code, weight in leaf.weights:
            value = inputs.get(column)
            if value is not None and code is None:
                result += weight * value
            elif value is not None and value == code:
                result += weight
        return result + leaf.intercept

    def _probabilities(self, inputs: Inputs) -> Mapping[int, float]:
        place = self._leaf(inputs) if self._nodes else -1
        leaf = self._nodes[place] if self._nodes else None
        if not isinstance(leaf, ClassLeaf):
            return {}
        if leaf.observers is not None and leaf.bayes >= leaf.majority:
            return self._bayes[place].probabilities(inputs)
        total = weight_of(leaf)
        return {label: weight * (1 / total) for label, weight in leaf.weights} if total else {}


def class_answers(found: Sequence[Mapping[int, float]], classes: Sequence[Scalar]) -> list[Output]:
    """Give outputs for the probabilities found by class; nothing found is a tie of all."""
    if not found:
        return []
    probabilities = np.zeros((len(found), len(classes)))
    for index, row in enumerate(found):
        for label, probability in row.items():
            probabilities[index, label] = probability
    probabilities[~probabilities.any(axis=1)] = 1 / len(classes)
    return class_outputs(probabilities, classes)


def weight_of(leaf: Leaf) -> float:
    """Give the rows a leaf has seen."""
    if isinstance(leaf, NumberLeaf):
        return leaf.n
    return sum(weight for _, weight in leaf.weights)
