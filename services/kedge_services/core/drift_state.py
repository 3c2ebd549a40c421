"""What drift windows are made of and remembered by, as it lies on their shelves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kedge_services.core.deltas import LearningDelta
from kedge_services.core.folding import Series
from kedge_services.core.pane_counts import Folded, PaneCounts

__all__ = ["DriftModel", "DriftPane"]


class DriftPane:
    """The rows of one series in a pane; of a learning version only their number."""

    __slots__ = ("_delta", "end_ms", "is_learning")

    def __init__(self, end_ms: int, delta: PaneCounts | LearningDelta) -> None:
        self.end_ms, self.is_learning = end_ms, isinstance(delta, LearningDelta)
        self._delta: PaneCounts | Folded = (
            PaneCounts(delta.rows) if isinstance(delta, LearningDelta) else delta
        )

    def add(self, delta: PaneCounts | LearningDelta) -> None:
        """Add what is counted of more rows."""
        if isinstance(delta, LearningDelta):
            self.delta.rows += delta.rows
        else:
            self.delta.add(delta)

    @property
    def delta(self) -> PaneCounts:
        """Its counts."""
        if isinstance(self._delta, Folded):
            self._delta = self._delta.unfolded()
        return self._delta

    def fold(self) -> None:
        """Take as little memory as can be, until the counts are asked for again."""
        if not isinstance(self._delta, Folded):
            self._delta = Folded.of(self._delta)

    def encode(self) -> list[Any]:
        """Give JSON data."""
        delta = self._delta.unfolded() if isinstance(self._delta, Folded) else self._delta
        return [self.end_ms, self.is_learning, delta.encode()]

    @classmethod
    def decode(cls, data: list[Any]) -> DriftPane:
        """Read what :meth:`encode` gave."""
        pane = cls(data[0], PaneCounts.decode(data[2]))
        pane.is_learning = data[1]
        return pane


@dataclass(slots=True)
class DriftModel:
    """Where a model is.

    Attributes
    ----------
    closed_ms
        End of the last pane that closed.
    quiet
        Empty panes since the last one with rows.
    active
        Series with rows in that one.
    dropped
        Rows that came after their pane was forgotten.
    """

    closed_ms: int | None = None
    quiet: int = 0
    active: list[Series] = field(default_factory=list)
    dropped: int = 0

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        active = [list(series) for series in self.active]
        return {
            "closed_ms": self.closed_ms,
            "quiet": self.quiet,
            "active": active,
            "dropped": self.dropped,
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> DriftModel:
        """Read what :meth:`encode` gave."""
        active = [Series(*series) for series in data["active"]]
        return cls(data["closed_ms"], data["quiet"], active, data["dropped"])
