"""Examples as columns are the examples that were sent, to the type of every value."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.codec import decode, encode
from kedge.errors import DeadLetter
from kedge.events import Example
from kedge.versions import FeatureColumn
from kedge_services.core.selection import digest
from kedge_services.runtime.formats.columns import matrix, numbers
from kedge_services.trainer.decoding import ExampleDecoder
from kedge_services.trainer.examples import ExampleRow, Examples, Places
from kedge_services.trainer.families import Table
from kedge_services.trainer.feature_rows import FeatureRows

COLUMNS = (
    FeatureColumn(name="a", type="numeric"),
    FeatureColumn(name="b", type="numeric"),
    FeatureColumn(name="k", type="categorical"),
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "u", "v", "7", "\u00e9"])
)
floats = st.none() | st.floats(-1e6, 1e6)
features = st.one_of(
    st.fixed_dictionaries({"a": floats, "b": floats, "k": st.sampled_from(["u", "v", None])}),
    st.fixed_dictionaries({"a": st.integers(-9, 9), "b": floats, "k": scalars}),
    st.dictionaries(st.sampled_from(["a", "b", "k", "later"]), scalars),
)
outputs = st.dictionaries(
    st.sampled_from(["1", "2"]),
    st.fixed_dictionaries(
        {},
        optional={"label": st.sampled_from(["no", "yes", 1]), "score": st.floats(0, 1),
                  "scores": st.just({"no": 0.25}), "value": st.floats(-9, 9)},
    ),
)  # fmt: skip


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "prediction_id": draw(st.sampled_from([f"r{i}" for i in range(8)])),
        "model": draw(st.sampled_from(["m", "m", "m", "other"])),
        "features": draw(features),
        "label": draw(st.sampled_from(["no", "yes", 1, 1.0, True])),
        "outputs": draw(outputs),
        "segments": {"k": "u"},
        "event_time_ms": draw(st.integers(0, 50)),
        "label_time_ms": draw(st.integers(0, 5)),
        "revision": draw(st.integers(0, 2)),
    }


#: What stands in an event's place once in a while.
spoilt = st.sampled_from(
    [None, b"", b"{", b"\xff", b'{"model":"m"}', b"[]", b'{"model":"m","label":NaN}',
     b'{"model": "m", "prediction_id": "", "features": {}}']
)  # fmt: skip


def by_the_contract(values: list[bytes | None]) -> list[tuple[int, Example]]:
    found = []
    for offset, value in enumerate(values):
        try:
            example = decode(Example, value or b"")
        except DeadLetter:
            continue
        if example.model == "m":
            found.append((offset, example))
    return found


def plain(row: ExampleRow | Example) -> tuple[Any, ...]:
    """Give all that is looked at, with types: 1, 1.0 and true are equal."""
    return (
        row.prediction_id, row.revision, row.event_time_ms, row.label_time_ms,
        repr(row.label), sorted((name, repr(value)) for name, value in row.features.items()),
    )  # fmt: skip


@given(st.lists(events().map(lambda e: json.dumps(e).encode()) | spoilt, max_size=30),
       st.booleans())  # fmt: skip
def test_what_is_decoded_in_batches_is_what_the_contract_reads(
    values: list[bytes | None],
    compact: bool,  # noqa: FBT001 -- drawn
) -> None:
    if compact:  # as panes writes them
        values = [
            msgspec.json.encode(msgspec.json.decode(v)) if v and v.startswith(b'{"pred') else v
            for v in values
        ]
    expected = by_the_contract(values)
    decoder = ExampleDecoder("m", COLUMNS, "1")
    half = len(values) // 2
    parts = [decoder.read(3, range(half), values[:half]),
             decoder.read(3, range(half, len(values)), values[half:])]  # fmt: skip
    found = [part for part in parts if part is not None]
    assert sum(map(len, found)) == len(expected)
    if not found:
        return
    read = Examples.joined(found)
    assert read.places is not None
    assert read.places.offsets.tolist() == [offset for offset, _ in expected]
    assert [plain(row) for row in read] == [plain(example) for _, example in expected]
    assert digest(read) == digest(example for _, example in expected)
    answered = [example.outputs.get("1") for _, example in expected]
    assert list(map(repr, map(read.outputs.__getitem__, range(len(read))))) == list(
        map(repr, answered)
    )


def sent(kept: list[tuple[str, int, int]]) -> list[Example]:
    return [
        Example(
            prediction_id=name, model="m", features={"a": float(number)}, label="yes", outputs={},
            event_time_ms=0, label_time_ms=label_ms, revision=revision,
        )
        for number, (name, label_ms, revision) in enumerate(kept)
    ]  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(0, 3), st.integers(0, 2)), max_size=40
    ),
    st.integers(1, 5),
    st.integers(0, 40),
)
def test_each_counts_once_at_its_highest_revision_by_label_time_and_id(
    arrivals: list[tuple[str, int, int]], last: int, cut: int
) -> None:
    newest: dict[str, Example] = {}
    for example in sent(arrivals):
        known = newest.get(example.prediction_id)
        if known is None or known.revision <= example.revision:
            newest[example.prediction_id] = example
    expected = sorted(newest.values(), key=lambda e: (e.label_time_ms, e.prediction_id))
    # However they were read.
    parts = [
        replace(Examples.of(some, model="m", version=None),
                places=Places(np.zeros(len(some), np.int32), np.arange(len(some)) + offset))
        for offset, some in ((0, sent(arrivals)[:cut]), (cut, sent(arrivals)[cut:]))
    ]  # fmt: skip
    columns = Examples.chosen(parts)
    assert [plain(row) for row in columns] == [plain(example) for example in expected]
    assert list(Examples.chosen(parts, last)) == list(columns)[-last:]
    # Each lies where the last record of its id does.
    at = {name: place for place, (name, _, _) in enumerate(arrivals)}
    assert columns.places is not None
    assert columns.places.offsets.tolist() == [at[name] for name in columns.ids]


def test_in_whatever_order_they_arrive() -> None:
    arrivals = [("a", 9, 1), ("c", 2, 2), ("b", 5, 0), ("a", 5, 0), ("c", 1, 0)]
    rows = Examples.chosen([Examples.of(sent(arrivals), model="m", version=None)])
    assert [(row.prediction_id, row.revision) for row in rows] == [("c", 2), ("b", 0), ("a", 1)]


rows_of = st.lists(
    st.dictionaries(st.sampled_from("abk"), scalars | st.just(math.inf)), max_size=20
)


@given(rows_of, st.data())
def test_rows_come_back_as_they_were_however_they_are_cut(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    columns = FeatureRows.of(rows)
    assert list(map(repr, columns)) == list(map(repr, map(dict, rows_in_order(rows))))
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)) if rows else []
    assert same(list(columns.take(chosen)), [rows[i] for i in chosen])
    cut = data.draw(st.integers(0, len(rows)))
    assert same(list(columns[cut:]), rows[cut:])
    parts = [FeatureRows.of(rows[:cut]), FeatureRows.of(rows[cut:])]
    assert same(list(FeatureRows.joined(parts)), rows)
    for name in "abk":
        assert same(columns.column(name), [row.get(name) for row in rows])
    for place in chosen:
        assert same([columns[place]], [rows[place]])


def rows_in_order(rows: list[dict[str, Any]]) -> list[list[tuple[str, Any]]]:
    """Give the features of each row in the order in which they were first met."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [[(name, row[name]) for name in names if name in row] for row in rows]


