"""Answers requests that come by HTTP; the shadows follow when the answer is out."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from kedge import Monitor, Prediction
from kedge.errors import DeadLetter, KedgeError, QueueFull
from kedge_services.core.answers import encode_outputs, metadata
from kedge_services.core.tensors import Kind, decode_request
from kedge_services.runtime import metrics as m
from kedge_services.runtime.ports import Clock
from kedge_services.serving.models import Lineup, Loaded, Models
from kedge_services.serving.scoring import Rows, no_champion, predict, predictions

__all__ = [
    "NoChampion",
    "Outbox",
    "Scorer",
    "Sender",
    "UnknownModel",
    "UnknownVersion",
    "VersionFailed",
]

IDLE_S = 0.25
_log = structlog.get_logger(__name__)


class UnknownModel(LookupError):
    """Nobody has declared or registered a model of this name."""


class UnknownVersion(LookupError):
    """The model has no such version, or none that is loaded here."""


class NoChampion(LookupError):
    """The model has no version that can answer at present."""


class VersionFailed(RuntimeError):
    """The champion's model raised on rows that are valid by its schema."""


class Sender(Protocol):
    """What the outbox needs of :class:`kedge.client.Client`."""

    def predict_many(self, predictions: Iterable[Prediction], *, block: bool = True) -> int:
        """Queue predictions; raises QueueFull."""

    def flush(self, timeout: float = 30.0) -> None:
        """Wait for what is queued."""

    def close(self, timeout: float = 30.0) -> None:
        """Wait, then give up."""


class Outbox:
    """Predictions on their way to Kafka; an answer never waits for it.

    Those for which there is no room are counted as unsent, like those that the
    client reports as lost later.
    """

    def __init__(self, client: Sender, metrics: m.Metrics) -> None:
        self._client = client
        self._metrics = metrics

    def send(self, events: Iterable[Prediction]) -> None:
        """Hand over the predictions of a request."""
        batch = list(events)
        try:
            self._client.predict_many(batch, block=False)
        except KedgeError as error:
            lost = len(batch) - (error.sent if isinstance(error, QueueFull) else 0)
            self._metrics.add(m.UNSENT, lost)
            _log.warning("predictions are lost", lost=lost, error=str(error))

    def poll(self) -> None:
        """Take note of what was delivered; losses are logged by the client."""
        with contextlib.suppress(KedgeError):
            self._client.flush(0)

    def close(self) -> None:
        """Wait a little for what is on its way."""
        try:
            self._client.close(5.0)
        except KedgeError as error:
            _log.error("predictions are lost", error=str(error))


@dataclass(frozen=True, slots=True)
class _FollowUp:
    request: Rows
    shadows: tuple[Loaded, ...]


