"""How much of everything: the whole, a first look, and next to nothing for tests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "TINY", "Sizes"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of records, and of what else the cases are made of."""

    name: str
    json_records: int
    labelled_pairs: int
    wide_records: int


FULL = Sizes("full", json_records=3_000_000, labelled_pairs=600_000, wide_records=60_000)
QUICK = Sizes("quick", json_records=800_000, labelled_pairs=150_000, wide_records=15_000)
TINY = Sizes("tiny", json_records=2_000, labelled_pairs=500, wide_records=100)
