"""What panes looks up while it reads: monitors, decoders and references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kedge.errors import DeadLetter
from kedge.monitor import Monitor
from kedge.panes import Reference
from kedge_services.core.decoded import Decoded
from kedge_services.core.decoding import ModelColumns, PredictionDecoder
from kedge_services.core.plans import Plan, Plans
from kedge_services.core.watermark import Clocks

__all__ = ["Lookup", "MonitorSource", "ReferenceSource", "TaskWatermarks"]

REFRESH_MS = 1_000
"""A table is read again for the same missing thing at most so often."""


class MonitorSource(Protocol):
    """The monitors that are known."""

    def get(self, model: str, at_ms: int | None = None) -> Monitor | None:
        """Give a model's monitor at an event time; its newest for None."""

    def models(self) -> list[str]:
        """Give the names of all models."""


class ReferenceSource(Protocol):
    """The references that are known."""

    def get(self, reference_id: str) -> Reference | None:
        """Give the reference of this id."""

    def for_version(self, model: str, version: str, at_ms: int) -> Reference | None:
        """Give a version's newest reference with ``effective_ms <= at_ms``."""


@dataclass(slots=True)
class Lookup:
    """Looks things up for the records of one batch at a time.

    Attributes
    ----------
    monitors, references
        The tables.
    refresh
        Reads them to their present end: what an event was caused by was
        committed before the event was sent, but may not be read yet.
    clock
        Processing time in ms.
    """

    monitors: MonitorSource
    references: ReferenceSource
    refresh: Callable[[], None]
    clock: Callable[[], int]
    plans: Plans = field(init=False)
    newest: dict[str, Plan] = field(default_factory=dict)
    _features: dict[str, dict[str, bool]] = field(default_factory=dict)
    _decoder: PredictionDecoder | None = None
    _only: dict[str, Plan] = field(default_factory=dict)
    _reference_ids: dict[tuple[str, str, int], str] = field(default_factory=dict)
    _refreshed_ms: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plans = Plans(self.monitors.get)

    def begin(self) -> None:
        """Take in what the tables have learnt since the last batch."""
        self._reference_ids.clear()
        self._only.clear()
        newest: dict[str, Plan] = {}
        for model in self.monitors.models():
            plan = self.plans.at(model)
            if plan is not None:
                newest[model] = plan
                if self.plans.at(model, 0) is plan:
                    self._only[model] = plan
                if self.newest.get(model) is not plan:
                    self._learn(plan)
        if newest.keys() != self.newest.keys():
            self._decoder = None
            self._features = {model: self._features[model] for model in newest}
        self.newest = newest

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode predictions with all features declared at their time."""
        found = self.decoder.read(values)
        unknown: set[str] = set()
        if len(found.good) < len(found.rows):
            letters = [row for row in found.rows if isinstance(row, DeadLetter)]
            unknown = {letter.detail for letter in letters if letter.reason == "unknown-model"}
        if unknown and self._refresh("model", *unknown):
            self.begin()
            if self._decoder is None:  # Something was learnt.
                found = self.decoder.read(values)
        if len(self._only) < len(self.newest):
            for row in found.good:
                if row.model not in self._only:
                    self._learn(self.plan(row.model, row.event_time_ms))
        return found if self._decoder is not None else self.decoder.read(values)

    def plan(self, model: str, time_ms: int) -> Plan:
        """Give the plan of a model that has one.

        Raises
        ------
        LookupError
            Its monitor was removed in the middle of a batch.
        """
        plan = self._only.get(model) or self.plans.at(model, time_ms)
        if plan is None:
            raise LookupError(f"the monitor of {model} is gone in the middle of a batch")
        return plan

    def plans_for(
        self, model: str, times_ms: NDArray[np.int64]
    ) -> list[tuple[Plan, list[int] | None]]:
        """Give the plans of a model's rows, each with their positions; None for all of them."""
        only = self._only.get(model)
        if only is not None:
            return [(only, None)]
        found: dict[Plan, list[int]] = {}
        # Every monitor holds for one stretch of time.
        distinct, place = np.unique(times_ms, return_inverse=True)
        plans = self._plans_between(model, distinct.tolist())
        for k, at in enumerate(place.tolist()):
            found.setdefault(plans[at], []).append(k)
        if len(found) == 1:
            return [(next(iter(found)), None)]
        return list(found.items())

    def _plans_between(self, model: str, times_ms: list[int]) -> list[Plan]:
        first, last = self.plan(model, times_ms[0]), self.plan(model, times_ms[-1])
        if first is last or len(times_ms) == 1:
            return [first] * len(times_ms)
        half = len(times_ms) // 2
        return self._plans_between(model, times_ms[:half]) + self._plans_between(
            model, times_ms[half:]
        )

    def columns(self, model: str) -> ModelColumns:
        """Give the way from a decoded row's features to columns."""
        return self.decoder.models[model]

    def declared(self, plan: Plan) -> ModelColumns:
        """Give the way to columns of rows that no decoder has read, with the plan's features."""
        self._learn(plan)
        return self.columns(plan.model)

    def owner(self, model: str | None) -> str | None:
        """Give the model an outcome belongs to: the one it names, or the only one there is."""
        if model is None and len(self.newest) == 1:
            return next(iter(self.newest))
        return model

    def monitored(self, model: str, time_ms: int) -> Plan | None:
        """Give a model's plan; looks again, at most once a second, before there is none."""
        plan = self._only.get(model) or self.plans.at(model, time_ms)
        if plan is None and self._refresh("model", model):
            self.begin()
            plan = self.plans.at(model, time_ms)
        return plan

    def all_at(self, time_ms: int) -> list[Plan]:
        """Give the plans of all models at an event time; looks again before there is none."""
        if not self.newest and self._refresh("model", ""):
            self.begin()
        plans = (self.plans.at(model, time_ms) for model in self.newest)
        return [plan for plan in plans if plan is not None]

    def reference_id(self, model: str, version: str, start_ms: int) -> str:
        """Give the reference of a pane, or ``""`` while the version is learning."""
        key = (model, version, start_ms)
        known = self._reference_ids.get(key)
        if known is None:
            reference = self.references.for_version(model, version, start_ms)
            if reference is None and self._refresh(model, version):
                reference = self.references.for_version(model, version, start_ms)
            known = "" if reference is None else reference.reference_id
            self._reference_ids[key] = known
        return known

    @property
    def decoder(self) -> PredictionDecoder:
        """The decoder for all declared features, made anew when they have changed."""
        if self._decoder is None:
            self._decoder = PredictionDecoder(
                {model: tuple(features) for model, features in self._features.items()},
                {
                    model: frozenset(name for name, is_numeric in features.items() if is_numeric)
                    for model, features in self._features.items()
                },
            )
        return self._decoder

    def _learn(self, plan: Plan) -> None:
        known = self._features.setdefault(plan.model, {})
        for name in plan.features:
            # A number only where it is one in all monitors of the model.
            is_numeric = name in plan.numeric and known.get(name, True)
            if known.get(name) is not is_numeric:
                known[name] = is_numeric
                self._decoder = None

    def _refresh(self, kind: str, *names: str) -> bool:
        """Read the tables for what is missing, unless all of it was looked for just now."""
        now_ms = self.clock()
        keys = [(kind, name) for name in names]
        if all(0 <= now_ms - self._refreshed_ms.get(key, -REFRESH_MS) < REFRESH_MS for key in keys):
            return False
        if len(self._refreshed_ms) > 10_000:
            self._refreshed_ms.clear()
        self._refreshed_ms.update(dict.fromkeys(keys, now_ms))
        self.refresh()
        return True


@dataclass(slots=True)
class TaskWatermarks:
    """The watermarks of a partition's two inputs."""

    prediction_clocks: Clocks
    outcome_clocks: Clocks
    lookup: Lookup

    def predictions(self, model: str) -> int:
        """Give the watermark of a model's predictions."""
        return self.prediction_clocks.watermark(model, self._grace(model))

    def outcomes(self, model: str) -> int:
        """Give the watermark of a model's outcomes."""
        return self.outcome_clocks.watermark(model, self._grace(model))

    def both(self, model: str) -> int:
        """Give how far both inputs have come; of a model without labels its predictions."""
        plan = self.lookup.newest.get(model)
        if plan is not None and not plan.labelled:
            return self.predictions(model)
        return min(self.predictions(model), self.outcomes(model))

    def _grace(self, model: str) -> int:
        plan = self.lookup.newest.get(model)
        return 0 if plan is None else plan.grace_ms
