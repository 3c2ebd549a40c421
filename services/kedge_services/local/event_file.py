"""Files of events, one JSON object a line: read, recognised, held against the contract."""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from kedge.base import Event
from kedge.codec import decode
from kedge.errors import DeadLetter, UsageError
from kedge.events import Command, Outcome, Prediction, ScoringRequest
from kedge.monitor_checks import suggestion
from kedge.problems import show
from kedge.topics import TOPICS, request_id

__all__ = ["SENDABLE", "BadLine", "EventFile", "ReadyEvent", "check_line", "recognise", "sendable"]

#: Topics that anybody may write, and their event.
SENDABLE: dict[str, type[Event]] = {
    "requests": ScoringRequest,
    "predictions": Prediction,
    "outcomes": Outcome,
    "commands": Command,
}
#: Why the others have one writer, and how to get there nevertheless.
_WAY: dict[str, str] = {
    "examples": "`panes` joins them from predictions and outcomes: send those",
    "panes": "`panes` counts them from predictions and outcomes: send those",
    "references": "`registry` and `windows` write them: use `kedge models register --reference`",
    "windows": "`windows` makes them from panes: send predictions and outcomes",
    "alerts": "`alerts` makes them from windows: declare a rule in a monitor",
    "retrain-requests": "`triggers` writes them: send a command with the action retrain",
    "candidates": "a version that was trained elsewhere is offered with `kedge models register`",
    "model-versions": "`registry` writes them: use `kedge models register` or "
    "`kedge models promote`",
    "monitors": "a monitor is published with `kedge apply MONITOR.toml`",
    "dead-letters": "the services write them; `kedge dead-letters resend` sends them back",
}
#: The fields by which an event is known; the first topic that has all of them is the one.
_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("examples", ("prediction_id", "outputs")),
    ("predictions", ("prediction_id", "features")),
    ("outcomes", ("prediction_id", "label")),
    ("requests", ("request_id", "rows")),
    ("commands", ("command_id",)),
    ("windows", ("window_id",)),
    ("alerts", ("alert_id",)),
    ("retrain-requests", ("request_id", "cause")),
    ("model-versions", ("model", "version", "status")),
    ("candidates", ("request_id", "trainer")),
    ("references", ("reference_id", "origin")),
    ("panes", ("series", "kind")),
    ("monitors", ("model", "task", "windows")),
)
#: A line of `kedge tail --json`.
_TAIL = {"topic", "partition", "offset", "headers"}
#: What Kafka takes in one record, unless it is told otherwise.
_LONGEST = 1_000_000
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


class ReadyEvent(NamedTuple):
    """An event that holds to the contract.

    Attributes
    ----------
    topic
        Without prefix.
    key
        The request id, for a command its id.
    model
        None for an outcome that leaves it open.
    value
        The bytes of the line.
    marks
        The fields by which the topic was recognised; empty when it was given.
    """

    topic: str
    key: str
    model: str | None
    value: bytes
    marks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be sent, and why."""

    line: int
    reason: str
    detail: str


class EventFile:
    """Lines of a file, of a ``.gz``, or of standard input.

    Parameters
    ----------
    path
        ``-`` is standard input.
    stdin
        What that is; None takes the process's.

    Raises
    ------
    UsageError
        There is no such file, or it is a directory.
    """

    def __init__(self, path: Path, stdin: IO[bytes] | None = None) -> None:
        self._path = path
        self._stdin = stdin
        is_stdin = str(path) == "-"
        self.name = "standard input" if is_stdin else str(path)
        if not is_stdin and not path.exists():
            raise UsageError(f"{path}: no such file")
        if not is_stdin and path.is_dir():
            raise UsageError(f"{path}: is a directory; name a file of events, one a line")
        #: It can be read only once, and perhaps never ends.
        self.is_stream = is_stdin or not path.is_file()

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Give number (from 1) and bytes of every line that is not blank.

        A line that no record can hold is given cut, so that it costs no memory.

        Raises
        ------
        UsageError
            The file cannot be read.
        """
        try:
            with self._open() as file:
                yield from _lines(file)
        except (OSError, EOFError, zlib.error) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"{self.name}: cannot be read: {why}") from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if str(self._path) == "-":
            yield self._stdin or sys.stdin.buffer
            return
        with self._path.open("rb") as file:
            # By its first bytes, as names lie; what can be read once only has a name only.
            is_gzip = self._path.suffix == ".gz" if self.is_stream else file.peek(2)[:2] == _GZIP
            if not is_gzip:
                yield file
                return
            with gzip.open(file) as unpacked:
                yield cast("IO[bytes]", unpacked)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(_LONGEST + 2):
        number += 1
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(_LONGEST)):
            pass
        if number == 1:
            line = line.removeprefix(_BOM)
        if stripped := line.strip():
            yield number, stripped


