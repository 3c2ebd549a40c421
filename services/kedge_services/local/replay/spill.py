"""Disk instead of memory: sorting what is larger, and rows that are taken in any order.

The files hold plain values written with ``marshal`` and live as long as the
replay that wrote them; nobody else reads them.
"""

from __future__ import annotations

import heapq
import marshal
from array import array
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO, Any

__all__ = ["MOST_BYTES", "Shelf", "Sorter"]

#: What is held in memory before it goes to disk.
MOST_BYTES = 16 << 20
#: About what a key and its tuple take beside the value.
_KEY_BYTES = 200

Key = tuple[Any, ...]


class Sorter:
    """Sorts values by their keys: in memory while they fit, else as sorted runs on disk.

    Parameters
    ----------
    directory
        Where runs are written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: list[tuple[Key, bytes]] = []
        self._bytes = 0
        self._runs: list[IO[bytes]] = []

    def add(self, key: Key, value: bytes) -> None:
        """Take a value; no two keys are equal."""
        self._held.append((key, value))
        self._bytes += len(value) + _KEY_BYTES
        if self._bytes > MOST_BYTES:
            self._write()

    def sorted(self) -> Iterator[tuple[Key, bytes]]:
        """Give all values by their keys; once, as they are gone from here then."""
        self._held.sort()
        held, self._held = self._held, []
        if not self._runs:
            yield from held
            return
        try:
            yield from heapq.merge(held, *map(_read, self._runs))
        finally:
            for run in self._runs:
                run.close()

    def _write(self) -> None:
        self._held.sort()
        # Closed by whoever reads it to its end.
        run = TemporaryFile(dir=self._directory)  # noqa: SIM115
        for entry in self._held:
            marshal.dump(entry, run)
        run.seek(0)
        self._runs.append(run)
        self._held, self._bytes = [], 0


def _read(run: IO[bytes]) -> Iterator[tuple[Key, bytes]]:
    while True:
        try:
            entry: tuple[Key, bytes] = marshal.load(run)  # noqa: S302 -- written above
        except EOFError:
            return
        yield entry


class Shelf:
    """Values by number, on disk once they are many; 8 bytes of memory each.

    Parameters
    ----------
    directory
        Where the file is written.
    """

    def __init__(self, directory: Path) -> None:
        # Closed with this object.
        self._file = SpooledTemporaryFile(MOST_BYTES, dir=str(directory))  # noqa: SIM115
        self._places = array("q")

    def append(self, value: Any) -> None:
        """Take a value of plain types, under the next number."""
        self._places.append(self._file.tell())
        marshal.dump(value, self._file)

    def __len__(self) -> int:
        """Give how many there are."""
        return len(self._places)

    def __getitem__(self, number: int) -> Any:
        """Give a value; no more are taken after the first one was asked for."""
        self._file.seek(self._places[number])
        return marshal.load(self._file)  # noqa: S302 -- written above

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
