"""When a process that stopped is started again, and when it is given up."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Patience", "Stops", "Trouble", "trouble_in"]

_TAIL_BYTES = 8_192
_TROUBLE = re.compile(r"error|exception|fatal|cannot|refused", re.IGNORECASE)
#: What the loop writes below the traceback of a handler that raised.
_PLACE = re.compile(r"^processing (\S+/\d+ from offset \d+)$")


@dataclass(frozen=True, slots=True)
class Patience:
    """How a supervisor deals with processes that stop, or do not.

    A process that lived less than ``quick_s`` stopped quickly.  After
    ``quick_stops`` quick ones in a row, or as many at one offset however long
    each took, it is given up.  Between them the pause doubles, beginning with
    ``first_pause_s``.
    """

    quick_s: float = 30.0
    quick_stops: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    stop_timeout_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a process said last: the error, and the record it was at when it names one."""

    error: str
    place: str | None = None

    def __str__(self) -> str:
        """Give both as one sentence."""
        return f"{self.error} (processing {self.place})" if self.place else self.error


@dataclass(slots=True)
class Stops:
    """The stops of one process that count together."""

    number: int = 0
    place: str | None = None

    def add(self, patience: Patience, *, lived_s: float, place: str | None) -> None:
        """Count a stop; one at another offset than the last shows that there is progress."""
        if place is not None and self.place is not None:
            goes_on = place == self.place
        else:
            goes_on = lived_s < patience.quick_s
        self.number = self.number + 1 if goes_on else 1
        self.place = place

    def are_enough(self, patience: Patience) -> bool:
        """Say whether to give up."""
        return self.number >= patience.quick_stops

    def pause_s(self, patience: Patience) -> float:
        """Give how long to wait before the next start."""
        pause = patience.first_pause_s * 2.0 ** (self.number - 1)
        return float(min(pause, patience.longest_pause_s))


def trouble_in(log: Path, since: int = 0) -> Trouble:
    """Give the last line of a log that tells of trouble, else the last one.

    Parameters
    ----------
    log
        The file.
    since
        Where in it the process began to write.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(min(since, size), size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    trouble = [line for line in lines if _TROUBLE.search(line)]
    place = _PLACE.match(lines[-1]) if lines else None
    error = (trouble or lines or ["it said nothing"])[-1]
    return Trouble(error, place[1] if place else None)
