"""What a Hoeffding tree in ``river-json`` is made of; plain data, no behaviour.

Lists keep River's order wherever floats are added up in it, as another order
would give other last bits.  ``n``, mean and ``squares`` (the sum of squared
deviations from the mean) are those of River's ``Var``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from kedge_services.runtime.formats.river_json import Moments

__all__ = [
    "Branch",
    "ClassLeaf",
    "Counts",
    "Cuts",
    "Gaussians",
    "Leaf",
    "Means",
    "Node",
    "NumberLeaf",
    "TreeState",
]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a tree."""


class Branch(_Part, frozen=True, tag="branch"):
    """A question about a column; the first child follows, then the second.

    A number up to ``threshold`` goes to the first, or the category ``code``.
    """

    column: str
    threshold: float | None = None
    code: int | None = None


class Gaussians(_Part, frozen=True, tag="gaussians"):
    """Of a numeric column, by class: least, greatest, n, mean, squares."""

    column: str
    classes: list[tuple[int, float, float, float, float, float]]


class Counts(_Part, frozen=True, tag="counts"):
    """Of a categorical column, by class: the weight of each category."""

    column: str
    classes: list[tuple[int, list[tuple[int, float]]]]


class Cuts(_Part, frozen=True, tag="cuts"):
    """Of a numeric column, by z-score: n, mean and squares of the label up to it.

    A binary search tree in preorder, which its shape can be told from.
    """

    column: str
    nodes: list[tuple[float, float, float, float]]


class Means(_Part, frozen=True, tag="means"):
    """Of a categorical column, by category: n, mean and squares of the label."""

    column: str
    categories: list[tuple[int, float, float, float]]


class ClassLeaf(_Part, frozen=True, tag="classes"):
    """A leaf of a classifier.

    Attributes
    ----------
    weights
        Rows by class.
    attempted
        Rows it had when it was last tried to split it.
    majority, bayes
        Rows that the majority class and naive Bayes answered right.
    observers
        By column in the order first seen; None when it observes no more.
    """

    weights: list[tuple[int, float]]
    attempted: float
    majority: float
    bayes: float
    observers: list[Gaussians | Counts] | None


class NumberLeaf(_Part, frozen=True, tag="number"):
    """A leaf of a regressor.

    Attributes
    ----------
    n, mean, squares
        Of the label.
    attempted
        Rows it had when it was last tried to split it.
    mean_error, model_error
        Faded squared errors of the mean and of the linear model.
    intercept, weights
        The linear model: column, category (None for a number), weight.
    observers
        By column in the order first seen; None when it observes no more.
    """

    n: float
    mean: float
    squares: float
    attempted: float
    mean_error: float
    model_error: float
    intercept: float
    weights: list[tuple[str, int | None, float]]
    observers: list[Cuts | Means] | None


Leaf = ClassLeaf | NumberLeaf
Node = Branch | ClassLeaf | NumberLeaf


class TreeState(_Part, frozen=True):
    """Everything a tree knows.

    Attributes
    ----------
    rows
        Rows learnt.
    classes
        Indices of the classes seen, ascending; empty for regression.
    categories
        By column, in the order first seen; a code is a place in this list.
    scaler
        Moments of the numeric columns (regression only).
    nodes
        In preorder; none before the first row.
    """

    kind: Literal["tree-classifier", "tree-regressor"]
    rows: int
    classes: list[int]
    categories: dict[str, list[str]]
    scaler: dict[str, Moments]
    nodes: list[Node]
    format: Literal["kedge-tree-1"] = "kedge-tree-1"
