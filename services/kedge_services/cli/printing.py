"""Text from elsewhere, made fit for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["age", "counted", "hex_dump", "printable"]

_ROW = 16


def printable(text: str) -> str:
    r"""Replace what a terminal would obey: a record may hold anything.

    >>> printable("a\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def counted(number: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun.

    >>> counted(1, "record"), counted(2_000, "record")
    ('1 record', '2,000 records')
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def age(seconds: float) -> str:
    """Write how long ago something was, in one unit.

    >>> age(75), age(3 * 86_400)
    ('75 s', '3 d')
    """
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def hex_dump(data: bytes) -> Iterator[str]:
    """Give the lines that ``hexdump -C`` would.

    >>> next(hex_dump(b"kedge"))
    '00000000  6b 65 64 67 65                                    |kedge|'
    """
    for start in range(0, len(data), _ROW):
        row = data[start : start + _ROW]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        yield f"{start:08x}  {row.hex(' '):<47}   |{text}|"
