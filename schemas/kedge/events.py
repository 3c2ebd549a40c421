"""The events users see: what they send to Kedge and what they get from it.

An event is one JSON object.  Times are integer milliseconds since the epoch
(UTC) and their names end in ``_ms``; ``schema`` is the version of the event's
schema (absent means 1).  Unknown fields are ignored on read, so that a
producer may be newer than a consumer.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kedge.base import (
    AlertKind,
    AlertStatus,
    Contract,
    Event,
    Label,
    Name,
    Role,
    Scalar,
    Severity,
    TimeMs,
    WindowKind,
)

__all__ = [
    "Alert",
    "Command",
    "Detection",
    "Example",
    "Measure",
    "Outcome",
    "Output",
    "Prediction",
    "RetrainBudget",
    "RetrainCause",
    "RetrainRequest",
    "ScoringRequest",
    "Window",
]


class Output(Contract):
    """What a model answered: a label with its score, scores by class, or a value."""

    label: Label | None = None
    score: float | None = None
    scores: dict[str, float] | None = None
    value: float | None = None


class ScoringRequest(Event):
    """Rows to be scored; row k of several becomes prediction ``<request_id>#<k>``."""

    request_id: Name
    model: Name
    rows: list[dict[str, Scalar | None]] = Field(min_length=1)
    event_time_ms: TimeMs
    segments: dict[str, Scalar] = {}


class Prediction(Event):
    """One answer of one model version to one row of features."""

    prediction_id: Name
    model: Name
    version: Name
    role: Role = "champion"
    event_time_ms: TimeMs
    features: dict[str, Scalar | None]
    output: Output | None = None
    segments: dict[str, Scalar] = {}
    latency_ms: float | None = None


class Outcome(Event):
    """What really happened; ``label`` is the true value for a prediction id."""

    prediction_id: Name
    label: Label
    event_time_ms: TimeMs
    model: Name | None = None
    source: str | None = None


class Example(Event):
    """A prediction joined with its label; the highest ``revision`` counts."""

    prediction_id: Name
    model: Name
    features: dict[str, Scalar | None]
    label: Label
    outputs: dict[str, Output]
    served_by: str | None = None
    segments: dict[str, Scalar] = {}
    event_time_ms: TimeMs
    label_time_ms: TimeMs
    revision: int = Field(default=0, ge=0)


class Measure(Contract):
    """One number of a window, with its interval and the threshold it is held to.

    Without ``value`` there is none to give, and ``note`` says why; a ``note`` beside a value
    says why it was not tested.
    """

    name: str
    feature: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int
    threshold: float | None = None
    evidence: float | None = None
    note: str | None = None


class Detection(Contract):
    """A verdict: this detector says that this window broke what it watches."""

    kind: AlertKind
    detector: str
    feature: str | None = None
    value: float | None = None
    threshold: float | None = None
    evidence: float | None = None
    summary: str = ""


class Window(Event):
    """An event-time interval of one series; readers keep the highest revision.

    ``near_alarms`` are the kinds of which a test came close: an effect above its floor, at
    ten times the p-value that alarms or less.  Such a window ends no alert.
    """

    window_id: Name
    kind: WindowKind
    model: Name
    version: str
    segment: str = ""
    reference_id: str = ""
    scale: int = Field(ge=1)
    start_ms: int
    end_ms: int
    revision: int = Field(default=0, ge=0)
    is_final: bool = False
    is_decided: bool = False
    n: int
    labelled: int = 0
    label_coverage: float | None = None
    labelled_total: int = 0
    status: Literal["ok", "learning", "insufficient", "alarm"] = "ok"
    measures: list[Measure] = []
    detections: list[Detection] = []
    near_alarms: list[AlertKind] = []


class Alert(Event):
    """A rule's instance as it goes from pending to firing to resolved.

    What was pending and never fired ends as ``pending`` with ``ends_ms``: nobody
    was told of it, and nobody has to be told that it is over.
    """

    alert_id: Name
    fingerprint: Name
    model: Name
    version: str = ""
    rule: Name
    kind: AlertKind
    severity: Severity
    status: AlertStatus
    segment: str = ""
    feature: str | None = None
    starts_ms: int
    fired_ms: int | None = None
    ends_ms: int | None = None
    value: float | None = None
    threshold: float | None = None
    summary: str
    window_ids: list[str] = []
    labelled_total: int | None = Field(
        default=None, description="Labels counted for the model when it fired."
    )
    incident_id: str | None = None
    resolved_because: Literal["recovered", "superseded", "removed"] | None = None


class RetrainCause(Contract):
    """Why a retrain was asked for."""

    kind: Literal["alert", "schedule", "labels", "manual"]
    alert_ids: list[str] = []
    rule: str | None = None
    slot_ms: int | None = None
    labelled: int | None = None
    command_id: str | None = None
    attempt: int = 0


class RetrainBudget(Contract):
    """The bounds of one training."""

    seconds: float = Field(default=300.0, gt=0)
    memory_mb: int = Field(default=2048, ge=64)


class RetrainRequest(Event):
    """Asks for a new version of a model."""

    request_id: Name
    model: Name
    base_version: str | None = None
    mode: Literal["incremental", "batch", "auto"] = "auto"
    cause: RetrainCause
    event_time_ms: int
    since_ms: int | None = Field(
        default=None, description="Event time from which the data is believed to have changed."
    )
    executor: str = "local"
    budget: RetrainBudget = RetrainBudget()


class Command(Event):
    """What a person asks for."""

    command_id: Name
    model: Name
    action: Literal["promote", "rollback", "retrain", "pause", "resume", "silence", "register"]
    by: str
    event_time_ms: int
    version: str | None = None
    expected_champion: str | None = None
    rule: str | None = None
    until_ms: int | None = None
    reason: str = ""
