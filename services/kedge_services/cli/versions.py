"""How the commands show versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from kedge import Artefact, ModelVersion

__all__ = ["artefact_text", "data", "show_one", "show_table", "tell"]


def data(version: ModelVersion) -> dict[str, Any]:
    """Give a version as JSON data."""
    return version.model_dump(mode="json", by_alias=True, exclude_none=True)


def tell(version: ModelVersion, *, as_json: bool) -> None:
    """Say what the registry has made of a version."""
    if as_json:
        typer.echo(json.dumps(data(version)))
    else:
        typer.echo(f"{version.model} {version.version} is {version.status}: {version.reason}")


def show_table(versions: Sequence[ModelVersion]) -> None:
    """Show a line a version; not cut to the width of the terminal, so that names stay whole."""
    if not versions:
        typer.echo("no versions yet")
        return
    lines: list[tuple[str, ...]] = [
        ("model", "version", "status", "artefact", "since (UTC)", "trainer")
    ]
    lines += [
        (v.model, v.version, v.status, artefact_text(v.artefact), _time(v.changed_ms), v.trainer)
        for v in versions
    ]
    reasons = ["reason", *(v.reason for v in versions)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line, reason in zip(lines, reasons, strict=True):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join((*cells, reason)).rstrip())


def show_one(version: ModelVersion) -> None:
    """Show all that is known about a version, a line a field."""
    for name, text in _lines(version):
        typer.echo(f"{name:<20} {text}")


def _lines(version: ModelVersion) -> Iterator[tuple[str, str]]:
    for name, value in data(version).items():
        if name == "status":
            yield "status", value
            yield "artefact", artefact_text(version.artefact)
        elif name.endswith("_ms"):
            yield name.removesuffix("_ms"), f"{_time(value)} UTC"
        elif name == "artefact":
            yield "model file", f"{value['uri']} (sha256 {value['sha256']})"
        elif name == "feature_schema":
            yield "features", ", ".join(f"{c.name} {c.type}" for c in version.feature_schema)
        elif name != "schema" and (text := _text(value)):
            yield name, text


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: inner for name, inner in value.items() if inner not in ([], {}, "")}
    if value in ([], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def artefact_text(artefact: Artefact | None) -> str:
    """Say in a few words what is served, or that it is served by others."""
    return "served elsewhere" if artefact is None else f"{artefact.format}, {_size(artefact.size)}"


def _size(size: int) -> str:
    for unit, factor in (("MB", 1_000_000), ("kB", 1_000)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def _time(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}"
