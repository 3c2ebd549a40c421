"""``kedge dead-letters``: what was put aside, why, and back with it."""

from __future__ import annotations

import base64
import getpass
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from kedge.errors import Reason, UsageError
from kedge.monitor import parse_duration
from kedge.monitor_checks import suggestion
from kedge.topics import TOPICS
from kedge_services.cli.completion import complete_model, complete_topic
from kedge_services.cli.options import (
    BootstrapServers,
    Config,
    Json,
    require_kafka,
    settings_from,
)
from kedge_services.cli.printing import age, counted, hex_dump, printable
from kedge_services.local.letter_box import LetterBox, SendingBack
from kedge_services.local.letters import HINTS, Book, Group, Letter, Note, Place, Wanted, why_not
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.settings import Settings

__all__ = ["commands"]

commands = typer.Typer(
    name="dead-letters", help="Records that were put aside, and why.", no_args_is_help=True
)

_REASONS = get_args(Reason)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LONGEST_DUMP = 4_096


def _complete_reason(incomplete: str) -> list[str]:
    return [reason for reason in _REASONS if reason.startswith(incomplete)]


OfReason = Annotated[
    str | None,
    typer.Option(
        help="Only those put aside for this reason, e.g. late.", autocompletion=_complete_reason
    ),
]
OfTopic = Annotated[
    str | None,
    typer.Option(help="Only those from this topic.", autocompletion=complete_topic),
]
OfModel = Annotated[
    str | None,
    typer.Option(help="Only those that name this model.", autocompletion=complete_model),
]
Since = Annotated[
    str | None,
    typer.Option(help="Only those put aside in the last 30m, 2h, 1d, …", metavar="DURATION"),
]


@commands.command("list")
def list_(
    *,
    reason: OfReason = None,
    topic: OfTopic = None,
    model: OfModel = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(help="Show at most so many groups.", min=1)] = 50,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Count the dead letters by reason, topic and model, the newest first.

    "resent" counts those that were sent back. The last column is the place of
    the newest, for `kedge dead-letters show`; `kedge tail dead-letters
    --from-start --no-follow` shows each one.

    Example: kedge dead-letters list --since 1h --topic predictions
    """
    settings = settings_from(config, bootstrap_servers, need_kafka=False)
    wanted = _wanted(settings, reason, topic, model, since)
    require_kafka(settings)
    with closing(KafkaBackend(settings)) as backend:
        book = LetterBox(backend).book(wanted)
    groups = sorted(book.groups, key=lambda group: -group.newest_ms)
    if as_json:
        typer.echo(json.dumps([_group_data(group) for group in groups[:limit]]))
        return
    if not groups:
        typer.echo("no dead letters" if wanted == Wanted() else "no such dead letters")
        return
    Console(highlight=False, markup=False, emoji=False).print(_table(groups[:limit]))
    letters = counted(sum(group.letters for group in groups), "dead letter")
    more = f"; {len(groups) - limit} more groups, see --limit" if len(groups) > limit else ""
    typer.echo(f"{letters} in {counted(len(groups), 'group')}{more}")


@commands.command()
def show(
    place: Annotated[
        str, typer.Argument(help="As `list` and `kedge tail` show it.", metavar="PARTITION:OFFSET")
    ],
    *,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Show one dead letter: why, where from, its headers and its bytes.

    Bytes that are JSON are laid out, others shown as a hex dump.

    Example: kedge dead-letters show 3:17
    """
    wanted = Place.parse(place)
    settings = settings_from(config, bootstrap_servers)
    with closing(KafkaBackend(settings)) as backend:
        letter, notes = LetterBox(backend).find(wanted)
    if as_json:
        typer.echo(json.dumps(_letter_data(letter, notes)))
        return
    for line in _letter_lines(letter, notes):
        typer.echo(printable(line))


