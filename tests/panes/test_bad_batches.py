"""What is wrong with an Arrow batch: the whole of it is put aside, or one row as JSON."""

from __future__ import annotations

import json
import random
import struct
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from kedge.batch_layout import CONTENT_TYPE, MAX_BATCH_ROWS
from kedge.batches import pieces, table_of
from kedge.errors import DeadLetter
from kedge_services.panes.arrow import ArrowReader
from kedge_services.panes.arrow_rows import ArrowRows

if TYPE_CHECKING:
    from tests.panes.conftest import Driver

HEADERS = [("Content-Type", CONTENT_TYPE + b"; charset=binary"), ("trace", b"7")]
MONITOR: dict[str, Any] = {
    "model": "fraud",
    "task": "binary",
    "classes": ["ok", "fraud"],
    "features": {"amount": "numeric", "country": "categorical"},
    "label_horizon": "10s",
    "outcome_wait": "2s",
    "windows": {"pane": "1s", "grace": "100ms"},
}
GOOD: dict[str, Any] = {
    "prediction_id": ["r-1", "r-2", "r-3"],
    "event_time_ms": [10_000, 10_001, 10_002],
    "features.amount": [1.0, 2.0, 3.0],
    "features.country": ["NO", "SE", "NO"],
    "output.label": ["ok", "fraud", "ok"],
}
METADATA = {"kedge.model": "fraud", "kedge.version": "1"}


@pytest.fixture
def panes(driver: type[Driver]) -> Driver:
    made = driver()
    made.monitor(**MONITOR)
    return made


def stream(
    columns: dict[str, Any],
    metadata: dict[str, str] = METADATA,
    *,
    batches: int = 1,
    rows: int | None = None,
    compression: str | None = None,
) -> bytes:
    table = pa.table(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        for _ in range(batches):
            writer.write_batch(table.combine_chunks().to_batches()[0][:rows])
    value: bytes = sink.getvalue().to_pybytes()
    return value


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: column for name, column in (GOOD | changes).items() if name not in names}


def append(panes: Driver, value: bytes | None, key: bytes | None = b"r-1") -> None:
    from tests.panes.conftest import Input

    panes.append("predictions", 0, Input(key, value, 10_000, HEADERS))


def zeros(rows: int) -> bytes:
    return stream({"x": pa.array(np.zeros(rows))}, compression="zstd")


def lying() -> bytes:
    """Give a batch whose one buffer says that it unpacks to 32 TB."""
    value = zeros(1_000)
    return value.replace(struct.pack("<q", 8_000), struct.pack("<q", 1 << 45), 1)


def views(kind: pa.DataType) -> dict[str, Any]:
    """Give a column that means one long string many times over."""
    once = pa.array(["x" * 1_000_000])
    if pa.types.is_dictionary(kind):
        many: pa.Array = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int8()), once)
    else:
        buffers = once.cast(pa.string_view()).buffers()
        view = [None, pa.py_buffer(buffers[1].to_pybytes() * 100), *buffers[2:]]
        many = pa.Array.from_buffers(pa.string_view(), 100, view)
    ids = [f"r-{i}" for i in range(1, 101)]
    return {"prediction_id": ids, "event_time_ms": [10_000] * 100, "features.country": many}


