"""Integers as text: base64 of as few bytes as the largest of them takes."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_text", "narrow", "pack_integers", "unpack_integers", "unpack_narrow"]

_WIDTHS: Final[tuple[tuple[np.dtype[Any], int], ...]] = (
    (np.dtype("<i1"), 127), (np.dtype("<i2"), 32_767), (np.dtype("<i4"), (1 << 31) - 1),
)  # fmt: skip
_WIDEST: Final = np.dtype("<i8")
_Ints = NDArray[np.int64]


def narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Give integers in as few bytes each as the largest of them takes.

    >>> narrow(np.array([1, 2, -1])).dtype, narrow(np.array([300])).dtype
    (dtype('int8'), dtype('int16'))
    """
    if values.dtype == np.int8:
        return values
    width: np.dtype[Any] = _WIDEST
    if values.size:
        flat = values.reshape(-1)
        most = max(int(np.maximum.reduce(flat)), -int(np.minimum.reduce(flat)))
        width = next((width for width, limit in _WIDTHS if most <= limit), _WIDEST)
    return values.astype(width)


def pack_integers(values: NDArray[Any]) -> str:
    """Write integers as base64, after a digit that says how many bytes each takes.

    >>> pack_integers(np.array([1, 2, -1])), unpack_integers("1AQL/").tolist()
    ('1AQL/', [1, 2, -1])
    """
    found = narrow(values)
    return f"{found.itemsize}{as_text(found)}"


def unpack_integers(text: str) -> _Ints:
    """Read what :func:`pack_integers` gave."""
    return unpack_narrow(text).astype(np.int64)


def unpack_narrow(text: str) -> NDArray[Any]:
    """Read it in as few bytes each as it was written; not to be changed."""
    return np.frombuffer(a2b_base64(text[1:]), dtype=f"<i{text[0]}")


def as_text(values: NDArray[Any]) -> str:
    """Write the bytes of an array as base64."""
    return b2a_base64(values.tobytes(), newline=False).decode()
