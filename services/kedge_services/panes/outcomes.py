"""Reads batches of outcomes into the join and the deltas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kedge.errors import DeadLetter
from kedge_services.core.decoding import OutcomeDecoder, OutcomeRow
from kedge_services.core.entries import Labelled
from kedge_services.core.plans import Plan
from kedge_services.core.waiting import WaitingOutcome
from kedge_services.core.watermark import BEFORE_ALL, Clocks
from kedge_services.panes.intake import CONFLICT, Intake
from kedge_services.runtime.ports import Batch

__all__ = ["OutcomeReader"]


class _Claim(NamedTuple):
    """A label, the model it is known to belong to, and until when it may wait."""

    labelled: Labelled
    owner: Plan | None
    until_ms: int


@dataclass(slots=True)
class OutcomeReader:
    """Gives every outcome its fate."""

    intake: Intake
    _decoder: OutcomeDecoder = field(default_factory=OutcomeDecoder)

    def read(self, batch: Batch) -> None:
        """Take a batch."""
        rows = self._decoder.decode(batch.values)
        claims: list[_Claim | None] = [None] * len(rows)
        for i, row in enumerate(rows):
            if not isinstance(row, DeadLetter):
                claim = self._claim(row, batch.offsets[i])
                if isinstance(claim, DeadLetter):
                    rows[i] = claim
                else:
                    claims[i] = claim
        for i, refused in self.intake.misplaced(batch, rows):
            rows[i] = refused
        self.intake.join.book.load([r.prediction_id for r in rows if not isinstance(r, DeadLetter)])
        account = self.intake.account
        clocks = account.clocks["outcomes"]
        for i, (row, claim) in enumerate(zip(rows, claims, strict=True)):
            clocks.tick(batch.timestamps_ms[i])
            if isinstance(row, DeadLetter):
                self.intake.refuse(batch, i, row)
            elif claim is None:
                account.count("outcomes", "unlabelled")
            elif not (self.intake.join.rebuilding and batch.offsets[i] in self.intake.join.waiting):
                self._label(batch, i, row.prediction_id, claim, clocks)

    def _claim(self, row: OutcomeRow, offset: int) -> _Claim | DeadLetter | None:
        """Find out whose an outcome is; None when that model has no labels."""
        owner, time_ms = self.intake.lookup.owner(row.model), row.event_time_ms
        if owner is None:
            return self._claim_for_any(row, offset)
        plan = self.intake.lookup.monitored(owner, time_ms)
        if plan is None:
            return DeadLetter("unknown-model", f"model {owner} has no monitor")
        if not plan.labelled:
            return None
        if not plan.accepts(row.label):
            return DeadLetter("bad-value", plan.refusal(row.label))
        labelled = Labelled(offset, time_ms, row.label, [owner])
        return _Claim(labelled, plan, time_ms + plan.wait_ms)

    def _claim_for_any(self, row: OutcomeRow, offset: int) -> _Claim | DeadLetter | None:
        """Claim an outcome for every model whose label it may be; its prediction will say."""
        known = self.intake.lookup.all_at(row.event_time_ms)
        if not known:
            return DeadLetter("unknown-model", "no model has a monitor")
        labelled = [plan for plan in known if plan.labelled]
        if not labelled:
            return None
        accepting = [plan for plan in labelled if plan.accepts(row.label)]
        if not accepting:
            return DeadLetter("bad-value", f"label {row.label!r} is one of no model")
        models = None if len(accepting) == len(labelled) else [plan.model for plan in accepting]
        until_ms = row.event_time_ms + max(plan.wait_ms for plan in accepting)
        return _Claim(Labelled(offset, row.event_time_ms, row.label, models), None, until_ms)

    def _label(
        self, batch: Batch, i: int, prediction_id: str, claim: _Claim, clocks: Clocks
    ) -> None:
        labelled, owner = claim.labelled, claim.owner
        is_late, watermark = None, BEFORE_ALL
        if owner is not None:
            watermark = clocks.watermark(owner.model, owner.grace_ms)
            is_late = labelled.time_ms < watermark
        verdict = self.intake.join.label(prediction_id, labelled, is_late=is_late)
        if owner is not None:
            clocks.of(owner.model).advance(labelled.time_ms, clocks.clock_ms)
        else:
            for model in verdict.models:
                clocks.of(model).advance(labelled.time_ms, clocks.clock_ms)
        if verdict.fate == "conflicting":
            self.intake.refuse(batch, i, CONFLICT)
        elif verdict.fate != "unmatched":
            self.intake.account.count("outcomes", verdict.fate)
        elif is_late:
            behind = f"{watermark - labelled.time_ms} ms behind the watermark, without prediction"
            self.intake.refuse(batch, i, DeadLetter("late", behind))
        elif not self.intake.join.rebuilding:
            self.intake.join.waiting.add(
                WaitingOutcome(
                    prediction_id,
                    labelled,
                    claim.until_ms,
                    None if owner is None else owner.model,
                    batch.timestamps_ms[i],
                    batch.keys[i],
                    batch.values[i],
                    list(batch.headers[i]),
                )
            )