@commands.command()
def resend(  # noqa: PLR0913 -- a command has as many arguments as options
    places: Annotated[
        list[str] | None,
        typer.Argument(help="These letters.", metavar="PARTITION:OFFSET", show_default=False),
    ] = None,
    *,
    reason: OfReason = None,
    topic: OfTopic = None,
    model: OfModel = None,
    since: Since = None,
    limit: Annotated[
        int | None, typer.Option(help="Send back at most so many.", min=1, metavar="N")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that were sent back before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent back, and stop.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Send dead letters back to the topics they came from, their bytes untouched.

    They get the key and the partition that their id asks for, so what was
    misrouted comes right. What is late is late again and will be put aside
    again; the same holds for everything whose cause is still there. A letter
    and the note that it was sent back are one transaction: without --again
    none goes twice.

    Example: kedge dead-letters resend --reason unknown-model --model fraud
    """
    chosen = frozenset(Place.parse(place) for place in places or ())
    if not chosen and (reason, topic, model, since) == (None, None, None, None):
        raise UsageError("say which: PARTITION:OFFSET, --reason, --topic, --model or --since")
    settings = settings_from(config, bootstrap_servers, need_kafka=False)
    wanted = replace(_wanted(settings, reason, topic, model, since), places=chosen or None)
    if not (yes or dry_run) and (as_json or not sys.stdin.isatty()):
        raise UsageError("there is nobody to ask: add --yes, or --dry-run to look first")
    require_kafka(settings)
    with closing(KafkaBackend(settings)) as backend:
        if dry_run:
            book = LetterBox(backend).book(wanted)
            _check_chosen(book, chosen, again=again)
            _tell_result(book, {}, again=again, limit=limit, dry_run=True, as_json=as_json)
            return
        with closing(SendingBack(backend, _login_name())) as sending:
            book = LetterBox(backend).book(wanted)
            _check_chosen(book, chosen, again=again)
            if not yes:
                _tell_plan(book, again=again, limit=limit)
                if not typer.confirm("Send them back?", err=True):
                    raise typer.Exit(1)
            sent = sending.send(book, again=again, limit=limit)
    _tell_result(book, sent, again=again, limit=limit, dry_run=False, as_json=as_json)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def _wanted(
    settings: Settings,
    reason: str | None,
    topic: str | None,
    model: str | None,
    since: str | None,
) -> Wanted:
    if reason is not None and reason not in _REASONS:
        hint = suggestion(reason, _REASONS)
        raise UsageError(f"--reason: no record is put aside as {reason!r}; {hint}")
    name = None if topic is None else topic.removeprefix(settings.prefix)
    if name is not None and name not in TOPICS:
        raise UsageError(f"--topic: there is no topic {topic!r}; {suggestion(name, list(TOPICS))}")
    if since is None:
        return Wanted(reason, name, model)
    try:
        length = parse_duration(since)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--since: {error}") from error
    return Wanted(reason, name, model, since_ms=wall_clock() - length // _MS)


def _check_chosen(book: Book, chosen: frozenset[Place], *, again: bool) -> None:
    """Refuse places by name where something is not as who named them believes."""
    for place in sorted(chosen):
        if place not in book:
            raise UsageError(f"no dead letter at {place}; see `kedge dead-letters list`")
        if place in book.resent and not again:
            raise UsageError(
                f"{place} was sent back already, see `kedge dead-letters show {place}`; "
                "--again sends it once more"
            )
    if chosen:
        for group in book.groups:
            if (why := why_not(group.topic)) is not None:
                raise UsageError(f"{group.newest} cannot go back: {why}")


def _left_out(book: Book, *, again: bool) -> Iterator[str]:
    before = 0
    for group in book.groups:
        why = why_not(group.topic)
        if why is not None:
            yield f"{counted(group.letters, 'letter')} cannot go back: {why}"
        else:
            before += group.resent
    if before and not again:
        yield f"{counted(before, 'letter')} left out: sent back before (--again takes them too)"


def _going(book: Book, *, again: bool) -> list[tuple[Group, int]]:
    counts = [(g, g.letters if again else g.letters - g.resent) for g in book.groups]
    return [(group, n) for group, n in counts if n and why_not(group.topic) is None]


def _tell_plan(book: Book, *, again: bool, limit: int | None) -> None:
    going = _going(book, again=again)
    total = sum(count for _, count in going)
    least = "" if limit is None or limit >= total else f", of which {limit:,} now"
    typer.echo(f"{counted(total, 'letter')} to send back{least}:", err=True)
    for group, count in going:
        model = f" of {printable(group.model)}" if group.model else ""
        hint = f" ({HINTS[group.reason]})" if group.reason in HINTS else ""
        typer.echo(f"  {count:,} {group.reason} to {group.topic}{model}{hint}", err=True)
    for line in _left_out(book, again=again):
        typer.echo(line, err=True)
    if not total:
        raise typer.Exit(0)


def _tell_result(
    book: Book,
    sent: dict[str, int],
    *,
    again: bool,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    planned = sum(count for _, count in _going(book, again=again))
    if as_json:
        left_out = list(_left_out(book, again=again))
        data = {"dry_run": dry_run, "planned": min(planned, limit or planned), "sent": dict(sent),
                "left_out": left_out, "groups": [_group_data(g) for g in book.groups]}  # fmt: skip
        typer.echo(json.dumps(data))
    elif dry_run:
        _tell_plan(book, again=again, limit=limit)
        typer.echo("nothing was sent (--dry-run)")
    else:
        by_topic = ", ".join(f"{count:,} to {topic}" for topic, count in sent.items())
        typer.echo(f"sent back {by_topic}" if sent else "nothing was sent back")
        for line in _left_out(book, again=again):
            typer.echo(line, err=True)


def _table(groups: Sequence[Group]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("reason", "topic", "model"):
        table.add_column(name, overflow="fold")
    for name in ("letters", "resent", "newest", "at"):
        table.add_column(name, justify="right", no_wrap=True)
    now_ms = wall_clock()
    for group in groups:
        table.add_row(
            printable(group.reason), printable(group.topic), printable(group.model or "-"),
            f"{group.letters:,}", f"{group.resent:,}" if group.resent else "",
            f"{age((now_ms - group.newest_ms) / 1000)} ago", str(group.newest),
        )  # fmt: skip
    return table


def _group_data(group: Group) -> dict[str, Any]:
    return {
        "reason": group.reason, "topic": group.topic, "model": group.model,
        "letters": group.letters, "resent": group.resent,
        "newest_ms": group.newest_ms, "newest": str(group.newest),
    }  # fmt: skip


def _letter_data(letter: Letter, notes: Sequence[Note]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "place": str(letter.place),
        "time_ms": letter.time_ms,
        "reason": letter.reason,
        "detail": letter.detail,
        "service": letter.service,
        "source": {
            "topic": letter.topic, "partition": letter.partition, "offset": letter.offset,
            "timestamp_ms": letter.source_ms,
        },
        "key": _decoded(letter.key),
        "headers": {name: _decoded(value) for name, value in letter.headers},
        "resent": [{"time_ms": note.time_ms, "by": note.by} for note in notes],
    }  # fmt: skip
    try:
        return {**shown, "value": None if letter.value is None else json.loads(letter.value)}
    except (ValueError, RecursionError):
        return {**shown, "value_base64": base64.b64encode(letter.value or b"").decode()}


def _letter_lines(letter: Letter, notes: Sequence[Note]) -> Iterator[str]:
    yield f"reason     {letter.reason}"
    yield f"detail     {letter.detail}"
    yield f"put aside  {_time(letter.time_ms)} by {letter.service}, at {letter.place}"
    source = f"{letter.topic} {letter.partition}:{letter.offset}"
    yield f"from       {source}, appended {_time(letter.source_ms)}"
    yield f"key        {_decoded(letter.key) or '-'}"
    for name, value in letter.headers:
        yield f"header     {name}: {_decoded(value)}"
    for note in notes:
        yield f"resent     {_time(note.time_ms)} by {note.by or '-'}"
    if letter.value is None:
        yield "value      none"
        return
    yield f"value      {counted(len(letter.value), 'byte')}"
    try:
        yield json.dumps(json.loads(letter.value), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        yield from hex_dump(letter.value[:_LONGEST_DUMP])
        if (more := len(letter.value) - _LONGEST_DUMP) > 0:
            yield f"… and {counted(more, 'byte')} more; --json has all of them"


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _time(time_ms: int) -> str:
    try:
        return f"{_EPOCH + timedelta(milliseconds=time_ms):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return str(time_ms)
