"""Reads batches of both inputs into the join and the deltas."""

from __future__ import annotations

from kedge_services.panes.intake import Intake
from kedge_services.panes.outcomes import OutcomeReader
from kedge_services.panes.predictions import PredictionReader
from kedge_services.runtime.ports import Batch

__all__ = ["Reader"]


class Reader:
    """Gives every record its fate.

    Parameters
    ----------
    intake
        The partition's place, state and join.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._predictions = PredictionReader(intake)
        self._outcomes = OutcomeReader(intake)

    def begin_rebuild(self) -> None:
        """Read records again from now on: only the join's entries change."""
        self._intake.begin_rebuild()

    def end_rebuild(self) -> None:
        """Read new records from now on."""
        self._intake.end_rebuild()

    def read(self, batch: Batch) -> None:
        """Take a batch of one input."""
        self._intake.lookup.begin()
        if batch.topic == "predictions":
            self._predictions.read(batch)
        else:
            self._outcomes.read(batch)
