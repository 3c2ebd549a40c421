"""What reading predictions and outcomes has in common: who counts, and who is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kedge.batch_layout import is_batch
from kedge.errors import DeadLetter
from kedge_services.core.entries import MAX_LABELS
from kedge_services.core.id_texts import IdTexts
from kedge_services.core.intake import find_misplaced
from kedge_services.core.join import Join
from kedge_services.core.known_ids import KnownIds
from kedge_services.core.waiting import WaitingOutcome
from kedge_services.panes.lookup import Lookup
from kedge_services.panes.state import State
from kedge_services.runtime.ports import Batch, Record

__all__ = ["CONFLICT", "Intake", "part_of", "waiting_record"]

CONFLICT = DeadLetter(
    "conflicting-duplicate", f"the label of this id has changed {MAX_LABELS} times"
)


@dataclass(slots=True)
class Intake:
    """One partition's place, state and join.

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
    ids
        Of predictions without labels.
    only_ids
        Whether records are read again that only these ids need.
    """

    partition: int
    partitions: int
    max_skew_ms: int
    state: State
    lookup: Lookup
    join: Join
    put_aside: Callable[[Record, DeadLetter], None]
    ids: KnownIds = field(default_factory=KnownIds)
    only_ids: bool = False
    _again: State = field(default_factory=State)

    def begin_rebuild(self) -> None:
        """Read records again from now on: only the join's entries change."""
        self.join.rebuilding = True
        self._again = State()

    def end_rebuild(self) -> None:
        """Read new records from now on."""
        self.join.rebuilding = False

    @property
    def account(self) -> State:
        """Where clocks and fates are kept; what is read again has them already."""
        return self._again if self.join.rebuilding else self.state

    def refuse(self, batch: Batch, i: int, refused: DeadLetter) -> None:
        """Count a record of the batch under its reason, and put it aside."""
        self.account.count(batch.topic, refused.reason)
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

    def misplaced_rows(
        self,
        batch: Batch,
        at: Sequence[int],
        ids: Sequence[str],
        times_ms: NDArray[np.int64],
        appended_ms: NDArray[np.int64],
        texts: IdTexts | None = None,
    ) -> dict[int, DeadLetter]:
        """Find the rows at these positions of a batch whose key, partition or time is wrong.

        ``texts`` are the ids, where they have been laid out before.
        """
        is_whole = len(at) == len(batch)
        return find_misplaced(
            ids,
            times_ms,
            keys=batch.keys if is_whole else [batch.keys[i] for i in at],
            timestamps_ms=appended_ms if is_whole else appended_ms[list(at)],
            texts=texts,
            partition=self.partition,
            partitions=self.partitions,
            max_skew_ms=self.max_skew_ms,
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


def part_of(batch: Batch, start: int, end: int) -> Batch:
    """Give the records from one position to another."""
    if (start, end) == (0, len(batch)):
        return batch
    return Batch(
        batch.topic,
        batch.partition,
        batch.offsets[start:end],
        batch.timestamps_ms[start:end],
        batch.keys[start:end],
        batch.values[start:end],
        batch.headers[start:end],
    )


def _explained(record: Record, refused: DeadLetter) -> DeadLetter:
    """Name the format of what is no JSON, where its producer does."""
    kind = next((v for n, v in record.headers if n.lower() == "content-type"), b"").lower()
    is_other = kind and b"json" not in kind and not is_batch(record.headers)
    if refused.reason == "undecodable" and is_other:
        detail = f"content-type {kind.decode(errors='replace')}; JSON is read"
        return DeadLetter("unsupported-format", detail)
    return refused
