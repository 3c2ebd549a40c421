"""Writes ``docs/reference.md`` from the tables it describes.

``make schemas`` writes it anew; a test holds it fresh.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from kedge import Monitor
from kedge.errors import Reason
from kedge.monitor import Declaration, format_duration
from kedge.topics import CHANGELOGS, TOPICS, Topic
from kedge_services.cli import application
from kedge_services.runtime.metrics import CATALOGUE
from kedge_services.runtime.settings import Settings

__all__ = ["FILE", "main", "reference"]

#: In the repository; an installed Kedge has no docs.
FILE = Path(__file__).parents[3] / "docs" / "reference.md"

_DAY_MS = 86_400_000
_WIDTH = 96
_PLAIN = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "timedelta": "duration",
    "NoneType": "",
}
_HEAD = """\
# Reference

Generated from the code by `make schemas`; do not edit.
"""


def reference() -> str:
    """Give the whole text."""
    parts = [_HEAD, *_topics(), *_commands(), *_monitor(), *_settings(), *_metrics(), *_reasons()]
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> None:
    """Write the reference, or the file that is named."""
    file = Path(arguments[0]) if arguments else FILE
    file.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"{file} written\n")


def _topics() -> Iterator[str]:
    yield "## Topics\n"
    yield (
        "Names have the prefix of the settings, `kedge.` by default. Partitions: 8 by request "
        "(murmur2 of the request id), 4 by model (murmur2 of the model), both configurable. "
        "JSON Schemas of the events lie in `schemas/kedge/json`.\n"
    )
    rows = [
        (
            f"`{topic.name}`",
            ", ".join(event.__name__ for event in topic.events) or "any",
            topic.partitioned_by,
            topic.key,
            _kept(topic),
            "internal" if topic.internal else "",
        )
        for topic in (*TOPICS.values(), *CHANGELOGS.values())
    ]
    yield from _table(("topic", "events", "partitioned by", "key", "kept", ""), rows)


def _kept(topic: Topic) -> str:
    days = None if topic.retention_ms is None else f"{topic.retention_ms // _DAY_MS} d"
    return " + ".join(filter(None, ("compacted" if topic.compacted else None, days)))


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "Exit status: 0, 1 failure, 2 usage.\n"
    app = application()
    # The way out of Typer that stays: what it shows to people.
    runner = CliRunner()
    for path in _paths((), typer.main.get_command(app)):
        shown = runner.invoke(app, [*path, "--help"], prog_name="kedge", terminal_width=_WIDTH)
        yield f"### `kedge {' '.join(path)}`\n"
        yield f"```text\n{shown.output.strip()}\n```\n"


def _paths(path: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path
        return
    for name in sorted(inner):
        yield from _paths((*path, name), inner[name])


def _monitor() -> Iterator[str]:
    yield "## Monitor\n"
    yield "Durations are written like `500ms`, `2s`, `10m`, `1h`, `1d` or `1h 30m`.\n"
    yield from _table(("field", "type", "default"), _fields(Monitor, ""))


def _fields(model: type[BaseModel], path: str) -> Iterator[tuple[str, str, str]]:
    for field_name, field in model.model_fields.items():
        name = path + (field.alias or field_name)
        if name in {"schema", "effective_ms"}:
            continue
        yield f"`{name}`", _type(field.annotation), _default(field)
        inner, mark = _inner(field.annotation)
        if inner is not None:
            yield from _fields(inner, f"{name}{mark}.")


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    if isinstance(annotation, type) and issubclass(annotation, Declaration):
        return annotation, ""
    marks: dict[Any, str] = {list: "[]", dict: ".*"}
    for argument in get_args(annotation):
        inner, mark = _inner(argument)
        if inner is not None:
            return inner, marks.get(getattr(annotation, "__origin__", object), "") + mark
    return None, ""


def _type(annotation: Any) -> str:
    arguments = get_args(annotation)
    if not arguments:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return "table"
        return _PLAIN.get(getattr(annotation, "__name__", ""), str(annotation))
    containers: dict[Any, str] = {list: "list of ", dict: "table of "}
    if (container := containers.get(getattr(annotation, "__origin__", object))) is not None:
        return container + _type(arguments[-1])
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if all(isinstance(argument, str) for argument in arguments):
        return ", ".join(f"`{argument}`" for argument in arguments)
    return " or ".join(dict.fromkeys(filter(None, map(_type, arguments))))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default is None or isinstance(default, BaseModel) or default in ([], {}, ""):
        return ""
    if isinstance(default, timedelta):
        return f"`{format_duration(default)}`"
    if isinstance(default, (str, Path)):
        return f"`{default}`"
    return f"`{json.dumps(default)}`"


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield (
        "From `KEDGE_…` variables (two underscores between section and name), then `kedge.toml`, "
        "then the default.\n"
    )
    yield from _table(
        ("in kedge.toml", "variable", "default", "meaning"), _setting_rows(Settings, "")
    )


def _setting_rows(model: type[BaseModel], path: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _setting_rows(inner, f"{path}{name}.")
            continue
        variable = "KEDGE_" + f"{path}{name}".upper().replace(".", "__")
        yield f"`{path}{name}`", f"`{variable}`", _default(field), field.description or ""


def _metrics() -> Iterator[str]:
    yield "## Metrics\n"
    yield "On `/metrics` of every service; all carry the label `service`.\n"
    rows = [(f"`{m.name}`", m.kind, ", ".join(m.labels), m.meaning) for m in CATALOGUE]
    yield from _table(("metric", "type", "labels", "meaning"), rows)


def _reasons() -> Iterator[str]:
    yield "## Reasons of dead letters\n"
    yield ", ".join(f"`{reason}`" for reason in sorted(get_args(Reason))) + "\n"


def _table(head: Sequence[str], rows: Any) -> Iterator[str]:
    lines = [head, ["---"] * len(head), *rows]
    if len(lines) > 2:
        yield "\n".join(f"| {' | '.join(c.replace('|', '/') for c in row)} |" for row in lines)
        yield ""


if __name__ == "__main__":
    main(sys.argv[1:])
