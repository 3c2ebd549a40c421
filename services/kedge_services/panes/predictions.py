"""Reads batches of predictions into the join and the deltas.

A batch is read as groups, the rows of one model that one monitor holds for: what is done
for a row is done for all rows of a group at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kedge.errors import DeadLetter
from kedge_services.core.columns import coded
from kedge_services.core.decoding import OutputRow, PredictionRow
from kedge_services.core.groups import Group, Slot
from kedge_services.core.id_texts import IdTexts
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
        for start in range(0, len(batch), together):
            part = part_of(batch, start, min(len(batch), start + together))
            self.take(part, self.intake.lookup.decode(part.values))

    def take(self, batch: Batch, rows: Sequence[PredictionRow | DeadLetter]) -> None:
        """Take rows that were decoded, or could not be."""
        appended_ms = np.array(batch.timestamps_ms, dtype=np.int64)
        refused: dict[int, DeadLetter] = {}
        groups = list(self._groups(batch, rows, appended_ms, refused))
        for group in groups:
            if not group.plan.labelled:
                is_new = self._are_new(group, batch, appended_ms)
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
        rows: Sequence[Any],
        appended_ms: _Ints,
        refused: dict[int, DeadLetter],
    ) -> Iterator[Group]:
        """Put the good rows together by model and plan; note which are refused, and why."""
        lookup, clocks = self.intake.lookup, self.intake.account.clocks["predictions"]
        clocks_ms = clocks.tick_all(appended_ms)
        for model, at in _by_model(rows, refused).items():
            mine = list(rows) if len(at) == len(rows) else [rows[i] for i in at]
            times_ms = np.fromiter(map(_time_of, mine), np.int64, len(mine))
            ids = [row.prediction_id for row in mine]
            bad = self.intake.misplaced_rows(batch, at, ids, times_ms, appended_ms)
            for plan, chosen in lookup.plans_for(model, times_ms):
                bad |= _refused_labels(plan, mine, chosen)
            group = Group(lookup.newest[model], lookup.columns(model), mine, list(at), ids,
                          times_ms, times_ms)  # fmt: skip
            if bad:
                refused.update({at[k]: letter for k, letter in bad.items()})
                group = group.part([k for k in range(len(mine)) if k not in bad])
                if not group.rows:
                    continue
            largest_ms = clocks.of(model).advance_all(group.times_ms, int(clocks_ms[group.at[-1]]))
            for plan, chosen in lookup.plans_for(model, group.times_ms):
                group.watermarks_ms = largest_ms - plan.grace_ms
                part = group if chosen is None else group.part(chosen)
                part.plan = plan
                yield part

    # -------------------------------------------------------------------- taking

    def _are_new(self, group: Group, batch: Batch, appended_ms: _Ints) -> NDArray[np.bool_]:
        """Take predictions without labels; give which are no duplicates."""
        versions = [row.version for row in group.rows]
        plan, ids, at = group.plan, self.intake.ids, group.at
        offsets, appended_ms = batch.offsets, appended_ms[at]
        if len(at) < len(offsets):
            offsets = [offsets[i] for i in at]
        hashes = IdTexts.of(group.ids).hashes()
        arrived = Arrived(hashes, group.times_ms, group.watermarks_ms, appended_ms, offsets)
        if len(distinct := set(versions)) == 1:
            return ids.take(plan.model, versions[0], grace_ms=plan.grace_ms, arrived=arrived)
        is_new = np.empty(len(at), dtype=np.bool_)
        for version in distinct:
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
        versions = [row.version for row in group.rows]
        starts = group.times_ms - group.times_ms % plan.pane_ms
        first_ms = int(starts[0])
        if len(set(versions)) == 1 and bool((starts == first_ms).all()):
            parts = [(versions[0], first_ms, group.rows)]
        else:
            parts = _by_slot(versions, starts, group.rows)
        for version, start_ms, rows in parts:
            reference_id = lookup.reference_id(plan.model, version, start_ms)
            drift.rows(Slot(plan, version, reference_id, start_ms), group.columns, rows)


def _by_model(rows: Sequence[Any], refused: dict[int, DeadLetter]) -> dict[str, Sequence[int]]:
    """Give the positions of every model's rows; note those that could not be decoded."""
    kinds = set(map(type, rows))
    if len(kinds) == 1 and not issubclass(kinds.pop(), DeadLetter):
        return {rows[0].model: range(len(rows))}
    found: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if isinstance(row, DeadLetter):
            refused[i] = row
        else:
            known = found.get(row.model)
            if known is None:
                found[row.model] = [i]
            else:
                known.append(i)
    return dict(found)


def _by_slot(
    versions: Sequence[str], starts: _Ints, rows: Sequence[PredictionRow]
) -> list[tuple[str, int, list[PredictionRow]]]:
    """Put rows together by version and start of pane."""
    codes, names = coded(versions)
    order = np.lexsort((starts, codes))
    changes = (np.diff(codes[order]) != 0) | (np.diff(starts[order]) != 0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(rows)]
    sorted_rows = [rows[k] for k in order.tolist()]
    return [
        (names[codes[order[a]]], int(starts[order[a]]), sorted_rows[a:b])
        for a, b in pairwise(edges)
    ]


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
    plan: Plan, rows: Sequence[PredictionRow], chosen: Sequence[int] | None
) -> dict[int, DeadLetter]:
    """Find the answers whose label is none of the declared classes."""
    if plan.regression:
        return {}
    outputs = [row.output for row in (rows if chosen is None else [rows[k] for k in chosen])]
    given = [None if output is None else output.label for output in outputs]
    if set(map(type, given)) <= {str, type(None)} and set(given) <= plan.known_labels:
        return {}
    labels, refused = coded(given), {}
    for code, label in enumerate(labels.names):
        letter = None if label is None else output_refusal(plan, OutputRow(label))
        if letter is not None:
            for k in np.flatnonzero(labels.codes == code).tolist():
                refused[k if chosen is None else chosen[k]] = letter
    return refused
