"""A plan carried out: examples read, model trained, artefact stored, candidate written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import structlog

from kedge.codec import decode
from kedge.errors import BrokerUnavailable, DeadLetter, UsageError
from kedge.events import Example
from kedge.versions import Candidate, ModelVersion
from kedge_services.core.selection import ordered
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.ports import Backend, TopicPartition
from kedge_services.runtime.reading import RangeReader
from kedge_services.trainer.plan import Plan
from kedge_services.trainer.training import train

__all__ = ["ROWS", "STEP", "Found", "carry_out", "farthest", "read_examples"]

#: Labelled rows of the model a training takes at most: the newest ones.
ROWS = 50_000
#: Offsets of each partition read in the first step; each further step doubles it.
STEP = 10_000
#: Polls without a record after which the broker is taken to be gone.
_PATIENCE = 300

_log = structlog.get_logger(__name__)


class _Peek(msgspec.Struct):
    """What tells an example of the model from the others, at a tenth of the cost."""

    model: str = ""


_peek = msgspec.json.Decoder(_Peek).decode


class _Place(NamedTuple):
    partition: int
    offset: int


@dataclass
class Found:
    """Examples of a model and the offsets ``[from, to)`` that were read to find them.

    ``places`` has, by prediction id, the offset of its highest revision.
    """

    ranges: dict[int, tuple[int, int]]
    examples: list[Example] = field(default_factory=list)
    places: dict[str, _Place] = field(default_factory=dict)


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
    found = read_examples(backend, plan.request.model, plan.ranges, wanted=ROWS, back_to=learnt)
    fresh = None
    if learnt:
        fresh = {i for i, at in found.places.items() if at.offset >= learnt.get(at.partition, 0)}
    data = None if parent is None or parent.artefact is None else store.get(parent.artefact)
    trained = train(
        plan.request,
        ordered(found.examples)[-ROWS:],
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
    model: str,
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
        has = len(found.places)
        if not chunk or (has >= wanted and not behind) or has >= 4 * wanted:
            return found
        _read(backend, model, chunk, found)
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


def _read(backend: Backend, model: str, chunk: Mapping[int, tuple[int, int]], found: Found) -> None:
    reader = RangeReader(backend)
    partitions = [TopicPartition("examples", p) for p in chunk]
    for partition in partitions:
        reader.add(partition, *chunk[partition.partition])
    idle = 0
    try:
        while not all(map(reader.is_done, partitions)):
            batches = reader.poll(5_000, 0.1)
            idle = 0 if batches else idle + 1
            if idle > _PATIENCE:
                raise BrokerUnavailable("the examples could not be read to the planned end")
            for batch in batches:
                for offset, value in zip(batch.offsets, batch.values, strict=True):
                    _take(model, _Place(batch.partition, offset), value, found)
    finally:
        reader.close()


def _take(model: str, place: _Place, value: bytes | None, found: Found) -> None:
    try:
        if value is None or _peek(value).model != model:
            return
        example = decode(Example, value)
    except (DeadLetter, msgspec.DecodeError) as error:
        _log.warning("an example was skipped", offset=place.offset, because=str(error))
        return
    found.examples.append(example)
    known = found.places.get(example.prediction_id)
    # Its revisions lie in one partition, in order.
    if known is None or known.offset < place.offset:
        found.places[example.prediction_id] = place
