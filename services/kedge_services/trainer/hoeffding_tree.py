"""Family ``river-hoeffding-tree``: a tree of River that learns row by row, for ever.

What is supported, and how it is stored, stands in
:mod:`kedge_services.runtime.formats.river_tree`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping
from typing import Any

from river.base import Regressor
from river.linear_model import LinearRegression
from river.optim import SGD
from river.tree import HoeffdingTreeClassifier, HoeffdingTreeRegressor
from river.tree.splitter import GaussianSplitter, TEBSTSplitter

from kedge.events import Output
from kedge_services.runtime.formats import Row
from kedge_services.runtime.formats.columns import is_text
from kedge_services.runtime.formats.river_json import number_of, text_of
from kedge_services.runtime.formats.river_tree import TreePredictor, class_answers, dump, read
from kedge_services.runtime.formats.river_tree_checks import CATEGORIES, DEPTH, DIGITS
from kedge_services.runtime.formats.river_tree_state import TreeState
from kedge_services.trainer.families import Fitted, Shape, Table
from kedge_services.trainer.hoeffding_state import plant, uproot
from kedge_services.trainer.river_scaling import learning_rate, moments_of, scaler_of, z_scores

__all__ = ["HoeffdingTree", "LeafRegression", "TreeLearner", "grown"]

#: Columns times leaves that a tree may have: files stay within some 20 MB.
_OBSERVERS = 20_000

_PARAMETERS: dict[str, Any] = {
    "grace_period": 200,
    "delta": 1e-7,
    "tau": 0.05,
    "binary_split": True,
}


class HoeffdingTree:
    """The family; all that it knows about a training is in its :class:`TreeLearner`."""

    name = "river-hoeffding-tree"
    kinds: tuple[str, ...] = ("tree-classifier", "tree-regressor")
    libraries: tuple[str, ...] = ("river",)

    def parameters(self, shape: Shape) -> dict[str, Any]:
        """Give the parameters of the growth."""
        return {**_PARAMETERS, "max_depth": _depth(shape), "categories": CATEGORIES}

    def fit(self, table: Table, shape: Shape, *, seed: int, start: bytes | None = None) -> Fitted:  # noqa: ARG002 -- nothing is drawn
        """Train; see :class:`~kedge_services.trainer.families.Family`."""
        state = None if start is None else read(start, shape.columns, shape.classes)
        learner = TreeLearner(shape, state)
        try:
            outputs = [
                learner.learn(row, target)
                for row, target in zip(table.rows, table.targets, strict=True)
            ]
        except ArithmeticError as error:
            raise ValueError(f"the tree has diverged: {error}") from error
        state = learner.state()
        data = dump(state)
        predictor = TreePredictor(state, shape.columns, shape.classes)
        return Fitted(predictor, lambda: data, "river-json", outputs)


class LeafRegression(Regressor):
    """The linear model in a leaf of numbers; a category is a weight of its own."""

    def __init__(self, texts: frozenset[str], rate: float) -> None:
        self.texts = texts
        self.rate = rate
        self.linear: Any = LinearRegression(optimizer=SGD(rate), intercept_lr=rate)

    def learn_one(self, x: dict[Hashable, Any], y: float, w: float = 1.0) -> None:
        """Learn a row."""
        self.linear.learn_one(self._terms(x), y, w)

    def predict_one(self, x: dict[Hashable, Any]) -> float:
        """Answer a row."""
        return float(self.linear.predict_one(self._terms(x)))

    def _terms(self, x: Mapping[Hashable, Any]) -> dict[tuple[Hashable, int | None], float]:
        return {
            (name, int(value) if name in self.texts else None): 1.0 if name in self.texts else value
            for name, value in x.items()
        }


class TreeLearner:
    """A Hoeffding tree of River, made from a state that was checked and turned into one again."""

    def __init__(self, shape: Shape, state: TreeState | None = None) -> None:
        self._shape = shape
        self._texts = [column.name for column in shape.columns if is_text(column)]
        self._numbers = [column.name for column in shape.columns if not is_text(column)]
        self._rows = 0 if state is None else state.rows
        self._scaler = scaler_of({} if state is None else state.scaler)
        known = {} if state is None else state.categories
        self._codes: dict[str, dict[str, int]] = {
            name: {text: code for code, text in enumerate(known.get(name, ()))}
            for name in self._texts
        }
        self._tree = grown(shape)
        if state is not None:
            plant(self._tree, state.nodes)
            # River counts rows as a float; so do its own trees that were never stored.
            self._tree._train_weight_seen_by_model = float(state.rows)  # noqa: SLF001
            if shape.classes:
                self._tree.classes.update(state.classes)

    def learn(self, row: Row, target: float) -> Output:
        """Answer a row, then learn its target: a class's index, or a number."""
        found = ((name, number_of(row.get(name))) for name in self._numbers)
        known = {name: number for name, number in found if number is not None}
        inputs = self._inputs(row, known)
        if self._shape.classes:
            [answer] = class_answers([self._tree.predict_proba_one(inputs)], self._shape.classes)
        else:
            answer = Output(value=float(self._tree.predict_one(inputs)))
            self._scaler.learn_one(known)
        for name, codes in self._codes.items():
            text = text_of(row.get(name))
            if text is not None and len(codes) < CATEGORIES:
                codes.setdefault(text, len(codes))
        self._rows += 1
        self._tree.learn_one(
            self._inputs(row, known), int(target) if self._shape.classes else float(target)
        )
        return answer

    def state(self) -> TreeState:
        """Give everything that learning needs to go on."""
        is_classes = bool(self._shape.classes)
        return TreeState(
            kind="tree-classifier" if is_classes else "tree-regressor",
            rows=self._rows,
            classes=sorted(self._tree.classes) if is_classes else [],
            categories={name: list(codes) for name, codes in self._codes.items() if codes},
            scaler=moments_of(self._scaler),
            nodes=uproot(self._tree),
        )

    def _inputs(self, row: Row, known: Mapping[str, float]) -> dict[str, float]:
        """Give what is there, always in the same order: floats are added up in it."""
        inputs = dict(known) if self._shape.classes else z_scores(self._scaler, known)
        for name, codes in self._codes.items():
            text = text_of(row.get(name))
            if text in codes:
                inputs[name] = codes[text]
        return inputs


def grown(shape: Shape) -> Any:
    """Give an untaught tree for a shape.

    Its size is bounded by its depth: River would measure it in bytes of memory,
    which differ between a tree that was stored and one that was not.
    """
    common: dict[str, Any] = {
        **_PARAMETERS,
        "max_depth": _depth(shape),
        "max_size": math.inf,
        "memory_estimate_period": sys.maxsize,
        "nominal_attributes": [column.name for column in shape.columns if is_text(column)],
    }
    if shape.classes:
        return HoeffdingTreeClassifier(leaf_prediction="nba", splitter=GaussianSplitter(), **common)
    model = LeafRegression(
        frozenset(common["nominal_attributes"]), learning_rate(len(shape.columns))
    )
    return HoeffdingTreeRegressor(
        leaf_prediction="adaptive", leaf_model=model, splitter=TEBSTSplitter(DIGITS), **common
    )


def _depth(shape: Shape) -> int:
    leaves = _OBSERVERS // max(1, len(shape.columns))
    return max(3, min(DEPTH, leaves.bit_length() - 1))
