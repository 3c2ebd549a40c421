"""Trees laid side by side: a few rows go through all of them at once.

scikit-learn goes tree by tree, at several microseconds a tree however few the
rows are; a single row waits 0.5 ms for that.  Here the conditions of all nodes
are looked at in one go, and then all trees are walked together.  The result is
the same to the last bit: the same comparisons of the same numbers, and sums of
the leaves in the order of the trees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["FewRows"]

#: Rows for which looking at all nodes is worth it, at most.
_ROWS = 32
#: Calling scikit-learn's predictor of one tree costs about as much as looking at so many nodes.
_NODES = 1_000
#: Rows on which both ways are compared before this one is used.
_COMPARED = 64


class FewRows:
    """The trees of a histogram gradient boosting in one table.

    Parameters
    ----------
    trees
        The nodes of every tree, round by round; of several classes one tree each.
        They were checked before: children lie behind their parent.
    baseline
        What every sum begins with, one number a class.
    link
        Makes answers of sums.
    """

    def __init__(
        self,
        trees: Sequence[Sequence[NDArray[Any]]],
        baseline: NDArray[np.float64],
        link: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    ) -> None:
        self._link = link
        every = [nodes for of_round in trees for nodes in of_round]
        starts = np.cumsum([0, *map(len, every)])
        nodes = np.concatenate(every)
        own = np.repeat(starts[:-1], list(map(len, every)))
        is_leaf = nodes["is_leaf"] != 0
        # Conditions first, then leaves: where a node went after that.
        order = np.argsort(is_leaf, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        inner = order[: len(order) - int(is_leaf.sum())]
        self._shape = (len(trees), len(trees[0]))
        self._baseline = np.zeros(len(baseline)) + baseline
        self._roots = place[starts[:-1]]
        self._values = nodes["value"][order]
        self._features = nodes["feature_idx"][inner].astype(np.intp)
        self._thresholds = nodes["num_threshold"][inner]
        self._missing_left = nodes["missing_go_to_left"][inner] != 0
        self._left = place[nodes["left"][inner] + own[inner]]
        # Who stands on a leaf stays there.
        self._next = np.arange(len(nodes))
        self._next[: len(inner)] = place[nodes["right"][inner] + own[inner]]
        self._steps = _depth(self._left, self._next[: len(inner)], len(nodes))

    @classmethod
    def of(cls, model: Any, columns: int) -> Self | None:
        """Lay out a fitted model; None where scikit-learn would do more, or something else."""
        # scikit-learn has no other names for what a model consists of.
        baseline = getattr(model, "_baseline_prediction", None)
        loss, trees = model._loss, model._predictors  # noqa: SLF001
        if (
            getattr(model, "_preprocessor", None) is not None
            or getattr(model, "_in_fit", False)
            or not isinstance(baseline, np.ndarray)
            or baseline.dtype != np.float64
            or not trees
        ):
            return None
        has_classes = hasattr(model, "predict_proba")
        made = cls(
            [[tree.nodes for tree in of_round] for of_round in trees],
            baseline.ravel(),
            loss.predict_proba if has_classes else lambda raw: loss.link.inverse(raw.ravel()),
        )
        rows = made._probes(columns)
        expected = model.predict_proba(rows) if has_classes else model.predict(rows)
        return made if np.array_equal(made.answer(rows), expected, equal_nan=True) else None

    def is_quicker(self, rows: int) -> bool:
        """Say whether so few rows are better asked for here."""
        trees = len(self._roots)
        return rows <= _ROWS and rows * len(self._left) <= _NODES * trees

    def answer(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give what the model's ``predict_proba`` or ``predict`` gives for shape (n, columns).

        A missing value is NaN.
        """
        return self._link(self._sums(rows))

    def _sums(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up the leaves, shape (n, trees of a round)."""
        count, nodes = len(rows), len(self._next)
        values = rows.take(self._features, axis=1)
        goes_left = values <= self._thresholds
        is_missing = np.isnan(values)
        if is_missing.any():
            goes_left |= is_missing & self._missing_left
        following = np.tile(self._next, (count, 1))
        np.copyto(following[:, : len(self._left)], self._left, where=goes_left)
        # Every row has a table of its own, one behind the other.
        own = np.arange(count)[:, None] * nodes
        following += own
        flat, where = following.ravel(), self._roots + own
        for _ in range(self._steps):
            where = flat.take(where)
        leaves = self._values.take(where - own).reshape(count, *self._shape)
        # One after the other, as scikit-learn adds them; `sum` would add pairs.
        terms = np.concatenate([np.tile(self._baseline, (count, 1, 1)), leaves], axis=1)
        return np.asfortranarray(np.add.accumulate(terms, axis=1)[:, -1])

    def _probes(self, columns: int) -> NDArray[np.float64]:
        """Give rows that lie on the thresholds, beside them and beyond, and some missing values."""
        rows = np.full((_COMPARED, columns), np.nan)
        for column in range(columns):
            cuts = np.unique(self._thresholds[self._features == column])
            marks = np.concatenate([cuts, np.nextafter(cuts, np.inf), [-1e300, 1e300, np.nan]])
            rows[:, column] = marks[np.arange(_COMPARED) * (2 * column + 7) % len(marks)]
        return rows


def _depth(left: NDArray[np.intp], right: NDArray[np.intp], nodes: int) -> int:
    """Give the number of steps from a root to the deepest leaf."""
    depths = [0] * nodes
    # Of two conditions of a tree the parent comes first.
    for node, children in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        for child in children:
            depths[child] = depths[node] + 1
    return max(depths)
