"""Blocks: the counts of contiguous parts of time, from which overdispersion is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kedge.panes import FeatureReference, Reference
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.shelf import Key, Shelf
from kedge_services.core.sketches import FeatureCounts

__all__ = ["BLOCKS", "LiveBlocks", "counter_blocks", "with_blocks"]

#: So many blocks a reference has; while they are gathered, up to twice as many.
BLOCKS: Final = 10


def counter_blocks(blocks: Sequence[FeatureCounts]) -> dict[str, list[int]]:
    """Give the counters that are not all zero by block, and the rows they are out of."""
    counters = {
        "null": [b.null for b in blocks],
        "type_error": [b.type_error for b in blocks],
        "not_finite": [b.nan + b.inf for b in blocks],
        "below": [b.below for b in blocks],
        "above": [b.above for b in blocks],
    }
    found = {name: counts for name, counts in counters.items() if any(counts)}
    return {"total": [b.total for b in blocks], **found} if found else {}


def with_blocks(reference: Reference, parts: Sequence[DriftDelta]) -> Reference:
    """Give the reference with the parts as its blocks; its counts stay."""

    def of(
        feature: FeatureReference | None, counts: Sequence[FeatureCounts | None]
    ) -> FeatureReference | None:
        known = [c for c in counts if c is not None]
        if feature is None or not known:
            return feature
        bins = [c.bins.tolist() for c in known]
        return feature.model_copy(update={"blocks": bins, "counter_blocks": counter_blocks(known)})

    features = {
        name: of(feature, [part.features.get(name) for part in parts])
        for name, feature in reference.features.items()
    }
    return reference.model_copy(
        update={
            "features": features,
            "prediction": of(reference.prediction, [part.prediction for part in parts]),
            "score": of(reference.score, [part.score for part in parts]),
        }
    )


class LiveBlocks:
    """Gathers panes as blocks; when there are too many, neighbours are merged.

    Attributes
    ----------
    shelf
        Each block is a piece of its own, as large as a pane.
    """

    def __init__(self) -> None:
        self.shelf: Shelf[DriftDelta] = Shelf("block", DriftDelta.encode, DriftDelta.decode)

    def add(self, owner: Key, pane: DriftDelta) -> int:
        """Take the next pane of an owner; give the number of its blocks."""
        parts = self.get(owner)
        if len(parts) == 2 * BLOCKS:
            for i, part in enumerate(parts[::2]):
                part.add(parts[2 * i + 1])
                self.shelf[*owner, i] = part
            for i in range(BLOCKS, 2 * BLOCKS):
                del self.shelf[*owner, i]
            parts = parts[::2]
        # Of all that is in a pane only what has a reference is needed.
        block = DriftDelta()
        block.add(
            DriftDelta(
                pane.rows, features=pane.features, prediction=pane.prediction, score=pane.score
            )
        )
        self.shelf[*owner, len(parts)] = block
        return len(parts) + 1

    def get(self, owner: Key) -> list[DriftDelta]:
        """Give the blocks of an owner, in their order."""
        found: list[DriftDelta] = []
        while (part := self.shelf.get((*owner, len(found)))) is not None:
            found.append(part)
        return found

    def drop(self, owner: Key) -> None:
        """Forget an owner's blocks."""
        for i in range(len(self.get(owner))):
            del self.shelf[*owner, i]