def sendable(topic: str) -> str:
    """Make sure that anybody may write this topic.

    Raises
    ------
    UsageError
        There is no such topic, or only a service writes it.
    """
    if topic in SENDABLE:
        return topic
    if topic not in TOPICS:
        raise UsageError(f"there is no topic {topic!r}; {suggestion(topic, list(SENDABLE))}")
    raise UsageError(f"{topic} cannot be sent: {_WAY[topic]}")


def check_line(number: int, line: bytes, topic: str | None) -> ReadyEvent | BadLine:
    """Hold a line against the contract.

    Parameters
    ----------
    number, line
        A JSON object; or a line of ``kedge tail --json``, whose value is taken.
    topic
        None recognises it by the fields.
    """
    try:
        return _checked(line, topic)
    except DeadLetter as error:
        return BadLine(number, error.reason, error.detail)
    except _UnknownTopicError as error:
        return BadLine(number, "unknown-topic", str(error))


def recognise(event: dict[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """Give the topic an event belongs to and the fields that say so."""
    return next(((topic, marks) for topic, marks in _MARKS if event.keys() >= {*marks}), None)


class _UnknownTopicError(Exception):
    """An event that is for none of the topics that anybody may write."""


def _checked(line: bytes, topic: str | None) -> ReadyEvent:
    if len(line) > _LONGEST:
        raise DeadLetter("too-large", f"more than {_LONGEST:,} bytes, which no record holds")
    marks: tuple[str, ...] = ()
    if topic is None:
        event = _object(line)
        if event.keys() >= _TAIL:
            topic, line = _tailed(event)
            marks = ("topic",)
        else:
            topic, marks = _recognised(event)
        if topic not in SENDABLE:
            raise _UnknownTopicError(f"this is for {topic}: {_WAY.get(topic, 'no such topic')}")
    found = decode(SENDABLE[topic], line)
    return ReadyEvent(topic, _key(found), getattr(found, "model", None), line, marks)


def _recognised(event: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    found = recognise(event)
    if found is None:
        fields = ", ".join(list(event)[:6]) or "no fields"
        raise _UnknownTopicError(f"no event has these fields: {fields}; name the --topic")
    return found


def _tailed(record: dict[str, Any]) -> tuple[str, bytes]:
    if "value" not in record:
        raise DeadLetter("undecodable", "a record of `kedge tail --json` whose value is no JSON")
    return str(record["topic"]), json.dumps(record["value"], separators=(",", ":")).encode()


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DeadLetter("undecodable", f"no JSON: {error}") from error
    if not isinstance(value, dict):
        what = "a list" if isinstance(value, list) else show(value)
        raise DeadLetter("undecodable", f"an event is one JSON object a line, this is {what}")
    return value


def _key(event: Event) -> str:
    if isinstance(event, Command):
        return event.command_id
    name = event.request_id if isinstance(event, ScoringRequest) else ""
    if isinstance(event, (Prediction, Outcome)):
        name = event.prediction_id
    if not (key := request_id(name)):
        raise DeadLetter("bad-key", f"{name!r} has no request id before its `#`")
    return key
