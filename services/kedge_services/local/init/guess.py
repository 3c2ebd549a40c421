"""A guess: what, from what, how sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Certainty", "Given", "Guess", "given"]

#: ``given`` is what the user said: no guess.
Certainty = Literal["given", "sure", "likely", "unsure"]


@dataclass(frozen=True, slots=True)
class Guess:
    """A value for the monitor, with its reason; None as value means: there is none."""

    value: Any
    why: str
    certainty: Certainty


@dataclass(frozen=True, slots=True)
class Given:
    """What the user said about the data; None where it is to be guessed."""

    model: str | None = None
    task: str | None = None
    label: str | None = None
    prediction: str | None = None
    score: str | None = None
    timestamp: str | None = None
    every: str | None = None


def given(value: Any, option: str) -> Guess:
    """Give what the user said as a guess that is none."""
    return Guess(value, f"{option}", "given")
