"""State that is kept piece by piece: what changed since it was last asked goes to the changelog."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["Change", "Key", "Shelf", "quick_json"]

T = TypeVar("T")
#: Quicker than json, but NaN and infinities become null.
quick_json = msgspec.json.Encoder().encode
Key = tuple[str | int, ...]
Change = tuple[bytes, bytes | None]


class Shelf(Generic[T]):
    """A dictionary that remembers which of its pieces changed.

    Pieces may be changed in place; then :meth:`touch` says so.

    Parameters
    ----------
    name
        First part of every key in the changelog; tells shelves apart.
    encode, decode
        Between a piece and JSON data.
    write
        Writes that data as JSON; by default in a way that takes any number.
    """

    def __init__(
        self,
        name: str,
        encode: Callable[[T], Any],
        decode: Callable[[Any], T],
        write: Callable[[Any], bytes] | None = None,
    ) -> None:
        self.name = name
        self._write = write or _dumps
        self._encode, self._decode = encode, decode
        self._pieces: dict[Key, T] = {}
        self._changed: dict[Key, None] = {}
        self._stored: set[Key] = set()

    def __contains__(self, key: Key) -> bool:
        return key in self._pieces

    def __getitem__(self, key: Key) -> T:
        return self._pieces[key]

    def __setitem__(self, key: Key, piece: T) -> None:
        self._pieces[key] = piece
        self._changed[key] = None

    def __delitem__(self, key: Key) -> None:
        del self._pieces[key]
        self._changed[key] = None

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._pieces))

    def __len__(self) -> int:
        return len(self._pieces)

    def get(self, key: Key) -> T | None:
        """Give a piece, or None."""
        return self._pieces.get(key)

    def items(self) -> Iterator[tuple[Key, T]]:
        """Go through all pieces; the shelf may be changed meanwhile."""
        return iter(list(self._pieces.items()))

    def touch(self, key: Key) -> None:
        """Say that the piece was changed in place."""
        self._changed[key] = None

    def changes(self) -> Iterator[Change]:
        """Give what changed since the last call, None for a piece that is gone."""
        changed, self._changed = self._changed, {}
        for key in changed:
            name = quick_json([self.name, *key])
            if key in self._pieces:
                self._stored.add(key)
                yield name, self._write(self._encode(self._pieces[key]))
            elif key in self._stored:
                self._stored.discard(key)
                yield name, None

    def restore(self, key: Key, value: bytes | None) -> None:
        """Take back what :meth:`changes` once gave; the last value counts."""
        if value is None:
            self._pieces.pop(key, None)
            self._stored.discard(key)
        else:
            self._pieces[key] = self._decode(json.loads(value))
            self._stored.add(key)


def _dumps(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
