"""Which predictions without labels came twice.

Ids are forgotten by generations, intervals of event time twice as long as the grace and at
least a second: at their end plus the grace, by event time or by the watermark; or when none
was appended for an hour (four intervals, where that is longer): one that comes then begins
its generation anew.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from kedge_services.local.recount.plain import Record, Watched

__all__ = ["Arrivals"]

_HOUR_MS = 3_600_000
#: Partition, model, version, grace and number.
_Generation = tuple[int, str, str, int, int]


@dataclass(slots=True)
class Arrivals:
    """All predictions without labels that came so far."""

    _of_id: dict[tuple[str, str, str], list[tuple[_Generation, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _appended_ms: dict[_Generation, int] = field(default_factory=dict)
    _begun: dict[_Generation, int] = field(default_factory=lambda: defaultdict(int))

    def add(
        self,
        record: Record,
        watched: Watched,
        *,
        prediction_id: str,
        version: str,
        time_ms: int,
        watermark_ms: int,
    ) -> bool:
        """Take one; say whether one of the same id, model and version is still held."""
        length_ms = max(1_000, 2 * watched.grace_ms)
        known = self._of_id[watched.model, version, prediction_id]
        is_repeated = any(
            max(time_ms, watermark_ms) < _end_ms(grace_ms, number)
            and begun == self._begun[generation]
            and record.timestamp_ms < self._appended_ms[generation] + _wait_ms(grace_ms)
            for generation, begun in known
            for grace_ms, number in [generation[3:]]
        )
        number = time_ms // length_ms
        mine = (record.partition, watched.model, version, watched.grace_ms, number)
        before_ms = self._appended_ms.get(mine, record.timestamp_ms)
        if record.timestamp_ms >= before_ms + _wait_ms(watched.grace_ms):
            self._begun[mine] += 1
        if (mine, self._begun[mine]) not in known:
            known.append((mine, self._begun[mine]))
        self._appended_ms[mine] = max(before_ms, record.timestamp_ms)
        return is_repeated


def _end_ms(grace_ms: int, number: int) -> int:
    return (number + 1) * max(1_000, 2 * grace_ms) + grace_ms


def _wait_ms(grace_ms: int) -> int:
    return max(_HOUR_MS, 4 * max(1_000, 2 * grace_ms))
