"""The JSON Schema of every event, for producers and consumers in other languages.

``python -m kedge.schemas`` writes them anew; a test holds them fresh.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from kedge.base import Event
from kedge.monitor import Declaration, format_duration
from kedge.topics import TOPICS

__all__ = ["FOLDER", "event_classes", "file_name", "main", "schema_texts", "write"]

#: Where the generated schemas lie, inside the package so that they are shipped.
FOLDER = Path(__file__).parent / "json"


class _Generator(GenerateJsonSchema):
    """Writes the defaults of durations as they are read; pydantic would use ISO 8601."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return format_duration(dft)
        if isinstance(dft, Declaration):
            return dft.model_dump(mode="json")
        return super().encode_default(dft)


def event_classes() -> list[type[Event]]:
    """Give the classes of all events of the topics table, in its order."""
    return list(dict.fromkeys(event for topic in TOPICS.values() for event in topic.events))


def file_name(cls: type[Event]) -> str:
    """Give the file of a class.

    >>> from kedge import ScoringRequest
    >>> file_name(ScoringRequest)
    'scoring-request.schema.json'
    """
    words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in cls.__name__)
    return f"{words.lstrip('-')}.schema.json"


def schema_texts() -> Iterator[tuple[str, str]]:
    """Give file name and text of every schema.

    They describe what Kedge reads: fields with a default need not be there.
    """
    topics = {cls: t.name for t in reversed(TOPICS.values()) for cls in t.events}
    for cls in event_classes():
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **cls.model_json_schema(by_alias=True, schema_generator=_Generator),
            "x-kedge-topic": topics[cls],
        }
        yield file_name(cls), json.dumps(schema, indent=2, sort_keys=True) + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write all schemas and remove what no event has any more; give the files."""
    folder.mkdir(exist_ok=True)
    wanted = dict(schema_texts())
    for old in folder.glob("*.schema.json"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in wanted]


def main(arguments: Sequence[str]) -> None:
    """Write the schemas into the package, or into the folder that is named."""
    files = write(*map(Path, arguments[:1]))
    sys.stdout.write(f"{len(files)} schemas written to {files[0].parent}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
