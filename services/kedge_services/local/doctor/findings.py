"""What a check comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from kedge.errors import KedgeError

__all__ = ["Check", "Finding", "State", "failed", "findings_of", "ok", "warning"]

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `kedge doctor`.

    Attributes
    ----------
    check
        What was looked at.
    state
        ``warning`` is something that may be meant so; ``failed`` is not.
    detail
        What was found.
    move
        What to do next; empty where nothing has to be done.
    """

    check: str
    state: State
    detail: str
    move: str = ""


Check = Callable[[], Iterable[Finding]]


def ok(check: str, detail: str) -> Finding:
    """Make a finding that asks for nothing."""
    return Finding(check, "ok", detail)


def warning(check: str, detail: str, move: str) -> Finding:
    """Make a finding that may be meant so."""
    return Finding(check, "warning", detail, move)


def failed(check: str, detail: str, move: str) -> Finding:
    """Make a finding that has to be dealt with."""
    return Finding(check, "failed", detail, move)


def findings_of(name: str, check: Check) -> Iterable[Finding]:
    """Run a check; what stops it is a finding, too, so that the others still run."""
    try:
        yield from check()
    except KedgeError as error:
        # Kedge's errors say themselves what to do.
        yield failed(name, str(error), "")
