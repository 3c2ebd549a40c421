"""The demo's traffic: loan applications whose world changes twice.

Rows come from River's Agrawal generator.  First the *concept* changes (from
the paper's function 1 to its function 3): who is approved, not who applies, so
that only labels can show it.  Later the *incomes* shift and some of them are
missing, which features alone must show.

References
----------
Agrawal, Imielinski, Swami, "Database Mining: A Performance Perspective",
IEEE Transactions on Knowledge and Data Engineering 5(6), 1993.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from river.datasets.synth import Agrawal

from kedge.base import Scalar

__all__ = ["LoanApplications", "Phase", "Row"]

Phase = Literal["stable", "concept", "incomes"]

#: River counts the functions of the paper from 0.
_FUNCTIONS = {"stable": 0, "concept": 2, "incomes": 2}
_NOISE = 0.05
_INCOME_RISE = 1.3
_NULL_SHARE = 0.08
_RENAMED = {
    "salary": "salary",
    "commission": "commission",
    "age": "age",
    "elevel": "education",
    "car": "car",
    "zipcode": "zipcode",
    "hvalue": "house_value",
    "hyears": "house_years",
    "loan": "loan",
}


class Row(NamedTuple):
    """Features as they arrive, and the label that will be known later."""

    features: dict[str, Scalar | None]
    label: Scalar
    segments: Mapping[str, Scalar] = MappingProxyType({})


class LoanApplications:
    """An endless stream of rows; ``phase`` may be changed at any time.

    The same seed and the same phase at every row give the same rows.
    """

    def __init__(self, seed: int) -> None:
        self.phase: Phase = "stable"
        self._random = random.Random(seed)  # noqa: S311 -- a simulation, not a secret
        self._streams: dict[int, Iterator[tuple[dict[str, float], int]]] = {
            function: iter(
                Agrawal(classification_function=function, seed=seed + function, perturbation=_NOISE)
            )
            for function in set(_FUNCTIONS.values())
        }

    def take(self, rows: int) -> list[Row]:
        """Give the next rows of the present phase."""
        stream = self._streams[_FUNCTIONS[self.phase]]
        return [self._row(*next(stream)) for _ in range(rows)]

    def _row(self, drawn: dict[str, float], group: int) -> Row:
        features: dict[str, Scalar | None] = {
            new: drawn[old] for old, new in _RENAMED.items()
        }  # fmt: skip
        if self.phase == "incomes":
            features["salary"] = round(drawn["salary"] * _INCOME_RISE, 2)
            if self._random.random() < _NULL_SHARE:
                features["commission"] = None
        # Group A, River's class 0, is the paper's group of good customers.
        return Row(features, "approve" if group == 0 else "decline")
