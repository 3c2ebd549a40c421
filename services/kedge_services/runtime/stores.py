"""Where the join keeps its entries: on disk with RocksDB, or in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["MemoryStore", "RocksStore"]

_META = b"meta"
#: Who has a directory open in this process.
_OPENED: WeakValueDictionary[Path, RocksStore] = WeakValueDictionary()
_DEFAULT = "default"
_MB = 1024 * 1024
#: Of one column family; a full buffer becomes a file.
_BUFFER_BYTES = 16 * _MB
#: Of all stores of a process: what is not in files yet, and blocks of files with their
#: indices and filters.
_BUFFERS_BYTES = 128 * _MB
_CACHE_BYTES = 128 * _MB
#: Of the log of one store; beyond it column families that are seldom written make files, too.
_WAL_BYTES = 256 * _MB


class MemoryStore:
    """Entries in dictionaries; for tests, replays and small loads."""

    def __init__(self) -> None:
        self._segments: dict[str, dict[bytes, bytes]] = {}
        self._meta: bytes | None = None

    def meta(self) -> bytes | None:
        """Give what the last write said; None for a store that was never written."""
        return self._meta

    def get(self, keys: Sequence[bytes]) -> list[tuple[str, bytes] | None]:
        """Give the segment and the value of every key, None where there is none."""
        found: list[tuple[str, bytes] | None] = []
        for key in keys:
            hits = ((n, v) for n, kept in self._segments.items() if (v := kept.get(key)))
            found.append(next(hits, None))
        return found

    def write(
        self,
        puts: Iterable[tuple[str, bytes, bytes]],
        deletes: Iterable[tuple[str, bytes]],
        drops: Sequence[str],
        meta: bytes,
    ) -> None:
        """Write all of it at once, then drop whole segments."""
        for segment, key, value in puts:
            self._segments.setdefault(segment, {})[key] = value
        for segment, key in deletes:
            self._segments.get(segment, {}).pop(key, None)
        for segment in drops:
            self._segments.pop(segment, None)
        self._meta = meta

    def clear(self) -> None:
        """Delete everything."""
        self._segments.clear()
        self._meta = None

    def close(self) -> None:
        """Keep everything: the next task goes on with it."""


class RocksStore:
    """Entries in RocksDB, one column family a segment.

    A write is one write batch; a segment is dropped by unlinking its files.
    Nothing is synced: after a crash of the machine the store is behind, and
    what is missing is read again from Kafka.

    Parameters
    ----------
    path
        Its directory, made when missing.  Who opens it again takes it over:
        a task that died without closing its store must not lock it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        former = _OPENED.get(self._path)
        if former is not None:
            former.close()
        _OPENED[self._path] = self
        self._db: Any = None
        self._families: dict[str, Any] = {}
        self._handles: dict[str, Any] = {}
        self._open()

    def meta(self) -> bytes | None:
        """Give what the last write said; None for a store that was never written."""
        meta: bytes | None = self._db.get(_META)
        return meta

    def get(self, keys: Sequence[bytes]) -> list[tuple[str, bytes] | None]:
        """Give the segment and the value of every key, None where there is none."""
        found: list[tuple[str, bytes] | None] = [None] * len(keys)
        # Keys that lie beside each other are read from the same block.
        missing = sorted(range(len(keys)), key=keys.__getitem__)
        # An id lies in one segment; the bloom filters make looking into the others cheap,
        # and those that were asked with success are asked first.
        for segment, family in list(self._families.items()):
            if not missing:
                break
            values = family.get([keys[i] for i in missing])
            absent = values.count(None)
            if absent == len(values):
                continue
            for i, value in zip(missing, values, strict=True):
                if value is not None:
                    found[i] = (segment, value)
            if absent * 2 < len(values):
                self._families = {segment: family, **self._families}
            missing = [i for i in missing if found[i] is None] if absent else []
        return found

    def write(
        self,
        puts: Iterable[tuple[str, bytes, bytes]],
        deletes: Iterable[tuple[str, bytes]],
        drops: Sequence[str],
        meta: bytes,
    ) -> None:
        """Write all of it at once, then drop whole segments."""
        from rocksdict import WriteBatch

        batch = WriteBatch(raw_mode=True)
        for segment, key, value in puts:
            handle = self._handles.get(segment)
            batch.put(key, value, self._create(segment) if handle is None else handle)
        for segment, key in deletes:
            if segment in self._handles:
                batch.delete(key, self._handles[segment])
        batch.put(_META, meta)
        self._db.write(batch)
        for segment in drops:
            if self._families.pop(segment, None) is not None:
                del self._handles[segment]
                self._db.drop_column_family(segment)

    def clear(self) -> None:
        """Delete everything."""
        self.close()
        shutil.rmtree(self._path, ignore_errors=True)
        self._open()

    def close(self) -> None:
        """Give the directory free for the next task of this partition."""
        # The lock is held until the last handle is gone.
        self._families.clear()
        self._handles.clear()
        if self._db is not None:
            self._db.close()
            self._db = None

    def _open(self) -> None:
        from rocksdict import Rdict

        self._path.mkdir(parents=True, exist_ok=True)
        path, options = str(self._path), _options(*_shared())
        names = Rdict.list_cf(path, options) if (self._path / "CURRENT").exists() else []
        segments = [name for name in names if name != _DEFAULT]
        self._db = Rdict(path, options, column_families=dict.fromkeys(segments, options) or None)
        for segment in segments:
            self._attach(segment)

    def _create(self, segment: str) -> Any:
        self._db.create_column_family(segment, _options(*_shared()))
        self._attach(segment)
        return self._handles[segment]

    def _attach(self, segment: str) -> None:
        self._families[segment] = self._db.get_column_family(segment)
        self._handles[segment] = self._db.get_column_family_handle(segment)


@cache
def _shared() -> tuple[Any, Any]:
    """Give the block cache and the bound of write buffers that all stores have in common."""
    from rocksdict import Cache, WriteBufferManager

    return Cache(_CACHE_BYTES), WriteBufferManager(_BUFFERS_BYTES, allow_stall=False)


def _options(blocks: Any, buffers: Any) -> Any:
    """Give the options of a column family; all of a process share cache and buffers."""
    from rocksdict import BlockBasedOptions, DBCompressionType, Options

    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_write_buffer_manager(buffers)
    options.set_allow_concurrent_memtable_write(False)
    # Entries are floats for the most part, which no compression makes smaller.
    options.set_compression_type(DBCompressionType.none())
    options.set_max_background_jobs(2)
    options.set_max_total_wal_size(_WAL_BYTES)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(blocks)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    options.set_block_based_table_factory(table)
    return options
