"""Reads batches of outcomes into the join and the deltas."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.errors import DeadLetter
from kedge_services.core.book import Placed
from kedge_services.core.decoding import OutcomeDecoder, OutcomeRow
from kedge_services.core.entries import Labelled
from kedge_services.core.first_labels import FirstLabels
from kedge_services.core.waiting import WaitingOutcome
from kedge_services.core.watermark import BEFORE_ALL, Clocks
from kedge_services.panes.claims import Claim, claims
from kedge_services.panes.intake import CONFLICT, Intake
from kedge_services.runtime.ports import Batch

__all__ = ["OutcomeReader"]

_Ints = NDArray[np.int64]


@dataclass(slots=True)
class _Asked:
    """The outcomes of a batch that ask for their prediction, as columns of equal length.

    Attributes
    ----------
    at
        int64, positions in the batch.
    claims, which
        Whose they are, and for each its position there.
    times_ms
        int64, event times.
    clocks_ms
        int64, of all records of the batch: the partition's clock when they were read.
    found
        The entries of their ids; None for what has to be looked at singly.
    """

    batch: Batch
    at: _Ints
    rows: list[OutcomeRow]
    claims: list[Claim]
    which: _Ints
    times_ms: _Ints
    clocks_ms: _Ints
    found: list[Placed | None]


@dataclass(slots=True)
class _Advances:
    """Event times of a model's outcomes of a batch, by position."""

    at: _Ints
    times_ms: _Ints
    #: Of those that were taken one by one.
    single_at: list[int] = field(default_factory=list)
    single_ms: list[int] = field(default_factory=list)

    def before(self, first_ms: int) -> _Ints:
        """Give the largest time before each, ``first_ms`` being that before the batch."""
        at = np.concatenate([self.at, np.array(self.single_at, dtype=np.int64)])
        times = np.concatenate([self.times_ms, np.array(self.single_ms, dtype=np.int64)])
        order = np.argsort(at, kind="stable")
        largest = np.maximum.accumulate(np.concatenate([[first_ms], times[order]]))
        before = np.empty(at.size, dtype=np.int64)
        before[order] = largest[:-1]
        return before[: self.at.size]


