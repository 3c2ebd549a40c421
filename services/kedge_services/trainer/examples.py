"""Labelled examples as columns: decoded in batches, each once, in the order of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.events import Example, Output
from kedge_services.core.decoding import OutputRow
from kedge_services.trainer.feature_rows import (
    Column,
    FeatureRows,
    Indices,
    column_of,
    joined,
)

__all__ = ["ExampleRow", "Examples", "Places"]

Times = NDArray[np.int64]


class Places(NamedTuple):
    """Where examples lie, shape (n,) each: the offsets of their newest records."""

    partitions: NDArray[np.int32]
    offsets: Times


class ExampleRow(NamedTuple):
    """One example as :func:`kedge_services.core.selection.digest` sees it."""

    prediction_id: str
    revision: int
    event_time_ms: int
    label_time_ms: int
    label: Scalar
    features: Mapping[str, Scalar | None]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of one model, as columns of equal length.

    Attributes
    ----------
    labels
        As they were sent.
    event_times_ms, label_times_ms, revisions
        Shape (n,).
    features
        The rows.
    outputs
        What the version in question answered, if it did.
    places
        Of examples that were read from a topic.
    """

    ids: Sequence[str]
    labels: Column
    event_times_ms: Times
    label_times_ms: Times
    revisions: Times
    features: FeatureRows
    outputs: Sequence[OutputRow | Output | None]
    places: Places | None = None

    @classmethod
    def of(cls, examples: Iterable[Example], *, model: str, version: str | None) -> Examples:
        """Take the examples of a model, with the outputs of one version."""
        mine = [example for example in examples if example.model == model]
        return cls(
            [example.prediction_id for example in mine],
            column_of([example.label for example in mine], is_number=False),
            np.array([example.event_time_ms for example in mine], np.int64),
            np.array([example.label_time_ms for example in mine], np.int64),
            np.array([example.revision for example in mine], np.int64),
            FeatureRows.of([example.features for example in mine]),
            [None if version is None else example.outputs.get(version) for example in mine],
        )

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Put examples one after the other; a feature that some parts lack is absent there."""
        if len(parts) == 1:
            return parts[0]
        places = [part.places for part in parts if part.places is not None]
        return cls(
            [name for part in parts for name in part.ids],
            joined([part.labels for part in parts]),
            np.concatenate([part.event_times_ms for part in parts]),
            np.concatenate([part.label_times_ms for part in parts]),
            np.concatenate([part.revisions for part in parts]),
            FeatureRows.joined([part.features for part in parts]),
            [output for part in parts for output in part.outputs],
            Places(*map(np.concatenate, zip(*places, strict=True))) if places else None,
        )

    def __len__(self) -> int:
        """Give the number of examples."""
        return len(self.ids)

    def __iter__(self) -> Iterator[ExampleRow]:
        """Give them one after the other."""
        columns = zip(
            self.ids,
            self.revisions.tolist(),
            self.event_times_ms.tolist(),
            self.label_times_ms.tolist(),
            self.labels.values(),
            self.features,
            strict=True,
        )
        return map(ExampleRow._make, columns)

    def take(self, indices: Indices) -> Examples:
        """Give the examples at these places."""
        places = np.asarray(indices, dtype=np.int64)
        chosen: list[int] = places.tolist()
        return Examples(
            [self.ids[i] for i in chosen],
            self.labels.take(places),
            self.event_times_ms[places],
            self.label_times_ms[places],
            self.revisions[places],
            self.features.take(places),
            [self.outputs[i] for i in chosen],
            self.places and Places(self.places.partitions[places], self.places.offsets[places]),
        )

    def newest(self) -> Examples:
        """Give each example once, at its highest revision; of equal ones the last counts."""
        kept = _newest(self)
        return self if kept is None else self.take(kept)

    def ordered(self, last: int | None = None) -> Examples:
        """Give them by (label time, prediction id), or the last of them in this order.

        Each has to be there once; see :meth:`newest`.
        """
        order = _by_time(self.label_times_ms, self.ids)
        return self.take(order if last is None else order[-last:])


def _newest(examples: Examples) -> Indices | None:
    """Give the places of what is kept, None for all."""
    # Ids of the same hash lie side by side; only among those can one be there twice.
    hashes = np.fromiter(map(hash, examples.ids), np.int64, len(examples))
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    if not same.any():
        return None
    best: dict[str, int] = {}
    gone = np.zeros(len(examples), dtype=bool)
    twins = np.union1d(order[1:][same], order[:-1][same])
    for place in twins.tolist():
        name = examples.ids[place]
        known = best.get(name)
        if known is None or examples.revisions[known] <= examples.revisions[place]:
            best[name] = place
        loser = known if best[name] == place else place
        if loser is not None:
            gone[loser] = True
            _move_up(examples.places, best[name], loser)
    return np.flatnonzero(~gone)


def _move_up(places: Places | None, kept: int, gone: int) -> None:
    """Let the one that is kept lie where the newest record of the two does."""
    if places is not None:
        places.offsets[kept] = max(places.offsets[kept], places.offsets[gone])


def _by_time(times_ms: Times, ids: Sequence[str]) -> Times:
    order = np.argsort(times_ms, kind="stable")
    times = times_ms[order]
    edges = np.flatnonzero(np.diff(times)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(times)]])
    is_tied = ends - starts > 1
    for start, end in zip(starts[is_tied].tolist(), ends[is_tied].tolist(), strict=True):
        order[start:end] = sorted(order[start:end].tolist(), key=ids.__getitem__)
    return order
