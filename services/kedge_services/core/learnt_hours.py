"""Live rows by hour, until there are three weeks of them: how a seasonal reference is learnt."""

from __future__ import annotations

from typing import Final

from kedge import Reference
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.seasons import HOURS, pack, slots, unpack
from kedge_services.core.shelf import Shelf
from kedge_services.core.strata import LEAST_WEEKS, counted_by_slot, slot_counts

__all__ = ["LearntHours"]

_LEARNT_SLOTS: Final = LEAST_WEEKS * HOURS

Version = tuple[str, str]


class LearntHours:
    """Counts the rows of versions that learn a seasonal reference, each hour by itself.

    Attributes
    ----------
    shelf
        By model, version, time zone and slot: the hour's counts, packed, some 40 bytes
        for every feature.
    """

    def __init__(self) -> None:
        self.shelf: Shelf[str] = Shelf("learnt-hour", str, str)

    def add(
        self,
        version: Version,
        reference: Reference,
        start_ms: int,
        delta: DriftDelta,
        timezone: str,
    ) -> None:
        """Take the counts of a pane, which lies within an hour."""
        key = (*version, timezone, int(slots([start_ms], timezone)[0]))
        counts = slot_counts(delta, reference)
        known = self.shelf.get(key)
        self.shelf[key] = pack(counts if known is None else counts + unpack(known))

    def is_whole(self, version: Version, end_ms: int, timezone: str) -> bool:
        """Say whether three weeks have passed since the first hour that was counted."""
        known = self._counted(version, timezone)
        end = int(slots([end_ms], timezone)[0])
        return bool(known) and end - min(known) >= _LEARNT_SLOTS

    def strata(self, version: Version, reference: Reference, timezone: str) -> Reference:
        """Give a learnt reference, with its counts, the strata of its hours."""
        return counted_by_slot(reference, self._counted(version, timezone), timezone)

    def drop(self, version: Version) -> None:
        """Forget the hours of a version."""
        for key in self.shelf:
            if key[:2] == version:
                del self.shelf[key]

    def _counted(self, version: Version, timezone: str) -> dict[int, str]:
        """Give the packed counts by slot."""
        wanted = (*version, timezone)
        return {int(key[3]): counts for key, counts in self.shelf.items() if key[:3] == wanted}
