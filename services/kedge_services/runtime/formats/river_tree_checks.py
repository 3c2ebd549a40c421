"""What must hold in a Hoeffding tree that is read: all that predicting and learning rely upon."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from kedge.errors import UnsafeArtefact
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats.columns import LARGEST, is_text
from kedge_services.runtime.formats.river_json import Z_BOUND
from kedge_services.runtime.formats.river_tree_state import (
    Branch,
    ClassLeaf,
    Counts,
    Cuts,
    Gaussians,
    Means,
    Node,
    TreeState,
)

__all__ = ["CATEGORIES", "DEPTH", "DIGITS", "check", "is_bounded", "is_preorder"]

#: Questions on the way to a leaf, at most.
DEPTH = 10
#: Categories of one column that are told apart; later ones count as missing.
CATEGORIES = 200
#: Decimals of the z-scores that a leaf of numbers tells apart.
DIGITS = 1

_CUTS = 2 * round(Z_BOUND * 10**DIGITS) + 1
#: Beyond it a sum has gone astray; squares of the largest numbers lie far below.
_BOUND = 1e250


def is_bounded(state: TreeState) -> bool:
    """Say whether every number in a state is finite, with room for reckoning."""
    return all(abs(number) <= _BOUND for number in _floats(msgspec.to_builtins(state)))


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        yield from _floats(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floats(item)


def is_preorder(values: Sequence[float]) -> bool:
    """Say whether these are the values of a binary search tree in preorder, each once.

    >>> is_preorder([2, 1, 3]), is_preorder([2, 3, 1]), is_preorder([1, 1])
    (True, False, False)
    """
    lower = float("-inf")
    path: list[float] = []
    for value in values:
        while path and path[-1] < value:
            lower = path.pop()
        if value <= lower or (path and path[-1] == value):
            return False
        path.append(value)
    return True


def check(state: TreeState, schema: Sequence[FeatureColumn], classes: int) -> None:
    """Check a state against the columns and the number of classes of its version.

    Raises
    ------
    UnsafeArtefact
        Something does not hold; the message says what.
    """
    kind = "tree-classifier" if classes else "tree-regressor"
    if state.kind != kind:
        raise UnsafeArtefact(f"a river-json file is {state.kind!r}, its version needs {kind!r}")
    texts = {column.name for column in schema if is_text(column)}
    _Checks(state, {column.name for column in schema} - texts, texts, classes).run()


def _must(holds: bool, what: str) -> None:  # noqa: FBT001 -- reads like an assertion
    if not holds:
        raise UnsafeArtefact(f"a river-json file has {what} that cannot be")


def _are_keys(keys: Sequence[Hashable], is_known: Callable[[Any], bool]) -> bool:
    return len(keys) == len(set(keys)) and all(map(is_known, keys))


class _Checks:
    """The checks of one state."""

    def __init__(self, state: TreeState, numbers: set[str], texts: set[str], classes: int) -> None:
        self._state = state
        self._numbers = numbers
        self._texts = texts
        self._classes = classes

    def run(self) -> None:
        state = self._state
        _must(is_bounded(state), "numbers")
        _must(state.rows >= 0, "a number of rows")
        _must(state.classes == sorted(state.classes), "classes")
        _must(_are_keys(state.classes, self._is_class), "classes")
        for column, known in state.categories.items():
            _must(column in self._texts and len(known) <= CATEGORIES, "categories")
            _must(len(known) == len(set(known)), "categories")
        for column, moments in state.scaler.items():
            _must(column in self._numbers and not self._classes, "a scaler")
            _must(moments.count > 0 and moments.variance >= 0, "a scaler")
        self._shape(state.nodes)
        for node in state.nodes:
            self._node(node)

    def _shape(self, nodes: Sequence[Node]) -> None:
        """Check that the preorder is that of one whole tree, not too deep."""
        depths = [0] if nodes else []
        for node in nodes:
            _must(bool(depths), "nodes beyond its tree")
            depth = depths.pop()
            _must(depth <= DEPTH, f"a tree deeper than {DEPTH}")
            if isinstance(node, Branch):
                depths += [depth + 1, depth + 1]
        _must(not depths, "a tree with nodes missing")

    def _node(self, node: Node) -> None:
        if isinstance(node, Branch):
            is_number = node.threshold is not None
            _must(is_number == (node.code is None), "a branch")
            _must(self._is_input((node.column, node.code)), "a branch")
            return
        _must(isinstance(node, ClassLeaf) == bool(self._classes), "a leaf")
        if isinstance(node, ClassLeaf):
            _must(_are_keys([of for of, _ in node.weights], self._is_class), "classes")
            weights = [node.majority, node.bayes, *(weight for _, weight in node.weights)]
            _must(all(0 <= weight <= LARGEST for weight in weights), "weights")
        else:
            _must(_are_keys([term[:2] for term in node.weights], self._is_input), "weights")
            _must(0 <= node.n <= LARGEST, "a leaf")
        observers = node.observers or ()
        of_numbers = [o.column for o in observers if isinstance(o, Gaussians | Cuts)]
        of_texts = [o.column for o in observers if isinstance(o, Counts | Means)]
        _must(_are_keys(of_numbers, self._numbers.__contains__), "a column observed")
        _must(_are_keys(of_texts, self._texts.__contains__), "a column observed")
        for observer in observers:
            self._observer(observer)

    def _observer(self, observer: Gaussians | Counts | Cuts | Means) -> None:
        if isinstance(observer, Gaussians):
            self._gaussians(observer)
        elif isinstance(observer, Counts):
            _must(_are_keys([of for of, _ in observer.classes], self._is_class), "classes")
            for _, counts in observer.classes:
                self._codes(observer.column, counts)
        elif isinstance(observer, Cuts):
            values = [value for value, _, _, _ in observer.nodes]
            _must(len(values) <= _CUTS and is_preorder(values), "a search tree")
            _must(all(abs(value) <= Z_BOUND for value in values), "a search tree")
            _must(all(0 < n <= LARGEST for _, n, _, _ in observer.nodes), "a search tree")
        else:
            self._codes(observer.column, [(code, n) for code, n, _, _ in observer.categories])

    def _gaussians(self, observer: Gaussians) -> None:
        _must(_are_keys([of[0] for of in observer.classes], self._is_class), "classes")
        for _, least, most, n, mean, _ in observer.classes:
            # A mean may leave its numbers by a rounding error, no more.
            _must(least <= most and max(abs(least), abs(most)) <= LARGEST, "a distribution")
            _must(0 < n <= LARGEST and abs(mean) <= 2 * LARGEST, "a distribution")

    def _codes(self, column: str, weights: Iterable[tuple[int, float]]) -> None:
        pairs = list(weights)
        _must(_are_keys([(column, code) for code, _ in pairs], self._is_input), "categories")
        _must(all(0 < weight <= LARGEST for _, weight in pairs), "categories")

    def _is_class(self, index: int) -> bool:
        return 0 <= index < self._classes

    def _is_input(self, key: tuple[str, int | None]) -> bool:
        """Say whether there is such a column, and of a category, such a code."""
        column, code = key
        if code is None:
            return column in self._numbers
        return 0 <= code < len(self._state.categories.get(column, ()))
