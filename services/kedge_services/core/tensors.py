"""Open Inference Protocol v2 (JSON), what comes in: tensors as rows of features.

Two layouts are read.  *Columnar*: every tensor is a column [N] or [N, 1] under
its own name.  *Matrix*: one tensor [N, F] holds all columns in the order of the
version's feature schema.  ``data`` is nested or flat, row by row.

References
----------
Open Inference Protocol v2, https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from kedge.base import Scalar
from kedge.errors import DeadLetter
from kedge.versions import FeatureColumn

__all__ = ["InferRequest", "Kind", "decode_request"]

Kind = Literal["numeric", "categorical", "boolean"]
Values = list[Scalar | None]

#: Rows of one request; more have to come in several.
LARGEST_REQUEST = 10_000
#: Characters of a request id: with ``#<row>`` it is still a prediction id.
LONGEST_ID = 240

_SIGNED = {f"INT{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)}
_UNSIGNED = {f"UINT{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)}
_INTEGERS = _SIGNED | _UNSIGNED
_FLOATS = ("FP16", "FP32", "FP64")


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request as it was understood.

    Attributes
    ----------
    request_id
        As it was sent, or None.
    outputs
        Names of the tensors that are wanted; empty means all.
    nulls
        The bare words NaN and Infinity, which are no JSON and became null.
    """

    rows: list[dict[str, Scalar | None]]
    request_id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    nulls: int = 0


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    datatype: str
    rows: int
    width: int
    values: Values


