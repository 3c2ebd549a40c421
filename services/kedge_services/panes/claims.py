"""Finds out whose an outcome is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.errors import DeadLetter
from kedge_services.core.decoding import OutcomeRow
from kedge_services.core.lanes import Codes
from kedge_services.core.plans import Plan
from kedge_services.panes.lookup import Lookup

__all__ = ["Claim", "claims"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What holds for all outcomes with the same model and label.

    Attributes
    ----------
    refused
        Why it belongs to nobody.
    models
        Whose label it is; None for all that have its id.
    owner
        The one model it is known to belong to.
    wait_ms
        How long it may wait for its prediction; None when its model has no labels.
    """

    refused: DeadLetter | None = None
    models: list[str] | None = None
    owner: Plan | None = None
    wait_ms: int | None = None


def claims(
    lookup: Lookup, rows: Sequence[OutcomeRow], times_ms: NDArray[np.int64]
) -> tuple[list[Claim], NDArray[np.int64]]:
    """Give the claims of outcomes with these event times, and for each which it is."""
    if not rows:
        return [], np.empty(0, dtype=np.int64)
    models, labels = [row.model for row in rows], [row.label for row in rows]
    # As long as nothing has changed between the first and the last of them, time is all one.
    span = (int(times_ms.min()), int(times_ms.max()))
    is_steady = all(_is_steady(lookup, model, span) for model in set(models))
    known = Codes()
    if is_steady and set(map(type, labels)) == {str} and models.count(models[0]) == len(models):
        codes = np.fromiter(map(known.__getitem__, labels), np.int64, len(rows))
        return [_claim(lookup, models[0], label, span[0]) for label in known], codes
    times = repeat(span[0]) if is_steady else times_ms.tolist()
    keys = zip(models, map(type, labels), labels, times, strict=False)
    codes = np.fromiter(map(known.__getitem__, keys), np.int64, len(rows))
    return [_claim(lookup, model, label, time) for model, _, label, time in known], codes


def _is_steady(lookup: Lookup, model: str | None, span: tuple[int, int]) -> bool:
    owner = lookup.owner(model)
    if owner is None:
        return lookup.all_at(span[0]) == lookup.all_at(span[1])
    return lookup.monitored(owner, span[0]) is lookup.monitored(owner, span[1])


def _claim(lookup: Lookup, model: str | None, label: Scalar, time_ms: int) -> Claim:
    owner = lookup.owner(model)
    if owner is None:
        return _claim_for_any(lookup, label, time_ms)
    plan = lookup.monitored(owner, time_ms)
    if plan is None:
        return Claim(DeadLetter("unknown-model", f"model {owner} has no monitor"))
    if not plan.labelled:
        return Claim()
    if not plan.accepts(label):
        return Claim(DeadLetter("bad-value", plan.refusal(label)))
    return Claim(models=[owner], owner=plan, wait_ms=plan.wait_ms)


def _claim_for_any(lookup: Lookup, label: Scalar, time_ms: int) -> Claim:
    """Claim an outcome for every model whose label it may be; its prediction will say."""
    known = lookup.all_at(time_ms)
    if not known:
        return Claim(DeadLetter("unknown-model", "no model has a monitor"))
    labelled = [plan for plan in known if plan.labelled]
    if not labelled:
        return Claim()
    accepting = [plan for plan in labelled if plan.accepts(label)]
    if not accepting:
        return Claim(DeadLetter("bad-value", f"label {label!r} is one of no model"))
    models = None if len(accepting) == len(labelled) else [plan.model for plan in accepting]
    return Claim(models=models, wait_ms=max(plan.wait_ms for plan in accepting))
