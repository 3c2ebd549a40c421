"""The join of predictions and outcomes: what each new record changes.

A record changes the entry of its prediction id; what that adds to panes and
examples is the difference between what follows from the entry after and before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from msgspec import Raw

from kedge.base import Scalar
from kedge_services.core.book import Book
from kedge_services.core.entries import (
    MAX_LABELS,
    NOTHING,
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
from kedge_services.core.first_labels import FirstExamples
from kedge_services.core.folding import Fold
from kedge_services.core.waiting import Waiting, WaitingOutcome

__all__ = ["ExampleDraft", "Join", "LabelFate", "Verdict", "Watermarks"]

NO_ENTRY = Entry()

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
    first_examples
        Those that came since then with the first label of their only prediction; what
        changed of them afterwards is in ``examples``.
    notes_examples
        Whether examples are wanted at all.
    is_unlabelled
        Says whether a prediction of this id came that has no labels; those are not here.
    rebuilding
        While records are read again nothing is folded, and outcomes without
        prediction are kept beside the entries: their prediction may follow.
    """

    book: Book
    fold: Fold
    waiting: Waiting
    watermarks: Watermarks
    examples: dict[tuple[str, str], ExampleDraft] = field(default_factory=dict)
    first_examples: list[FirstExamples] = field(default_factory=list)
    rebuilding: bool = False
    notes_examples: bool = True
    is_unlabelled: Callable[[str], bool] = lambda _: False

    def predict(self, name: str, held: Held) -> list[tuple[WaitingOutcome, LabelFate]] | None:
        """Take a prediction; give the outcomes that had waited for it.

        None says that it is a duplicate: the first prediction by offset wins.
        """
        entry = self.book.get(name) or NO_ENTRY
        if entry.predictions:
            if self._is_duplicate(entry, held):
                # Read again without the first it would be taken for a new one.
                self.book.keep(name, held.until_ms)
                return None
            if not held.champion and champion_of(entry.predictions, held.model) is not None:
                held.features = NOTHING
        now = Entry(_in_order(entry.predictions, held), entry.labels)
        if self.rebuilding:
            self.book.change(name, now)
            return []
        self.fold.predicted(held)
        if now.labels and not entry.predictions:
            # Left over from rebuilding: what its prediction did not find then has expired.
            passed = self.watermarks.predictions(held.model)
            live = tuple(o for o in now.labels if passed <= o.time_ms + held.wait_ms)
            now = Entry(now.predictions, live)
        now, met = self._meet(name, now, held)
        self.book.change(name, now)
        if now.labels:
            self._settle(name, entry, now)
        return met

    def label(self, name: str, labelled: Labelled, *, is_late: bool | None) -> Verdict:
        """Take an outcome; ``unmatched`` leaves it to the caller to let it wait.

        Parameters
        ----------
        name
            Its prediction id.
        labelled
            The label.
        is_late
            Whether it lies behind its model's watermark; None when its model is
            not known yet.
        """
        entry = self.book.get(name) or NO_ENTRY
        if is_late is False and not self.rebuilding and self._label_first(name, entry, labelled):
            return Verdict("matched", (entry.predictions[0].model,))
        if self.rebuilding and any(known.offset == labelled.offset for known in entry.labels):
            return Verdict("duplicate")
        found = [held for held in entry.predictions if matches(held, labelled)]
        if is_late is not False and not self.rebuilding:
            found = [held for held in found if self._is_held(held, labelled)]
        if not found:
            if self.rebuilding and not is_late and len(entry.labels) < MAX_LABELS:
                # Its prediction may be read again only after it.
                self.book.change(name, Entry(entry.predictions, (*entry.labels, labelled)))
            if is_late is None and not entry.predictions and self.is_unlabelled(name):
                return Verdict("unlabelled")
            return Verdict("unmatched")
        now, fate = _insert(entry, found[0], labelled)
        if now is not entry:
            self.book.change(name, now)
            if not self.rebuilding:
                self._settle(name, entry, now)
        models = (found[0].model,) if len(found) == 1 else tuple({p.model: 0 for p in found})
        return Verdict(fate, models)

    def _label_first(self, name: str, entry: Entry, labelled: Labelled) -> bool:
        """Take what almost every label is: the first one of the only prediction of its id."""
        if entry.labels or len(entry.predictions) != 1:
            return False
        if not matches(entry.predictions[0], labelled):
            return False
        now = Entry(entry.predictions, (labelled,))
        self.book.change(name, now)
        self._settle_first(name, now)
        return True

    def _is_duplicate(self, entry: Entry, held: Held) -> bool:
        """Say whether this version has answered before, and the id is still held."""
        same = [p for p in entry.predictions if (p.version, p.model) == (held.version, held.model)]
        if not same:
            return False
        reached = held.time_ms
        if not self.rebuilding:
            reached = max(reached, self._both(held.model))
        return any(reached <= other.until_ms for other in same)

    def _both(self, model: str) -> int:
        return min(self.watermarks.predictions(model), self.watermarks.outcomes(model))

    def _is_held(self, held: Held, labelled: Labelled) -> bool:
        """Say whether a prediction has not left yet when a late label comes."""
        watermark = self.watermarks.outcomes(held.model)
        return labelled.time_ms >= watermark or watermark <= held.time_ms + held.horizon_ms

    def _meet(
        self, name: str, entry: Entry, held: Held
    ) -> tuple[Entry, list[tuple[WaitingOutcome, LabelFate]]]:
        """Move the outcomes that wait for a prediction into its entry."""
        met: list[tuple[WaitingOutcome, LabelFate]] = []
        if self.waiting.has(name):
            watermark = self.watermarks.predictions(held.model)
            for outcome in self.waiting.take(
                name, lambda o: watermark <= o.until_ms and matches(held, o.labelled)
            ):
                entry, fate = _insert(entry, held, outcome.labelled)
                met.append((outcome, fate))
        return entry, met

    def _settle(self, name: str, entry: Entry, now: Entry) -> None:
        """Fold the difference between what an entry is now and what it was."""
        if not entry.labels and len(now.predictions) == len(now.labels) == 1:
            if matches(now.predictions[0], now.labels[0]):
                self._settle_first(name, now)
            return
        news = [p for p in now.predictions if all(p is not other for other in entry.predictions)]
        added = news[0].model if news else None
        before: list[LabelState | None] = []
        after: list[LabelState | None] = []
        touched: dict[str, None] = {}
        for held in now.predictions:
            is_known = entry.labels and not any(held is p for p in news)
            old = label_state(held, entry.labels) if is_known else None
            new = label_state(held, now.labels)
            before.append(old)
            after.append(new)
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
            if len(now.predictions) > 1:
                self._settle_pairs(now, model, before, after)
            self._draft(name, now, model)

    def _settle_first(self, name: str, now: Entry) -> None:
        """Fold what almost every entry is: one prediction that gets its first label."""
        held, labelled = now.predictions[0], now.labels[0]
        self.fold.labelled(held, labelled, 1)
        if held.predicted is not None:
            self.fold.first_label(held, labelled, self._both(held.model))
        self._note(name, held.model, now.predictions, labelled, 0)

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
        state = (label_state(mine[0], entry.labels) if len(mine) == 1
                 else id_state(mine, entry.labels))  # fmt: skip
        if state is None:
            return
        self._note(name, model, mine, state.current, state.changes)

    def _note(
        self, name: str, model: str, mine: Sequence[Held], current: Labelled, changes: int
    ) -> None:
        if not self.notes_examples:
            return
        if len(mine) == 1:
            base = mine[0]
            champion, features = (base if base.champion else None), base.features
        else:
            champion = champion_of(mine, model)
            base = champion or mine[0]
            features = base.features
            if is_nothing(features):
                features = next((h.features for h in mine if not is_nothing(h.features)), NOTHING)
        self.examples[name, model] = ExampleDraft(
            name,
            model,
            features,
            current.label,
            {held.version: held.output for held in mine},
            None if champion is None else champion.version,
            base.segments,
            base.time_ms,
            current.time_ms,
            changes,
        )


def _in_order(predictions: tuple[Held, ...], held: Held) -> tuple[Held, ...]:
    """Put a prediction among the others of its id, by offset.

    A batch is read model by model, so it may come after a later one of another model.
    """
    if not predictions or predictions[-1].offset <= held.offset:
        return (*predictions, held)
    return tuple(sorted((*predictions, held), key=lambda p: p.offset))


def _insert(entry: Entry, held: Held, labelled: Labelled) -> tuple[Entry, LabelFate]:
    """Put a label among the others, if it makes a difference, and say what it is."""
    if not entry.labels:
        return Entry(entry.predictions, (labelled,)), "matched"
    earlier = tuple(o for o in entry.labels if o.offset < labelled.offset)
    state = label_state(held, earlier)
    is_repeated = state is not None and state.current.text == labelled.text
    best = labelled if state is None else state.best
    if is_repeated and (best.time_ms, best.models) == (labelled.time_ms, labelled.models):
        return entry, "duplicate"
    if len(entry.labels) >= MAX_LABELS:
        return entry, "duplicate" if is_repeated else "conflicting"
    labels = (*earlier, labelled, *entry.labels[len(earlier) :])
    return Entry(entry.predictions, labels), "duplicate" if is_repeated else "matched"
