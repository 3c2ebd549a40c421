"""What happens during the demo, told from the topics alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from kedge_services.runtime.ports import Batch

__all__ = ["INPUTS", "TOPICS", "Accuracy", "Entry", "Story"]

#: The topics whose records have a fate.
INPUTS = ("predictions", "outcomes")
TOPICS = (
    "predictions",
    "outcomes",
    "examples",
    "panes",
    "windows",
    "alerts",
    "retrain-requests",
    "candidates",
    "model-versions",
    "dead-letters",
)


class _Prediction(msgspec.Struct, gc=False):
    role: str = "champion"


class _Output(msgspec.Struct, gc=False):
    label: str | int | float | bool | None = None


class _Example(msgspec.Struct):
    prediction_id: str
    label: str | int | float | bool
    event_time_ms: int
    outputs: dict[str, _Output]
    served_by: str | None = None


class _Progress(msgspec.Struct):
    type: str
    partition: int = -1
    sequence: int = -1
    fates: dict[str, dict[str, int]] = {}


class _Detection(msgspec.Struct):
    kind: str
    feature: str | None = None


class _Window(msgspec.Struct):
    window_id: str
    kind: str
    n: int
    status: str
    end_ms: int
    version: str
    detections: list[_Detection] = []


class _Alert(msgspec.Struct):
    alert_id: str
    rule: str
    kind: str
    status: str
    severity: str
    starts_ms: int
    summary: str


class _Cause(msgspec.Struct):
    kind: str
    alert_ids: list[str] = []


class _Request(msgspec.Struct):
    request_id: str
    mode: str
    cause: _Cause


class _Lineage(msgspec.Struct, frozen=True):
    rows: int = 0
    alert_ids: list[str] = []
    examples: dict[str, tuple[int, int]] = {}


class _Candidate(msgspec.Struct):
    request_id: str
    trainer: str = ""
    failure: str | None = None
    metrics: dict[str, float] = {}
    parent_metrics: dict[str, float] = {}
    lineage: _Lineage = _Lineage()


class _Version(msgspec.Struct):
    version: str
    status: str
    sequence: int
    parent: str | None = None
    reason: str = ""
    lineage: _Lineage = _Lineage()


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline; ``at_ms`` is when Kafka took the record."""

    at_ms: int
    what: str
    text: str


@dataclass(slots=True)
class Accuracy:
    """Share of correct answers among labelled ones."""

    correct: int = 0
    labelled: int = 0

    @property
    def value(self) -> float | None:
        """The share, None without labels."""
        return self.correct / self.labelled if self.labelled else None


