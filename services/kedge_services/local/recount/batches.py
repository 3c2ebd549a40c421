"""Arrow batches taken apart with pyarrow alone: one record becomes one record a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kedge_services.local.recount.plain import Monitors, Record

__all__ = ["WHOLE", "is_batch", "rows_of"]

_KIND = b"application/vnd.apache.arrow.stream"
_IN_METADATA = ("model", "version", "role")
_STRUCTS = ("features", "output", "output.scores", "segments")
_STRINGS = ("prediction_id", "model", "version", "role")
_NUMBERS = ("output.score", "output.value", "latency_ms")
_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}
_MOST_ROWS = 100_000

#: Reasons for which a batch may be put aside as a whole; which is a matter of words.
WHOLE = frozenset(
    {"undecodable", "unsupported-format", "missing-field", "bad-value", "invalid",
     "shape-mismatch", "schema-mismatch", "too-large"}
)  # fmt: skip


def is_batch(record: Record) -> bool:
    """Say whether a record says of itself that it is a batch."""
    return any(
        name.lower() == "content-type" and value.split(b";")[0].strip().lower() == _KIND
        for name, value in record.headers
    )


def rows_of(record: Record, monitors: Monitors) -> list[Record] | frozenset[str]:
    """Give the rows as records of JSON events, or the reasons to put the whole aside."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(record.value or b"").read_all()
        table.validate(full=True)
        told = {
            key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
        }
        columns = dict(_flat(table))
    except (pa.ArrowException, OSError, ValueError, StopIteration):
        return WHOLE
    constants = {n: told[f"kedge.{n}"] for n in _IN_METADATA if f"kedge.{n}" in told}
    needed = {"prediction_id", "event_time_ms", "model", "version"}
    if (
        not 1 <= len(table) <= _MOST_ROWS
        or told.get("kedge.schema", "1") != "1"
        or not all(1 <= len(value) <= 255 for value in constants.values())
        or constants.get("role", "champion") not in ("champion", "shadow")
        or not needed <= columns.keys() | constants.keys()
        or columns.keys() & constants.keys()
        or not _are_right(columns)
        or _is_unreadable(columns, constants, monitors)
    ):
        return WHOLE
    values = {name: _values(column) for name, column in columns.items()}
    events = [_event(constants, values, row) for row in range(len(table))]
    keys = [_key(event) for event in events]
    wanted = next((key for key in keys if key is not None), record.key)
    if record.key != wanted:
        return frozenset({"bad-key"})
    return [
        record._replace(
            key=record.key if key is None else key, value=json.dumps(event).encode(), row=row
        )
        for row, (key, event) in enumerate(zip(keys, events, strict=True))
    ]


def _flat(table: Any) -> Iterator[tuple[str, Any]]:
    """Give all columns; those of structs by their names with a dot."""
    import pyarrow as pa

    seen = set()
    found = list(zip(table.column_names, table.columns, strict=True))
    while found:
        name, column = found.pop(0)
        if name in _STRUCTS and pa.types.is_struct(column.type):
            parts = column.combine_chunks().flatten()
            found += [(f"{name}.{child.name}", pa.chunked_array([part]))
                      for child, part in zip(column.type, parts, strict=True)]  # fmt: skip
            continue
        if name in seen:
            raise ValueError(f"two columns are called {name}")
        seen.add(name)
        yield name, column


def _are_right(columns: Mapping[str, Any]) -> bool:
    """Say whether all columns but features and segments are of a type they may have."""
    for name, column in columns.items():
        kind = _kind(column.type)
        allowed = {"null"}
        if name in _STRINGS:
            allowed |= {"string"}
        elif name == "event_time_ms":
            allowed |= {"integer", "timestamp"}
        elif name in _NUMBERS or name.startswith("output.scores."):
            allowed |= {"integer", "float", "bool"}
        elif name == "output.label":
            allowed |= {"integer", "float", "bool", "string"}
        elif name == "output.scores":
            allowed |= {"map"}
        elif name not in ("features", "output", "segments"):
            continue
        if kind not in allowed:
            return False
    return True


def _is_unreadable(
    columns: Mapping[str, Any], constants: Mapping[str, str], monitors: Monitors
) -> bool:
    """Say whether a model declares a feature or segment that is in a column of another type."""
    models = {constants["model"]} if "model" in constants else set(columns["model"].to_pylist())
    for name, column in columns.items():
        prefix, _, rest = name.partition(".")
        if prefix not in ("features", "segments") or not rest:
            continue
        declared = any(
            rest in (history[-1].features if prefix == "features" else history[-1].segments)
            for model in models
            if (history := monitors.get(model))
        )
        if declared and _kind(column.type) not in {"integer", "float", "bool", "string", "null"}:
            return True
    return False


def _kind(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    names = {
        "null": pa.types.is_null, "bool": pa.types.is_boolean, "integer": pa.types.is_integer,
        "float": pa.types.is_floating, "timestamp": pa.types.is_timestamp, "map": pa.types.is_map,
        "string": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t)
        or pa.types.is_string_view(t),
    }  # fmt: skip
    return next((name for name, is_one in names.items() if is_one(kind)), "other")


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        raw = [value.value for value in column]
        if column.type.unit == "s":
            return [None if value is None else value * 1_000 for value in raw]
        return [None if value is None else value // _PER_MS[column.type.unit] for value in raw]
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float64())
    found: list[Any] = column.to_pylist()
    return found


def _event(constants: Mapping[str, str], values: Mapping[str, list[Any]], row: int) -> Any:
    event: dict[str, Any] = {**constants, "features": {}}
    for name, column in values.items():
        value = column[row]
        if value is None:
            continue
        if name.startswith(("features.", "segments.")):
            head, _, rest = name.partition(".")
            event.setdefault(head, {})[rest] = _plain(value)
        elif name.startswith("output.scores."):
            scores = event.setdefault("output", {}).setdefault("scores", {})
            scores[name.removeprefix("output.scores.")] = value
        elif name == "output.scores":
            event.setdefault("output", {})["scores"] = dict(value)
        elif name.startswith("output."):
            event.setdefault("output", {})[name.removeprefix("output.")] = value
        else:
            event[name] = _plain(value)
    return event


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _key(event: Mapping[str, Any]) -> bytes | None:
    name = event.get("prediction_id")
    # What is too long is no id, and was not made out of the batch either.
    if not name or len(name.encode()) > 4 * 255:
        return None
    return str(name).partition("#")[0].encode()
