"""A run of somebody else's pipeline: what is fixed before it is sent, and what is known of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from kedge.base import Contract, Event, Scalar
from kedge.events import RetrainRequest
from kedge.monitor import Executor, Monitor
from kedge.versions import FeatureColumn

__all__ = ["LOOKS", "Plan", "Run", "RunFailed", "Sources", "Started", "plan_of", "run_key"]

#: What a run that is not over may be found to be, in this order.
LOOKS = ("waiting", "starting", "queued", "running")

_KEY = re.compile(r"[A-Za-z0-9_.~:+-]{1,200}")
_NOT_IN_KEY = re.compile(r"[^A-Za-z0-9_.~:+-]+")


class RunFailed(Exception):
    """There will be no new version; the text says why, for the candidate's ``failure``.

    Parameters
    ----------
    why
        One sentence without secrets.
    result
        Under what it is counted: ``failed`` and ``cancelled`` are the pipeline's
        word, ``refused`` was never started or lost, ``late`` is beyond its
        deadline, ``unusable`` has left what cannot be taken.
    """

    def __init__(self, why: str, result: str) -> None:
        super().__init__(why)
        self.result = result


class Started(Contract):
    """What the pipeline calls the run, and where its status is."""

    run_id: str
    status_url: str


class Plan(Contract):
    """What a run depends on, as it was when the run was about to be sent.

    Attributes
    ----------
    executor
        As declared then; it names variables, not their values.
    payload
        The JSON text that is sent, to the byte: a repetition sends the same.
    examples
        Offsets ``[first, to)`` of each partition of examples.
    parent
        The version the new one is to replace.
    columns, classes
        Of the monitor; what the result says of its own comes first.
    """

    executor: Executor
    payload: str
    examples: dict[int, tuple[int, int]]
    parent: str | None = None
    columns: list[FeatureColumn]
    classes: list[Scalar]
    sent_ms: int
    deadline_ms: int


class Run(Event):
    """A request on its way: taken, then planned, then started."""

    offset: int
    request: RetrainRequest
    plan: Plan | None = None
    started: Started | None = None

    @property
    def key(self) -> bytes:
        """Give its key in the changelog."""
        return f"run/{self.offset:020d}".encode()


class Sources(NamedTuple):
    """Where the labelled data lies: the topic's full name, and its offsets by partition."""

    topic: str
    examples: Mapping[int, tuple[int, int]]


def run_key(request_id: str) -> str:
    """Give the idempotency key of a request's run, in characters every executor takes.

    >>> run_key("m.1f.labels.7"), run_key("m/r 1")
    ('m.1f.labels.7', 'm-r-1.0034d171ac3ea8d7')
    """
    if _KEY.fullmatch(request_id):
        return request_id
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).hexdigest()
    return f"{_NOT_IN_KEY.sub('-', request_id)[:100]}.{digest}"


def plan_of(
    request: RetrainRequest,
    monitor: Monitor | None,
    *,
    champion: str | None,
    sources: Sources,
    now_ms: int,
) -> Plan:
    """Fix what a run depends on.

    Raises
    ------
    RunFailed
        The monitor, or the executor in it, is not there any more.
    """
    if monitor is None:
        raise RunFailed(f"no monitor declares a model {request.model!r}", "refused")
    executor = next((e for e in monitor.executors if e.name == request.executor), None)
    if executor is None:
        raise RunFailed(
            f"the monitor of {request.model} declares no executor {request.executor!r}", "refused"
        )
    parent = request.base_version or champion
    columns = [FeatureColumn(name=n, type=f.type) for n, f in monitor.features.items()]
    deadline_ms = now_ms + round(executor.deadline.total_seconds() * 1000)
    payload = {
        "schema": 1,
        "run_key": run_key(request.request_id),
        "model": request.model,
        "base_version": parent,
        "mode": request.mode,
        "cause": request.cause.model_dump(mode="json", exclude_none=True),
        "since_ms": request.since_ms,
        "event_time_ms": request.event_time_ms,
        "feature_schema": [column.model_dump() for column in columns],
        "classes": monitor.classes,
        "examples": [
            {"topic": sources.topic, "partition": partition, "start": start, "end": end}
            for partition, (start, end) in sorted(sources.examples.items())
        ],
        "deadline_ms": deadline_ms,
    }
    return Plan(
        executor=executor,
        payload=json.dumps(payload, separators=(",", ":")),
        examples=dict(sources.examples),
        parent=parent,
        columns=columns,
        classes=monitor.classes,
        sent_ms=now_ms,
        deadline_ms=deadline_ms,
    )
