"""What the windows look up: monitors and references."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kedge import Monitor, Reference

__all__ = ["Lookup"]


@dataclass(frozen=True, slots=True)
class Lookup:
    """The tables, as functions.

    Attributes
    ----------
    monitor
        Gives a model's monitor for a pane that starts at an event time.
    reference
        Gives a reference by its id.
    reference_for
        Gives the reference of a model's version at an event time.
    """

    monitor: Callable[[str, int | None], Monitor | None]
    reference: Callable[[str], Reference | None]
    reference_for: Callable[[str, str, int], Reference | None]
