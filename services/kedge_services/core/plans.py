"""Monitors as the hot path wants them: everything looked up once, by event time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kedge.base import Scalar, label_text
from kedge.monitor import Monitor

__all__ = ["Monitors", "Plan", "Plans"]

Monitors = Callable[[str, int | None], Monitor | None]
"""Gives a model's monitor at an event time in ms; its newest for None."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One monitor, compiled; durations in ms.

    ``classes`` are the declared labels by their text, in declared order; empty
    for regression.  ``numeric`` are those of the features that are numbers.
    """

    model: str
    labelled: bool
    regression: bool
    classes: dict[str, Scalar]
    positive: str | None
    features: tuple[str, ...]
    numeric: frozenset[str]
    segments: tuple[str, ...]
    pane_ms: int
    performance_pane_ms: int
    cell_ms: int
    grace_ms: int
    horizon_ms: int
    wait_ms: int
    multivariate: bool

    @classmethod
    def of(cls, monitor: Monitor) -> Plan:
        """Compile a monitor."""
        classes = {label_text(label): label for label in monitor.classes}
        positive = None
        if monitor.task == "binary":
            declared = monitor.classes[1] if monitor.positive is None else monitor.positive
            positive = label_text(declared)
        return cls(
            model=monitor.model,
            labelled=monitor.labelled,
            regression=monitor.task == "regression",
            classes={} if monitor.task == "regression" else classes,
            positive=positive,
            features=tuple(monitor.features),
            numeric=frozenset(n for n, f in monitor.features.items() if f.type == "numeric"),
            segments=tuple(segment.name for segment in monitor.segments),
            pane_ms=monitor.pane_ms,
            performance_pane_ms=monitor.performance_pane_ms,
            cell_ms=monitor.cell_ms,
            grace_ms=monitor.grace_ms,
            horizon_ms=monitor.horizon_ms,
            wait_ms=monitor.outcome_wait_ms,
            multivariate=monitor.drift.multivariate,
        )

    @property
    def known_labels(self) -> frozenset[str | None]:
        """The texts that are surely accepted as answers, and None."""
        return frozenset([None, *self.classes])

    def accepts(self, label: Scalar) -> bool:
        """Say whether this is a label of the model: a declared class, or a finite number."""
        if not self.regression:
            return label_text(label) in self.classes
        if isinstance(label, bool | str):
            return False
        try:
            return math.isfinite(label)
        except OverflowError:
            return False

    def refusal(self, label: Scalar) -> str:
        """Give the sentence for a label that is not accepted."""
        wanted = "a finite number" if self.regression else "one of " + ", ".join(self.classes)
        return f"label {label!r} of model {self.model} should be {wanted}"


class Plans:
    """The plans of all models, made when first asked for and kept while their monitor is.

    Parameters
    ----------
    monitors
        Gives a model's monitor.
    """

    __slots__ = ("_monitors", "_plans")

    def __init__(self, monitors: Monitors) -> None:
        self._monitors = monitors
        self._plans: dict[int, tuple[Monitor, Plan]] = {}

    def at(self, model: str, time_ms: int | None = None) -> Plan | None:
        """Give the plan of a model at an event time; None when it has no monitor."""
        monitor = self._monitors(model, time_ms)
        if monitor is None:
            return None
        known = self._plans.get(id(monitor))
        if known is None:
            # The monitor is kept beside its plan, so that its id stays taken.
            known = self._plans[id(monitor)] = (monitor, Plan.of(monitor))
        return known[1]
