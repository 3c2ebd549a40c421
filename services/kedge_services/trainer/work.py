"""A plan carried out: examples read, model trained, artefact stored, candidate written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kedge.errors import BrokerUnavailable, UsageError
from kedge.versions import Candidate, ModelVersion
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.garbage import rare_collections
from kedge_services.runtime.ports import Backend, TopicPartition
from kedge_services.runtime.reading import RangeReader
from kedge_services.trainer.decoding import ExampleDecoder
from kedge_services.trainer.examples import Examples
from kedge_services.trainer.plan import Plan
from kedge_services.trainer.training import shape_of, train

__all__ = ["ROWS", "STEP", "Found", "carry_out", "farthest", "read_examples"]

#: Labelled rows of the model a training takes at most: the newest ones.
ROWS = 50_000
#: Offsets of each partition read in the first step; each further step doubles it.
STEP = 10_000
#: Polls without a record after which the broker is taken to be gone.
_PATIENCE = 300
#: Records decoded together.
_BATCH = 5_000


@dataclass
class Found:
    """Examples of a model, as they were read, and the offsets ``[from, to)`` they are from."""

    ranges: dict[int, tuple[int, int]]
    parts: list[Examples] = field(default_factory=list)
    _hashes: list[NDArray[np.int64]] = field(default_factory=list)

    def __len__(self) -> int:
        """Give the number of examples, whatever their revisions."""
        hashes = np.sort(np.concatenate(self._hashes)) if self._hashes else np.empty(0)
        return len(hashes) - int((hashes[1:] == hashes[:-1]).sum())

    def take(self, parts: Sequence[Examples]) -> None:
        """Add what lies before what there is of its partition."""
        self.parts += parts
        self._hashes += (np.fromiter(map(hash, part.ids), np.int64, len(part)) for part in parts)

    def newest(self, last: int) -> Examples | None:
        """Give the last of them in the order of training, each once; None: there is none."""
        return Examples.chosen(self.parts, last) if self.parts else None


def carry_out(
    plan: Plan, backend: Backend, store: ArtefactStore, *, allow: Collection[str] = ()
) -> Candidate:
    """Train as planned; a training that comes to nothing is a candidate, too.

    ``allow`` names modules that a trainer's function may be imported from.

    Raises
    ------
    KedgeError
        Kafka or the store does not answer, the parent's artefact is not what its
        manifest says, or the monitor is missing or names a trainer that cannot train it.
    """
    if plan.monitor is None:
        raise UsageError(f"no monitor declares a model {plan.request.model!r}")
    parent = plan.parent
    learnt = _learnt(parent)
    request = plan.request
    decoder = ExampleDecoder(request.model, shape_of(plan.monitor).columns, request.base_version)
    with rare_collections():
        found = read_examples(backend, decoder, plan.ranges, wanted=ROWS, back_to=learnt)
        examples = found.newest(ROWS)
    found.parts.clear()  # by far the most of it is of no use any more
    fresh = None
    if learnt and examples is not None:
        fresh = _fresh(examples, learnt)
    data = None if parent is None or parent.artefact is None else store.get(parent.artefact)
    trained = train(
        request,
        () if examples is None else examples,
        monitor=plan.monitor,
        parent=parent,
        parent_data=data,
        seed=plan.seed,
        created_ms=plan.created_ms,
        ranges=found.ranges,
        fresh=fresh,
        allow=allow,
    )
    candidate = trained.candidate
    if trained.data is None or candidate.artefact is None:
        return candidate
    artefact = store.put(trained.data, candidate.artefact.format)
    return candidate.model_copy(update={"artefact": artefact})


def _learnt(parent: ModelVersion | None) -> dict[int, int]:
    """Give the offsets up to which a parent that can learn on has learnt, by partition."""
    if parent is None or parent.artefact is None or parent.artefact.format != "river-json":
        return {}
    return {partition: to for partition, (_, to) in parent.lineage.examples.items()}


def read_examples(
    backend: Backend,
    decoder: ExampleDecoder,
    ranges: Mapping[int, tuple[int, int]],
    *,
    wanted: int,
    back_to: Mapping[int, int] | None = None,
) -> Found:
    """Read back from the end of the ranges, in growing steps, until there is enough.

    Enough are ``wanted`` examples of the model, read at least to the offsets
    ``back_to`` (but no more than four times as many for that).  A range ends
    exactly where the plan says: a transaction that was open then is waited for.

    Raises
    ------
    BrokerUnavailable
        The ranges could not be read to their end.
    """
    found = Found({p: (to, to) for p, (_, to) in ranges.items()})
    step = STEP
    while True:
        chunk = {
            p: (max(ranges[p][0], start - step), start)
            for p, (start, _) in found.ranges.items()
            if start > ranges[p][0]
        }
        behind = any(
            start > max(ranges[p][0], (back_to or {}).get(p, start))
            for p, (start, _) in found.ranges.items()
        )
        has = len(found)
        if not chunk or (has >= wanted and not behind) or has >= 4 * wanted:
            return found
        found.take(_read(backend, decoder, chunk))
        for partition, (start, _) in chunk.items():
            found.ranges[partition] = (start, found.ranges[partition][1])
        step *= 2


def farthest(partitions: int) -> int:
    """Give how many offsets of each partition a training goes back at most.

    That is where all of them are the model's examples, each of one revision; what
    revisions and other models take up in between is not to be known beforehand.
    """
    step, total = STEP, 0
    while total * partitions < 4 * ROWS:
        total += step
        step *= 2
    return total


def _fresh(examples: Examples, learnt: Mapping[int, int]) -> set[str]:
    """Give the ids of the examples that lie behind what a parent has learnt from."""
    if examples.places is None:
        return set(examples.ids)
    where = zip(*(column.tolist() for column in examples.places), strict=True)
    return {
        name
        for name, (partition, offset) in zip(examples.ids, where, strict=True)
        if offset >= learnt.get(partition, 0)
    }


def _read(
    backend: Backend, decoder: ExampleDecoder, chunk: Mapping[int, tuple[int, int]]
) -> list[Examples]:
    reader, found = RangeReader(backend), []
    partitions = [TopicPartition("examples", p) for p in chunk]
    for partition in partitions:
        reader.add(partition, *chunk[partition.partition])
    idle = 0
    try:
        while not all(map(reader.is_done, partitions)):
            batches = reader.poll(_BATCH, 0.1)
            idle = 0 if batches else idle + 1
            if idle > _PATIENCE:
                raise BrokerUnavailable("the examples could not be read to the planned end")
            for batch in batches:
                # A broker in memory gives all it has at once.
                for start in range(0, len(batch), _BATCH):
                    piece = slice(start, start + _BATCH)
                    examples = decoder.read(
                        batch.partition, batch.offsets[piece], batch.values[piece]
                    )
                    found += [] if examples is None else [examples]
    finally:
        reader.close()
    return found
