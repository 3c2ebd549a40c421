"""Arrow batches: each row is what it would be as a JSON event of its own."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kedge.batch_layout import CONTENT_TYPE
from kedge.batches import pieces, table_of
from kedge.events import Example
from kedge_services.core.references import build_reference

if TYPE_CHECKING:
    from tests.panes.conftest import Driver

HEADERS = [("content-type", CONTENT_TYPE), ("trace", b"7")]
MONITOR: dict[str, Any] = {
    "model": "fraud",
    "task": "binary",
    "classes": ["ok", "fraud"],
    "features": {"amount": "numeric", "age": "numeric", "country": "categorical"},
    "segments": [{"name": "channel"}],
    "label_horizon": "10s",
    "outcome_wait": "2s",
    "windows": {"pane": "1s", "grace": "100ms"},
}
REFERENCE = build_reference(
    model="fraud",
    version="1",
    columns={
        "amount": [float(i % 100) for i in range(1_000)],
        "age": [float(i % 7) for i in range(1_000)],
        "country": ["NO", "SE"] * 500,
    },
    kinds={"amount": "numeric", "age": "numeric", "country": "categorical"},
    predictions=["ok", "fraud"] * 500,
    scores=[i / 1_000 for i in range(1_000)],
    labels=None,
    losses=None,
)


def send(panes: Driver, table: pa.Table, *, most_rows: int = 1_000, at_ms: int = 10_000) -> None:
    """Append a table's rows as batches, as a good client would."""
    made = table_of(table, {}, now_ms=at_ms)
    for piece in pieces(made, partitions=panes.partitions, most_rows=most_rows):
        append(panes, piece.value, piece.key.encode(), piece.partition, at_ms)


def append(
    panes: Driver,
    value: bytes | None,
    key: bytes | None = b"r",
    partition: int = 0,
    at_ms: int = 10_000,
) -> None:
    from tests.panes.conftest import Input

    panes.append("predictions", partition, Input(key, value, at_ms, HEADERS))


# ------------------------------------------------------- as JSON events would be

KINDS: dict[str, list[pa.DataType]] = {
    "prediction_id": [pa.string(), pa.large_string(), pa.string_view(),
                      pa.dictionary(pa.int16(), pa.string())],
    "version": [pa.string(), pa.dictionary(pa.int8(), pa.large_string())],
    "event_time_ms": [pa.int64(), pa.uint32(), pa.timestamp("ms"), pa.timestamp("us", "UTC")],
    "features.amount": [pa.float64(), pa.float32(), pa.int64(), pa.uint8(), pa.bool_(),
                        pa.string(), pa.null()],
    "features.age": [pa.float64(), pa.int16(), pa.float16()],
    "features.country": [pa.string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()),
                         pa.int32(), pa.bool_(), pa.float64()],
    "output.label": [pa.string(), pa.dictionary(pa.uint8(), pa.string()), pa.null()],
    "output.score": [pa.float64(), pa.float32(), pa.int8()],
    "segments.channel": [pa.string(), pa.int8(), pa.bool_()],
    "latency_ms": [pa.float64(), pa.int32()],
}  # fmt: skip
VALUES: dict[str, Sequence[Any]] = {
    "prediction_id": ["a", "b", "r-1#0", "r-1#1", "é#2", "Zürich", "long-" * 40],
    "version": ["1", "2"],
    "event_time_ms": [9_000, 9_950, 10_000, 10_999, 11_000, 14_000, 400_000],
    "output.label": ["ok", "fraud", "maybe", None],
    "features.country": ["NO", "SE", "", "XX", None],
    "segments.channel": ["web", "app", None],
}


