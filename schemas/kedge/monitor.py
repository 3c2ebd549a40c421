"""A monitor: the user's declaration of a model and of how it is watched.

``kedge check`` and ``kedge apply`` read it from TOML
(:func:`kedge.monitor_file.load_monitor`); on the ``monitors`` topic it travels
as JSON with the same fields and ``effective_ms``.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from kedge.base import Event, Name, Scalar, Severity

__all__ = [
    "Drift",
    "Executor",
    "Feature",
    "Monitor",
    "Notify",
    "Performance",
    "ReferenceSource",
    "ReplayColumns",
    "Retrain",
    "Rule",
    "Segment",
    "Windows",
    "format_duration",
    "parse_duration",
]

_LONGEST_MS = 1_000 * 365 * 86_400_000
_SHORTEST_CELL_MS = 250
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")


def parse_duration(text: object) -> timedelta:
    """Read ``"500ms"``, ``"2s"``, ``"10m"``, ``"1h"``, ``"1d"`` or ``"1h 30m"``.

    Raises
    ------
    ValueError
        When the text is no duration; the message shows the accepted form.
    """
    if isinstance(text, timedelta):
        return text
    if isinstance(text, str) and text.strip():
        position, total = 0, 0.0
        while match := _DURATION.match(text, position):
            total += float(match[1]) * _UNITS_MS[match[2]]
            position = match.end()
        if position == len(text) and total <= _LONGEST_MS:
            return timedelta(milliseconds=round(total))
    raise ValueError(f'{text!r} is no duration; write it like "500ms", "2s", "10m", "1h" or "1d"')


def format_duration(value: timedelta) -> str:
    """Write a duration with the largest unit that leaves a whole number."""
    ms = round(value / timedelta(milliseconds=1))
    for unit in ("w", "d", "h", "m", "s"):
        if ms and ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("expected a duration longer than 0s")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": f"^({_DURATION.pattern})+$", "examples": ["500ms", "1h 30m"]}
    ),
]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]


class Declaration(BaseModel):
    """Base of everything a user writes: immutable, unknown fields are mistakes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )


FeatureType = Literal["numeric", "categorical", "boolean"]


class Feature(Declaration):
    """The declared type of a feature; ``boolean`` is counted as a category."""

    type: FeatureType


#: How a feature may be written: ``age = "numeric"`` for ``age = { type = "numeric" }``.
FeatureInput = FeatureType | Feature


