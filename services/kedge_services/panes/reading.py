"""Reads batches of predictions and outcomes, record by record, into the join and the deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kedge.errors import DeadLetter
from kedge_services.core.decoding import OutcomeDecoder, OutcomeRow, PredictionRow
from kedge_services.core.entries import MAX_LABELS, Labelled
from kedge_services.core.intake import hold, output_refusal, refuse_misplaced
from kedge_services.core.join import Join, LabelFate
from kedge_services.core.plans import Plan
from kedge_services.core.waiting import WaitingOutcome
from kedge_services.core.watermark import BEFORE_ALL, Clocks
from kedge_services.panes.lookup import Lookup
from kedge_services.panes.state import State
from kedge_services.runtime.ports import Batch, Record

__all__ = ["Reader", "waiting_record"]


_CONFLICT = DeadLetter(
    "conflicting-duplicate", f"the label of this id has changed {MAX_LABELS} times"
)


class _Claim(NamedTuple):
    """A label, the model it is known to belong to, and until when it may wait."""

    labelled: Labelled
    owner: Plan | None
    until_ms: int


@dataclass(slots=True)
class Reader:
    """Gives every record its fate.

    Attributes
    ----------
    partition, partitions
        Where records should lie.
    max_skew_ms
        How far event time may lie ahead of append time.
    state
        Clocks and fates; they are advanced, except while a store is rebuilt.
    put_aside
        Takes the records that cannot be processed.
    """

    partition: int
    partitions: int
    max_skew_ms: int
    state: State
    lookup: Lookup
    join: Join
    put_aside: Callable[[Record, DeadLetter], None]
    _outcomes: OutcomeDecoder = field(default_factory=OutcomeDecoder)
    _again: State = field(default_factory=State)

    def begin_rebuild(self) -> None:
        """Read records again from now on: only the join's entries change."""
        self.join.rebuilding = True
        self._again = State()

    def end_rebuild(self) -> None:
        """Read new records from now on."""
        self.join.rebuilding = False

    def read(self, batch: Batch) -> None:
        """Take a batch of one input."""
        self.lookup.begin()
        if batch.topic == "predictions":
            self._read_predictions(batch)
        else:
            self._read_outcomes(batch)

    @property
    def _account(self) -> State:
        """Where clocks and fates are kept; what is read again has them already."""
        return self._again if self.join.rebuilding else self.state

    def _refuse(self, batch: Batch, i: int, refused: DeadLetter) -> None:
        self._account.count(batch.topic, refused.reason)
        if not self.join.rebuilding:
            record = Record(
                batch.topic,
                batch.partition,
                batch.offsets[i],
                batch.timestamps_ms[i],
                batch.keys[i],
                batch.values[i],
                batch.headers[i],
            )
            self.put_aside(record, _explained(record, refused))

    def _misplaced(
        self, batch: Batch, rows: Sequence[PredictionRow | OutcomeRow | DeadLetter]
    ) -> list[tuple[int, DeadLetter]]:
        return refuse_misplaced(
            rows,
            keys=batch.keys,
            timestamps_ms=batch.timestamps_ms,
            partition=self.partition,
            partitions=self.partitions,
            max_skew_ms=self.max_skew_ms,
        )

    # ----------------------------------------------------------- predictions

    def _read_predictions(self, batch: Batch) -> None:
        rows = self.lookup.decode(batch.values)
        plans: list[Plan | None] = [None] * len(rows)
        for i, row in enumerate(rows):
            if not isinstance(row, DeadLetter):
                known = plans[i] = self.lookup.plan(row.model, row.event_time_ms)
                rows[i] = output_refusal(known, row.output) or row
        for i, refused in self._misplaced(batch, rows):
            rows[i] = refused
        self.join.book.load([r.prediction_id for r in rows if not isinstance(r, DeadLetter)])
        clocks = self._account.clocks["predictions"]
        counted = 0
        for i, (row, plan) in enumerate(zip(rows, plans, strict=True)):
            clocks.tick(batch.timestamps_ms[i])
            if isinstance(row, DeadLetter):
                self._refuse(batch, i, row)
            elif plan is not None:
                counted += self._predict(batch, i, row, plan, clocks)
        if counted:
            self.state.count("predictions", "counted", counted)

    def _predict(
        self, batch: Batch, i: int, row: PredictionRow, plan: Plan, clocks: Clocks
    ) -> bool:
        """Take a prediction; give whether it is counted in its drift pane."""
        time_ms, model = row.event_time_ms, plan.model
        time = clocks.of(model)
        watermark = time.max_ms - plan.grace_ms
        start_ms = time_ms - time_ms % plan.performance_pane_ms
        reference_id = self.lookup.reference_id(model, row.version, start_ms)
        held = hold(
            plan,
            row,
            offset=batch.offsets[i],
            reference_id=reference_id,
            for_examples=self.join.notes_examples,
        )
        met = self.join.predict(row.prediction_id, held)
        time.advance(time_ms, clocks.clock_ms)
        if self.join.rebuilding:
            return False
        if met is None:
            self.state.count("predictions", "duplicate")
            return False
        for outcome, fate in met:
            self._count_waited(outcome, fate, model)
        if time_ms < watermark:
            behind = f"{watermark - time_ms} ms behind the watermark of model {model}"
            self._refuse(batch, i, DeadLetter("late", behind))
            return False
        if plan.pane_ms != plan.performance_pane_ms:
            start_ms = time_ms - time_ms % plan.pane_ms
            reference_id = self.lookup.reference_id(model, row.version, start_ms)
        self.join.fold.row(plan, self.lookup.columns(model), row, reference_id)
        return True

    def _count_waited(self, outcome: WaitingOutcome, fate: LabelFate, model: str) -> None:
        clocks = self.state.clocks["outcomes"]
        if outcome.owner is None:
            clocks.of(model).advance(outcome.labelled.time_ms, clocks.clock_ms)
        if fate == "conflicting":
            self.state.count("outcomes", _CONFLICT.reason)
            self.put_aside(waiting_record(outcome, self.partition), _CONFLICT)
        else:
            self.state.count("outcomes", fate)

    # -------------------------------------------------------------- outcomes

    def _read_outcomes(self, batch: Batch) -> None:
        rows = self._outcomes.decode(batch.values)
        claims: list[_Claim | None] = [None] * len(rows)
        for i, row in enumerate(rows):
            if not isinstance(row, DeadLetter):
                claim = self._claim(row, batch.offsets[i])
                if isinstance(claim, DeadLetter):
                    rows[i] = claim
                else:
                    claims[i] = claim
        for i, refused in self._misplaced(batch, rows):
            rows[i] = refused
        self.join.book.load([r.prediction_id for r in rows if not isinstance(r, DeadLetter)])
        account = self._account
        clocks = account.clocks["outcomes"]
        for i, (row, claim) in enumerate(zip(rows, claims, strict=True)):
            clocks.tick(batch.timestamps_ms[i])
            if isinstance(row, DeadLetter):
                self._refuse(batch, i, row)
            elif claim is None:
                account.count("outcomes", "unlabelled")
            elif not (self.join.rebuilding and batch.offsets[i] in self.join.waiting):
                self._label(batch, i, row.prediction_id, claim, clocks)

    def _claim(self, row: OutcomeRow, offset: int) -> _Claim | DeadLetter | None:
        """Find out whose an outcome is; None when that model has no labels."""
        owner, time_ms = self.lookup.owner(row.model), row.event_time_ms
        if owner is None:
            return self._claim_for_any(row, offset)
        plan = self.lookup.monitored(owner, time_ms)
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
        known = self.lookup.all_at(row.event_time_ms)
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
        verdict = self.join.label(prediction_id, labelled, is_late=is_late)
        if owner is not None:
            clocks.of(owner.model).advance(labelled.time_ms, clocks.clock_ms)
        else:
            for model in verdict.models:
                clocks.of(model).advance(labelled.time_ms, clocks.clock_ms)
        if verdict.fate == "conflicting":
            self._refuse(batch, i, _CONFLICT)
        elif verdict.fate != "unmatched":
            self._account.count("outcomes", verdict.fate)
        elif is_late:
            behind = f"{watermark - labelled.time_ms} ms behind the watermark, without prediction"
            self._refuse(batch, i, DeadLetter("late", behind))
        elif not self.join.rebuilding:
            self.join.waiting.add(
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


def waiting_record(outcome: WaitingOutcome, partition: int) -> Record:
    """Give the record a waiting outcome came in."""
    return Record(
        "outcomes",
        partition,
        outcome.offset,
        outcome.timestamp_ms,
        outcome.key,
        outcome.value,
        outcome.headers,
    )


def _explained(record: Record, refused: DeadLetter) -> DeadLetter:
    """Name the format of what is no JSON, where its producer does."""
    kind = next((v for n, v in record.headers if n.lower() == "content-type"), b"").lower()
    if refused.reason == "undecodable" and kind and b"json" not in kind:
        detail = f"content-type {kind.decode(errors='replace')}; JSON is read"
        return DeadLetter("unsupported-format", detail)
    return refused