def cell(name: str, kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Give values that a column of this type can hold."""
    if pa.types.is_null(kind):
        return st.none()
    if pa.types.is_boolean(kind):
        return st.sampled_from([True, False, None])
    if pa.types.is_floating(kind) and name != "event_time_ms":
        return st.sampled_from([0.0, -0.0, 0.5, 12.25, 99.5, 1e4, math.nan, math.inf, None])
    if pa.types.is_integer(kind) and name != "event_time_ms":
        return st.sampled_from([0, 1, 5, 99, 127, None])
    return st.sampled_from(VALUES.get(name, ["x", "12", None]))


@st.composite
def columns(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 40))
    table = {}
    for name, kinds in KINDS.items():
        if name in {"prediction_id", "version", "event_time_ms"} or draw(st.booleans()):
            kind = draw(st.sampled_from(kinds))
            values = draw(st.lists(cell(name, kind), min_size=rows, max_size=rows))
            table[name] = array(values, kind)
    made = pa.table(table).replace_schema_metadata({"kedge.model": "fraud"})
    cuts = sorted({0, rows, *draw(st.lists(st.integers(0, rows), max_size=3))})
    # In chunks, as tables that were read or put together are.
    parts = [made.slice(a, b - a) for a, b in pairwise(cuts)]
    return pa.concat_tables(parts)


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        found = pa.array(values, pa.string()).dictionary_encode()
        return pa.DictionaryArray.from_arrays(
            found.indices.cast(kind.index_type), found.dictionary.cast(kind.value_type)
        )
    if pa.types.is_float16(kind):
        return pa.array(values, pa.float32()).cast(kind)
    if pa.types.is_timestamp(kind) and kind.unit == "us":
        return pa.array([value * 1_000 + 7 for value in values], pa.int64()).cast(kind)
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)


def events(table: pa.Table) -> list[dict[str, Any]]:
    """Give the JSON events that rows stand for, by pyarrow's own conversion."""
    found = []
    for row in table.to_pylist():
        event: dict[str, Any] = {"model": "fraud", "features": {}}
        for name, value in row.items():
            if value is None:
                continue
            if name == "event_time_ms" and not isinstance(value, int):
                value = table.schema.field(name).type.unit and round(value.timestamp() * 1_000_000)  # noqa: PLW2901
                event[name] = value // 1_000
                continue
            head, _, tail = name.partition(".")
            if tail:
                event.setdefault(head, {})[tail] = value
            else:
                event[name] = value
        found.append(event)
    return found


def as_json(table: pa.Table, partitions: int, most_rows: int) -> list[dict[str, Any]]:
    """Give the events in the order in which batches would hold them."""
    found = []
    reader = (pa.ipc.open_stream(p.value).read_all()
              for p in pieces(table, partitions=partitions, most_rows=most_rows))  # fmt: skip
    for batch in reader:
        found += events(batch)
    return found


def result(panes: Driver) -> dict[str, Any]:
    letters: Counter[tuple[str, str]] = Counter()
    for output in panes.outputs:
        if output.topic == "dead-letters":
            event = json.loads(output.value or b"")
            # A null is as good as no value; of features a letter shows it.
            features = event.get("features", {})
            event["features"] = {k: v for k, v in features.items() if v is not None}
            reason = dict(output.headers)["kedge-reason"].decode()
            letters[json.dumps(event, sort_keys=True), reason] += 1
    return {
        "sums": json.loads(json.dumps({str(key): value for key, value in panes.sums().items()})),
        "examples": {key: plain(example) for key, example in panes.examples().items()},
        "fates": (panes.fates("predictions"), panes.fates("outcomes")),
        "letters": letters,
        "clocks": {p: progress.predictions for p, progress in panes.progress().items()},
    }


def plain(example: Example) -> str:
    """Give an example as text, where a number is a number, be it written 5 or 5.0."""
    features = {k: float(v) if type(v) is int else v for k, v in example.features.items()}
    return json.dumps(example.model_dump() | {"features": features})


@pytest.mark.parametrize("labelled", [True, False])
@given(
    table=columns(),
    more=columns(),
    partitions=st.sampled_from([1, 3]),
    most_rows=st.sampled_from([1, 7, 1_000]),
    batch=st.sampled_from([1, 2, 1_000]),
    has_reference=st.booleans(),
)
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_rows_of_batches_count_as_the_same_rows_sent_as_json(
    driver: type[Driver],
    table: pa.Table,
    more: pa.Table,
    partitions: int,
    most_rows: int,
    batch: int,
    *,
    labelled: bool,
    has_reference: bool,
) -> None:
    found = []
    for is_arrow in (True, False):
        panes = driver(partitions=partitions)
        panes.monitor(**MONITOR, labelled=labelled)
        if has_reference:
            panes.reference(REFERENCE)
        for rows in (table, more):
            if is_arrow:
                send(panes, rows, most_rows=most_rows)
            else:
                for event in as_json(table_of(rows, {}, now_ms=0), partitions, most_rows):
                    panes.send("predictions", event, at_ms=10_000)
        for name in ("a", "r-1#1", "Zürich"):
            outcome = {"prediction_id": name, "label": "ok", "event_time_ms": 11_500}
            panes.send("outcomes", outcome, at_ms=11_500)
        # All predictions first: what waits for whom is a matter of records, not of rows.
        panes.run(batch=batch, topics=["predictions"]).run()
        found.append(result(panes))
    arrow, plain = found
    for name, there in plain.items():
        assert arrow[name] == there, name