class Scorer:
    """Scores requests of the Open Inference Protocol; used from several threads.

    Parameters
    ----------
    max_pending
        Requests whose shadows may wait; beyond, shadows are skipped and counted.
    """

    def __init__(
        self,
        models: Models,
        monitor_of: Callable[[str], Monitor | None],
        outbox: Outbox,
        metrics: m.Metrics,
        *,
        clock: Clock,
        max_pending: int,
    ) -> None:
        self._models = models
        self._monitor_of = monitor_of
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._follow_ups: queue.Queue[_FollowUp] = queue.Queue(max_pending)
        #: Whether any request came.
        self.was_asked = False

    def infer(self, model: str, body: bytes, version: str | None = None) -> dict[str, Any]:
        """Answer a request and see to everything else.

        The champion answers, or the version that is asked for by its name; the
        others predict in its shadow.

        Raises
        ------
        DeadLetter
            The request is wrong.
        UnknownModel, UnknownVersion, NoChampion, VersionFailed
            It cannot be answered.
        """
        self.was_asked = True
        started, now_ms = time.perf_counter(), self._clock()
        lineup, asked = self.find(model, version)
        found = decode_request(body, asked.version.feature_schema, self._also(model, lineup))
        shown = uuid.uuid4().hex if found.request_id is None else found.request_id
        segments = found.parameters.get("segments") or {}
        request = Rows(shown.replace("#", "%23"), model, found.rows, now_ms, _segments(segments))
        try:
            outputs = predict(asked, request.rows)
        except DeadLetter as error:
            raise VersionFailed(error.detail) from error
        tensors = encode_outputs(outputs, asked.version.classes, found.outputs)
        latency_ms = (time.perf_counter() - started) * 1_000
        self._metrics.observe(m.HTTP_SECONDS, latency_ms / 1_000)
        self._outbox.send(
            predictions(request, asked, outputs, role="champion", latency_ms=latency_ms)
        )
        if shadows := lineup.beside(asked.name):
            try:
                self._follow_ups.put_nowait(_FollowUp(request, shadows))
            except queue.Full:
                self._metrics.add(m.SKIPPED_SHADOWS, len(request.rows) * len(shadows))
        return {
            "model_name": model,
            "model_version": asked.name,
            "id": shown,
            "parameters": {"prediction_id": request.request_id},
            "outputs": tensors,
        }

    def describe(self, model: str, name: str | None = None) -> dict[str, Any]:
        """Give the metadata of the champion, or of the version of this name.

        Raises
        ------
        UnknownModel, UnknownVersion, NoChampion
            There is nothing to describe.
        """
        lineup, asked = self.find(model, name)
        version = asked.version
        is_regression, is_binary = not version.classes, len(version.classes) == 2
        outputs = [{"name": "predict", "datatype": "FP64" if is_regression else "BYTES"}]
        if not is_regression:
            name = "score" if is_binary else "probabilities"
            outputs.append({"name": name, "datatype": "FP64"})
        return {
            "name": model,
            "versions": lineup.names,
            "platform": f"kedge_{version.artefact.format if version.artefact else 'unknown'}",
            "inputs": metadata(version.feature_schema),
            "outputs": [
                {**each, "shape": [-1, -1] if each["name"] == "probabilities" else [-1]}
                for each in outputs
            ],
        }

    def find(self, model: str, version: str | None = None) -> tuple[Lineup, Loaded]:
        """Give who answers now, or the version of this name.

        Raises
        ------
        UnknownModel, UnknownVersion, NoChampion
            Nobody does.
        """
        lineup = self._models.lineup(model)
        if lineup is None and self._monitor_of(model) is None:
            raise UnknownModel(f"there is no model {model!r}")
        lineup = lineup or Lineup()
        found = lineup.champion if version is None else lineup.find(version)
        if found is not None:
            return lineup, found
        if version is None:
            raise NoChampion(no_champion(model, lineup))
        known = ", ".join(lineup.names) or "none"
        raise UnknownVersion(f"{model!r} has no version {version!r} here; there are: {known}")

    def follow(self, stop: threading.Event) -> None:
        """Let the shadows predict what was answered, until ``stop``; then finish what waits."""
        while not (stop.is_set() and self._follow_ups.empty()):
            try:
                work = self._follow_ups.get(timeout=IDLE_S)
            except queue.Empty:
                self._outbox.poll()
                continue
            for shadow in work.shadows:
                started = time.perf_counter()
                try:
                    outputs = predict(shadow, work.request.rows)
                except DeadLetter as error:
                    self._metrics.add(m.SKIPPED_SHADOWS, len(work.request.rows))
                    _log.warning("a shadow fails", model=work.request.model, detail=error.detail)
                    continue
                latency_ms = (time.perf_counter() - started) * 1_000
                self._outbox.send(
                    predictions(work.request, shadow, outputs, role="shadow", latency_ms=latency_ms)
                )

    def _also(self, model: str, lineup: Lineup) -> dict[str, Kind]:
        also: dict[str, Kind] = {}
        if (monitor := self._monitor_of(model)) is not None:
            also |= {name: feature.type for name, feature in monitor.features.items()}
        champion = () if lineup.champion is None else (lineup.champion,)
        for other in (*lineup.contenders, *champion):
            also |= {column.name: column.type for column in other.version.feature_schema}
        return also


def _segments(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(
        isinstance(each, bool | int | float | str) for each in value.values()
    ):
        raise DeadLetter("bad-value", "`parameters.segments` is no object of plain values")
    return value
