"""Entries as they lie in the store.

Almost every entry is one prediction with at most one label.  It is packed: a head of
numbers, the numeric features as float64, a tail of JSON where there is more to say, then
the label.  Any other entry is JSON as a whole, as labels and segments may be integers of
any size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from kedge_services.core.decoding import OutputRow
from kedge_services.core.entries import NOTHING, Entry, Held, Labelled, decode_entry
from kedge_services.core.kinds import Kinds, Shape

__all__ = [
    "HEAD_BYTES",
    "Heads",
    "Tail",
    "columns_of",
    "decode_tail",
    "heads",
    "pack",
    "pack_labels",
    "plain_output",
    "unpack",
]

#: The first byte of a packed entry; JSON begins otherwise.
_PACKED: Final = 1
_FIELDS: Final = [
    ("tag", "u1"),
    ("kind", "<u4"),
    ("tail", "<u4"),
    ("time_ms", "<i8"),
    ("offset", "<i8"),
    ("number", "<f8"),
]
_HEAD: Final = np.dtype(_FIELDS)
HEAD_BYTES: Final = _HEAD.itemsize

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_decode_label = msgspec.json.Decoder(Labelled).decode

Scalar = bool | int | float | str


class Tail(msgspec.Struct, array_like=True, gc=False):
    """What not every prediction has.

    ``others`` are the features that are no numbers, in the order of their names.
    """

    segments: dict[str, Scalar] = {}
    others: list[Scalar | None] = []
    output: Raw = NOTHING


decode_tail = msgspec.json.Decoder(Tail).decode


class Heads(NamedTuple):
    """The heads of packed entries as columns of equal length.

    Attributes
    ----------
    at
        Which of the values they are of.
    kinds, times_ms, offsets, numbers
        Of the predictions; a number that is not there is NaN.
    tails
        Bytes of their tails.
    """

    at: NDArray[np.int64]
    kinds: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    offsets: NDArray[np.int64]
    numbers: NDArray[np.float64]
    tails: NDArray[np.int64]


def pack(
    kinds: NDArray[np.int64],
    *,
    times_ms: NDArray[np.int64],
    offsets: NDArray[np.int64],
    numbers: NDArray[np.float64],
    features: NDArray[np.float64],
    tails: Sequence[bytes] | None,
) -> list[bytes]:
    """Pack predictions without label.

    Parameters
    ----------
    kinds
        Their numbers.
    times_ms, offsets, numbers
        A number that is not there is NaN.
    features
        The numeric ones, shape (predictions, features), NaN where they are missing.
    tails
        Encoded :class:`Tail`, empty where there is nothing to say; None for no tails.
    """
    n, width = features.shape
    rows = np.empty(n, dtype=[*_FIELDS, ("features", "<f8", (width,))])
    rows["tag"] = _PACKED
    rows["kind"] = kinds
    rows["tail"] = 0 if tails is None else np.fromiter(map(len, tails), np.int64, n)
    rows["time_ms"] = times_ms
    rows["offset"] = offsets
    rows["number"] = numbers
    rows["features"] = features
    data, size = rows.tobytes(), rows.dtype.itemsize
    packed = [data[at : at + size] for at in range(0, n * size, size)]
    if tails is None:
        return packed
    return [row + tail for row, tail in zip(packed, tails, strict=True)]


def pack_labels(labels: Sequence[tuple[int, int, Scalar, list[str] | None]]) -> list[bytes]:
    """Encode labels, to be put behind packed predictions.

    Parameters
    ----------
    labels
        Offset, time, label and models; see :class:`kedge_services.core.entries.Labelled`.
    """
    return _encode_lines(labels).split(b"\n")[:-1]


def heads(values: Sequence[bytes | None]) -> Heads:
    """Read the heads of those values that are packed."""
    at = [i for i, value in enumerate(values) if value and value[0] == _PACKED]
    rows = np.frombuffer(b"".join([values[i][:HEAD_BYTES] for i in at]), dtype=_HEAD)  # type: ignore[index]
    return Heads(
        np.array(at, dtype=np.int64),
        rows["kind"].astype(np.int64),
        rows["time_ms"].astype(np.int64),
        rows["offset"].astype(np.int64),
        rows["number"].astype(np.float64),
        rows["tail"].astype(np.int64),
    )


def columns_of(
    shape: Shape, values: Sequence[bytes], *, has_tails: bool
) -> tuple[list[Sequence[Any]], list[Tail] | None]:
    """Give the features of packed predictions of one kind as columns in the order of their names.

    Numbers that are missing are NaN, which is null in JSON.  With them come the tails,
    None where there are none.
    """
    kind = shape.kind
    width = len(kind.numeric)
    start = HEAD_BYTES + 8 * width
    data = b"".join([value[HEAD_BYTES:start] for value in values])
    numbers = np.frombuffer(data, "<f8").reshape(len(values), width)
    columns: list[Sequence[Any]] = [()] * len(kind.features)
    for column, position in zip(numbers.T, kind.numeric, strict=True):
        columns[position] = column.tolist()
    tails = None
    if has_tails:
        sizes = heads(values).tails.tolist()
        tails = [
            decode_tail(value[start : start + size]) if size else Tail()
            for value, size in zip(values, sizes, strict=True)
        ]
        for k, position in enumerate(shape.others):
            columns[position] = [tail.others[k] for tail in tails]
    return columns, tails


def unpack(value: bytes, kinds: Kinds) -> Entry:
    """Read an entry."""
    if value[0] != _PACKED:
        return decode_entry(value)
    _, number, tail_bytes, time_ms, offset, numeric = np.frombuffer(
        value[:HEAD_BYTES], dtype=_HEAD
    )[0].item()
    shape = kinds[number]
    kind = shape.kind
    columns, tails = columns_of(shape, [value], has_tails=tail_bytes > 0)
    tail = Tail() if tails is None else tails[0]
    known = None if math.isnan(numeric) else numeric
    held = Held(
        kind.model,
        kind.version,
        kind.champion,
        time_ms,
        offset,
        kind.horizon_ms,
        kind.wait_ms,
        kind.pane_ms,
        kind.cell_ms,
        kind.reference_id,
        known if kind.is_value else kind.predicted,
        NOTHING,
        Raw(_encode(shape.struct(*(column[0] for column in columns)))),
        tail.segments,
        None if kind.is_value else known,
        kind.positive,
    )
    if kind.output == "tail":
        held.output = tail.output
    elif kind.output == "plain":
        held.output = Raw(_encode(plain_output(shape, known)))
    label = value[HEAD_BYTES + 8 * len(kind.numeric) + tail_bytes :]
    return Entry((held,), (_decode_label(label),) if label else ())


def plain_output(shape: Shape, number: float | None) -> OutputRow:
    """Give the output that is made of a kind's label and a row's number."""
    if shape.kind.is_value:
        return OutputRow(value=number)
    return OutputRow(shape.kind.label, number)