def _feature(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class Windows(Declaration):
    """Event-time panes and the windows made of them (``scales`` in panes)."""

    pane: PositiveDuration = timedelta(minutes=5)
    scales: list[Annotated[int, Field(ge=1, le=64)]] = [1, 2, 4, 8]
    grace: Duration = timedelta(seconds=5)


class ReferenceSource(Declaration):
    """Where the reference comes from; ``timezone`` says whose hours ``same-hour`` means."""

    source: Literal["version", "file", "first-events", "same-hour"] = Field(
        default="version", alias="from"
    )
    path: str | None = None
    timezone: str = "UTC"


class Drift(Declaration):
    """The budget of false alarms over everything that is tested for the model.

    ``multivariate``: whether it is also tested how pairs of features go together.
    """

    false_alarms: Annotated[str, Field(pattern=r"^\d+(\.\d+)? per (week|\d+ windows)$")] = (
        "1 per week"
    )
    multivariate: bool = True

    @field_validator("false_alarms")
    @classmethod
    def _some(cls, text: str) -> str:
        if not all(map(float, re.findall(r"[\d.]+", text))):
            raise ValueError('expected more than none, like "1 per week" or "1 per 1000 windows"')
        return text


class Segment(Declaration):
    """A segment by which performance is followed; fairness compares its values.

    Each value of it is compared with ``base``, or with all other values.  Of a binary
    model an alarm needs a difference or ratio that is surely beyond its limits;
    without ``alarm`` it is only measured.
    """

    name: Name
    base: Scalar | None = None
    alarm: bool = True
    statistical_parity_difference: float = Field(default=0.1, ge=0, le=1)
    disparate_impact: tuple[
        Annotated[float, Field(ge=0, allow_inf_nan=False)],
        Annotated[float, Field(ge=0, allow_inf_nan=False)],
    ] = (0.8, 1.25)
    equal_opportunity_difference: float = Field(default=0.1, ge=0, le=1)


class Performance(Declaration):
    """Which detectors watch the losses of labels as they come.

    ``e-sr`` keeps to the budget of false alarms; the others are River's, with River's
    defaults, and do not.
    """

    detectors: list[Literal["e-sr", "adwin", "ddm", "page-hinkley", "kswin"]] = Field(
        default=["e-sr"], min_length=1
    )


class Rule(Declaration):
    """A user's own threshold on a measure of the windows of the serving version."""

    name: Name
    metric: Name
    below: float | None = None
    above: float | None = None
    feature: str | None = None
    segment: str | None = None
    scale: int = Field(default=1, ge=1)
    for_: str = Field(default="1 window", alias="for")
    keep_firing_for: str = "0s"
    severity: Severity = "warning"

    @field_validator("for_", "keep_firing_for")
    @classmethod
    def _length(cls, text: str) -> str:
        if not re.fullmatch(r"\d+ windows?", text):
            try:
                parse_duration(text)
            except ValueError as error:
                raise ValueError(f'{error}, or in windows, like "2 windows"') from None
        return text

    @model_validator(mode="after")
    def _one_threshold(self) -> Rule:
        if (self.below is None) == (self.above is None):
            raise ValueError("a rule needs exactly one of `below` and `above`")
        return self


class Retrain(Declaration):
    """When a model is retrained, with what, and how a new version gets to serve."""

    on: list[Name] = ["error-rate"]
    schedule: str | None = None
    every_labels: int | None = Field(default=None, ge=1)
    cooldown: Duration = timedelta(minutes=10)
    per_day: int = Field(default=24, ge=1)
    mode: Literal["incremental", "batch", "auto"] = "auto"
    promotion: Literal["shadow", "fast"] = "shadow"
    trainer: str = "sklearn-hist-gradient-boosting"
    executor: str = "local"
    min_labels: int = Field(default=300, ge=1)
    timeout: Duration = timedelta(minutes=5)
    memory_mb: int = Field(default=2048, ge=64)


class Executor(Declaration):
    """A pipeline elsewhere that trains when ``retrain.executor`` names it.

    ``deadline`` counts from the sending, ``poll`` is the time between two looks
    at its status.  Besides the origin of its own URL only ``origins``
    (``https://host:port``) are asked for status and artefacts.
    """

    name: Name
    kind: Literal["webhook"]
    url_env: Name
    secret_env: Name | None = None
    deadline: PositiveDuration = timedelta(hours=1)
    poll: PositiveDuration = timedelta(seconds=10)
    origins: list[str] = []
    max_artefact_mb: int = Field(default=256, ge=1)


class Notify(Declaration):
    """Whom to tell; URLs are secrets and come from the environment."""

    kind: Literal["webhook", "alertmanager", "pagerduty", "slack", "teams", "opsgenie"]
    url_env: Name
    severities: list[Severity] = ["critical", "warning", "info"]


class ReplayColumns(Declaration):
    """How the columns of a file map to events; used by replay and ``demo --data``."""

    label: Name | None = None
    timestamp: str | None = None
    start: str | None = None
    every: Duration | None = None
    prediction: str | None = None
    score: str | None = None
    warm_up: int = Field(default=1000, ge=1)
    training_time: Duration = timedelta(0)


class Monitor(Declaration, Event):
    """One model: what it is, what is watched, which rules hold, when it is retrained."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )

    model: Name
    task: Literal["binary", "multiclass", "regression"]
    classes: list[Scalar] = []
    positive: Scalar | None = None
    label_horizon: Duration = timedelta(days=1)
    outcome_wait: Duration = timedelta(minutes=10)
    features: dict[
        Name, Annotated[Feature, BeforeValidator(_feature, json_schema_input_type=FeatureInput)]
    ] = Field(min_length=1)
    labelled: bool = True
    windows: Windows = Windows()
    reference: ReferenceSource = ReferenceSource()
    drift: Drift = Drift()
    performance: Performance = Performance()
    segments: list[Segment] = []
    rules: list[Rule] = []
    retrain: Retrain | None = None
    executors: list[Executor] = []
    notify: list[Notify] = []
    replay: ReplayColumns | None = None
    effective_ms: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Monitor:
        if self.task != "regression" and len(self.classes) < 2:
            raise ValueError(f"a {self.task} model needs `classes` with at least two labels")
        if self.task == "binary" and len(self.classes) != 2:
            raise ValueError("a binary model has exactly two `classes`")
        if self.positive is not None and self.positive not in self.classes:
            raise ValueError(f"`positive` {self.positive!r} is not one of `classes`")
        names = [rule.name for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two `rules` have the same name {twice[0]!r}")
        return self

    @property
    def pane_ms(self) -> int:
        """Length of a drift pane."""
        return _ms(self.windows.pane)

    @property
    def timezone(self) -> str | None:
        """Whose hours of the week the reference is told apart by; None: it is not."""
        return self.reference.timezone if self.reference.source == "same-hour" else None

    @property
    def performance_pane_ms(self) -> int:
        """Length of a performance pane: max(pane, horizon/200), a multiple of the pane."""
        least = max(self.pane_ms, -(-self.horizon_ms // 200))
        return -(-least // self.pane_ms) * self.pane_ms

    @property
    def cell_ms(self) -> int:
        """Length of the cells by label time that feed the sequential detectors.

        A sixteenth of a pane; of short panes a quarter of a second, as commits are not
        closer than that and every cell is a record of its own.
        """
        return max(self.pane_ms // 16, min(self.pane_ms, _SHORTEST_CELL_MS))

    @property
    def grace_ms(self) -> int:
        """How long the watermark trails the largest event time."""
        return _ms(self.windows.grace)

    @property
    def horizon_ms(self) -> int:
        """How long a label is waited for."""
        return _ms(self.label_horizon)

    @property
    def outcome_wait_ms(self) -> int:
        """How long an outcome waits for its prediction."""
        return _ms(self.outcome_wait)

    def declaration(self) -> dict[str, Any]:
        """Give the monitor as plain JSON data, without what Kedge added."""
        return self.model_dump(mode="json", exclude={"effective_ms", "schema_version"})


@lru_cache(maxsize=1_024)
def _ms(value: timedelta) -> int:
    return round(value / timedelta(milliseconds=1))
