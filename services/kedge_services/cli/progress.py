"""A bar while something takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

__all__ = ["progress"]

_OFTEN_S = 0.1


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error, where that is a terminal; gives what counts one up."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)
        done, shown_s = 0, 0.0

        def advance() -> None:
            nonlocal done, shown_s
            done += 1
            # Drawing costs more than what is counted.
            if (now := time.monotonic()) - shown_s >= _OFTEN_S:
                shown_s = now
                bar.update(task, completed=done)

        yield advance
