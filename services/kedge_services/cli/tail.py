"""``kedge tail``: what goes through a topic, decoded."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from kedge.errors import UsageError
from kedge.monitor_checks import suggestion
from kedge.topics import CHANGELOGS, TOPICS
from kedge_services.cli.completion import complete_model, complete_topic
from kedge_services.cli.options import BootstrapServers, Config, require_kafka, settings_from
from kedge_services.cli.printing import printable
from kedge_services.cli.signals import stop_on_signals
from kedge_services.runtime.dead_letters import RESENT
from kedge_services.runtime.ports import Consumer, Record, TopicPartition
from kedge_services.runtime.settings import Settings

__all__ = ["as_json", "as_text", "commands", "is_about"]

commands = typer.Typer()

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 72
_POLL_S = 0.2


@commands.command()
def tail(
    topic: Annotated[
        str,
        typer.Argument(
            help="Name without prefix, e.g. windows, alerts, dead-letters.",
            autocompletion=complete_topic,
        ),
    ],
    *,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the oldest record, not at the end.")
    ] = False,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="Stop at the end; together with --from-start.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Only records of this model.", autocompletion=complete_model)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Stop after so many records.", min=1, metavar="N")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: position, headers, value.")
    ] = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Show the committed records of a topic as they come.

    Dead letters show the reason for which they were put aside and where they
    came from.

    Example: kedge tail alerts --from-start --model fraud
    """
    settings = settings_from(config, bootstrap_servers, need_kafka=False)
    name = topic.removeprefix(settings.prefix)
    names = [*TOPICS, *(log.name for log in CHANGELOGS.values())]
    if name not in names:
        raise UsageError(f"there is no topic {topic!r}; {suggestion(name, names)}")
    require_kafka(settings)
    console = Console(highlight=False, soft_wrap=True)
    shown = 0
    for record in _records(settings, name, from_start=from_start, follow=not no_follow):
        if model is not None and not is_about(model, record):
            continue
        if json_lines:
            sys.stdout.write(json.dumps(as_json(record), ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            console.print(as_text(record))
        shown += 1
        if shown == limit:
            return


def is_about(model: str, record: Record) -> bool:
    """Say whether a record is of a model: by its ``model`` field, else by its key."""
    value = _parsed(record.value)
    if isinstance(value, dict) and "model" in value:
        return bool(value["model"] == model)
    key = (record.key or b"").decode(errors="replace")
    return key == model or key.startswith(f"{model}/")


def as_json(record: Record) -> dict[str, Any]:
    """Give a record as JSON data; bytes that are no JSON as ``value_base64``."""
    shown: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "headers": _headers(record),
    }
    value = _parsed(record.value)
    if value is None and record.value is not None and record.value.strip() != b"null":
        return {**shown, "value_base64": base64.b64encode(record.value).decode()}
    return {**shown, "value": value}


def as_text(record: Record) -> Text:
    """Give a record as one readable line."""
    line = Text()
    line.append(f"{_time(record.timestamp_ms)} {record.partition}:{record.offset} ", "dim")
    headers = {name: printable(text) for name, text in _headers(record).items()}
    if "kedge-reason" in headers:
        source = f"{headers.get('kedge-topic')} {headers.get('kedge-partition')}"
        line.append(headers["kedge-reason"], "bold red")
        line.append(f" {headers.get('kedge-detail', '')} ")
        line.append(f"(from {source}:{headers.get('kedge-offset')}) ", "dim")
    value = _parsed(record.value)
    if RESENT in headers:
        line.append("resent", "bold green")
        line.append(f" {headers[RESENT]} by {headers.get('kedge-by', '')}")
    elif isinstance(value, dict):
        _append_fields(line, value)
    elif record.value is None:
        line.append(printable((record.key or b"").decode(errors="replace")), "bold")
        line.append(" deleted", "red")
    else:
        line.append(_cut(record.value.decode(errors="replace")))
    return line


def _append_fields(line: Text, value: Mapping[str, Any]) -> None:
    for name, field in value.items():
        if name == "schema" or field is None or field in ([], {}):
            continue
        line.append(f"{printable(name)}=", "cyan")
        is_time = name.endswith("_ms") and isinstance(field, int) and field > 10**11
        line.append(f"{_time(field) if is_time else _short(field)} ")


def _short(value: object) -> str:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return _cut(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _cut(text: str) -> str:
    shown = printable(text[:_LONGEST])
    return shown if len(text) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _time(time_ms: int) -> str:
    try:
        moment = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return str(time_ms)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def _headers(record: Record) -> dict[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers}


def _parsed(value: bytes | None) -> Any:
    try:
        return None if value is None else json.loads(value)
    except ValueError:
        return None


def _records(settings: Settings, topic: str, *, from_start: bool, follow: bool) -> Iterator[Record]:
    from kedge_services.runtime.kafka import KafkaBackend

    backend = KafkaBackend(settings)
    partitions = [TopicPartition(topic, p) for p in range(backend.partitions(topic))]
    consumer = backend.consumer(group=None)
    with stop_on_signals() as stop:
        try:
            bounds = {partition: consumer.bounds(partition) for partition in partitions}
            consumer.assign({p: low if from_start else high for p, (low, high) in bounds.items()})
            while not stop.is_set():
                batches = consumer.poll(1_000, _POLL_S)
                records = [record for batch in batches for record in batch.records()]
                # Partitions are read side by side; what came together is shown in its order.
                yield from sorted(records, key=lambda record: record.timestamp_ms)
                if not follow and not batches and _at_end(consumer, partitions):
                    return
        finally:
            consumer.close()


def _at_end(consumer: Consumer, partitions: list[TopicPartition]) -> bool:
    return all(consumer.at_end(partition) for partition in partitions)
