"""What the join store is asked and told: filters, kinds, and the layout of its entries."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kedge_services.core.book import Book
from kedge_services.core.entries import Held
from kedge_services.core.filters import Filter, id_hashes
from kedge_services.core.kinds import Kind, Kinds
from kedge_services.core.packing import pack
from kedge_services.core.segments import Segments
from kedge_services.runtime.stores import MemoryStore

KIND = Kind(
    "m", "1", True, 10_000, 2_000, 1_000, 62, "", "", ("a", "b"), (0, 1), False, True, "ok",
    "plain", "ok",
)  # fmt: skip


@given(st.lists(st.sets(st.text(min_size=1), max_size=50), max_size=8))
def test_a_filter_never_denies_what_it_has_taken(parts: list[set[str]]) -> None:
    kept = Filter()
    for part in parts:
        kept.add(id_hashes(sorted(part)))
    taken = sorted(set().union(*parts))
    assert kept.may_hold(id_hashes(taken)).all()


def test_a_filter_that_has_grown_still_denies_almost_all_others() -> None:
    kept = Filter()
    for first in range(0, 200_000, 5_000):
        kept.add(id_hashes([f"a-{i}" for i in range(first, first + 5_000)]))
    assert kept.may_hold(id_hashes([f"b-{i}" for i in range(20_000)])).mean() < 0.03


def predict(book: Book, names: list[str], *, time_ms: int, offset: int) -> None:
    n = len(names)
    number = book.kinds.of(KIND).number
    columns = {
        "times_ms": np.full(n, time_ms, dtype=np.int64),
        "offsets": np.arange(offset, offset + n, dtype=np.int64),
    }
    kinds = np.full(n, number, dtype=np.int64)
    values = pack(
        kinds, numbers=np.full(n, 0.5), features=np.full((n, 2), 1.5), tails=None, **columns
    )
    book.place(names, values, kinds=kinds, hashes=id_hashes(names), **columns)


def commit(book: Book, offset: int, gone: list[str]) -> None:
    def expired(_: Segments) -> list[str]:
        return gone

    book.seal(label_wait_ms=2_000, clock_ms=0, expired=expired)
    book.write({"predictions": offset, "outcomes": 0})


def test_a_store_opened_again_gives_its_entries_and_its_kinds() -> None:
    store = MemoryStore()
    book = Book(store, lingering=3)
    book.open()
    predict(book, ["a", "b"], time_ms=50_000, offset=0)
    commit(book, 2, [])
    predict(book, ["c", "d"], time_ms=50_000, offset=2)
    commit(book, 4, [])
    # Four are more than three: the older commit has gone down, and the store says so.
    again = Book(store)
    assert again.open() == {"predictions": 2, "outcomes": 0}
    book.close()
    again = Book(store)
    assert again.open() == {"predictions": 4, "outcomes": 0}
    again.load(["a", "d"])
    held = [entry.predictions[0] for name in ("a", "d") if (entry := again.get(name))]
    assert [type(h) for h in held] == [Held, Held]
    assert [(h.offset, h.score, h.predicted) for h in held] == [(0, 0.5, "ok"), (3, 0.5, "ok")]
    assert json.loads(bytes(held[0].features)) == {"a": 1.5, "b": 1.5}
    assert json.loads(bytes(held[0].output)) == {"label": "ok", "score": 0.5}


def test_an_id_of_a_segment_begun_before_the_store_was_opened_is_asked_for() -> None:
    store = MemoryStore()
    book = Book(store)
    book.open()
    predict(book, ["a"], time_ms=50_000, offset=0)
    commit(book, 1, [])
    again = Book(store)
    again.open()
    assert again.unknown(["a", "b"], id_hashes(["a", "b"])).tolist() == [False, True]


def test_kinds_leave_with_the_last_segment_that_uses_them() -> None:
    book = Book(MemoryStore())
    book.open()
    predict(book, ["a"], time_ms=50_000, offset=0)
    commit(book, 1, [])
    (segment,) = book.store._segments  # type: ignore[attr-defined]  # noqa: SLF001
    commit(book, 1, [segment])
    assert bytes(book.kinds.encode()) == b"{}"
    assert book.store.get([b"a"]) == [None]


def test_labels_of_equal_value_and_different_kind_are_different_kinds() -> None:
    kinds = Kinds()
    labels: list[object] = [1, True, 1.0, "1"]
    shapes = [kinds.of(replace(KIND, label=label)) for label in labels]
    assert len({shape.number for shape in shapes}) == len(labels)
    assert [type(kinds[shape.number].kind.label) for shape in shapes] == [int, bool, float, str]


def test_a_store_of_an_earlier_layout_is_deleted_and_built_anew() -> None:
    store = MemoryStore()
    entry = b'[[["m","1",true,50000,0,10000,2000,1000,62]],[]]'
    meta = b'{"offsets":{"predictions":1},"segments":{"11-30":{"models":["m"]}}}'
    store.write([("11-30", b"a", entry)], [], [], meta)
    book = Book(store)
    assert book.open() == {}
    assert store.meta() is None
    assert store.get([b"a"]) == [None]
    store.write([], [], [], b"what is this?")
    assert Book(store).open() == {}