@dataclass(slots=True)
class Story:
    """Folds the records of :data:`TOPICS` into counts, milestones and a timeline."""

    tell: Callable[[Entry], None]
    counts: dict[str, int] = field(default_factory=dict)
    alerts: dict[str, _Alert] = field(default_factory=dict)
    fired_ms: dict[str, int] = field(default_factory=dict)
    requested_ms: list[int] = field(default_factory=list)
    request_ids: set[str] = field(default_factory=set)
    candidate_ms: list[int] = field(default_factory=list)
    promoted_ms: list[int] = field(default_factory=list)
    promotions: list[_Version] = field(default_factory=list)
    rollbacks: int = 0
    champion: str | None = None
    window_ids: set[str] = field(default_factory=set)
    drift_until_ms: int = 0
    fates: dict[int, _Progress] = field(default_factory=dict)
    answers: dict[str, tuple[int, str | None, bool]] = field(default_factory=dict)
    _standings: dict[str, str] = field(default_factory=dict)

    def apply(self, batch: Batch) -> None:
        """Take the records of one partition, in order."""
        self._count(batch.topic, len(batch))
        handler = self._handlers().get(batch.topic)
        if handler is None:
            return
        for at_ms, value in zip(batch.timestamps_ms, batch.values, strict=True):
            if value is not None:
                handler(at_ms, value)

    def _handlers(self) -> dict[str, Callable[[int, bytes], None]]:
        return {
            "predictions": self._prediction,
            "examples": self._example,
            "panes": self._pane,
            "windows": self._window,
            "alerts": self._alert,
            "retrain-requests": self._request,
            "candidates": self._candidate,
            "model-versions": self._version,
        }

    def _count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def _prediction(self, _at_ms: int, value: bytes) -> None:
        try:
            self._count(f"predictions-{_PREDICTION.decode(value).role}")
        except msgspec.MsgspecError:
            self._count("predictions-bad")  # sent on purpose; panes puts it aside

    def _example(self, _at_ms: int, value: bytes) -> None:
        example = _EXAMPLE.decode(value)
        output = example.outputs.get(example.served_by or "")
        if output is not None:
            correct = output.label == example.label
            self.answers[example.prediction_id] = (
                example.event_time_ms, example.served_by, correct
            )  # fmt: skip

    def _pane(self, _at_ms: int, value: bytes) -> None:
        if b'"progress"' not in value[:200]:
            return
        progress = _PROGRESS.decode(value)
        known = self.fates.get(progress.partition)
        if known is None or progress.sequence > known.sequence:
            self.fates[progress.partition] = progress

    def _window(self, at_ms: int, value: bytes) -> None:
        window = _WINDOW.decode(value)
        if window.kind == "drift":
            self.drift_until_ms = max(self.drift_until_ms, window.end_ms)
        if window.window_id in self.window_ids:
            return
        self.window_ids.add(window.window_id)
        if len(self.window_ids) == 1:
            self.tell(Entry(at_ms, "window", f"the first window: {window.kind}, {window.n} rows"))

    def _alert(self, at_ms: int, value: bytes) -> None:
        alert = _ALERT.decode(value)
        self.alerts[alert.alert_id] = alert
        if alert.status == "firing":
            self.fired_ms.setdefault(alert.alert_id, at_ms)
        if alert.status != "pending":
            self.tell(Entry(at_ms, f"alert {alert.status}", f"{alert.rule}: {alert.summary}"))

    def _request(self, at_ms: int, value: bytes) -> None:
        request = _REQUEST.decode(value)
        self.requested_ms.append(at_ms)
        self.request_ids.add(request.request_id)
        because = ", ".join(request.cause.alert_ids) or request.cause.kind
        self.tell(Entry(at_ms, "retrain", f"{request.mode} training asked for by {because}"))

    def _candidate(self, at_ms: int, value: bytes) -> None:
        candidate = _CANDIDATE.decode(value)
        if candidate.request_id in self.request_ids:
            self.candidate_ms.append(at_ms)
        if candidate.failure:
            self.tell(Entry(at_ms, "candidate", f"none: {candidate.failure}"))
            return
        scores = ", ".join(
            f"{name} {value:.3f}"
            + (f" (was {candidate.parent_metrics[name]:.3f})" if name in candidate.parent_metrics
               else "")
            for name, value in candidate.metrics.items()
            if name != "n"
        )  # fmt: skip
        rows = candidate.lineage.rows
        self.tell(Entry(at_ms, "candidate", f"{candidate.trainer} on {rows:,} rows; {scores}"))

    def _version(self, at_ms: int, value: bytes) -> None:
        version = _VERSION.decode(value)
        before = self._standings.get(version.version)
        self._standings[version.version] = version.status
        if before == version.status:
            return
        if version.status == "champion":
            if before == "retired" or (before == "shadow" and version.reason.startswith("roll")):
                self.rollbacks += 1
            elif self.champion is not None:
                self.promoted_ms.append(at_ms)
                self.promotions.append(version)
            self.champion = version.version
        text = f"{version.version} is {version.status}"
        self.tell(Entry(at_ms, "version", f"{text}: {version.reason}" if version.reason else text))

    def accuracy(self, from_ms: int, to_ms: int, version: str | None = None) -> Accuracy:
        """Count answers to requests of ``[from_ms, to_ms)``, of one version or of all."""
        accuracy = Accuracy()
        for at_ms, served_by, correct in self.answers.values():
            if from_ms <= at_ms < to_ms and version in (None, served_by):
                accuracy.labelled += 1
                accuracy.correct += correct
        return accuracy

    @property
    def records_in(self) -> int:
        """Records of the two inputs that this reader has seen."""
        return sum(self.counts.get(topic, 0) for topic in INPUTS)

    @property
    def records_accounted(self) -> int:
        """Records to which `panes` has given a fate, waiting outcomes included."""
        return sum(
            count
            for progress in self.fates.values()
            for topic in INPUTS
            for count in progress.fates.get(topic, {}).values()
        )


_PREDICTION = msgspec.json.Decoder(_Prediction)
_EXAMPLE = msgspec.json.Decoder(_Example)
_PROGRESS = msgspec.json.Decoder(_Progress)
_WINDOW = msgspec.json.Decoder(_Window)
_ALERT = msgspec.json.Decoder(_Alert)
_REQUEST = msgspec.json.Decoder(_Request)
_CANDIDATE = msgspec.json.Decoder(_Candidate)
_VERSION = msgspec.json.Decoder(_Version)
