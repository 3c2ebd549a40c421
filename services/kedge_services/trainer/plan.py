"""What is decided about a training before it starts."""

from __future__ import annotations

import hashlib

from kedge.base import Event
from kedge.events import RetrainRequest
from kedge.monitor import Monitor
from kedge.versions import Candidate, Lineage, ModelVersion

__all__ = ["ATTEMPTS", "Plan", "failed", "seed_of"]

#: Attempts after which a request is answered with a failure.
ATTEMPTS = 3


class Plan(Event):
    """A training with all it depends on; the same plan gives the same artefact.

    Attributes
    ----------
    offset
        Of the request in its partition of retrain-requests.
    monitor, parent
        As they were when the plan was made.
    ranges
        Offsets ``[first, to)`` of each partition of examples, as they were when
        the plan was made.  The training reads back from ``to``, as far as it
        needs, and its lineage says how far that was.
    attempt
        Counted, and committed, before it starts.
    """

    offset: int
    request: RetrainRequest
    monitor: Monitor | None = None
    parent: ModelVersion | None = None
    ranges: dict[int, tuple[int, int]]
    seed: int
    attempt: int = 1
    created_ms: int


def seed_of(request_id: str) -> int:
    """Give the seed of a request's training; scikit-learn wants 32 bits."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:4])


def failed(
    request: RetrainRequest, why: str, *, created_ms: int, plan: Plan | None = None
) -> Candidate:
    """Give the candidate that says why there is no new version."""
    return Candidate(
        request_id=request.request_id,
        model=request.model,
        parent=request.base_version,
        created_ms=created_ms,
        lineage=Lineage(
            request_id=request.request_id,
            alert_ids=request.cause.alert_ids,
            seed=None if plan is None else plan.seed,
        ),
        cost={} if plan is None else {"attempts": float(plan.attempt)},
        failure=why,
    )
