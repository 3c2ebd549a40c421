"""Which ids a segment surely does not hold, without asking the store.

Almost every prediction is new.  A Bloom filter over the ids of a segment says so from
memory; where it is wrong the store is asked in vain, and nothing else comes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Filter", "id_hashes"]

_Words = NDArray[np.uint64]

#: Ids a word takes on average: 16 bits an id, of which 4 are set.
_IDS_A_WORD: Final = 4
_SMALLEST: Final = 1 << 12
_LARGEST: Final = 1 << 24
_SIX_BITS: Final = np.uint64(63)
_ONE: Final = np.uint64(1)


def id_hashes(prediction_ids: Sequence[str]) -> NDArray[np.uint64]:
    """Hash ids for :class:`Filter`; the hashes differ from process to process."""
    return np.fromiter(map(hash, prediction_ids), np.int64, len(prediction_ids)).view(np.uint64)


@dataclass(slots=True)
class Filter:
    """A Bloom filter that grows: a full part is followed by one four times its size.

    All bits of an id lie in one word, so that it is looked up with one access to memory.
    """

    _parts: list[_Words] = field(default_factory=list)
    _free: int = 0

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Take ids, by their hashes."""
        if self._free <= 0:
            size = _SMALLEST if not self._parts else self._parts[-1].size * 4
            size = max(size, 1 << (hashes.size // _IDS_A_WORD).bit_length())
            size = min(size, _LARGEST)
            self._parts.append(np.zeros(size, dtype=np.uint64))
            self._free = size * _IDS_A_WORD
        words = self._parts[-1]
        np.bitwise_or.at(words, _words_of(hashes, words.size), _bits(hashes))
        self._free -= hashes.size

    def may_hold(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say of each id whether it may have been taken; False is certain."""
        found = np.zeros(hashes.size, dtype=np.bool_)
        bits = _bits(hashes)
        for words in self._parts:
            found |= (words[_words_of(hashes, words.size)] & bits) == bits
        return found


def _words_of(hashes: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    return (hashes & np.uint64(size - 1)).astype(np.int64)


def _bits(hashes: NDArray[np.uint64]) -> _Words:
    bits = np.zeros(hashes.size, dtype=np.uint64)
    # The lowest bits choose the word.
    for shift in (32, 38, 44, 50):
        bits |= _ONE << ((hashes >> np.uint64(shift)) & _SIX_BITS)
    return bits
