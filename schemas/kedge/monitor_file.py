"""Monitors from TOML files; every mistake with its file, line and field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from kedge.errors import MonitorError
from kedge.monitor import Monitor
from kedge.monitor_checks import Mistake, mistakes, suggestion
from kedge.problems import Problem, field_name, problems
from kedge.toml_lines import Location, line_of, locate

__all__ = ["FileMistake", "Table", "load_monitor", "read_monitor", "read_table", "validate"]

M = TypeVar("M", bound=BaseModel)

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_QUOTED = re.compile(r"`(\w+)`")
#: Fields that travel with a monitor but are not for its author to set.
_ADDED = {"effective_ms": "set by `kedge apply`, leave it out"}


@dataclass(frozen=True, slots=True)
class FileMistake:
    """One mistake in a file; ``field`` is empty where the text is no TOML at all."""

    file: str
    line: int
    field: str
    text: str

    def __str__(self) -> str:
        """Write it as editors and compilers do."""
        place = f"{self.file}:{self.line}: "
        return place + (f"{self.field}: {self.text}" if self.field else self.text)


def load_monitor(path: Path) -> Monitor:
    """Read a monitor.

    Raises
    ------
    MonitorError
        It is not valid; one line for each mistake, as
        ``file:line: field: what was expected (got ...)``.
    """
    monitor, found = read_monitor(path)
    if monitor is None:
        raise MonitorError("\n".join(map(str, found)))
    return monitor


def read_monitor(
    path: Path, *more: Callable[[Monitor], Iterable[Mistake]]
) -> tuple[Monitor | None, list[FileMistake]]:
    """Read a monitor, or find all that is wrong with it.

    ``more`` are further checks, for what this package has no library for.

    Raises
    ------
    MonitorError
        The file cannot be read.
    """
    table, found = read_table(path)
    if table is None:
        return None, found
    monitor, mistaken = validate(table.data, Monitor, [mistakes, *more], added=_ADDED)
    return monitor, table.located(mistaken)


@dataclass(frozen=True, slots=True)
class Table:
    """What a TOML file says, and where."""

    file: str
    data: dict[str, Any]
    text: str

    def located(self, found: Iterable[Mistake]) -> list[FileMistake]:
        """Give mistakes with their lines, by line."""
        known = list(found)
        lines = locate(self.text) if known else {}
        placed = [
            FileMistake(self.file, line_of(lines, location), field_name(location), sentence)
            for location, sentence in known
        ]
        return sorted(placed, key=lambda mistake: mistake.line)


def read_table(path: Path) -> tuple[Table | None, list[FileMistake]]:
    """Read a TOML file, its times as text, or say where it is no TOML.

    Raises
    ------
    MonitorError
        The file cannot be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MonitorError(f"{path}: {error.strerror or error}") from error
    try:
        # A byte order mark is no TOML, yet editors on Windows write it.
        text = raw.decode("utf-8-sig")
        return Table(str(path), _plain(tomllib.loads(text)), text), []
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return None, [FileMistake(str(path), line, "", "not UTF-8 text")]
    except tomllib.TOMLDecodeError as error:
        return None, [_syntax(path, text, error)]


def validate(
    data: dict[str, Any],
    kind: type[M],
    checks: Sequence[Callable[[M], Iterable[Mistake]]] = (),
    *,
    added: Mapping[str, str] = MappingProxyType({}),
) -> tuple[M | None, list[Mistake]]:
    """Read a declaration from a table, or give all that is wrong with it.

    ``added`` are fields it has that are not for its author to set, with the reason.
    """
    found: list[Mistake] = [((name,), sentence) for name, sentence in added.items() if name in data]
    try:
        declared = kind.model_validate(data)
    except ValidationError as error:
        return None, found + [_mistake(problem, data, kind) for problem in problems(error)]
    for check in checks:
        found += check(declared)
    return (None if found else declared), found


def _mistake(problem: Problem, data: dict[str, Any], kind: type[BaseModel]) -> Mistake:
    location = problem.location
    if problem.kind == "value_error" and (named := _QUOTED.search(problem.expected)):
        # A rule over several fields is broken: show the first of them that is there.
        table = _value_at(data, location)
        if isinstance(table, Mapping) and named[1] in table:
            location = (*location, named[1])
    elif problem.kind == "extra_forbidden":
        name = str(location[-1])
        return location, f"no such field; {suggestion(name, _fields_at(kind, location[:-1]))}"
    elif location[-1:] == ("[key]",):
        return location[:-1], f"the name is not valid: {problem.sentence}"
    return location, problem.sentence


def _syntax(path: Path, text: str, error: tomllib.TOMLDecodeError) -> FileMistake:
    message = str(error)
    match = _AT_LINE.search(message)
    line = int(match[1]) if match and match[1] else max(1, len(text.splitlines()))
    return FileMistake(str(path), line, "", f"not valid TOML: {_AT_LINE.sub('', message)}")


def _plain(value: Any) -> Any:
    """Write TOML's times as text: on the wire a monitor is JSON."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, date | time) else value


def _value_at(data: Any, location: Location) -> Any:
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """Give the fields of the table at a location, as they are written in the file."""
    for part in location:
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                model = _table_of(field.annotation) or model
                break
    hidden = {"schema_version", *_ADDED}
    return [f.alias or name for name, f in model.model_fields.items() if name not in hidden]


def _table_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_table_of, get_args(annotation))), None)
