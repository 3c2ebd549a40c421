"""Labelled examples as columns: decoded in batches, each once, in the order of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.events import Example, Output
from kedge_services.core.decoding import OutputRow
from kedge_services.trainer.feature_rows import (
    ABSENT,
    Column,
    FeatureRows,
    Indices,
    column_of,
    joined,
)

__all__ = ["ExampleRow", "Examples", "Outputs", "Places"]

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


class Outputs:
    """What a version answered to some rows, as columns.

    Parameters
    ----------
    columns
        Label, score and value; without a label column's value there is no output.
    scores
        Of the outputs that have them, None if none has.
    """

    __slots__ = ("columns", "scores")

    def __init__(
        self, columns: FeatureRows, scores: Sequence[Mapping[str, float] | None] | None
    ) -> None:
        self.columns, self.scores = columns, scores

    @classmethod
    def of(cls, outputs: Sequence[Output | OutputRow | None]) -> Outputs:
        """Take outputs one by one."""
        parts: dict[str, list[Any]] = {
            "label": [ABSENT if o is None else o.label for o in outputs],
            "score": [None if o is None else o.score for o in outputs],
            "value": [None if o is None else o.value for o in outputs],
        }
        columns = {
            name: column_of(values, is_number=name != "label") for name, values in parts.items()
        }
        scores = [None if o is None else o.scores for o in outputs]
        return cls(FeatureRows(columns, len(outputs)), scores if any(scores) else None)

    @classmethod
    def joined(cls, parts: Sequence[Outputs]) -> Outputs:
        """Put outputs one after the other."""
        scores: list[Mapping[str, float] | None] = []
        for part in parts:
            scores += part.scores or [None] * len(part)
        columns = FeatureRows.joined([part.columns for part in parts])
        return cls(columns, scores if any(scores) else None)

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.columns)

    def __getitem__(self, place: int) -> Output | None:
        """Give the output to a row, None if there is none."""
        parts: dict[str, Any] = self.columns[place]
        if "label" not in parts:
            return None
        scores = None if self.scores is None else self.scores[place]
        return Output(**parts, scores=None if scores is None else dict(scores))

    def take(self, places: Times) -> Outputs:
        """Give the outputs to these rows."""
        scores = self.scores and [self.scores[i] for i in places.tolist()]
        return Outputs(self.columns.take(places), scores)


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
    outputs: Outputs
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
            Outputs.of(
                [None if version is None else example.outputs.get(version) for example in mine]
            ),
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
            Outputs.joined([part.outputs for part in parts]),
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
        return Examples(
            [self.ids[i] for i in places.tolist()],
            self.labels.take(places),
            self.event_times_ms[places],
            self.label_times_ms[places],
            self.revisions[places],
            self.features.take(places),
            self.outputs.take(places),
            self.places and Places(self.places.partitions[places], self.places.offsets[places]),
        )

    @classmethod
    def chosen(cls, parts: Sequence[Examples], last: int | None = None) -> Examples:
        """Give each example once, at its highest revision, by (label time, prediction id).

        Of equal revisions the last counts.  Only what is chosen is ever put together, so
        that much can be read to find the little that is trained on.

        Parameters
        ----------
        parts
            One at least.
        last
            Take only so many, from the end.
        """
        ids = list(chain.from_iterable(part.ids for part in parts))
        times_ms = np.concatenate([part.label_times_ms for part in parts])
        kept, newest = _newest(ids, np.concatenate([part.revisions for part in parts]))
        order = _by_time(times_ms[kept], [ids[i] for i in kept.tolist()])
        places = kept[order if last is None else order[-last:]]
        ends = np.cumsum([len(part) for part in parts])
        owners = np.searchsorted(ends, places, side="right")
        taken = [
            part.take(places[owners == k] - (ends[k] - len(part)))
            for k, part in enumerate(parts)
            if (owners == k).any()
        ]
        # They lie part by part now.
        back = np.empty(len(places), dtype=np.int64)
        back[np.argsort(owners, kind="stable")] = np.arange(len(places))
        found = cls.joined(taken or [parts[0].take([])]).take(back)
        if found.places is None or newest is None:
            return found
        # Each lies where its newest record does.
        offsets = np.concatenate([part.places.offsets for part in parts if part.places])
        return replace(found, places=Places(found.places.partitions, offsets[newest[places]]))


def _newest(ids: Sequence[str], revisions: Times) -> tuple[Times, Times | None]:
    """Give the places of what is kept, and for each place that of the last one of its id.

    None stands for each place itself.
    """
    # Ids of the same hash lie side by side; only among those can one be there twice.
    hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    newest = np.arange(len(ids))
    if not same.any():
        return newest, None
    best: dict[str, int] = {}
    gone = np.zeros(len(ids), dtype=bool)
    for place in np.union1d(order[1:][same], order[:-1][same]).tolist():
        known = best.setdefault(ids[place], place)
        if known != place:
            wins = revisions[known] <= revisions[place]
            best[ids[place]] = kept = place if wins else known
            gone[known if wins else place] = True
            newest[kept] = place
    return np.flatnonzero(~gone), newest


def _by_time(times_ms: Times, ids: Sequence[str]) -> Times:
    order = np.argsort(times_ms, kind="stable")
    times = times_ms[order]
    edges = np.flatnonzero(np.diff(times)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(times)]])
    is_tied = ends - starts > 1
    for start, end in zip(starts[is_tied].tolist(), ends[is_tied].tolist(), strict=True):
        order[start:end] = sorted(order[start:end].tolist(), key=ids.__getitem__)
    return order
