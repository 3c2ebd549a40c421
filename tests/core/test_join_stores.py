from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kedge_services.core.book import JoinStore
from kedge_services.runtime.stores import MemoryStore, RocksStore

SEGMENTS = st.sampled_from(["10-1", "10-2", "12-1"])
KEYS = st.sampled_from([b"a", b"b", b"c"])
WRITES = st.lists(
    st.tuples(
        st.dictionaries(KEYS, st.tuples(SEGMENTS, st.binary(min_size=1, max_size=4)), max_size=3),
        st.lists(SEGMENTS, max_size=1),
    ),
    max_size=6,
)


def apply(store: JoinStore, held: dict[bytes, str], write: tuple[dict[bytes, tuple[str, bytes]],
          list[str]], meta: bytes) -> None:  # fmt: skip
    """Write as a book does: an id that moves is deleted where it was."""
    entries, drops = write
    puts = [(segment, key, value) for key, (segment, value) in entries.items()]
    deletes = [(held[key], key) for segment, key, _ in puts if held.get(key, segment) != segment]
    store.write(puts, deletes, drops, meta)


@settings(deadline=None, max_examples=25, suppress_health_check=[
    HealthCheck.function_scoped_fixture])  # fmt: skip
@given(WRITES, st.integers(0, 5))
def test_rocksdb_holds_what_memory_holds(
    tmp_path: Path, writes: list[tuple[dict[bytes, tuple[str, bytes]],
    list[str]]], reopened_at: int,
) -> None:  # fmt: skip
    memory, path = MemoryStore(), tmp_path / "store"
    rocks = RocksStore(path)
    rocks.clear()
    held: dict[bytes, str] = {}
    for i, write in enumerate(writes):
        if i == reopened_at:
            rocks.close()
            rocks = RocksStore(path)
        for store in (memory, rocks):
            apply(store, held, write, str(i).encode())
        held |= {key: segment for key, (segment, _) in write[0].items()}
        held = {key: segment for key, segment in held.items() if segment not in write[1]}
        keys = [b"a", b"b", b"c", b"never"]
        assert rocks.get(keys) == memory.get(keys)
        assert rocks.meta() == memory.meta()
    rocks.close()


def test_a_cleared_store_is_as_if_never_written(tmp_path: Path) -> None:
    for store in (MemoryStore(), RocksStore(tmp_path / "store")):
        store.write([("10-1", b"a", b"1")], [], [], b"meta")
        store.clear()
        assert store.meta() is None
        assert store.get([b"a"]) == [None]
        store.close()


def test_a_store_that_was_not_closed_opens_after_its_process_is_gone(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = tmp_path / "store"
    program = (
        "import os, pathlib, sys; from kedge_services.runtime.stores import RocksStore\n"
        "store = RocksStore(pathlib.Path(sys.argv[1]))\n"
        "store.write([('10-1', b'a', b'1')], [], [], b'meta'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    store = RocksStore(path)
    assert (store.meta(), store.get([b"a"])) == (b"meta", [("10-1", b"1")])
    store.close()
