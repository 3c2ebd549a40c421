"""Where in a TOML text a key stands, so that a mistake can be shown with its line.

``tomllib`` forgets positions.  This scanner reads text that ``tomllib`` has
accepted, therefore it checks nothing: it only follows keys, tables, arrays
and inline tables, and steps over strings and comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Location", "line_of", "locate"]

#: Keys and array positions from the outside in, e.g. ``("rules", 0, "below")``.
Location = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_OTHER_VALUE = re.compile(r"[^,\]}\n#]*")
_STRINGS = [
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\\n])*"'),
    re.compile(r"'[^'\n]*'"),
]
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def locate(text: str) -> dict[Location, int]:
    r"""Give the line (from 1) of every key, table and array element of valid TOML.

    >>> locate('model = "m"\n[[rules]]\nname = "a"')[("rules", 0, "name")]
    3
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


def line_of(lines: dict[Location, int], location: Location) -> int:
    """Give the line of a location, or of the innermost thing around it that has one."""
    for length in range(len(location), 0, -1):
        if (line := lines.get(location[:length])) is not None:
            return line
    return 1


@dataclass(slots=True)
class _Scanner:
    text: str
    at: int = 0
    lines: dict[Location, int] = field(default_factory=dict)
    #: Number of elements so far of each array of tables.
    arrays: dict[Location, int] = field(default_factory=dict)

    def document(self) -> None:
        table: Location = ()
        self._blank()
        while self.at < len(self.text):
            if self._take("[["):
                self._blank()
                table = self._element(self._keys())
                self.at = self.text.index("]]", self.at) + 2
            elif self._take("["):
                self._blank()
                table = self._path(self._keys())
                self.at = self.text.index("]", self.at) + 1
            else:
                self._pair(table)
            self._blank()

    def _pair(self, table: Location) -> None:
        start = self.at
        location = table + tuple(self._keys())
        for length in range(len(table) + 1, len(location) + 1):
            self._mark(location[:length], start)
        self.at = self.text.index("=", self.at) + 1
        self._blank()
        self._value(location)

    def _value(self, location: Location) -> None:
        if self._take("["):
            self._items(location, "]")
        elif self._take("{"):
            self._items(location, "}")
        elif self._string() is None:
            self._match(_OTHER_VALUE)

    def _items(self, location: Location, end: str) -> None:
        index = 0
        self._blank()
        while not self._take(end):
            if end == "]":
                self._mark((*location, index))
                self._value((*location, index))
                index += 1
            else:
                self._pair(location)
            self._blank()
            self._take(",")
            self._blank()

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while True:
            before = self.at
            self._blank()
            if not self._take("."):
                self.at = before
                return keys
            self._blank()
            keys.append(self._key())

    def _key(self) -> str:
        quoted = self._string()
        return self._match(_BARE_KEY) if quoted is None else quoted

    def _string(self) -> str | None:
        for pattern in _STRINGS:
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                literal = match[0]
                inner = literal[1:-1]
                return inner if literal[0] == "'" else _ESCAPE.sub(_unescape, inner)
        return None

    def _element(self, keys: list[str]) -> Location:
        path = (*self._path(keys[:-1]), keys[-1])
        index = self.arrays.get(path, 0)
        self.arrays[path] = index + 1
        self._mark(path)
        self._mark((*path, index))
        return (*path, index)

    def _path(self, keys: list[str]) -> Location:
        """Name the table these keys mean: in an array of tables, its newest element."""
        path: Location = ()
        for key in keys:
            path = (*path, key)
            self._mark(path)
            if path in self.arrays:
                path = (*path, self.arrays[path] - 1)
        return path

    def _mark(self, location: Location, at: int | None = None) -> None:
        at = self.at if at is None else at
        self.lines.setdefault(location, self.text.count("\n", 0, at) + 1)

    def _blank(self) -> None:
        self._match(_BLANK)

    def _take(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else _ESCAPED.get(match[3], match[3])
