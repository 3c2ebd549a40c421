"""Reads batches of predictions into the join and the deltas.

A batch is read as groups, the rows of one model that one monitor holds for: what is done
for a row is done for all rows of a group at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kedge.errors import DeadLetter
from kedge_services.core.columns import Coded, coded
from kedge_services.core.decoded import Decoded
from kedge_services.core.decoding import NO_OUTPUT, OutputRow, PredictionRow
from kedge_services.core.groups import Answers, Features, Group, Slot
from kedge_services.core.id_texts import Hashes, IdTexts
from kedge_services.core.intake import output_refusal
from kedge_services.core.known_ids import Arrived
from kedge_services.core.plans import Plan
from kedge_services.panes.intake import Intake, part_of
from kedge_services.panes.labelled import Labelled
from kedge_services.runtime.ports import Batch

__all__ = ["PredictionReader"]

_Ints = NDArray[np.int64]
_time_of = attrgetter("event_time_ms")
#: So many decoded rows, of some hundred bytes each, are worked on at a time.
_TOGETHER = 1 << 11
_NO_IDS = IdTexts.of([])


@dataclass(slots=True)
class PredictionReader:
    """Gives every prediction its fate."""

    intake: Intake
    _labelled: Labelled = field(init=False)

    def __post_init__(self) -> None:
        self._labelled = Labelled(self.intake)

    def read(self, batch: Batch) -> None:
        """Take a batch of JSON events, so many at a time that they stay near the processor."""
        # Of many models more, as each of them has only some of the rows.
        together = _TOGETHER * min(16, 1 + len(self.intake.lookup.newest) // 4)
        size = len(batch)
        # As many to each part: what is done once a part should be worth it.
        parts = max(1, round(size / together))
        for start, end in pairwise(size * k // parts for k in range(parts + 1)):
            part = part_of(batch, start, end)
            self._read(part, self.intake.lookup.decode(part.values))

    def take(self, batch: Batch, rows: Sequence[PredictionRow | DeadLetter]) -> None:
        """Take rows that were decoded, or could not be."""
        self._read(batch, Decoded.of(rows))

    def _read(self, batch: Batch, decoded: Decoded) -> None:
        appended_ms = np.array(batch.timestamps_ms, dtype=np.int64)
        refused: dict[int, DeadLetter] = {}
        if len(decoded.good) < len(batch):
            letters = enumerate(decoded.rows)
            refused = {i: letter for i, letter in letters if isinstance(letter, DeadLetter)}
        groups = list(self._groups(batch, decoded, appended_ms, refused))
        unlabelled = [group for group in groups if not group.plan.labelled]
        hashes = (decoded.texts if unlabelled else _NO_IDS).hashes()
        for group in unlabelled:
            is_whole = len(group.rows) == len(hashes)
            mine = hashes if is_whole else hashes[np.searchsorted(decoded.at, group.at)]
            is_new = self._are_new(group, mine, batch, appended_ms)
            repeated = len(group.rows) - int(np.count_nonzero(is_new))
            if repeated and not self.intake.join.rebuilding:
                self.intake.state.count("predictions", "duplicate", repeated)
            self._take(group, is_new, refused)
        if not self.intake.only_ids:
            labelled = [group for group in groups if group.plan.labelled]
            for group in _in_order(labelled):
                self._take(group, self._labelled.take(group, batch), refused)
        for i in sorted(refused):
            self.intake.refuse(batch, i, refused[i])

    def _groups(
        self,
        batch: Batch,
        decoded: Decoded,
        appended_ms: _Ints,
        refused: dict[int, DeadLetter],
    ) -> Iterator[Group]:
        """Put the good rows together by model and plan; note which are refused, and why."""
        lookup, clocks = self.intake.lookup, self.intake.account.clocks["predictions"]
        clocks_ms = clocks.tick_all(appended_ms)
        good, at, ids = decoded.good, decoded.at, decoded.ids
        times_ms = np.fromiter(map(_time_of, good), np.int64, len(good))
        misplaced = self.intake.misplaced_rows(batch, at, ids, times_ms, appended_ms, decoded.texts)
        outputs = [row.output or NO_OUTPUT for row in good]
        labels = coded([output.label for output in outputs])
        for model, mine in _by_model(decoded).items():
            group = Group(lookup.newest[model], lookup.columns(model), good, at, ids,
                          decoded.versions, outputs, labels, times_ms, times_ms)  # fmt: skip
            bad = misplaced
            if mine is not None:
                bad = {k: misplaced[i] for k, i in enumerate(mine) if i in misplaced}
                group = group.part(mine)
            for plan, chosen in lookup.plans_for(model, group.times_ms):
                bad = bad | _refused_labels(plan, group.labels, chosen)
            if bad:
                refused.update({group.at[k]: letter for k, letter in bad.items()})
                group = group.part([k for k in range(len(group.rows)) if k not in bad])
                if not group.rows:
                    continue
            largest_ms = clocks.of(model).advance_all(group.times_ms, int(clocks_ms[group.at[-1]]))
            for plan, chosen in lookup.plans_for(model, group.times_ms):
                group.watermarks_ms = largest_ms - plan.grace_ms
                part = group if chosen is None else group.part(chosen)
                part.plan = plan
                yield part

    # -------------------------------------------------------------------- taking

    def _are_new(
        self, group: Group, hashes: Hashes, batch: Batch, appended_ms: _Ints
    ) -> NDArray[np.bool_]:
        """Take predictions without labels; give which are no duplicates."""
        plan, ids, at, versions = group.plan, self.intake.ids, group.at, group.versions
        offsets = batch.offsets
        if len(at) < len(offsets):
            offsets, appended_ms = [offsets[i] for i in at], appended_ms[at]
        arrived = Arrived(hashes, group.times_ms, group.watermarks_ms, appended_ms, offsets)
        if _are_one(versions):
            return ids.take(plan.model, versions[0], grace_ms=plan.grace_ms, arrived=arrived)
        is_new = np.empty(len(at), dtype=np.bool_)
        for version in set(versions):
            chosen = [k for k, each in enumerate(versions) if each == version]
            part = Arrived(
                hashes[chosen], group.times_ms[chosen],
                group.watermarks_ms[chosen], appended_ms[chosen], [offsets[k] for k in chosen],
            )  # fmt: skip
            is_new[chosen] = ids.take(plan.model, version, grace_ms=plan.grace_ms, arrived=part)
        return is_new

    def _take(
        self, group: Group, is_new: NDArray[np.bool_], refused: dict[int, DeadLetter]
    ) -> None:
        """Refuse what is late and count the rest in drift panes."""
        if self.intake.join.rebuilding:
            return
        behind_ms = group.watermarks_ms - group.times_ms
        is_late = behind_ms > 0
        is_counted = is_new & ~is_late
        if not is_counted.all():
            for k in np.flatnonzero(is_new & is_late).tolist():
                behind = f"{behind_ms[k]} ms behind the watermark of model {group.plan.model}"
                refused[group.at[k]] = DeadLetter("late", behind)
            group = group.part(np.flatnonzero(is_counted).tolist())
        if group.rows:
            self.intake.state.count("predictions", "counted", len(group.rows))
            self._fold(group)

    def _fold(self, group: Group) -> None:
        plan, lookup, drift = group.plan, self.intake.lookup, self.intake.join.fold.drift
        versions = group.versions
        starts = group.times_ms - group.times_ms % plan.pane_ms
        first_ms = int(starts[0])
        parts = None
        if not (_are_one(versions) and bool((starts == first_ms).all())):
            parts = _by_slot(versions, starts, group)
        is_usual = set(map(type, group.rows)) == {group.columns.row}
        for version, start_ms, rows, answers, features in parts or [
            (versions[0], first_ms, group.rows, Answers(group.outputs, group.labels),
             group.features)
        ]:  # fmt: skip
            reference_id = lookup.reference_id(plan.model, version, start_ms)
            slot = Slot(plan, version, reference_id, start_ms)
            drift.rows(slot, group.columns, rows, answers if is_usual else None, features)


def _are_one(values: Sequence[str]) -> bool:
    """Say whether there is one value alone; to compare it is quicker than to look for others."""
    return values.count(values[0]) == len(values)


def _by_model(decoded: Decoded) -> dict[str, list[int] | None]:
    """Give the places of every model's rows among the good ones; None for all of them."""
    good = decoded.good
    if not good:
        return {}
    # A model has a struct of its own, and one more for what is odd.
    of_kinds: Collection[Any] = decoded.kinds
    if len({kind.model for kind in of_kinds}) == 1:
        return {good[0].model: None}
    types = list(map(type, good))
    kinds: dict[Any, None] = dict.fromkeys(types)
    numbers = {model: number for number, model in enumerate(dict.fromkeys(k.model for k in kinds))}
    number_of = {kind: numbers[kind.model] for kind in kinds}
    codes = np.fromiter(map(number_of.__getitem__, types), np.int64, len(types))
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(1, len(numbers)))
    parts = np.split(order, edges)
    return {model: part.tolist() for model, part in zip(numbers, parts, strict=True)}


