"""Learnt references: a version nobody registered is held to its own first rows.

First a sample is gathered; at the first pane boundary after 2,000 rows it
makes the bins.  The rows of the panes that follow are counted on them, and
from the pane after the last of those on there are verdicts.  The counted panes are
the reference's blocks, too.  Where the hours of the week are told apart, the counting
goes on for three weeks.

A reference whose rows are in no order has no blocks that would say how much counts vary in
time.  Those of a series that is held to it are its first live panes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kedge import Monitor, Reference
from kedge_services.core.blocks import BLOCKS, LiveBlocks, with_blocks
from kedge_services.core.deltas import DriftDelta, LearningDelta
from kedge_services.core.folding import Series
from kedge_services.core.learnt_hours import LearntHours
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.references import Kind, learn_counts, learn_cuts
from kedge_services.core.shelf import Shelf

__all__ = ["COUNTED_PANES", "COUNTED_ROWS", "LEAST_PANES", "SAMPLED_ROWS", "Learner", "Learnt"]

#: Rows after which the bins are made, and the least that must be counted on them.
SAMPLED_ROWS = 2_000
#: Rows that are counted, unless they take longer than so many panes.
COUNTED_ROWS = 10_000
COUNTED_PANES = 8
#: However many rows a pane has: how much counts vary in time takes several panes to see.
LEAST_PANES = 4


@dataclass(slots=True)
class Learnt:
    """How far one version has come.

    ``reference`` has its bins once there were enough rows, and its counts once
    ``valid_from_ms`` is known: windows that start there or later are judged.
    """

    sample: LearningDelta = field(default_factory=LearningDelta)
    reference: Reference | None = None
    counted: DriftDelta = field(default_factory=DriftDelta)
    valid_from_ms: int | None = None

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        reference = self.reference
        return {
            "sample": self.sample.encode(),
            "reference": None if reference is None else reference.model_dump(mode="json"),
            "counted": self.counted.encode(),
            "valid_from_ms": self.valid_from_ms,
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Learnt:
        """Read what :meth:`encode` gave."""
        reference = data["reference"]
        return cls(
            LearningDelta.decode(data["sample"]),
            None if reference is None else Reference.model_validate(reference),
            DriftDelta.decode(data["counted"]),
            data["valid_from_ms"],
        )


class Learner:
    """Learns the references of all versions that have none."""

    def __init__(self) -> None:
        self.samples: Shelf[LearningDelta] = Shelf(
            "sample", LearningDelta.encode, LearningDelta.decode
        )
        self.learnt: Shelf[Learnt] = Shelf("learnt", Learnt.encode, Learnt.decode)
        self.blocks = LiveBlocks()
        self.hours = LearntHours()
        #: From when on series are judged that are held to references without order.
        self.settled: Shelf[int] = Shelf("settled", int, int)
        self._with_blocks: dict[Series, tuple[Reference, Reference]] = {}
        self._outbox: list[Reference] = []

    def add(self, series: Series, start_ms: int, delta: LearningDelta) -> None:
        """Take rows of a pane that is open."""
        known = self.learnt.get((series.model, series.version))
        if known is not None and known.reference is not None:
            return
        key = (series.model, series.version, start_ms)
        sample = self.samples.get(key)
        if sample is None:
            self.samples[key] = sample = LearningDelta()
        sample.add(delta)
        self.samples.touch(key)

    def close(self, series: Series, start_ms: int, *, watermark_ms: int, monitor: Monitor) -> None:
        """Take the sample of a pane that closes; make the bins when there are rows enough.

        They take effect two panes ahead of the watermark, so that every source
        partition has them before it reads the first row they hold for.
        """
        version = (series.model, series.version)
        sample = self.samples.get((*version, start_ms))
        if sample is None:
            return
        del self.samples[*version, start_ms]
        state = self.learnt.get(version)
        if state is None:
            self.learnt[version] = state = Learnt()
        if state.reference is not None:
            return
        state.sample.add(sample)
        self.learnt.touch(version)
        if state.sample.rows < SAMPLED_ROWS:
            return
        pane_ms = monitor.pane_ms
        state.reference = learn_cuts(
            state.sample,
            model=series.model,
            version=series.version,
            kinds=_kinds(monitor),
            regression=monitor.task == "regression",
            effective_ms=(watermark_ms // pane_ms + 2) * pane_ms,
        )
        state.sample = LearningDelta()
        self._outbox.append(state.reference)

    def count(self, series: Series, end_ms: int, pane: PaneCounts, monitor: Monitor) -> None:
        """Take the counts of a pane that closes into the reference it is counted on."""
        version = (series.model, series.version)
        state = self.learnt.get(version)
        if state is None or state.reference is None or state.valid_from_ms is not None:
            return
        if state.reference.reference_id != series.reference_id:
            return
        delta = pane.named()
        state.counted.add(delta)
        self.learnt.touch(version)
        self.blocks.add(version, delta)
        panes = (end_ms - state.reference.effective_ms) // monitor.pane_ms
        is_slow = panes >= COUNTED_PANES and state.counted.rows >= SAMPLED_ROWS
        is_enough = is_slow or (panes >= LEAST_PANES and state.counted.rows >= COUNTED_ROWS)
        zone = monitor.timezone
        if zone is not None:
            self.hours.add(version, state.reference, end_ms - monitor.pane_ms, delta, zone)
            is_enough = is_slow and self.hours.is_whole(version, end_ms, zone)
        if is_enough:
            counted = learn_counts(state.reference, state.counted)
            state.reference = with_blocks(counted, self.blocks.get(version))
            self.blocks.drop(version)
            if zone is not None:
                state.reference = self.hours.strata(version, state.reference, zone)
            self.hours.drop(version)
            state.counted = DriftDelta()
            state.valid_from_ms = end_ms
            self._outbox.append(state.reference)

    def find(self, series: Series) -> Learnt | None:
        """Give what was learnt of a series, when its reference was learnt here."""
        state = self.learnt.get((series.model, series.version))
        if state is None or state.reference is None:
            return None
        return state if state.reference.reference_id == series.reference_id else None

    def settle(self, series: Series, end_ms: int, pane: PaneCounts) -> None:
        """Take a pane of a series that is held to a reference without order."""
        if series in self.settled or not pane.rows:
            return
        if self.blocks.add(series, pane.named()) == BLOCKS:
            self.settled[series] = end_ms

    def settled_reference(
        self, series: Series, reference: Reference
    ) -> tuple[Reference, int | None]:
        """Give a reference without order with live blocks, and from when on they are whole."""
        since_ms = self.settled.get(series)
        if since_ms is None:
            return reference, None
        known = self._with_blocks.get(series)
        if known is None or known[0] is not reference:
            made = with_blocks(reference, self.blocks.get(series))
            known = self._with_blocks[series] = (reference, made)
        return known[1], since_ms

    def take(self) -> list[Reference]:
        """Give the references to be sent and begin anew."""
        taken, self._outbox = self._outbox, []
        return taken


def _kinds(monitor: Monitor) -> dict[str, Kind]:
    return {
        name: "numeric" if feature.type == "numeric" else "categorical"
        for name, feature in monitor.features.items()
    }
