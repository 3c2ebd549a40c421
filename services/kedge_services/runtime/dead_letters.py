"""Records that can never be processed: how they are put aside, and how many are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kedge.errors import Reason, Stop
from kedge_services.runtime.ports import Produce, Record

__all__ = [
    "POISON",
    "PUT_ASIDE",
    "RESENT",
    "RESENT_FROM",
    "ROW",
    "TOPIC",
    "DeadLetterLimit",
    "dead_letter",
    "reason_of",
]

TOPIC = "dead-letters"

#: Reasons that point at a producer or a decoder that is wrong as a whole.
POISON = frozenset({"undecodable", "unsupported-format", "missing-field", "bad-value", "invalid"})

#: The headers that say why a record was put aside, and where it came from.
PUT_ASIDE = frozenset(
    {
        "kedge-reason",
        "kedge-detail",
        "kedge-topic",
        "kedge-partition",
        "kedge-offset",
        "kedge-timestamp-ms",
        "kedge-service",
        "kedge-row",
    }
)
#: Of a row of a batch that was put aside alone: its number in the batch, from 0.
ROW = "kedge-row"
#: On a record that was sent back: which dead letter it was.
RESENT_FROM = "kedge-resent-from"
#: On a record of dead-letters that is none, but the note that one was sent back: its place.
#: It lies in the partition of that letter and has neither key nor value nor reason.
RESENT = "kedge-resent"

#: A process that exceeds the limit within so many records after its start stops.
START_RECORDS = 10_000


def dead_letter(record: Record, reason: Reason, detail: str, *, service: str) -> Produce:
    """Put a record aside: its bytes untouched, in its headers why and where it came from.

    The partition is that of the record; the loop takes it modulo the number of
    partitions of dead-letters.
    """
    return Produce(
        topic=TOPIC,
        key=record.key,
        value=record.value,
        partition=record.partition,
        headers=(
            *record.headers,
            ("kedge-reason", reason.encode()),
            ("kedge-detail", detail.encode()),
            ("kedge-topic", record.topic.encode()),
            ("kedge-partition", str(record.partition).encode()),
            ("kedge-offset", str(record.offset).encode()),
            ("kedge-timestamp-ms", str(record.timestamp_ms).encode()),
            ("kedge-service", service.encode()),
        ),
    )


def reason_of(output: Produce) -> str:
    """Give the reason of a dead letter; a record put aside twice has the later one."""
    for name, value in reversed(output.headers):
        if name == "kedge-reason":
            return value.decode()
    return "unknown"


@dataclass(slots=True)
class _Counts:
    records: int = 0
    poison: int = 0


@dataclass(slots=True)
class DeadLetterLimit:
    """Watches the share of records that nobody can read.

    A bad deploy must not drain a good topic into dead letters, so a process
    that exceeds ``ratio`` within its first :data:`START_RECORDS` stops.  Later
    one bad producer must not stop the others, so :meth:`exceeded` only says
    where it happens, judging each partition once every ``minimum`` records.
    """

    ratio: float
    minimum: int
    _start: _Counts = field(default_factory=_Counts)
    _recent: dict[int, _Counts] = field(default_factory=dict)
    _verdict: dict[int, bool] = field(default_factory=dict)

    def count(self, partition: int, records: int, reasons: Sequence[str]) -> None:
        """Take what is about to be committed for a partition.

        Raises
        ------
        Stop
            Most of what was read since the start cannot be processed.
        """
        poison = sum(reason in POISON for reason in reasons)
        start = self._start
        if start.records < START_RECORDS:
            start.records += records
            start.poison += poison
            if self._exceeds(start):
                raise Stop(
                    f"{start.poison} of the first {start.records} records cannot be processed "
                    f"(last reason: {reasons[-1] if reasons else 'unknown'}); nothing of the last "
                    "transaction was committed"
                )
        recent = self._recent.setdefault(partition, _Counts())
        recent.records += records
        recent.poison += poison
        if recent.records >= self.minimum:
            self._verdict[partition] = self._exceeds(recent)
            self._recent[partition] = _Counts()

    def exceeded(self) -> list[int]:
        """Give the partitions over the limit."""
        return sorted(p for p, over in self._verdict.items() if over)

    def forget(self, partition: int) -> None:
        """Drop what was counted for a partition that this process has no longer."""
        self._recent.pop(partition, None)
        self._verdict.pop(partition, None)

    def _exceeds(self, counts: _Counts) -> bool:
        return counts.records >= self.minimum and counts.poison > self.ratio * counts.records