@dataclass(slots=True)
class OutcomeReader:
    """Gives every outcome its fate.

    Almost all are the first label of the only prediction of their id: these are taken at
    once, the others one by one, each with the clocks as they stood before it.
    """

    intake: Intake
    _decoder: OutcomeDecoder = field(default_factory=OutcomeDecoder)

    def read(self, batch: Batch) -> None:
        """Take a batch."""
        clocks = self.intake.account.clocks["outcomes"]
        stamps = np.fromiter(batch.timestamps_ms, np.int64, len(batch))
        clocks_ms = np.maximum.accumulate(np.concatenate([[clocks.clock_ms], stamps]))[1:]
        since_ms = clocks.since_ms
        asked = self._ask(batch, stamps, clocks_ms)
        first = self._first(asked, clocks)
        largest = {model: time.max_ms for model, time in clocks.models.items()}
        advances = self._take_singly(asked, first, clocks)
        self._take_first(asked, first, advances, largest)
        clocks.tick(int(clocks_ms[-1]))
        if not since_ms:
            clocks.since_ms = int(next((ms for ms in clocks_ms.tolist() if ms), 0))

    # ------------------------------------------------------------------ all of them

    def _ask(self, batch: Batch, stamps: _Ints, clocks_ms: _Ints) -> _Asked:
        """Put aside what is wrong, and load the entries that the others ask for."""
        decoded = self._decoder.decode(batch.values)
        refused = {i: row for i, row in enumerate(decoded) if isinstance(row, DeadLetter)}
        at = [i for i in range(len(decoded)) if i not in refused]
        rows: list[OutcomeRow] = [decoded[i] for i in at] if refused else decoded  # type: ignore[misc,assignment]
        ids = [row.prediction_id for row in rows]
        times = np.fromiter((row.event_time_ms for row in rows), np.int64, len(rows))
        found, which = claims(self.intake.lookup, rows, times)
        is_right = np.array([claim.refused is None for claim in found], dtype=np.bool_)[which]
        for k in np.flatnonzero(~is_right).tolist():
            letter = found[which[k]].refused
            if letter is not None:
                refused[at[k]] = letter
        for k, letter in self._misplaced(batch, at, ids, times, stamps, is_right).items():
            refused[at[k]] = letter
            is_right[k] = False
        for i in sorted(refused):
            self.intake.refuse(batch, i, refused[i])
        join, account = self.intake.join, self.intake.account
        asks = np.array([claim.wait_ms is not None for claim in found], dtype=np.bool_)[which]
        spared = is_right & ~asks
        if spared.any():
            account.count("outcomes", "unlabelled", int(spared.sum()))
        asks &= is_right
        if join.rebuilding and len(join.waiting):
            asks &= np.array([batch.offsets[i] not in join.waiting for i in at], dtype=np.bool_)
        if not asks.all():
            rows, at, ids = (
                list(compress(rows, asks)), list(compress(at, asks)), list(compress(ids, asks)),
            )  # fmt: skip
            which, times = which[asks], times[asks]
        placed = join.book.fetch(ids)
        if len(set(ids)) < len(ids):
            repeated = {name for name, times in Counter(ids).items() if times > 1}
            placed = [None if n in repeated else p for n, p in zip(ids, placed, strict=True)]
        return _Asked(
            batch, np.array(at, dtype=np.int64), rows, found, which, times, clocks_ms, placed
        )

    def _misplaced(
        self,
        batch: Batch,
        at: list[int],
        ids: list[str],
        times_ms: _Ints,
        stamps: _Ints,
        is_right: NDArray[np.bool_],
    ) -> dict[int, DeadLetter]:
        """Find those, by position, that are right so far and lie in the wrong place."""
        if is_right.all():
            return self.intake.misplaced_rows(batch, at, ids, times_ms, stamps)
        right = np.flatnonzero(is_right)
        mine, names = [at[k] for k in right.tolist()], [ids[k] for k in right.tolist()]
        wrong = self.intake.misplaced_rows(batch, mine, names, times_ms[right], stamps)
        return {int(right[k]): letter for k, letter in wrong.items()}

    def _first(self, asked: _Asked, clocks: Clocks) -> FirstLabels:
        """Give those that surely are the first label of the only prediction of their id.

        Their ``at`` are positions in ``asked``.
        """
        join = self.intake.join
        first = FirstLabels.of(
            asked.found, join.book.kinds,
            at=np.arange(len(asked.rows)), label_times_ms=asked.times_ms,
        )  # fmt: skip
        if not len(first):
            return first
        models = [shape.kind.model for shape in first.shapes]
        claimed = {tuple(c.models) if c.models is not None else None: 0 for c in asked.claims}
        codes = {key: k for k, key in enumerate(claimed)}
        belongs = np.array([[key is None or m in key for m in models] for key in codes])
        of_claim = np.array(
            [codes[None if c.models is None else tuple(c.models)] for c in asked.claims]
        )
        first = first.matching(belongs[of_claim[asked.which[first.at]], first.which])
        if join.rebuilding or not len(first):
            return first
        # A late label meets its prediction only while that is held.
        before = np.maximum.accumulate(asked.times_ms)[first.at - 1]
        before[first.at == 0] = BEFORE_ALL
        begun = first.by_kind([clocks.watermark(model, 0) for model in models])
        graces = first.by_kind([self._grace(model) for model in models])
        # None of the batch before a label can have taken its model further.
        reach = np.maximum(begun, before) - graces
        horizons = first.by_kind([shape.kind.horizon_ms for shape in first.shapes])
        is_held = (first.label_times_ms >= reach) | (reach <= first.times_ms + horizons)
        return first.only(is_held)

    def _grace(self, model: str) -> int:
        plan = self.intake.lookup.newest.get(model)
        return 0 if plan is None else plan.grace_ms

    # ------------------------------------------------------------------- one by one

    def _take_singly(
        self, asked: _Asked, first: FirstLabels, clocks: Clocks
    ) -> dict[str, _Advances]:
        """Take all but the first labels; give how those advance the clocks of their models."""
        advances: dict[str, _Advances] = {}
        models = [shape.kind.model for shape in first.shapes]
        names = list(dict.fromkeys(models))
        of = first.by_kind([names.index(model) for model in models])
        for k, model in enumerate(names):
            mine = np.flatnonzero(of == k)
            if mine.size:
                at = asked.at[first.at[mine]]
                advances[model] = _Advances(at, first.label_times_ms[mine])
        running = {
            model: (part.at.tolist(), np.maximum.accumulate(part.times_ms))
            for model, part in advances.items()
        }
        is_single = np.ones(len(asked.rows), dtype=np.bool_)
        is_single[first.at] = False
        for k in np.flatnonzero(is_single).tolist():
            i = int(asked.at[k])
            for model, (at, largest) in running.items():
                _advance(clocks, model, asked, at, largest, bisect_left(at, i))
            clocks.tick(int(asked.clocks_ms[i]))
            labelled, claim = self._labelled(asked, k), asked.claims[asked.which[k]]
            for model in self._label(asked.batch, i, asked.rows[k], labelled, claim, clocks):
                if model in advances:
                    advances[model].single_at.append(i)
                    advances[model].single_ms.append(labelled.time_ms)
        for model, (at, largest) in running.items():
            _advance(clocks, model, asked, at, largest, len(at))
        return advances

    def _labelled(self, asked: _Asked, k: int) -> Labelled:
        row, claim = asked.rows[k], asked.claims[asked.which[k]]
        offset = asked.batch.offsets[int(asked.at[k])]
        return Labelled(offset, row.event_time_ms, row.label, claim.models)

    def _label(
        self,
        batch: Batch,
        i: int,
        row: OutcomeRow,
        labelled: Labelled,
        claim: Claim,
        clocks: Clocks,
    ) -> Sequence[str]:
        """Take an outcome; give the models whose clocks it advances."""
        owner, join = claim.owner, self.intake.join
        is_late, watermark = None, BEFORE_ALL
        if owner is not None:
            watermark = clocks.watermark(owner.model, owner.grace_ms)
            is_late = labelled.time_ms < watermark
        verdict = join.label(row.prediction_id, labelled, is_late=is_late)
        models = verdict.models if owner is None else (owner.model,)
        for model in models:
            clocks.of(model).advance(labelled.time_ms, clocks.clock_ms)
        if verdict.fate == "conflicting":
            self.intake.refuse(batch, i, CONFLICT)
        elif verdict.fate != "unmatched":
            self.intake.account.count("outcomes", verdict.fate)
        elif is_late:
            behind = f"{watermark - labelled.time_ms} ms behind the watermark, without prediction"
            self.intake.refuse(batch, i, DeadLetter("late", behind))
        elif not join.rebuilding:
            join.waiting.add(
                WaitingOutcome(
                    row.prediction_id,
                    labelled,
                    labelled.time_ms + (claim.wait_ms or 0),
                    None if owner is None else owner.model,
                    batch.timestamps_ms[i],
                    batch.keys[i],
                    batch.values[i],
                    list(batch.headers[i]),
                )
            )
        return models

    # ------------------------------------------------------------------ many at once

    def _take_first(
        self,
        asked: _Asked,
        first: FirstLabels,
        advances: dict[str, _Advances],
        largest: dict[str, int],
    ) -> None:
        if not len(first):
            return
        join, rows = self.intake.join, asked.rows
        at, which = asked.at[first.at], asked.which[first.at]
        found = [placed for placed in asked.found if placed is not None]
        if len(first) < len(rows):
            rows = [rows[k] for k in first.at.tolist()]
            found = [placed for k in first.at.tolist() if (placed := asked.found[k]) is not None]
        names = [row.prediction_id for row in rows]
        labels: list[Scalar] = [row.label for row in rows]
        offsets = [asked.batch.offsets[i] for i in at.tolist()]
        of_claim = [claim.models for claim in asked.claims]
        models = [of_claim[c] for c in which.tolist()]
        times = first.label_times_ms.tolist()
        stored = list(zip(offsets, times, labels, models, strict=True))
        first.store(join.book, names, found, stored)
        self.intake.account.count("outcomes", "matched", len(first))
        if join.rebuilding:
            return
        closed = np.empty(len(first), dtype=np.int64)
        of_model = [shape.kind.model for shape in first.shapes]
        for model, part in advances.items():
            before = part.before(largest.get(model, BEFORE_ALL)) - self._grace(model)
            mine = first.by_kind([m == model for m in of_model]).astype(np.bool_)
            closed[mine] = np.minimum(before, join.watermarks.predictions(model))
        first.fold(join.fold, found, labels, which, closed)
        if join.notes_examples:
            join.first_examples += first.examples(names, found, labels)


def _advance(
    clocks: Clocks, model: str, asked: _Asked, at: list[int], largest: _Ints, number: int
) -> None:
    """Take the first so many of a model's first labels into its clock."""
    if number:
        clocks.of(model).advance(int(largest[number - 1]), int(asked.clocks_ms[at[number - 1]]))
