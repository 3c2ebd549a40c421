"""A sender that says how far it came when it is broken off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from kedge.errors import KedgeError
from kedge_services.cli.printing import counted
from kedge_services.local.event_sender import EventSender
from kedge_services.runtime.settings import Settings

__all__ = ["sending"]


@contextlib.contextmanager
def sending(settings: Settings) -> Iterator[EventSender]:
    """Give a sender, and wait at the end until all of it is in Kafka."""
    sender = EventSender(settings)
    try:
        yield sender
        sender.close()
    except BaseException:
        # Also after Ctrl-C: what is on its way gets there, and the number is told.
        with contextlib.suppress(KedgeError):
            sender.close()
        done = sender.accepted.total() - sender.lost
        typer.echo(f"kedge: {counted(done, 'event')} reached Kafka before this", err=True)
        raise