WHOLE: dict[str, tuple[bytes | None, str, str]] = {
    "nothing": (None, "missing-field", "no value"),
    "empty": (b"", "undecodable", "no schema"),
    "noise": (b"\xff\xff\xff\xff", "undecodable", "beyond its end"),
    "JSON": (b'{"prediction_id": "r-1"}', "undecodable", "does not begin"),
    "cut off": (stream(GOOD)[:-200], "undecodable", "cut off"),
    "no batch": (stream(GOOD, batches=0), "shape-mismatch", "0 record batches"),
    "two batches": (stream(GOOD, batches=2), "shape-mismatch", "2 record batches"),
    "no rows": (stream(GOOD, rows=0), "shape-mismatch", "no rows"),
    "too many rows": (zeros(MAX_BATCH_ROWS + 1), "too-large", "100,001 rows"),
    "a bomb": (
        stream({f"x{i}": pa.array(np.zeros(90_000)) for i in range(100)}, compression="zstd"),
        "too-large", "unpacks to 72,000,000 bytes",
    ),
    "a lying length": (lying(), "too-large", "unpacks to"),
    "one view many times": (stream(views(pa.string_view())), "too-large", "unpacks to"),
    "one entry many times": (
        stream(views(pa.dictionary(pa.int8(), pa.string()))), "too-large", "unpacks to",
    ),
    "no ids": (stream(without("prediction_id")), "missing-field", "no column prediction_id"),
    "no times": (stream(without("event_time_ms")), "missing-field", "no column event_time_ms"),
    "no model": (stream(GOOD, {"kedge.version": "1"}), "missing-field", "kedge.model"),
    "no version": (stream(GOOD, {"kedge.model": "fraud"}), "missing-field", "kedge.version"),
    "two models": (stream(GOOD | {"model": ["fraud"] * 3}), "schema-mismatch", "too"),
    "newer": (stream(GOOD, METADATA | {"kedge.schema": "2"}), "unsupported-format", "schema 2"),
    "no role": (stream(GOOD, METADATA | {"kedge.role": "boss"}), "bad-value", "'boss'"),
    "no name": (stream(GOOD, METADATA | {"kedge.version": ""}), "bad-value", "0 characters"),
    "numbers as ids": (
        stream(GOOD | {"prediction_id": [1, 2, 3]}), "schema-mismatch", "prediction_id is int64",
    ),
    "texts as times": (
        stream(GOOD | {"event_time_ms": ["a", "b", "c"]}), "schema-mismatch", "a timestamp",
    ),
    "texts as scores": (
        stream(GOOD | {"output.score": ["a", "b", "c"]}), "schema-mismatch", "numbers",
    ),
    "lists as a declared feature": (
        stream(GOOD | {"features.amount": [[1.0], [2.0], [3.0]]}),
        "schema-mismatch", "features.amount is list<",
    ),
    "features twice": (
        stream(GOOD | {"features": [{"amount": 1.0}] * 3}), "schema-mismatch", "two columns",
    ),
    "features that are numbers": (
        stream(without("features.amount", "features.country") | {"features": [1, 2, 3]}),
        "schema-mismatch", "a struct",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
def test_a_batch_that_is_wrong_as_a_whole_is_put_aside_untouched_and_counts_once(
    panes: Driver, case: str
) -> None:
    value, reason, detail = WHOLE[case]
    append(panes, stream(GOOD))
    append(panes, value)
    append(panes, stream(GOOD | {"prediction_id": ["r-4", "r-5", "r-6"]}), b"r-4")
    panes.run()
    assert panes.dead_letters() == {(value, reason): 1}
    assert panes.fates("predictions") == {"counted": 6, reason: 1}
    (letter,) = [o for o in panes.outputs if o.topic == "dead-letters"]
    assert letter.headers[:2] == tuple(HEADERS)
    told = dict(letter.headers)
    assert detail in told["kedge-detail"].decode()
    assert "kedge-row" not in told


@pytest.mark.parametrize("key", [None, b"", b"r-2"])
def test_the_key_of_a_batch_is_the_request_id_of_its_first_row(
    panes: Driver, key: bytes | None
) -> None:
    value = stream(GOOD | {"prediction_id": [None, "r-1#7", "r-2"]})
    append(panes, value, key)
    append(panes, value, b"r-1")
    panes.run()
    assert panes.fates("predictions") == {"bad-key": 1, "missing-field": 1, "counted": 2}
    assert (value, "bad-key") in panes.dead_letters()


ROWS: dict[str, tuple[dict[str, Any], dict[str, str], str, str]] = {
    "no id": ({"prediction_id": ["r-1", None, "r-3"]}, METADATA, "missing-field", "there is none"),
    "empty id": ({"prediction_id": ["r-1", "", "r-3"]}, METADATA, "bad-value", "no characters"),
    "long id": (
        {"prediction_id": ["r-1", "é" * 256, "r-3"]}, METADATA, "bad-value", "more than 255",
    ),
    "longest id": (
        {"prediction_id": ["r-1", "x" * 5_000, "r-3"]}, METADATA, "bad-value", "more than 255",
    ),
    "no time": ({"event_time_ms": [10_000, None, 10_002]}, METADATA, "bad-value", "is None"),
    "negative time": ({"event_time_ms": [10_000, -1, 10_002]}, METADATA, "bad-value", "is -1"),
    "far time": ({"event_time_ms": [10_000, 1 << 60, 10_002]}, METADATA, "bad-value", "9999"),
    "time ahead": ({"event_time_ms": [10_000, 310_001, 10_002]}, METADATA, "bad-time", "ahead"),
    "late": ({"event_time_ms": [10_000, 9_899, 10_002]}, METADATA, "late", "1 ms behind"),
    "no version": (
        {"version": ["1", None, "1"]}, {"kedge.model": "fraud"}, "missing-field", "version",
    ),
    "unknown model": (
        {"model": ["fraud", "nobody", "fraud"]}, {"kedge.version": "1"}, "unknown-model", "nobody",
    ),
    "role": ({"role": ["champion", "boss", None]}, METADATA, "bad-value", "'boss'"),
    "label": ({"output.label": ["ok", "maybe", None]}, METADATA, "bad-value", "'maybe'"),
}  # fmt: skip


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_is_put_aside_as_its_json_event(
    driver: type[Driver], case: str, *, labelled: bool
) -> None:
    panes = driver()
    panes.monitor(**MONITOR, labelled=labelled)
    changes, metadata, reason, detail = ROWS[case]
    append(panes, stream(GOOD | changes, metadata))
    panes.run()
    assert panes.fates("predictions") == {"counted": 2, reason: 1}
    (letter,) = [o for o in panes.outputs if o.topic == "dead-letters"]
    told = dict(letter.headers)
    assert (told["kedge-reason"].decode(), told["kedge-row"]) == (reason, b"1")
    assert (told["kedge-offset"], told["trace"]) == (b"0", b"7")
    assert detail in told["kedge-detail"].decode()
    assert "Content-Type" not in told
    event = json.loads(letter.value or b"")
    assert event["features"] == {"amount": 2.0, "country": "SE"}
    row = {name: column[1] for name, column in (GOOD | changes).items()}
    for name in ("prediction_id", "event_time_ms"):
        assert event.get(name) == row[name]
    is_named = 1 <= len(event.get("prediction_id", "")) <= 255
    assert letter.key == (event["prediction_id"].encode() if is_named else b"r-1")


def test_rows_on_the_wrong_partition_are_put_aside(driver: type[Driver]) -> None:
    panes = driver(partitions=4)
    panes.monitor(**MONITOR)
    names = [f"r-{i}" for i in range(40)]
    table = table_of(
        {"prediction_id": names, "event_time_ms": [10_000] * 40}, METADATA_OF, now_ms=0
    )
    made = {piece.partition: piece for piece in pieces(table, partitions=4)}
    first = made[0].key.encode()
    (whole,) = pieces(table, partitions=1)
    assert whole.key.encode() != first  # or the order below would change nothing
    order = sorted(names, key=lambda name: name != first.decode())
    from tests.panes.conftest import Input

    value = stream({"prediction_id": order, "event_time_ms": [10_000] * 40})
    panes.append("predictions", 0, Input(first, value, 10_000, HEADERS))
    panes.run()
    wrong = 40 - made[0].rows
    assert panes.fates("predictions") == {"counted": made[0].rows, "misrouted": wrong}
    assert panes.reasons() == {"misrouted": wrong}


METADATA_OF = {"model": "fraud", "version": "1"}


def test_what_is_sent_back_counts(panes: Driver) -> None:
    """The letter of a row is an event that a repaired monitor takes."""
    from tests.panes.conftest import Input

    append(panes, stream(GOOD | {"output.label": ["ok", "maybe", "ok"]}))
    panes.run()
    (letter,) = [o for o in panes.outputs if o.topic == "dead-letters"]
    panes.monitor(**(MONITOR | {"classes": ["ok", "fraud", "maybe"], "task": "multiclass"}))
    panes.append("predictions", 0, Input(letter.key, letter.value, 10_001))
    panes.run()
    assert panes.fates("predictions") == {"counted": 3, "bad-value": 1}


def test_mutilated_batches_are_read_or_refused_and_nothing_else() -> None:
    versions = pa.array(["1", "2", "1"]).dictionary_encode()
    value = stream(GOOD | {"version": versions}, {"kedge.model": "fraud"}, compression="lz4")
    chance = random.Random(1)
    reader, fates = ArrowReader(), set()
    for _ in range(4_000):
        broken = bytearray(value)
        for _ in range(chance.choice([1, 1, 2, 5])):
            broken[chance.randrange(len(broken))] = chance.choice([0, 1, 127, 128, 255])
        try:
            layout, batch, _ = reader.open(bytes(broken))
            rows = ArrowRows.of(layout, [batch])
            for row in range(rows.rows):
                json.loads(rows.event(row))
            fates.add("read")
        except DeadLetter as refused:
            fates.add(refused.reason)
    assert {"read", "undecodable", "too-large"} <= fates


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("kind", ["plain", "dictionary"])
def test_a_reader_that_knows_the_schema_reads_what_another_reads(
    kind: str, compression: str | None
) -> None:
    versions = pa.array(["1", "2", "1"])
    versions = versions.dictionary_encode() if kind == "dictionary" else versions
    value = stream(GOOD | {"version": versions}, {"kedge.model": "fraud"}, compression=compression)
    knowing = ArrowReader()
    knowing.open(value)

    def opened(reader: ArrowReader, value: bytes) -> str | list[bytes]:
        try:
            layout, batch, _ = reader.open(value)
        except DeadLetter as refused:
            return refused.reason
        rows = ArrowRows.of(layout, [batch])
        return [rows.event(row) for row in range(rows.rows)]

    chance, fates = random.Random(2), Counter[str]()
    # Behind the schema all is read anew; in it, a change makes it another schema.
    for first in (0, value.index(b"\xff\xff\xff\xff", 8)):
        for _ in range(1_000):
            broken = bytearray(value)
            for _ in range(chance.choice([1, 1, 2, 5])):
                broken[chance.randrange(first, len(broken))] = chance.choice([0, 1, 127, 128, 255])
            found = opened(knowing, bytes(broken))
            assert found == opened(ArrowReader(), bytes(broken))
            fates[found if isinstance(found, str) else "read"] += 1
    assert min(fates["read"], fates["undecodable"]) > 100


def test_batches_of_several_records_are_read_together_whatever_is_between(
    panes: Driver,
) -> None:
    values: Sequence[bytes | None] = [
        stream(GOOD), None, stream(GOOD | {"prediction_id": ["r-4", None, "r-6"]}),
        stream(GOOD | {"prediction_id": ["r-7", "r-8", "r-1"]}),
        stream(GOOD | {"prediction_id": ["r-9", "r-9", "r-9"], "latency_ms": [1, 2, 3]}),
    ]  # fmt: skip
    for value, key in zip(values, [b"r-1", None, b"r-4", b"r-7", b"wrong"], strict=True):
        append(panes, value, key)
    panes.run()
    assert panes.fates("predictions") == {
        "counted": 7, "duplicate": 1, "missing-field": 2, "bad-key": 1,
    }  # fmt: skip
