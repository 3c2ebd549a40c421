"""Reads batches of both inputs into the join and the deltas."""

from __future__ import annotations

from bisect import bisect_left
from itertools import groupby
from typing import TYPE_CHECKING

from kedge.batch_layout import is_batch
from kedge_services.panes.intake import Intake, part_of
from kedge_services.panes.outcomes import OutcomeReader
from kedge_services.panes.predictions import PredictionReader
from kedge_services.runtime.ports import Batch

if TYPE_CHECKING:
    from kedge_services.panes.batches import BatchReader

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
        self._batches: BatchReader | None = None

    def begin_rebuild(self) -> None:
        """Read records again from now on: only the join's entries change."""
        self._intake.begin_rebuild()

    def end_rebuild(self) -> None:
        """Read new records from now on."""
        self._intake.end_rebuild()

    def read(self, batch: Batch) -> None:
        """Take a batch of one input."""
        self._intake.lookup.begin()
        if batch.topic != "predictions":
            self._outcomes.read(batch)
        elif not any(map(is_batch, filter(None, batch.headers))):
            self._predictions.read(batch)
        else:
            self._read_mixed(batch)

    def read_again(self, batch: Batch, stored: int) -> None:
        """Read records again; of those before offset ``stored`` only the ids that are in memory."""
        known = bisect_left(batch.offsets, stored)
        if known:
            self._intake.only_ids = True
            self.read(part_of(batch, 0, known))
            self._intake.only_ids = False
        if known < len(batch):
            self.read(part_of(batch, known, len(batch)))

    def _read_mixed(self, batch: Batch) -> None:
        """Take Arrow batches and what lies between them, in offset order."""
        if self._batches is None:
            from kedge_services.panes.batch_rows import RowTaker
            from kedge_services.panes.batches import BatchReader

            self._batches = BatchReader(
                self._intake, RowTaker(self._intake, self._predictions.take)
            )
        ends = 0
        for is_arrow, group in groupby(map(is_batch, batch.headers)):
            start, ends = ends, ends + sum(1 for _ in group)
            part = part_of(batch, start, ends)
            if is_arrow:
                self._batches.read(part)
            else:
                self._predictions.read(part)
