"""A Hoeffding tree of River as plain data, and back, with every statistic in it.

River has no public way to either, so this file, and no other, knows how its
trees look inside; the tests compare with River at every row.
"""
# ruff: noqa: SLF001 -- see above

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from river.proba import Gaussian
from river.stats import Var
from river.tree.nodes.branch import NominalBinaryBranch, NumericBinaryBranch
from river.tree.splitter.ebst_splitter import EBSTNode
from river.utils import VectorDict

from kedge_services.runtime.formats.river_tree_state import (
    Branch,
    ClassLeaf,
    Counts,
    Cuts,
    Gaussians,
    Leaf,
    Means,
    Node,
    NumberLeaf,
)

__all__ = ["plant", "uproot"]


def uproot(tree: Any) -> list[Node]:
    """Give the nodes of a tree in preorder."""
    return [] if tree._root is None else list(_nodes(tree._root))


def plant(tree: Any, nodes: Sequence[Node]) -> None:
    """Make an untaught tree the one of these nodes, which have been checked."""
    if not nodes:
        return
    tree._root = _planted(tree, iter(nodes), depth=0)
    leaves = list(tree._root.iter_leaves())
    tree._n_active_leaves = sum(leaf.is_active() for leaf in leaves)
    tree._n_inactive_leaves = len(leaves) - tree._n_active_leaves


# --------------------------------------------------------------------- from River


def _nodes(node: Any) -> Iterator[Node]:
    if isinstance(node, NumericBinaryBranch):
        yield Branch(node.feature, threshold=float(node.threshold))
    elif isinstance(node, NominalBinaryBranch):
        yield Branch(node.feature, code=int(node.value))
    elif isinstance(node.stats, dict):
        yield _class_leaf(node)
        return
    else:
        yield _number_leaf(node)
        return
    for child in node.children:
        yield from _nodes(child)


def _class_leaf(leaf: Any) -> ClassLeaf:
    observers: list[Gaussians | Counts] | None = None
    if leaf.is_active():
        observers = [
            _gaussians(column, splitter) if splitter.is_numeric else _counts(column, splitter)
            for column, splitter in leaf.splitters.items()
        ]
    return ClassLeaf(
        weights=[(label, float(weight)) for label, weight in leaf.stats.items()],
        attempted=float(leaf.last_split_attempt_at),
        majority=float(leaf._mc_correct_weight),
        bayes=float(leaf._nb_correct_weight),
        observers=observers,
    )


def _gaussians(column: str, splitter: Any) -> Gaussians:
    return Gaussians(
        column,
        [
            (label, splitter._min_per_class[label], splitter._max_per_class[label], *_sums(d._var))
            for label, d in splitter._att_dist_per_class.items()
        ],
    )


def _counts(column: str, splitter: Any) -> Counts:
    by_class = splitter._att_dist_per_class
    return Counts(column, [(label, list(counts.items())) for label, counts in by_class.items()])


def _number_leaf(leaf: Any) -> NumberLeaf:
    n, mean, squares = _sums(leaf.stats)
    linear = leaf._leaf_model.linear
    observers: list[Cuts | Means] | None = None
    if leaf.is_active():
        observers = [
            Cuts(column, list(_cuts(splitter._root)))
            if splitter.is_numeric
            else Means(column, [(c, *_sums(var)) for c, var in splitter._statistics.items()])
            for column, splitter in leaf.splitters.items()
        ]
    return NumberLeaf(
        n=n,
        mean=mean,
        squares=squares,
        attempted=float(leaf.last_split_attempt_at),
        mean_error=float(leaf._fmse_mean),
        model_error=float(leaf._fmse_model),
        intercept=float(linear.intercept),
        weights=[(column, code, float(w)) for (column, code), w in linear.weights.items()],
        observers=observers,
    )


def _cuts(node: Any) -> Iterator[tuple[float, float, float, float]]:
    # As deep as there are different z-scores to one decimal, some two hundred.
    if node is not None:
        yield (float(node.att_val), *_sums(node.estimator))
        yield from _cuts(node._left)
        yield from _cuts(node._right)


def _sums(var: Any) -> tuple[float, float, float]:
    return float(var.mean.n), float(var.mean._mean), float(var._S)


# ----------------------------------------------------------------------- to River


def _planted(tree: Any, nodes: Iterator[Node], depth: int) -> Any:
    node = next(nodes)
    if not isinstance(node, Branch):
        return _leaf(tree, node, depth)
    first = _planted(tree, nodes, depth + 1)
    second = _planted(tree, nodes, depth + 1)
    # What a branch has seen itself is for drawing only.
    is_number = node.threshold is not None
    kind: Any = NumericBinaryBranch if is_number else NominalBinaryBranch
    answer = node.threshold if is_number else node.code
    return kind({}, node.column, answer, depth, first, second)


def _leaf(tree: Any, node: Leaf, depth: int) -> Any:
    if isinstance(node, ClassLeaf):
        leaf = tree._new_leaf(dict(node.weights))
        leaf._mc_correct_weight = node.majority
        leaf._nb_correct_weight = node.bayes
    else:
        leaf = tree._new_leaf(_var(node.n, node.mean, node.squares))
        leaf._fmse_mean = node.mean_error
        leaf._fmse_model = node.model_error
        linear = leaf._leaf_model.linear
        linear._weights = VectorDict({(column, code): w for column, code, w in node.weights})
        linear.intercept = node.intercept
    leaf.depth = depth
    leaf.last_split_attempt_at = node.attempted
    leaf.splitters = None
    if node.observers is not None:
        leaf.splitters = {o.column: _splitter(tree, leaf, o) for o in node.observers}
    return leaf


def _splitter(tree: Any, leaf: Any, observer: Gaussians | Counts | Cuts | Means) -> Any:
    is_numeric = isinstance(observer, Gaussians | Cuts)
    splitter = tree.splitter.clone() if is_numeric else leaf.new_nominal_splitter()
    if isinstance(observer, Gaussians):
        for label, least, most, *sums in observer.classes:
            distribution: Any = Gaussian()  # type: ignore[no-untyped-call]
            distribution._var = _var(*sums)
            splitter._att_dist_per_class[label] = distribution
            splitter._min_per_class[label] = least
            splitter._max_per_class[label] = most
    elif isinstance(observer, Counts):
        for label, counts in observer.classes:
            splitter._att_dist_per_class[label] = dict(counts)
            splitter._att_values.update(code for code, _ in counts)
            splitter._total_weight_observed += sum(weight for _, weight in counts)
    elif isinstance(observer, Cuts):
        for value, *sums in observer.nodes:
            _insert(splitter, value, _var(*sums))
    else:
        for code, *sums in observer.categories:
            splitter._statistics[code] = _var(*sums)
    return splitter


def _insert(splitter: Any, value: float, var: Any) -> None:
    """Put a node into a search tree where its place is, leaving the others' sums alone."""
    node: Any = EBSTNode(value, 0.0, 1.0)  # type: ignore[no-untyped-call]
    node.estimator = var
    above, here = None, splitter._root
    while here is not None:
        above, here = here, here._left if value < here.att_val else here._right
    if above is None:
        splitter._root = node
    elif value < above.att_val:
        above._left = node
    else:
        above._right = node


def _var(n: float, mean: float, squares: float) -> Any:
    var: Any = Var()
    var.mean.n, var.mean._mean, var._S = n, mean, squares
    return var
