"""Model families: what a family has to offer, and the table of those there are.

A new family is one file with a class that follows :class:`Family` and one line
in :func:`family`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kedge.base import Scalar
from kedge.errors import UsageError
from kedge.events import Output
from kedge.versions import FeatureColumn
from kedge_services.runtime.artefacts import Format
from kedge_services.runtime.formats import Predictor, Row

__all__ = ["FAMILIES", "INCREMENTAL", "Family", "Fitted", "Shape", "Table", "family"]

#: The name of every family.
FAMILIES = ("sklearn-hist-gradient-boosting", "river-logistic")
#: The family that learns on from its parent where the monitor's own cannot.
INCREMENTAL = "river-logistic"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model takes and gives.

    ``classes`` is empty for regression; of two classes the second is positive.
    """

    columns: tuple[FeatureColumn, ...]
    classes: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Labelled rows in the order of training.

    ``targets`` are indices into the shape's classes, or numbers for regression.
    """

    rows: Sequence[Row]
    targets: Sequence[float]

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.rows)

    def part(self, start: int, end: int) -> Table:
        """Give the rows ``[start, end)``."""
        return Table(self.rows[start:end], self.targets[start:end])

    def take(self, indices: Sequence[int]) -> Table:
        """Give these rows."""
        return Table([self.rows[i] for i in indices], [self.targets[i] for i in indices])

    def without(self, start: int, end: int) -> Table:
        """Give all rows but ``[start, end)``."""
        return Table(
            [*self.rows[:start], *self.rows[end:]], [*self.targets[:start], *self.targets[end:]]
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model that has been trained.

    Attributes
    ----------
    predictor
        Answers as the loaded artefact would.
    dump
        Gives the artefact's bytes; the same for the same training.
    outputs
        Of a family that learns row by row: its answer to every row just before
        it learnt from it.
    """

    predictor: Predictor
    dump: Callable[[], bytes]
    outputs: Sequence[Output] = ()


class Family(Protocol):
    """A way to train models.

    Attributes
    ----------
    name
        As in the monitor's ``trainer``.
    format
        Of its artefacts.
    is_incremental
        Whether it can go on from an artefact: ``fit(b, start=dump(fit(a)))`` is
        then the same model as ``fit(a + b)``.
    libraries
        Distributions whose versions belong into the lineage.
    """

    name: str
    format: Format
    is_incremental: bool
    libraries: tuple[str, ...]

    def parameters(self) -> dict[str, Any]:
        """Give the parameters of the training, for the lineage."""

    def fit(self, table: Table, shape: Shape, *, seed: int, start: bytes | None = None) -> Fitted:
        """Train on a table; the same arguments give the same model.

        Parameters
        ----------
        start
            Artefact to go on from; only for an incremental family.

        Raises
        ------
        ValueError
            Nothing can be learnt from these rows; the message says why.
        UnsafeArtefact
            ``start`` is no artefact of this family and shape.
        """


def family(name: str) -> Family:
    """Give a family by its name; its libraries are imported only now.

    Raises
    ------
    UsageError
        There is none of this name.
    """
    if name == "sklearn-hist-gradient-boosting":
        from kedge_services.trainer.hist_gradient_boosting import HistGradientBoosting

        return HistGradientBoosting()
    if name == "river-logistic":
        from kedge_services.trainer.river_logistic import RiverLogistic

        return RiverLogistic()
    raise UsageError(f"there is no trainer {name!r}; known are: {', '.join(FAMILIES)}")
