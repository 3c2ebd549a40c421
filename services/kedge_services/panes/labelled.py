"""Takes the predictions of labelled models into the join."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.filters import id_hashes
from kedge_services.core.groups import Group
from kedge_services.core.intake import hold
from kedge_services.core.join import LabelFate, Watermarks
from kedge_services.core.lanes import NewPredictions, fold_predicted
from kedge_services.core.waiting import WaitingOutcome
from kedge_services.panes.intake import CONFLICT, Intake, waiting_record
from kedge_services.runtime.ports import Batch

__all__ = ["Labelled"]


@dataclass(slots=True)
class _Standing:
    """The watermarks that stood before a record of one model."""

    others: Watermarks
    model: str = ""
    watermark_ms: int = 0

    def predictions(self, model: str) -> int:
        """Give the watermark of a model's predictions."""
        return self.watermark_ms if model == self.model else self.others.predictions(model)

    def outcomes(self, model: str) -> int:
        """Give the watermark of a model's outcomes."""
        return self.others.outcomes(model)


@dataclass(slots=True)
class Labelled:
    """Gives the predictions of labelled models their place in the join.

    Almost all are new, and no outcome waits for them: these are taken at once, the
    others one by one.
    """

    intake: Intake
    _standing: _Standing = field(init=False)

    def __post_init__(self) -> None:
        self._standing = _Standing(self.intake.join.watermarks)

    def take(self, group: Group, batch: Batch) -> NDArray[np.bool_]:
        """Take predictions of one model and monitor.

        Parameters
        ----------
        group
            The predictions.
        batch
            Where they come from.

        Returns
        -------
        NDArray[np.bool_]
            For each whether it is new; a duplicate has been counted as such.
        """
        is_new = np.ones(len(group.ids), dtype=np.bool_)
        offsets = np.fromiter((batch.offsets[i] for i in group.at), np.int64, len(group.at))
        simple = self._take_many(group, offsets)
        if simple.all():
            return is_new
        for i in np.flatnonzero(~simple).tolist():
            is_new[i] = self._take_one(group, i, int(offsets[i]))
        return is_new

    def _take_many(self, group: Group, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Take those that need no look at an entry; give which they are."""
        join, ids = self.intake.join, group.ids
        hashes = id_hashes(ids)
        simple = np.array(join.book.unknown(ids, hashes), dtype=np.bool_)
        row = group.columns.row
        simple &= np.fromiter((type(r) is row for r in group.rows), np.bool_, len(ids))
        special = join.waiting.among(ids)
        if len(set(ids)) < len(ids):
            special |= {name for name, times in Counter(ids).items() if times > 1}
        if special:
            simple &= np.fromiter((name not in special for name in ids), np.bool_, len(ids))
        if not simple.any():
            return simple
        rows, names, times = group.rows, ids, group.times_ms
        if not simple.all():
            at = np.flatnonzero(simple)
            rows, names = [rows[i] for i in at.tolist()], [ids[i] for i in at.tolist()]
            times, offsets, hashes = times[at], offsets[at], hashes[at]
        new = NewPredictions.of(
            group.plan,
            group.columns,
            rows,
            times_ms=times,
            offsets=offsets,
            reference_id=self.intake.lookup.reference_id,
            kinds=join.book.kinds,
            for_examples=join.notes_examples,
        )
        join.book.place(
            names, new.values, kinds=new.kinds, times_ms=times, offsets=offsets, hashes=hashes
        )
        if not join.rebuilding:
            fold_predicted(join.fold, group.plan, new)
        return simple

    def _take_one(self, group: Group, i: int, offset: int) -> bool:
        """Take a prediction as the join takes records; give whether it is new."""
        plan, row, intake = group.plan, group.rows[i], self.intake
        start_ms = row.event_time_ms - row.event_time_ms % plan.performance_pane_ms
        held = hold(
            plan,
            row,
            offset=offset,
            reference_id=intake.lookup.reference_id(plan.model, row.version, start_ms),
            for_examples=intake.join.notes_examples,
        )
        standing, before = self._standing, intake.join.watermarks
        standing.model, standing.watermark_ms = plan.model, int(group.watermarks_ms[i])
        intake.join.watermarks = standing
        try:
            met = intake.join.predict(row.prediction_id, held)
        finally:
            intake.join.watermarks = before
        if intake.join.rebuilding:
            return met is not None
        if met is None:
            intake.state.count("predictions", "duplicate")
            return False
        for outcome, fate in met:
            self._count_waited(outcome, fate, plan.model)
        return True

    def _count_waited(self, outcome: WaitingOutcome, fate: LabelFate, model: str) -> None:
        clocks = self.intake.state.clocks["outcomes"]
        if outcome.owner is None:
            clocks.of(model).advance(outcome.labelled.time_ms, clocks.clock_ms)
        if fate == "conflicting":
            self.intake.state.count("outcomes", CONFLICT.reason)
            self.intake.put_aside(waiting_record(outcome, self.intake.partition), CONFLICT)
        else:
            self.intake.state.count("outcomes", fate)
