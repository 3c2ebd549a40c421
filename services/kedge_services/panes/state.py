"""What a task of panes must not lose: one value in its changelog, and the waiting outcomes."""

from __future__ import annotations

import msgspec

from kedge_services.core.watermark import Clocks

__all__ = ["INPUTS", "STATE_KEY", "State"]

INPUTS = ("predictions", "outcomes")
STATE_KEY = b"state"


class State(msgspec.Struct):
    """Clocks, fates and numbers of a partition.

    Attributes
    ----------
    clocks
        By topic.
    fates
        Records by topic and fate, cumulative; ``waiting`` is left out, it is
        counted where they wait.
    after_cell
        First labels that came for a closed cell, cumulative.
    sequence
        Of the last Progress.
    low
        By topic, the offset from which a lost store is built anew.
    ids_low
        The offset of predictions from which the ids of those without labels are read
        again; None while nobody has kept any.
    """

    clocks: dict[str, Clocks] = msgspec.field(default_factory=lambda: {t: Clocks() for t in INPUTS})
    fates: dict[str, dict[str, int]] = msgspec.field(
        default_factory=lambda: {topic: {} for topic in INPUTS}
    )
    after_cell: int = 0
    sequence: int = 0
    low: dict[str, int] = {}
    ids_low: int | None = None

    def count(self, topic: str, fate: str, records: int = 1) -> None:
        """Count the fate of records."""
        fates = self.fates[topic]
        fates[fate] = fates.get(fate, 0) + records

    def fates_since(self, told: dict[tuple[str, str], int]) -> list[tuple[str, str, int]]:
        """Give topic, fate and number of the records judged since last told; remembers it there."""
        new = []
        for topic, fates in self.fates.items():
            for fate, count in fates.items():
                if count > (before := told.get((topic, fate), 0)):
                    new.append((topic, fate, count - before))
                told[topic, fate] = count
        return new

    def encode(self) -> bytes:
        """Give the value for the changelog."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, value: bytes) -> State:
        """Read what :meth:`encode` gave."""
        return msgspec.json.decode(value, type=cls)
