"""Takes the predictions of labelled models into the join."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.filters import id_hashes
from kedge_services.core.first_labels import FirstLabels
from kedge_services.core.groups import Features, Group
from kedge_services.core.intake import hold
from kedge_services.core.join import LabelFate, Watermarks
from kedge_services.core.lanes import Codes, NewPredictions, fold_predicted
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

    Almost all are new, and no outcome waits for them, or else one that is the label: these
    are taken at once, the others one by one.
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
        offsets = np.array(batch.offsets, dtype=np.int64)[group.at]
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
        simple = join.book.unknown(ids, hashes)
        row = group.columns.row
        if set(map(type, group.rows)) != {row}:
            simple &= np.fromiter((type(r) is row for r in group.rows), np.bool_, len(ids))
        if len(set(ids)) < len(ids):
            repeated = {name for name, times in Counter(ids).items() if times > 1}
            simple &= np.fromiter((name not in repeated for name in ids), np.bool_, len(ids))
        met: list[tuple[int, WaitingOutcome]] = []
        if waited_for := join.waiting.among(ids):
            waits = [i for i, name in enumerate(ids) if name in waited_for]
            # Outcomes move clocks: with those that are taken singly the order would count.
            met = self._labels(group, waits) if simple.all() else []
            if not met:
                simple[waits] = False
        if not simple.any():
            return simple
        rows, names, times, features = group.rows, ids, group.times_ms, None
        if simple.all():
            if join.notes_examples:
                group.features = Features(
                    *group.columns.arrays([row.features for row in group.rows])
                )
            features = group.features
        else:
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
            known=features,
        )
        join.book.place(
            names, new.values, kinds=new.kinds, times_ms=times, offsets=offsets, hashes=hashes
        )
        if not join.rebuilding:
            fold_predicted(join.fold, group.plan, new)
        if met:
            self._label(group, met)
        return simple

    def _labels(self, group: Group, waits: Sequence[int]) -> list[tuple[int, WaitingOutcome]]:
        """Give the outcomes that wait for these rows; none where any is not the only label."""
        join, plan = self.intake.join, group.plan
        if join.rebuilding:
            return []
        found = []
        times, watermarks = group.times_ms.tolist(), group.watermarks_ms.tolist()
        for i in waits:
            outcome = join.waiting.only(group.ids[i])
            if outcome is None or watermarks[i] > outcome.until_ms:
                return []
            label = outcome.labelled
            belongs = label.models is None or plan.model in label.models
            if not belongs or not -plan.wait_ms <= label.time_ms - times[i] < plan.horizon_ms:
                return []
            found.append((i, outcome))
        return found

    def _label(self, group: Group, met: Sequence[tuple[int, WaitingOutcome]]) -> None:
        """Take outcomes that waited for predictions which have just been placed."""
        join, model = self.intake.join, group.plan.model
        closed = {}
        for i, outcome in met:
            closed[outcome.offset] = min(
                int(group.watermarks_ms[i]), join.watermarks.outcomes(model)
            )
            self._count_waited(outcome, "matched", model)
        # A book takes labels as they were sent.
        outcomes = sorted((outcome for _, outcome in met), key=lambda outcome: outcome.offset)
        closed_ms = np.array([closed[outcome.offset] for outcome in outcomes], dtype=np.int64)
        join.waiting.remove(outcomes)
        names = [outcome.prediction_id for outcome in outcomes]
        labels = [outcome.labelled for outcome in outcomes]
        found = [placed for placed in join.book.fetch(names) if placed is not None]
        first = FirstLabels.of(
            found, join.book.kinds,
            at=np.arange(len(found)), label_times_ms=np.array([label.time_ms for label in labels]),
        )  # fmt: skip
        stored = [(label.offset, label.time_ms, label.label, label.models) for label in labels]
        first.store(join.book, names, found, stored)
        values, known = [label.label for label in labels], Codes()
        codes = np.array([known[type(value), value] for value in values], dtype=np.int64)
        first.fold(join.fold, found, values, codes, closed_ms)
        if join.notes_examples:
            join.first_examples += first.examples(names, found, values)

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
