"""Integers as text: base64 of as few bytes as the largest of them takes."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_text", "narrow", "pack_integers", "unpack_integers"]

_WIDTHS: Final = ((1, 127), (2, 32_767), (4, (1 << 31) - 1))
_Ints = NDArray[np.int64]


def narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Give integers in as few bytes each as the largest of them takes.

    >>> narrow(np.array([1, 2, -1])).dtype, narrow(np.array([300])).dtype
    (dtype('int8'), dtype('int16'))
    """
    width = 8
    if values.size:
        most = max(int(values.max()), -int(values.min()))
        width = next((bytes_ for bytes_, limit in _WIDTHS if most <= limit), 8)
    return values.astype(f"<i{width}")


def pack_integers(values: NDArray[Any]) -> str:
    """Write integers as base64, after a digit that says how many bytes each takes.

    >>> pack_integers(np.array([1, 2, -1])), unpack_integers("1AQL/").tolist()
    ('1AQL/', [1, 2, -1])
    """
    found = narrow(values)
    return f"{found.itemsize}{as_text(found)}"


def unpack_integers(text: str) -> _Ints:
    """Read what :func:`pack_integers` gave."""
    return np.frombuffer(a2b_base64(text[1:]), dtype=f"<i{text[0]}").astype(np.int64)


def as_text(values: NDArray[Any]) -> str:
    """Write the bytes of an array as base64."""
    return b2a_base64(values.tobytes(), newline=False).decode()
