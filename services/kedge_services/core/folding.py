"""Folds what was read between two commits into deltas."""

from __future__ import annotations

from dataclasses import dataclass, field

from kedge_services.core.label_folding import LabelFold, PaneDelta, PaneKey, Series, loss_steps
from kedge_services.core.row_folding import RowFold

__all__ = ["Fold", "PaneDelta", "PaneKey", "Series", "loss_steps"]


@dataclass(slots=True)
class Fold(LabelFold):
    """What this source partition adds to its panes, since the last :meth:`take`.

    Attributes
    ----------
    drift
        Takes predictions into their drift panes; without reference into learning samples.
    """

    drift: RowFold = field(init=False)

    def __post_init__(self) -> None:
        self.drift = RowFold(self.references)

    def take(self) -> list[PaneDelta]:
        """Give the deltas and begin anew."""
        return self.drift.take() + self.take_labels()