def _by_slot(
    versions: Sequence[str], starts: _Ints, group: Group
) -> list[tuple[str, int, Sequence[PredictionRow], Answers, Features | None]]:
    """Put rows together by version and start of pane."""
    codes, names = coded(versions)
    order = np.lexsort((starts, codes))
    changes = (np.diff(codes[order]) != 0) | (np.diff(starts[order]) != 0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(group.rows)]
    rows = [group.rows[k] for k in order.tolist()]
    outputs = [group.outputs[k] for k in order.tolist()]
    labels = group.labels.codes[order]
    return [
        (names[codes[order[a]]], int(starts[order[a]]), rows[a:b],
         Answers(outputs[a:b], Coded(labels[a:b], group.labels.names)),
         None if group.features is None else group.features.part(order[a:b]))
        for a, b in pairwise(edges)
    ]  # fmt: skip


def _in_order(groups: Sequence[Group]) -> Iterator[Group]:
    """Give the groups; where some have ids in common, run by run in offset order.

    Of predictions of one id the first by offset is met first by what waits for it.
    """
    if len(groups) < 2 or len({name for g in groups for name in g.ids}) == sum(
        len(set(group.ids)) for group in groups
    ):
        yield from groups
        return
    places = sorted((i, n, k) for n, group in enumerate(groups) for k, i in enumerate(group.at))
    for n, run in groupby(places, key=itemgetter(1)):
        yield groups[n].part([k for _, _, k in run])


def _refused_labels(
    plan: Plan, labels: Coded, chosen: Sequence[int] | None
) -> dict[int, DeadLetter]:
    """Find the answers whose label is none of the declared classes."""
    names = labels.names
    if plan.regression or (
        set(map(type, names)) <= {str, type(None)} and set(names) <= plan.known_labels
    ):
        return {}
    refused = {}
    for code, label in enumerate(names):
        letter = None if label is None else output_refusal(plan, OutputRow(label))
        if letter is not None:
            wrong = labels.codes == code
            if chosen is not None:
                mine = np.zeros(wrong.size, dtype=np.bool_)
                mine[chosen] = True
                wrong &= mine
            refused.update(dict.fromkeys(np.flatnonzero(wrong).tolist(), letter))
    return refused
