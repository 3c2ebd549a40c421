"""Reads batches of predictions into the join and the deltas."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.errors import DeadLetter
from kedge_services.core.decoding import PredictionRow
from kedge_services.core.groups import Slot
from kedge_services.core.intake import hold, output_refusal
from kedge_services.core.join import LabelFate
from kedge_services.core.plans import Plan
from kedge_services.core.waiting import WaitingOutcome
from kedge_services.core.watermark import Clocks
from kedge_services.panes.intake import CONFLICT, Intake, waiting_record
from kedge_services.runtime.ports import Batch

__all__ = ["PredictionReader"]


@dataclass(slots=True)
class PredictionReader:
    """Gives every prediction its fate."""

    intake: Intake

    def read(self, batch: Batch) -> None:
        """Take a batch of JSON events."""
        self.take(batch, self.intake.lookup.decode(batch.values))

    def take(self, batch: Batch, rows: list[PredictionRow | DeadLetter]) -> None:
        """Take rows that were decoded, or could not be."""
        plans: list[Plan | None] = [None] * len(rows)
        for i, row in enumerate(rows):
            if not isinstance(row, DeadLetter):
                known = plans[i] = self.intake.lookup.plan(row.model, row.event_time_ms)
                rows[i] = output_refusal(known, row.output) or row
        for i, refused in self.intake.misplaced(batch, rows):
            rows[i] = refused
        self.intake.join.book.load([r.prediction_id for r in rows if not isinstance(r, DeadLetter)])
        clocks = self.intake.account.clocks["predictions"]
        counted = 0
        for i, (row, plan) in enumerate(zip(rows, plans, strict=True)):
            clocks.tick(batch.timestamps_ms[i])
            if isinstance(row, DeadLetter):
                self.intake.refuse(batch, i, row)
            elif plan is not None:
                counted += self._predict(batch, i, row, plan, clocks)
        if counted:
            self.intake.state.count("predictions", "counted", counted)

    def _predict(
        self, batch: Batch, i: int, row: PredictionRow, plan: Plan, clocks: Clocks
    ) -> bool:
        """Take a prediction; give whether it is counted in its drift pane."""
        time_ms, model = row.event_time_ms, plan.model
        time = clocks.of(model)
        watermark = time.max_ms - plan.grace_ms
        start_ms = time_ms - time_ms % plan.performance_pane_ms
        reference_id = self.intake.lookup.reference_id(model, row.version, start_ms)
        held = hold(
            plan,
            row,
            offset=batch.offsets[i],
            reference_id=reference_id,
            for_examples=self.intake.join.notes_examples,
        )
        met = self.intake.join.predict(row.prediction_id, held)
        time.advance(time_ms, clocks.clock_ms)
        if self.intake.join.rebuilding:
            return False
        if met is None:
            self.intake.state.count("predictions", "duplicate")
            return False
        for outcome, fate in met:
            self._count_waited(outcome, fate, model)
        if time_ms < watermark:
            behind = f"{watermark - time_ms} ms behind the watermark of model {model}"
            self.intake.refuse(batch, i, DeadLetter("late", behind))
            return False
        if plan.pane_ms != plan.performance_pane_ms:
            start_ms = time_ms - time_ms % plan.pane_ms
            reference_id = self.intake.lookup.reference_id(model, row.version, start_ms)
        slot = Slot(plan, row.version, reference_id, start_ms)
        self.intake.join.fold.drift.rows(slot, self.intake.lookup.columns(model), [row])
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
