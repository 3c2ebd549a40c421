"""The join of predictions and outcomes: what each new record changes.

A record changes the entry of its prediction id; what that adds to panes and
examples is the difference between what follows from the entry after and before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from msgspec import Raw

from kedge.base import Scalar
from kedge_services.core.book import Book
from kedge_services.core.entries import (
    MAX_LABELS,
    NOTHING,
    UNLABELLED,
    Entry,
    Held,
    Labelled,
    LabelState,
    Pair,
    champion_of,
    id_state,
    is_nothing,
    label_state,
    matches,
    pairs,
)
from kedge_services.core.folding import Fold
from kedge_services.core.waiting import Waiting, WaitingOutcome

__all__ = ["ExampleDraft", "Join", "LabelFate", "Verdict", "Watermarks"]

LabelFate = Literal["matched", "duplicate", "unlabelled", "conflicting", "unmatched"]


class Watermarks(Protocol):
    """How far a model's two inputs have come, before the record at hand."""

    def predictions(self, model: str) -> int:
        """Give the watermark of its predictions."""

    def outcomes(self, model: str) -> int:
        """Give the watermark of its outcomes."""


class Verdict(NamedTuple):
    """What became of an outcome, and the models whose predictions it met."""

    fate: LabelFate
    models: tuple[str, ...] = ()


class ExampleDraft(NamedTuple):
    """A prediction joined with its label, as known now."""

    prediction_id: str
    model: str
    features: Raw
    label: Scalar
    outputs: dict[str, Raw]
    served_by: str | None
    segments: Mapping[str, Scalar]
    event_time_ms: int
    label_time_ms: int
    revision: int


