"""Panes' answers as records; JSON by msgspec, of the shape of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

import msgspec
from msgspec import Raw, Struct

from kedge.base import Scalar
from kedge.topics import model_partition, request_id
from kedge_services.core.decoding import OutputRow
from kedge_services.core.entries import NOTHING
from kedge_services.core.first_labels import FirstExamples
from kedge_services.core.folding import PaneDelta
from kedge_services.core.join import ExampleDraft
from kedge_services.core.packing import columns_of
from kedge_services.core.watermark import Clocks, ModelTime
from kedge_services.runtime.ports import Produce

__all__ = ["encode_example", "encode_first_examples", "encode_pane", "encode_progress"]

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines

#: Kinds of deltas that come with labels.
_FROM_OUTCOMES = frozenset({"labels", "pair"})


class _Example(Struct, gc=False):
    """:class:`kedge.events.Example`, with parts that are JSON already."""

    schema: int
    prediction_id: str
    model: str
    features: Raw | Struct
    label: Scalar
    outputs: Mapping[str, Raw] | Struct
    served_by: str | None
    segments: Mapping[str, Scalar]
    event_time_ms: int
    label_time_ms: int
    revision: int


def encode_example(draft: ExampleDraft, partition: int) -> Produce:
    """Give an example, for the partition its prediction came from."""
    key = request_id(draft.prediction_id).encode()
    return Produce("examples", key, _encode(_Example(1, *draft)), partition)


def encode_first_examples(first: FirstExamples, partition: int) -> list[Produce]:
    """Give examples of one kind, each as :func:`encode_example` gives it."""
    kind, names = first.shape.kind, first.prediction_ids
    columns, tails = columns_of(first.shape, first.values, has_tails=first.has_tails)
    features: Iterable[Struct] = map(first.shape.struct, *columns)
    if not columns:
        features = repeat(first.shape.struct(), len(names))
    outputs: Iterable[Raw | OutputRow] = repeat(NOTHING, len(names))
    if kind.output == "tail" and tails is not None:
        outputs = [tail.output for tail in tails]
    elif kind.output == "plain" and kind.is_value:
        numbers = first.numbers if kind.has_number else repeat(None, len(names))
        outputs = [OutputRow(value=number) for number in numbers]
    elif kind.output == "plain" and kind.has_number:
        outputs = map(OutputRow, repeat(kind.label), first.numbers)
    elif kind.output == "plain":
        outputs = repeat(OutputRow(kind.label), len(names))
    examples = map(
        _Example,
        repeat(1),
        names,
        repeat(kind.model),
        features,
        first.labels,
        map(first.shape.outputs, outputs),
        repeat(kind.version if kind.champion else None),
        repeat({}) if tails is None else [tail.segments for tail in tails],
        first.times_ms,
        first.label_times_ms,
        repeat(0),
    )
    values = _encode_lines(list(examples)).split(b"\n")
    keys = [(request_id(name) if "#" in name else name).encode() for name in names]
    fields = zip(repeat("examples"), keys, values, repeat(partition), repeat(()), strict=False)
    # What Produce(...) does, without a call in Python for each.
    return list(map(tuple.__new__, repeat(Produce), fields))


def encode_pane(
    pane: PaneDelta, *, partition: int, offsets: Mapping[str, tuple[int, int]], partitions: int
) -> Produce:
    """Give a delta.

    Parameters
    ----------
    pane
        The delta and where it belongs.
    partition
        Of the inputs it was made of.
    offsets
        By topic, what was read since the last commit: ``[from, to)``.
    partitions
        Number of partitions of panes.
    """
    series = pane.series
    topic = "outcomes" if pane.kind in _FROM_OUTCOMES else "predictions"
    first, following = offsets[topic]
    value: dict[str, Any] = {
        "schema": 1,
        "type": "pane",
        **series._asdict(),
        "kind": pane.kind,
        "start_ms": pane.start_ms,
        "end_ms": pane.end_ms,
        "counts": pane.delta.encode(),
        "source": {
            "topic": topic,
            "partition": partition,
            "from_offset": first,
            "to_offset": following,
        },
    }
    owner = model_partition(series.model, partitions)
    return Produce("panes", series.model.encode(), _encode(value), owner)


def encode_progress(
    *,
    partition: int,
    partitions: int,
    sequence: int,
    offsets: Mapping[str, int],
    clocks: Mapping[str, Clocks],
    fates: Mapping[str, Mapping[str, int]],
) -> bytes:
    """Give the value of a Progress; see :class:`kedge.panes.Progress`."""
    return _encode(
        {
            "schema": 1,
            "type": "progress",
            "partition": partition,
            "partitions": partitions,
            "sequence": sequence,
            "offsets": offsets,
            "clock_ms": {topic: clock.clock_ms for topic, clock in clocks.items()},
            "since_ms": {topic: clock.since_ms for topic, clock in clocks.items()},
            **{topic: _models(clock.models) for topic, clock in clocks.items()},
            "fates": fates,
        }
    )


def _models(times: Mapping[str, ModelTime]) -> dict[str, dict[str, int]]:
    return {
        model: {"max_ms": time.max_ms, "seen_ms": time.seen_ms} for model, time in times.items()
    }
