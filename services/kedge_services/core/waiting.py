"""Outcomes that came before their prediction and wait for it.

They are few, as the input that runs ahead is paused, so they stay in memory;
what still waits at a commit is kept in the changelog, original bytes included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

import msgspec
from msgspec import Struct

from kedge_services.core.entries import Labelled

__all__ = ["KEY_PREFIX", "Waiting", "WaitingOutcome"]

KEY_PREFIX = b"waiting/"


class WaitingOutcome(Struct, gc=False):
    """An outcome without its prediction, and the record it came in.

    ``owner`` is the model it is known to belong to; it waits until that model's
    predictions have passed ``until_ms``.
    """

    prediction_id: str
    labelled: Labelled
    until_ms: int
    owner: str | None
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = []

    @property
    def offset(self) -> int:
        """Where it lies in its partition of outcomes."""
        return self.labelled.offset


_decoder = msgspec.json.Decoder(WaitingOutcome)


@dataclass(slots=True)
class Waiting:
    """All waiting outcomes of a partition, by prediction id and by when they expire."""

    _by_id: dict[str, dict[int, WaitingOutcome]] = field(default_factory=dict)
    _by_offset: dict[int, WaitingOutcome] = field(default_factory=dict)
    _heaps: dict[str | None, list[tuple[int, int]]] = field(default_factory=dict)
    _unwritten: dict[int, WaitingOutcome] = field(default_factory=dict)
    _gone: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        """Give the number of outcomes that wait."""
        return len(self._by_offset)

    def __contains__(self, offset: int) -> bool:
        """Say whether the outcome at this offset waits."""
        return offset in self._by_offset

    def __iter__(self) -> Iterator[WaitingOutcome]:
        """Go through them by offset."""
        return iter([self._by_offset[offset] for offset in sorted(self._by_offset)])

    @property
    def oldest(self) -> int | None:
        """The smallest offset of those that wait."""
        return min(self._by_offset, default=None)

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take a record of the changelog; None says that it waits no longer."""
        offset = int(key.removeprefix(KEY_PREFIX))
        if offset in self._by_offset:
            self._remove(self._by_offset[offset])
        if value is not None:
            self._insert(_decoder.decode(value))

    def add(self, outcome: WaitingOutcome) -> None:
        """Let an outcome wait."""
        self._insert(outcome)
        self._unwritten[outcome.offset] = outcome

    def has(self, prediction_id: str) -> bool:
        """Say whether any waits for this prediction."""
        return prediction_id in self._by_id

    def among(self, prediction_ids: Sequence[str]) -> set[str]:
        """Give the ids for which any waits."""
        return self._by_id.keys() & set(prediction_ids) if self._by_id else set()

    def only(self, prediction_id: str) -> WaitingOutcome | None:
        """Give the one that waits for a prediction; None where there are more, or none."""
        found = self._by_id.get(prediction_id)
        return next(iter(found.values())) if found and len(found) == 1 else None

    def remove(self, outcomes: Iterable[WaitingOutcome]) -> None:
        """Take these out."""
        for outcome in outcomes:
            self._forget(outcome)

    def take(
        self, prediction_id: str, wanted: Callable[[WaitingOutcome], bool]
    ) -> list[WaitingOutcome]:
        """Take those for a prediction that are wanted out, in offset order."""
        found = self._by_id.get(prediction_id)
        if not found:
            return []
        taken = sorted((o for o in found.values() if wanted(o)), key=lambda outcome: outcome.offset)
        for outcome in taken:
            self._forget(outcome)
        return taken

    def expired(
        self, watermark: Callable[[str | None], int], *, read_ms: int
    ) -> list[WaitingOutcome]:
        """Take out those whose time has been passed by the watermark of their owner.

        Parameters
        ----------
        watermark
            Of an owner; for None, of all models that are not idle.
        read_ms
            Outcomes without an owner that were appended later stay: their prediction
            may be one of a model that is idle only as far as has been read.
        """
        taken: list[WaitingOutcome] = []
        for owner, heap in self._heaps.items():
            boundary = watermark(owner) if heap else 0
            while heap and heap[0][0] < boundary:
                outcome = self._by_offset.get(heap[0][1])
                if outcome is not None and owner is None and outcome.timestamp_ms > read_ms:
                    break
                heappop(heap)
                if outcome is not None:
                    taken.append(outcome)
                    self._forget(outcome)
        return sorted(taken, key=lambda outcome: outcome.offset)

    def overflow(self, limit: int) -> list[WaitingOutcome]:
        """Take out the oldest beyond a limit."""
        surplus = len(self) - limit
        taken = list(self)[:surplus] if surplus > 0 else []
        for outcome in taken:
            self._forget(outcome)
        return taken

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Give what changed since the last call, for the changelog."""
        changes: list[tuple[bytes, bytes | None]] = [
            (_key(offset), msgspec.json.encode(outcome))
            for offset, outcome in self._unwritten.items()
        ]
        changes += [(_key(offset), None) for offset in self._gone]
        self._unwritten.clear()
        self._gone.clear()
        return changes

    def _insert(self, outcome: WaitingOutcome) -> None:
        self._by_id.setdefault(outcome.prediction_id, {})[outcome.offset] = outcome
        self._by_offset[outcome.offset] = outcome
        heap = self._heaps.setdefault(outcome.owner, [])
        heappush(heap, (outcome.until_ms, outcome.offset))

    def _forget(self, outcome: WaitingOutcome) -> None:
        self._remove(outcome)
        if self._unwritten.pop(outcome.offset, None) is None:
            self._gone.append(outcome.offset)

    def _remove(self, outcome: WaitingOutcome) -> None:
        del self._by_offset[outcome.offset]
        rest = self._by_id[outcome.prediction_id]
        del rest[outcome.offset]
        if not rest:
            del self._by_id[outcome.prediction_id]
        heap = self._heaps[outcome.owner]
        # Matched outcomes leave their heap entries behind; no more of them than of the living.
        if len(heap) > 64 and len(heap) > 2 * len(self._by_offset):
            heap[:] = [item for item in heap if item[1] in self._by_offset]
            heapify(heap)


def _key(offset: int) -> bytes:
    return KEY_PREFIX + str(offset).encode()