def decode_request(
    body: bytes, schema: Sequence[FeatureColumn], also: Mapping[str, Kind] | None = None
) -> InferRequest:
    """Read an inference request.

    Parameters
    ----------
    body
        JSON.
    schema
        The columns of the version that will answer.
    also
        Columns it does not want and others may: a client need not change what
        it sends at the moment at which a version takes over.

    Raises
    ------
    DeadLetter
        The request is wrong; the detail is a sentence for its sender.
    """
    nulls = 0

    def no_number(_: str) -> None:
        nonlocal nulls
        nulls += 1

    try:
        request = json.loads(body.decode(), parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise DeadLetter("undecodable", f"the body is no JSON in UTF-8: {error}") from error
    if not isinstance(request, dict):
        raise DeadLetter("undecodable", "the body is no JSON object")
    parameters = _object(request, "parameters")
    tensors = [
        _tensor(each, parameters, i) for i, each in enumerate(_list(request, "inputs", "inputs"))
    ]
    if not tensors:
        raise DeadLetter("missing-field", "`inputs` is empty")
    columns = _columns(tensors, schema, also or {})
    return InferRequest(
        rows=[dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        request_id=_request_id(request.get("id")),
        parameters=parameters,
        outputs=_outputs(request),
        nulls=nulls,
    )


# ------------------------------------------------------------- one tensor


def _tensor(tensor: object, parameters: Mapping[str, Any], index: int) -> _Tensor:
    if not isinstance(tensor, dict):
        raise DeadLetter("bad-value", f"`inputs[{index}]` is no object")
    name = tensor.get("name")
    if not isinstance(name, str) or not name:
        raise DeadLetter("missing-field", f"`inputs[{index}]` has no `name`")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str):
        raise DeadLetter("missing-field", f"tensor {name!r} has no `datatype`")
    content = _object(tensor, "parameters").get("content_type", parameters.get("content_type"))
    convert = _converter(name, datatype, content)
    rows, width = _shape(tensor, name)
    data = _flat(_list(tensor, "data", f"tensor {name!r}: `data`"), name, rows, width, tensor)
    try:
        values = [None if value is None else convert(value) for value in data]
    except (ValueError, OverflowError) as error:
        raise DeadLetter("bad-value", f"tensor {name!r} of {datatype}: {error}") from error
    return _Tensor(name, datatype, rows, width, values)


def _shape(tensor: Mapping[str, Any], name: str) -> tuple[int, int]:
    shape = _list(tensor, "shape", f"tensor {name!r}: `shape`")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise DeadLetter("shape-mismatch", f"tensor {name!r}: shape {shape} has no whole numbers")
    if len(shape) not in (1, 2):
        raise DeadLetter(
            "shape-mismatch",
            f"tensor {name!r}: shape {shape} is neither [rows] nor [rows, columns]",
        )
    if 0 in shape:
        raise DeadLetter("shape-mismatch", f"tensor {name!r}: shape {shape} holds no value")
    if shape[0] > LARGEST_REQUEST:
        raise DeadLetter("too-large", f"{shape[0]} rows; at most {LARGEST_REQUEST} in one request")
    return shape[0], (shape[1] if len(shape) == 2 else 1)


def _flat(
    data: list[Any], name: str, rows: int, width: int, tensor: Mapping[str, Any]
) -> list[Any]:
    nested = [isinstance(item, list) for item in data]
    if any(nested):
        if not all(nested) or len({len(item) for item in data}) > 1:
            raise DeadLetter("shape-mismatch", f"tensor {name!r}: the rows of `data` are ragged")
        if len(data) != rows or len(data[0]) != width:
            raise DeadLetter(
                "shape-mismatch",
                f"tensor {name!r}: shape {tensor['shape']}, but `data` is nested as "
                f"[{len(data)}, {len(data[0])}]",
            )
        data = [value for row in data for value in row]
    if len(data) != rows * width:
        raise DeadLetter(
            "shape-mismatch",
            f"tensor {name!r}: shape {tensor['shape']} wants {rows * width} values, "
            f"`data` has {len(data)}",
        )
    return data


def _converter(name: str, datatype: str, content: object) -> Callable[[Any], Scalar | None]:
    if datatype == "BOOL":
        return _bool
    if datatype in _INTEGERS:
        low, high = _INTEGERS[datatype]
        return lambda value: _integer(value, low, high)
    if datatype in _FLOATS:
        return _float
    if datatype != "BYTES":
        raise DeadLetter("unsupported-format", f"tensor {name!r}: unknown datatype {datatype!r}")
    # `pd` and `np` on the request say how tensors belong together, not what bytes mean.
    if content in (None, "str", "pd", "np"):
        return _text
    if content == "base64":
        return _base64
    if content == "datetime":
        return _datetime
    raise DeadLetter("unsupported-format", f"tensor {name!r}: unknown content_type {content!r}")


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")  # noqa: TRY004 -- see _tensor
    return value


def _integer(value: object, low: int, high: int) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    if not low <= value <= high:
        raise ValueError(f"{value} is out of range")
    return value


def _float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")  # noqa: TRY004 -- see _tensor
    number = float(value)
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")  # noqa: TRY004 -- see _tensor
    return value


def _base64(value: object) -> str:
    try:
        return base64.b64decode(_text(value), validate=True).decode()
    except binascii.Error as error:
        raise ValueError(f"{value!r} is no base64: {error}") from error


def _datetime(value: object) -> str:
    datetime.fromisoformat(_text(value))
    return _text(value)


# ---------------------------------------------------------------- columns


def _columns(
    tensors: Sequence[_Tensor], schema: Sequence[FeatureColumn], also: Mapping[str, Kind]
) -> dict[str, Values]:
    sizes = {tensor.name: tensor.rows for tensor in tensors}
    if len(set(sizes.values())) > 1:
        raise DeadLetter("row-mismatch", f"tensors differ in their number of rows: {sizes}")
    kinds: dict[str, Kind] = {**also, **{column.name: column.type for column in schema}}
    columns: dict[str, Values] = {}
    for tensor in tensors:
        for i, name in enumerate(_names(tensor, schema, kinds, alone=len(tensors) == 1)):
            if name in columns:
                raise DeadLetter("schema-mismatch", f"column {name!r} comes twice")
            if name not in kinds:
                expected = ", ".join(kinds)
                raise DeadLetter("schema-mismatch", f"no feature {name!r}; there are {expected}")
            if not _fits(tensor.datatype, kinds[name]):
                raise DeadLetter(
                    "schema-mismatch", f"feature {name!r} is {kinds[name]}, not {tensor.datatype}"
                )
            columns[name] = tensor.values[i :: tensor.width]
    return columns


def _names(
    tensor: _Tensor, schema: Sequence[FeatureColumn], kinds: Mapping[str, Kind], *, alone: bool
) -> list[str]:
    if tensor.width == 1 and (tensor.name in kinds or not alone or len(schema) != 1):
        return [tensor.name]
    if not alone:
        return [f"{tensor.name}_{i}" for i in range(tensor.width)]
    if tensor.width != len(schema):
        raise DeadLetter(
            "schema-mismatch",
            f"tensor {tensor.name!r} has {tensor.width} columns, the model {len(schema)} features",
        )
    return [column.name for column in schema]


def _fits(datatype: str, kind: Kind) -> bool:
    if kind == "numeric":
        return datatype in _INTEGERS or datatype in _FLOATS
    return kind == "categorical" or datatype == "BOOL" or datatype in _INTEGERS


# ------------------------------------------------------------ the envelope


def _request_id(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value.replace("#", "%23")) > LONGEST_ID:
        raise DeadLetter("bad-value", f"`id` is no text of at most {LONGEST_ID} characters")
    return value


def _outputs(request: Mapping[str, Any]) -> tuple[str, ...]:
    if request.get("outputs") is None:
        return ()
    wanted = _list(request, "outputs", "outputs")
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in wanted):
        raise DeadLetter("missing-field", "every item of `outputs` has a `name`")
    return tuple(each["name"] for each in wanted)


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    if value is not None and not isinstance(value, dict):
        raise DeadLetter("bad-value", f"`{name}` is no object")
    return value or {}


def _list(parent: Mapping[str, Any], name: str, shown: str) -> list[Any]:
    value = parent.get(name)
    if value is None:
        raise DeadLetter("missing-field", f"{shown} is missing")
    if not isinstance(value, list):
        raise DeadLetter("bad-value", f"{shown} is no list")
    return value
