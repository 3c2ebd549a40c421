"""Takes the rows of Arrow batches: of models without labels as columns, of others row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from kedge.batch_layout import CONTENT_TYPE_HEADER
from kedge.errors import DeadLetter
from kedge_services.core.decoding import PredictionRow
from kedge_services.core.groups import Slot
from kedge_services.core.known_ids import Arrived
from kedge_services.core.plans import Plan
from kedge_services.panes.arrow_rows import ArrowRows, Rows, chosen_of
from kedge_services.panes.intake import Intake
from kedge_services.runtime.dead_letters import ROW
from kedge_services.runtime.ports import Batch, Headers

__all__ = ["RowTaker"]

_Ints = NDArray[np.int64]
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class _Place:
    """Where rows came from.

    Attributes
    ----------
    batch
        The records.
    at
        int64, the position in it of each row's record.
    numbers
        int64, of each row in its record.
    appended_ms, clocks_ms
        int64, by row: its record's append time, and the partition's clock after it.
    """

    batch: Batch
    at: _Ints
    numbers: _Ints
    appended_ms: _Ints
    clocks_ms: _Ints


@dataclass(slots=True)
class RowTaker:
    """Gives the rows of batches their fates.

    Attributes
    ----------
    intake
        The partition's place, state and join.
    take_decoded
        Takes rows as if each had come in a record of its own.
    """

    intake: Intake
    take_decoded: Callable[[Batch, Sequence[PredictionRow | DeadLetter]], None]

    def take(self, batch: Batch, records: Sequence[int], firsts: _Ints, rows: ArrowRows) -> None:
        """Take rows.

        Parameters
        ----------
        batch
            Holds their records.
        records
            The positions of these.
        firsts
            Number of the first row of each, and of all rows.
        rows
            All of them.
        """
        counts = np.diff(firsts)
        at = np.repeat(np.array(records), counts)
        appended_ms = np.array([batch.timestamps_ms[i] for i in records], dtype=np.int64)
        clocks_ms = self.intake.account.clocks["predictions"].tick_all(appended_ms)
        place = _Place(
            batch, at, np.arange(rows.rows) - np.repeat(firsts[:-1], counts),
            np.repeat(appended_ms, counts), np.repeat(clocks_ms, counts),
        )  # fmt: skip
        found = list(self._models(rows))
        for _, plans in found:
            for plan, of_plan in plans:
                _refuse_labels(plan, rows, of_plan)
        self._refuse_misplaced(place, rows)
        decoded: dict[int, PredictionRow] = {}
        for mine, plans in found:
            if any(plan.labelled for plan, _ in plans):
                decoded |= self._decoded(rows, plans)
            else:
                self._take_columns(place, rows, plans, mine)
        if decoded:
            self._take_decoded(place, rows, decoded)
        source = _batch_of_rows(place, rows)
        for row in sorted(rows.refused):
            self.intake.refuse(source, row, rows.refused[row])

    def _models(self, rows: ArrowRows) -> Iterator[tuple[Rows, list[tuple[Plan, Rows]]]]:
        """Give the good rows of every model, and by plan; refuse those of no known model."""
        lookup = self.intake.lookup
        good = rows.good(slice(0, rows.rows))
        codes = rows.models.codes[good]
        for code in _distinct(codes):
            mine, model = chosen_of(good, codes == code), rows.models.values[code]
            times_ms = rows.times_ms[mine]
            if lookup.monitored(model, int(times_ms[0])) is None:
                unknown = DeadLetter("unknown-model", f"model {model} has no monitor")
                rows.refuse(rows.numbers(mine).tolist(), partial(_same, unknown))
                continue
            found = lookup.plans_for(model, times_ms)
            numbers = rows.numbers(mine) if len(found) > 1 else None
            yield (
                mine,
                [
                    (plan, mine if chosen is None or numbers is None else numbers[chosen])
                    for plan, chosen in found
                ],
            )

    def _refuse_misplaced(self, place: _Place, rows: ArrowRows) -> None:
        """Refuse rows on the wrong partition, and those whose time is ahead of their append."""
        intake = self.intake
        if intake.partitions > 1:
            actual = rows.ids.partitions(rows.request_ends, intake.partitions)
            rows.refuse(
                np.flatnonzero(actual != intake.partition).tolist(),
                lambda row: DeadLetter(
                    "misrouted",
                    f"request id {rows.request_id(row).decode()!r} belongs to partition "
                    f"{int(actual[row])}; `Client` splits batches so that all rows of one do",
                ),
            )
        ahead_ms = rows.times_ms - place.appended_ms
        rows.refuse(
            np.flatnonzero(ahead_ms > intake.max_skew_ms).tolist(),
            lambda row: DeadLetter(
                "bad-time",
                f"event_time_ms {int(rows.times_ms[row])} is {int(ahead_ms[row])} ms ahead of "
                f"the record's append time; at most {intake.max_skew_ms} ms are allowed",
            ),
        )

    # ------------------------------------------------------------------- columns

    def _take_columns(
        self, place: _Place, rows: ArrowRows, plans: Sequence[tuple[Plan, Rows]], mine: Rows
    ) -> None:
        """Take rows of a model without labels."""
        kept = rows.good(mine)
        times_ms = rows.times_ms[kept]
        if not times_ms.size:
            return
        clocks = self.intake.account.clocks["predictions"]
        before = np.empty(rows.rows, dtype=np.int64)
        before[kept] = clocks.of(plans[0][0].model).advance_all(
            times_ms, int(place.clocks_ms[kept][-1])
        )
        for plan, of_plan in plans:
            good = rows.good(of_plan)
            codes = rows.versions.codes[good]
            for code in _distinct(codes):
                of_version = chosen_of(good, codes == code)
                version, largest_ms = rows.versions.values[code], before[of_version]
                self._take_version(
                    place, rows, plan, version, of_version, largest_ms - plan.grace_ms
                )

    def _take_version(
        self,
        place: _Place,
        rows: ArrowRows,
        plan: Plan,
        version: str,
        mine: Rows,
        watermarks_ms: _Ints,
    ) -> None:
        intake, times_ms, at = self.intake, rows.times_ms[mine], place.at[mine]
        arrived = Arrived(
            rows.hashes[mine], times_ms, watermarks_ms, place.appended_ms[mine],
            _Lazily(times_ms.size, lambda k: place.batch.offsets[at[k]]),
        )  # fmt: skip
        is_new = intake.ids.take(plan.model, version, grace_ms=plan.grace_ms, arrived=arrived)
        if intake.join.rebuilding:
            return
        behind_ms = watermarks_ms - times_ms
        is_late = is_new & (behind_ms > 0)
        is_counted = is_new & ~is_late
        if is_late.any():
            late = chosen_of(mine, is_late)
            behind = dict(
                zip(rows.numbers(late).tolist(), behind_ms[is_late].tolist(), strict=True)
            )
            rows.refuse(
                behind,
                lambda row: DeadLetter(
                    "late", f"{behind[row]} ms behind the watermark of model {plan.model}"
                ),
            )
        for fate, which in (("duplicate", ~is_new), ("counted", is_counted)):
            if number := int(np.count_nonzero(which)):
                intake.state.count("predictions", fate, number)
        if is_counted.any():
            self._fold(rows, plan, version, chosen_of(mine, is_counted))

    def _fold(self, rows: ArrowRows, plan: Plan, version: str, mine: Rows) -> None:
        """Put rows into their drift panes."""
        columns = self.intake.lookup.declared(plan)
        numbers = rows.times_ms[mine] // plan.pane_ms
        for number in _distinct(numbers):
            of_pane, start_ms = chosen_of(mine, numbers == number), number * plan.pane_ms
            reference_id = self.intake.lookup.reference_id(plan.model, version, start_ms)
            table = rows.table(columns, _as_slice(of_pane), with_ids=not reference_id)
            self.intake.join.fold.drift.table(Slot(plan, version, reference_id, start_ms), table)

    # ---------------------------------------------------------------- row by row

    def _decoded(
        self, rows: ArrowRows, plans: Sequence[tuple[Plan, Rows]]
    ) -> dict[int, PredictionRow]:
        """Give the good rows of a model as JSON would have been decoded, by their numbers."""
        decoded: dict[int, PredictionRow] = {}
        for plan, of_plan in plans:
            good = rows.numbers(rows.good(of_plan))
            if good.size:
                columns = self.intake.lookup.declared(plan)
                made = rows.decoded(columns, plan, good)
                decoded.update(zip(good.tolist(), made, strict=True))
        return decoded

    def _take_decoded(
        self, place: _Place, rows: ArrowRows, decoded: dict[int, PredictionRow]
    ) -> None:
        """Take rows of models with labels."""
        kept = np.array(sorted(decoded))
        at = place.at[kept].tolist()
        batch, source = place.batch, _batch_of_rows(place, rows)
        names = rows.names[kept].tolist()
        keys: list[bytes | None] = [name.partition("#")[0].encode() for name in names]
        some = kept.tolist()
        expanded = Batch(
            batch.topic,
            batch.partition,
            [batch.offsets[i] for i in at],
            place.appended_ms[kept].tolist(),
            keys,
            _Lazily(kept.size, lambda k: source.values[some[k]]),
            _Lazily(kept.size, lambda k: source.headers[some[k]]),
        )
        self.take_decoded(expanded, [decoded[row] for row in some])


def _refuse_labels(plan: Plan, rows: ArrowRows, mine: Rows) -> None:
    """Refuse answers whose label is none of the declared classes."""
    labels = rows.labels
    if labels is None or plan.regression:
        return
    wrong = [value is not None and not plan.accepts(value) for value in labels.values]
    if any(wrong):
        codes = labels.codes
        rows.refuse(
            rows.numbers(mine)[np.array([*wrong, False])[codes[mine]]].tolist(),
            lambda row: DeadLetter(
                "bad-value", "output." + plan.refusal(labels.values[codes[row]])
            ),
        )


def _distinct(codes: _Ints) -> list[int]:
    """Give the distinct values in order; most often they are few, and equal ones together."""
    starts = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    found: list[int] = np.unique(np.concatenate([codes[:1], codes[starts]])).tolist()
    return found


def _as_slice(rows: Rows) -> Rows:
    """Give rows that follow one another as a slice: columns need no copy."""
    if isinstance(rows, slice):
        return rows
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == rows.size else rows


def _batch_of_rows(place: _Place, rows: ArrowRows) -> Batch:
    """Give the rows as records of their own, made where they are asked for."""
    batch = place.batch

    def key(row: int) -> bytes | None:
        is_name = 1 <= len(rows.names[row] or "") <= _LONGEST_NAME
        return rows.request_id(row) if is_name else batch.keys[place.at[row]]

    return Batch(
        batch.topic,
        batch.partition,
        _Lazily(rows.rows, lambda row: batch.offsets[place.at[row]]),
        _Lazily(rows.rows, lambda row: batch.timestamps_ms[place.at[row]]),
        _Lazily(rows.rows, key),
        _Lazily(rows.rows, rows.event),
        _Lazily(
            rows.rows,
            lambda row: _headers(batch.headers[place.at[row]], int(place.numbers[row])),
        ),
    )


class _Lazily(Sequence[Any]):
    """What is made of a row only where it is asked for: when the row is put aside."""

    def __init__(self, rows: int, make: Callable[[int], Any]) -> None:
        self._rows = rows
        self._make = make

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, row: int) -> Any: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Any]: ...

    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self._make(each) for each in range(*row.indices(self._rows))]
        return self._make(row)


def _same(refused: DeadLetter, _: int) -> DeadLetter:
    return refused


def _headers(headers: Headers, row: int) -> Headers:
    """Give a row's headers: it is JSON now, and has a number in its batch."""
    kept = [(name, value) for name, value in headers if name.lower() != CONTENT_TYPE_HEADER]
    return [*kept, (ROW, str(row).encode())]
