"""Files of columns: read block by block, checked, and cut into records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from kedge.errors import UsageError
from kedge.topics import request_partition
from kedge_services.local.batch_file import BatchFile, is_batch_file
from kedge_services.panes.arrow import ArrowReader

ROWS = 70_000


def table(rows: int = 3, metadata: dict[str, str] | None = None, **changes: Any) -> pa.Table:
    columns = {
        "prediction_id": [f"r-{i}" for i in range(rows)],
        "event_time_ms": [1_000 + i for i in range(rows)],
        "model": ["fraud"] * rows,
        "version": ["1"] * rows,
        "features.amount": [0.5 * i for i in range(rows)],
    } | changes
    made = pa.table({name: column for name, column in columns.items() if column is not None})
    return made.replace_schema_metadata(metadata)


def stream(made: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)


WRITERS: dict[str, Any] = {
    "p.parquet": parquet.write_table,
    "p.PQ": parquet.write_table,
    "p.feather": feather.write_feather,
    "p.arrow": stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_all_rows_become_records_on_the_partitions_of_their_requests(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    WRITERS[name](table(ROWS), path)
    assert is_batch_file(path)
    file, reader = BatchFile(path), ArrowReader()
    blocks = list(file.checked())
    assert [models for _, models in blocks] == [["fraud"]] * len(blocks)
    assert sum(len(block) for block, _ in blocks) == ROWS
    assert max(len(block) for block, _ in blocks) < ROWS
    found = []
    for piece in file.pieces(4, 500):
        _, batch, _ = reader.open(piece.value)
        assert batch.num_rows == piece.rows <= 500
        names = batch.column("prediction_id").to_pylist()
        assert names[0] == piece.key
        assert {request_partition(name, 4) for name in names} == {piece.partition}
        found += batch.column("features.amount").to_pylist()
    assert sorted(found) == [0.5 * i for i in range(ROWS)]


def test_model_and_version_may_stand_in_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    metadata = {"kedge.model": "fraud", "kedge.version": "1"}
    parquet.write_table(table(3, metadata, model=None, version=None), path)
    [(_, models)] = BatchFile(path).checked()
    assert models == ["fraud"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prediction_id": None}, "no column 'prediction_id'; the columns are: event_time_ms"),
        ({"event_time_ms": None}, "no column 'event_time_ms'"),
        ({"model": None}, "missing-field: there is no column model"),
        ({"prediction_id": ["a", "", "c"]}, "row 2: prediction_id should have 1 to 255"),
        ({"prediction_id": ["a", "b", "#1"]}, "bad-key: row 3: #1 has no request id"),
        ({"event_time_ms": [1, 2, -1]}, "row 3: event_time_ms should lie between"),
        ({"event_time_ms": ["x", "y", "z"]}, "schema-mismatch"),
        ({"model": ["m", None, "m"]}, "row 2: model should have 1 to 255 characters"),
        ({"version": ["1", "1", ""]}, "row 3: version should have 1 to 255 characters"),
        ({"role": ["champion", None, "boss"]}, "row 3: role should be champion or shadow"),
        ({"label": ["a", "b", "a"], "features.amount": None}, "look like outcomes"),
    ],
)
def test_what_could_never_be_processed_is_told_with_its_row(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "p.parquet"
    parquet.write_table(table(**changes), path)
    with pytest.raises(UsageError) as told:
        list(BatchFile(path).checked())
    assert sentence in str(told.value)
    assert str(path) in str(told.value)


def test_rows_of_later_blocks_have_their_own_numbers(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    times = [1_000] * ROWS
    times[ROWS - 1] = -1
    parquet.write_table(table(ROWS, event_time_ms=times), path)
    with pytest.raises(UsageError, match=f"row {ROWS}: event_time_ms"):
        list(BatchFile(path).checked())


@pytest.mark.parametrize("name", ["p.parquet", "p.arrow", "p.feather"])
def test_what_is_no_such_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(UsageError, match="no such file"):
        BatchFile(path)
    path.write_bytes(b"no columns at all")
    with pytest.raises(UsageError, match="cannot be read"):
        list(BatchFile(path).checked())
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        BatchFile(path)
