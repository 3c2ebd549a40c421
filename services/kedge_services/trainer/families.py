"""Model families: what a family has to offer, and the table of those there are.

A new family is one file with a class that follows :class:`Family`, one line in
:func:`family` and one in :data:`kedge.trainers.TRAINERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.errors import UsageError
from kedge.events import Output
from kedge.trainers import Task, is_own_trainer, trainer_mistake
from kedge.versions import FeatureColumn
from kedge_services.runtime.artefacts import Format
from kedge_services.runtime.formats import Predictor, Row
from kedge_services.runtime.formats.columns import is_text, known_numbers, texts
from kedge_services.trainer.feature_rows import FeatureRows

__all__ = ["Family", "Fitted", "Shape", "Table", "family", "learns_on"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model takes and gives.

    ``classes`` is empty for regression; of two classes the second is positive.
    """

    columns: tuple[FeatureColumn, ...]
    classes: tuple[Scalar, ...]

    @property
    def task(self) -> Task:
        """Give the task by the number of classes."""
        if not self.classes:
            return "regression"
        return "binary" if len(self.classes) == 2 else "multiclass"


@dataclass(frozen=True, slots=True)
class Table:
    """Labelled rows in the order of training.

    ``rows`` become columns, if they are not; ``targets`` are indices into the
    shape's classes, or numbers for regression.
    """

    rows: Sequence[Row]
    targets: Sequence[float]

    def __post_init__(self) -> None:
        """Make columns of rows that are dictionaries."""
        if not isinstance(self.rows, FeatureRows):
            object.__setattr__(self, "rows", FeatureRows.of(self.rows))

    @property
    def columns(self) -> FeatureRows:
        """Give the rows as the columns they are."""
        return cast("FeatureRows", self.rows)

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.rows)

    def part(self, start: int, end: int) -> Table:
        """Give the rows ``[start, end)``."""
        return Table(self.rows[start:end], self.targets[start:end])

    def take(self, indices: Sequence[int]) -> Table:
        """Give these rows."""
        return Table(self.columns.take(indices), [self.targets[i] for i in indices])

    def without(self, start: int, end: int) -> Table:
        """Give all rows but ``[start, end)``."""
        return self.take([*range(start), *range(end, len(self))])

    def matrix(
        self,
        columns: Sequence[FeatureColumn],
        *,
        read: Callable[[Sequence[Scalar | None]], NDArray[np.float64]] = known_numbers,
    ) -> NDArray[Any]:
        """Give an array, shape (n, columns), like :func:`matrix` of the rows one by one."""
        result: NDArray[Any] = np.empty(
            (len(self), len(columns)),
            dtype=object if any(map(is_text, columns)) else np.float64,
        )
        for index, column in enumerate(columns):
            if is_text(column):
                values = texts(self.columns.column(column.name))
                result[:, index] = [math.nan if text is None else text for text in values]
            else:
                result[:, index] = read(self.columns.floats(column.name).tolist())
        return result


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model that has been trained.

    Attributes
    ----------
    predictor
        Answers as the loaded artefact would.
    dump
        Gives the artefact's bytes; the same for the same training.
    format
        Of these bytes.
    outputs
        Of a family that learns row by row: its answer to every row just before
        it learnt from it.
    """

    predictor: Predictor
    dump: Callable[[], bytes]
    format: Format
    outputs: Sequence[Output] = ()


class Family(Protocol):
    """A way to train models.

    Attributes
    ----------
    name
        As in the monitor's ``trainer``.
    kinds
        What it can go on from, as ``river-json`` files name it: then
        ``fit(b, start=dump(fit(a)))`` is the same model as ``fit(a + b)``.
        None for a family that learns from all rows at once.
    libraries
        Distributions whose versions belong into the lineage.
    """

    name: str
    kinds: tuple[str, ...]
    libraries: tuple[str, ...]

    def parameters(self, shape: Shape) -> dict[str, Any]:
        """Give the parameters of the training, for the lineage."""

    def fit(self, table: Table, shape: Shape, *, seed: int, start: bytes | None = None) -> Fitted:
        """Train on a table; the same arguments give the same model.

        Parameters
        ----------
        start
            Artefact to go on from, of one of the family's kinds.

        Raises
        ------
        ValueError
            Nothing can be learnt from these rows; the message says why.
        UnsafeArtefact
            ``start`` is no artefact of this family and shape.
        """


def family(name: str, task: Task, *, allow: Collection[str] = ()) -> Family:
    """Give a family by its name; its libraries are imported only now.

    Parameters
    ----------
    allow
        Modules, with all that is in them, that a trainer's function may come from.

    Raises
    ------
    UsageError
        There is none of this name, it cannot do the task, or its function may
        not be imported.
    """
    if (mistake := trainer_mistake(name, task)) is not None:
        raise UsageError(mistake)
    if is_own_trainer(name):
        from kedge_services.trainer.own import OwnTrainer

        return OwnTrainer(name, allow)
    if name == "sklearn-hist-gradient-boosting":
        from kedge_services.trainer.hist_gradient_boosting import HistGradientBoosting

        return HistGradientBoosting()
    if name == "sklearn-linear":
        from kedge_services.trainer.sklearn_linear import SklearnLinear

        return SklearnLinear()
    if name == "river-hoeffding-tree":
        from kedge_services.trainer.hoeffding_tree import HoeffdingTree

        return HoeffdingTree()
    from kedge_services.trainer.river_linear import RiverLinear, RiverLogistic

    return RiverLogistic() if name == "river-logistic" else RiverLinear()


def learns_on(chosen: Family, task: Task) -> Family:
    """Give the family that learns on from its parent: the monitor's own, if it can."""
    if chosen.kinds:
        return chosen
    return family("river-linear" if task == "regression" else "river-logistic", task)
