"""Naive Bayes in the leaf of a Hoeffding tree, made ready to answer."""

from __future__ import annotations

import math
from collections.abc import Mapping

from kedge_services.runtime.formats.river_tree_state import ClassLeaf, Counts, Gaussians

__all__ = ["NaiveBayes"]

_HALF_LOG_TAU = 0.5 * math.log(math.tau)


class NaiveBayes:
    """Does what River's ``do_naive_bayes_prediction`` does, in the same order, to the last bit.

    A class that has weight 0 gets the vote 1, and a likelihood of 0 leaves a
    vote as it is: that is how River does it.
    """

    def __init__(self, leaf: ClassLeaf) -> None:
        total = sum(weight for _, weight in leaf.weights)
        self._priors = [
            (label, math.log(weight / total) if weight > 0 else None)
            for label, weight in leaf.weights
            if total
        ]
        self._columns = [
            (observer.column, _densities(observer))
            if isinstance(observer, Gaussians)
            else (observer.column, _shares(observer))
            for observer in leaf.observers or ()
        ]

    def probabilities(self, inputs: Mapping[str, float]) -> dict[int, float]:
        """Give the probability of each class the leaf has seen."""
        seen = [(known, inputs[column]) for column, known in self._columns if column in inputs]
        votes: dict[int, float] = {}
        for label, prior in self._priors:
            if prior is None:
                votes[label] = 0.0
                continue
            vote = prior
            for known, value in seen:
                vote += known[label].of(value) if label in known else 0.0
            votes[label] = vote
        if not votes:
            return {}
        most = max(votes.values())
        scale = most + math.log(sum(math.exp(vote - most) for vote in votes.values()))
        return {label: math.exp(vote - scale) for label, vote in votes.items()}


class _Density:
    """The logarithm of a Gaussian density."""

    def __init__(self, mean: float, variance: float) -> None:
        self._mean = mean
        self._divisor = -2.0 * variance
        self._constant = 0.5 * math.log(variance)

    def of(self, value: float) -> float:
        found = (value - self._mean) ** 2 / self._divisor - _HALF_LOG_TAU - self._constant
        return found if found > -math.inf else 0.0


class _Shares:
    """The logarithm of a category's share of a class."""

    def __init__(self, counts: Mapping[int, float]) -> None:
        total = sum(counts.values())
        self._logs = {code: math.log(count / total) for code, count in counts.items() if count > 0}

    def of(self, value: float) -> float:
        return self._logs.get(int(value), 0.0)


def _densities(observer: Gaussians) -> Mapping[int, _Density | _Shares]:
    result: dict[int, _Density | _Shares] = {}
    for label, _, _, n, mean, squares in observer.classes:
        if n > 1 and (variance := squares / (n - 1)) > 0:
            result[label] = _Density(mean, variance)
    return result


def _shares(observer: Counts) -> Mapping[int, _Density | _Shares]:
    return {label: _Shares(dict(counts)) for label, counts in observer.classes}