@dataclass(slots=True)
class Join:
    """One partition of the join.

    Attributes
    ----------
    book
        The entries; those of a batch are loaded before its records are taken.
    fold
        Takes what changes in panes.
    waiting
        Outcomes without their prediction.
    watermarks
        Judge what a late record may still meet.
    examples
        By prediction id and model, those that changed since the last commit.
    rebuilding
        While records are read again nothing is folded, and outcomes without
        prediction are kept beside the entries: their prediction may follow.
    """

    book: Book
    fold: Fold
    waiting: Waiting
    watermarks: Watermarks
    examples: dict[tuple[str, str], ExampleDraft] = field(default_factory=dict)
    rebuilding: bool = False

    def predict(self, name: str, held: Held) -> list[tuple[WaitingOutcome, LabelFate]] | None:
        """Take a prediction; give the outcomes that had waited for it.

        None says that it is a duplicate: the first prediction by offset wins.
        """
        entry = self.book.get(name)
        reached = self._reached(held)
        if entry is None:
            entry = Entry([], [])
        for other in entry.predictions:
            if (
                other.version == held.version
                and other.model == held.model
                and max(held.time_ms, reached) <= other.until_ms
            ):
                return None
        if not held.champion and champion_of(entry.predictions, held.model) is not None:
            held.features = NOTHING
        known, labels = len(entry.predictions), tuple(entry.labels)
        entry.predictions.append(held)
        self.book.change(name, entry)
        if held.horizon_ms == UNLABELLED or self.rebuilding:
            return []
        self.fold.predicted(held)
        if not known and labels:
            # Left over from rebuilding: what its prediction did not find then has expired.
            passed = self.watermarks.predictions(held.model)
            entry.labels = [o for o in labels if passed <= o.time_ms + held.wait_ms]
        met = self._meet(name, entry, held)
        if entry.labels:
            self._settle(name, entry, known, labels)
        return met

    def label(self, name: str, labelled: Labelled, *, is_late: bool) -> Verdict:
        """Take an outcome; ``unmatched`` leaves it to the caller to let it wait."""
        entry = self.book.get(name)
        if entry is not None and self.rebuilding:
            if any(known.offset == labelled.offset for known in entry.labels):
                return Verdict("duplicate")
        found = [] if entry is None else [p for p in entry.predictions if self._open(p, labelled)]
        if entry is None or not found:
            if self.rebuilding and not is_late:
                self._keep(name, entry, labelled)
            return self._unmatched(entry, labelled)
        models = tuple({held.model: None for held in found})
        labels = tuple(entry.labels)
        fate = self._insert(entry, found[0], labelled)
        if len(entry.labels) != len(labels):
            self.book.change(name, entry)
            if not self.rebuilding:
                self._settle(name, entry, len(entry.predictions), labels)
        return Verdict(fate, models)

    def _reached(self, held: Held) -> int:
        """Give how far the inputs are beyond all records that could matter to this model."""
        if self.rebuilding:
            return held.time_ms
        if held.horizon_ms == UNLABELLED:
            return self.watermarks.predictions(held.model)
        return self._both(held.model)

    def _both(self, model: str) -> int:
        return min(self.watermarks.predictions(model), self.watermarks.outcomes(model))

    def _open(self, held: Held, labelled: Labelled) -> bool:
        """Say whether the two are a pair and the prediction has not left when it is late."""
        if not matches(held, labelled):
            return False
        watermark = self.watermarks.outcomes(held.model)
        return (
            labelled.time_ms >= watermark
            or watermark <= held.time_ms + held.horizon_ms
            or self.rebuilding
        )

    def _keep(self, name: str, entry: Entry | None, labelled: Labelled) -> None:
        """Keep a label that is read again before its prediction."""
        entry = entry or Entry([], [])
        if len(entry.labels) < MAX_LABELS:
            entry.labels.append(labelled)
            self.book.change(name, entry)

    @staticmethod
    def _unmatched(entry: Entry | None, labelled: Labelled) -> Verdict:
        """Judge an outcome without prediction; an id only of models without labels needs none."""
        held = [] if entry is None else entry.predictions
        if held and labelled.models is None and all(p.horizon_ms == UNLABELLED for p in held):
            return Verdict("unlabelled")
        return Verdict("unmatched")

    def _meet(self, name: str, entry: Entry, held: Held) -> list[tuple[WaitingOutcome, LabelFate]]:
        """Move the outcomes that wait for a prediction into its entry."""
        watermark = self.watermarks.predictions(held.model)
        return [
            (outcome, self._insert(entry, held, outcome.labelled))
            for outcome in self.waiting.take(
                name, lambda o: watermark <= o.until_ms and matches(held, o.labelled)
            )
        ]

    @staticmethod
    def _insert(entry: Entry, held: Held, labelled: Labelled) -> LabelFate:
        """Put a label among the others, if it makes a difference, and say what it is."""
        earlier = [o for o in entry.labels if o.offset < labelled.offset]
        state = label_state(held, earlier)
        is_repeated = state is not None and state.current.text == labelled.text
        best = labelled if state is None else state.best
        if is_repeated and (best.time_ms, best.models) == (labelled.time_ms, labelled.models):
            return "duplicate"
        if len(entry.labels) >= MAX_LABELS:
            return "duplicate" if is_repeated else "conflicting"
        entry.labels.insert(len(earlier), labelled)
        return "duplicate" if is_repeated else "matched"

    def _settle(self, name: str, entry: Entry, known: int, labels: Sequence[Labelled]) -> None:
        """Fold the difference between an entry and what it was.

        Parameters
        ----------
        name
            Its prediction id.
        entry
            What is held now.
        known
            How many of its predictions, the first ones, were there before.
        labels
            The labels that were there before.
        """
        now = [label_state(held, entry.labels) for held in entry.predictions]
        before = [
            label_state(held, labels) if i < known and labels else None
            for i, held in enumerate(entry.predictions)
        ]
        added = entry.predictions[-1].model if known < len(entry.predictions) else None
        touched: dict[str, None] = {}
        for held, old, new in zip(entry.predictions, before, now, strict=True):
            if new is None:
                continue
            if old is None:
                self.fold.labelled(held, new.current, 1)
                self.fold.first_label(held, new.first, self._both(held.model))
            elif old.current.text != new.current.text:
                self.fold.labelled(held, old.current, -1)
                self.fold.labelled(held, new.current, 1)
            elif held.model != added:
                continue
            touched[held.model] = None
        for model in touched:
            self._settle_pairs(entry, model, before, now)
            self._draft(name, entry, model)

    def _settle_pairs(
        self,
        entry: Entry,
        model: str,
        before: Sequence[LabelState | None],
        now: Sequence[LabelState | None],
    ) -> None:
        for i, j in pairs(entry.predictions, model):
            old, new = (before[i], before[j]), (now[i], now[j])
            pair = Pair(entry.predictions[i], entry.predictions[j])
            if old[0] is not None and old[1] is not None:
                self.fold.pair(pair, old[0].current, old[1].current, -1)
            if new[0] is not None and new[1] is not None:
                self.fold.pair(pair, new[0].current, new[1].current, 1)

    def _draft(self, name: str, entry: Entry, model: str) -> None:
        """Note the example of an id as it is now: its label, and the outputs of all versions."""
        mine = [held for held in entry.predictions if held.model == model]
        state = id_state(mine, entry.labels)
        if state is None:
            return
        champion = champion_of(mine, model)
        base = champion or mine[0]
        features = (h.features for h in (base, *mine) if not is_nothing(h.features))
        self.examples[name, model] = ExampleDraft(
            prediction_id=name,
            model=model,
            features=next(features, NOTHING),
            label=state.current.label,
            outputs={held.version: held.output for held in mine},
            served_by=None if champion is None else champion.version,
            segments=base.segments,
            event_time_ms=base.time_ms,
            label_time_ms=state.current.time_ms,
            revision=state.changes,
        )