def same(found: list[Any], expected: list[Any]) -> bool:
    def told(value: Any) -> str:
        return repr(sorted(value.items())) if isinstance(value, dict) else repr(value)

    return list(map(told, found)) == list(map(told, expected))


@given(rows_of)
def test_a_table_gives_the_arrays_that_its_rows_give(rows: list[dict[str, Any]]) -> None:
    table = Table(rows, [0.0] * len(rows))
    for columns in (COLUMNS, COLUMNS[:2]):
        for options in ({}, {"read": numbers}):
            found = table.matrix(columns, **options)
            expected = matrix(rows, columns, **options)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert repr(found.tolist()) == repr(expected.tolist())


def test_an_example_of_another_release_is_read_and_its_neighbours_too() -> None:
    """A feature that nobody expected is learnt; what came before it has none."""
    values = [
        encode(sent([("a", 1, 0)])[0]),
        encode(sent([("b", 2, 0)])[0].model_copy(update={"features": {"a": 1.0, "new": "x"}})),
        encode(sent([("c", 3, 0)])[0]),
    ]
    read = ExampleDecoder("m", COLUMNS, None).read(0, [5, 6, 8], values)
    assert read is not None
    assert list(read.features) == [{"a": 0.0}, {"a": 1.0, "new": "x"}, {"a": 0.0}]


@pytest.mark.parametrize(
    "foreign", [b'{"model": "n", "x": "\\"model\\":\\"m\\""}', b'{"model":"n"}']
)
def test_examples_of_other_models_are_none_of_ours(foreign: bytes) -> None:
    assert ExampleDecoder("m", COLUMNS, None).read(0, [0], [foreign]) is None
