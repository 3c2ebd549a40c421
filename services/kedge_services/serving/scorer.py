"""Answers requests that come by HTTP; the shadows follow when the answer is out."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import structlog

from kedge import Monitor, Output, Prediction
from kedge.errors import DeadLetter, KedgeError, QueueFull
from kedge_services.core.answers import encode_outputs, metadata
from kedge_services.core.tensors import Kind, decode_request
from kedge_services.runtime import metrics as m
from kedge_services.runtime.ports import Clock
from kedge_services.serving.models import Lineup, Loaded, Models
from kedge_services.serving.scoring import Rows, no_champion, predict_apart, predictions

__all__ = [
    "NoChampion",
    "Outbox",
    "Question",
    "Scorer",
    "Sender",
    "Shadowed",
    "UnknownModel",
    "UnknownVersion",
    "VersionFailed",
]

IDLE_S = 0.25
#: Answered requests whose rows a shadow scores in one call, at most.
TOGETHER = 64
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


class Question(NamedTuple):
    """A request's body, and when it had come, in seconds of ``time.perf_counter``."""

    body: bytes
    since_s: float


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What was answered and others have to predict, too."""

    request: Rows
    shadows: tuple[Loaded, ...]


@dataclass(frozen=True, slots=True)
class _Understood:
    request: Rows
    shown_id: str
    wanted: tuple[str, ...]
    since_s: float


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
        self._follow_ups: queue.Queue[Shadowed] = queue.Queue(max_pending)
        #: Whether any request came.
        self.was_asked = False

    def answer(
        self, model: str, questions: Sequence[Question], version: str | None = None
    ) -> tuple[list[bytes | Exception], list[Shadowed]]:
        """Answer requests together, each with its own fate.

        The champion answers, or the version that is asked for by its name.

        Returns
        -------
        answers
            The bodies of the answers as JSON.  In the place of one: DeadLetter, the
            request is wrong; UnknownModel, UnknownVersion, NoChampion or VersionFailed,
            it cannot be answered.
        shadowed
            For :meth:`let_follow`, when the answers are out.
        """
        self.was_asked = True
        try:
            lineup, asked = self.find(model, version)
        except LookupError as error:
            return [error] * len(questions), []
        also, now_ms = self._also(model, lineup), self._clock()
        fates: list[bytes | Exception | None] = []
        understood: list[_Understood] = []
        for question in questions:
            try:
                understood.append(_understand(question, model, asked, also, now_ms))
                fates.append(None)
            except Exception as error:  # noqa: BLE001 -- of one request; the others go on
                fates.append(error)
        found = predict_apart(asked, [each.request for each in understood]) if understood else []
        answered: list[Rows] = []
        answers: list[bytes | Exception] = []
        for each, outputs in zip(understood, found, strict=True):
            try:
                answers.append(self._finish(each, asked, outputs))
                answered.append(each.request)
            except Exception as error:  # noqa: BLE001 -- of one request; the others go on
                answers.append(error)
        rest = iter(answers)
        shadows = lineup.beside(asked.name)
        return (
            [next(rest) if fate is None else fate for fate in fates],
            [Shadowed(request, shadows) for request in answered if shadows],
        )

    def let_follow(self, shadowed: Iterable[Shadowed]) -> None:
        """Let the shadows predict what was answered, when :meth:`follow` comes to it."""
        for each in shadowed:
            try:
                self._follow_ups.put_nowait(each)
            except queue.Full:
                lost = len(each.request.rows) * len(each.shadows)
                self._metrics.add(m.SKIPPED_SHADOWS, lost)

    def _finish(
        self, asked: _Understood, loaded: Loaded, outputs: list[Output] | DeadLetter
    ) -> bytes:
        """Send the predictions of a request and give the body of its answer."""
        if isinstance(outputs, DeadLetter):
            raise VersionFailed(outputs.detail) from outputs
        request = asked.request
        tensors = encode_outputs(outputs, loaded.version.classes, asked.wanted)
        answer = {
            "model_name": request.model,
            "model_version": loaded.name,
            "id": asked.shown_id,
            "parameters": {"prediction_id": request.request_id},
            "outputs": tensors,
        }
        body = json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        latency_ms = (time.perf_counter() - asked.since_s) * 1_000
        self._metrics.observe(m.HTTP_SECONDS, latency_ms / 1_000)
        self._outbox.send(
            predictions(request, loaded, outputs, role="champion", latency_ms=latency_ms)
        )
        return body.encode()

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
                first = self._follow_ups.get(timeout=IDLE_S)
            except queue.Empty:
                self._outbox.poll()
                continue
            by_version: dict[int, tuple[Loaded, list[Rows]]] = {}
            for work in (first, *self._more()):
                for shadow in work.shadows:
                    by_version.setdefault(id(shadow), (shadow, []))[1].append(work.request)
            for shadow, requests in by_version.values():
                self._shadow(shadow, requests)

    def _more(self) -> Iterator[Shadowed]:
        with contextlib.suppress(queue.Empty):
            for _ in range(TOGETHER - 1):
                yield self._follow_ups.get_nowait()

    def _shadow(self, shadow: Loaded, requests: Sequence[Rows]) -> None:
        started = time.perf_counter()
        found = predict_apart(shadow, requests)
        latency_ms = (time.perf_counter() - started) * 1_000
        for request, outputs in zip(requests, found, strict=True):
            if isinstance(outputs, DeadLetter):
                self._metrics.add(m.SKIPPED_SHADOWS, len(request.rows))
                _log.warning("a shadow fails", model=request.model, detail=outputs.detail)
            else:
                self._outbox.send(
                    predictions(request, shadow, outputs, role="shadow", latency_ms=latency_ms)
                )

    def _also(self, model: str, lineup: Lineup) -> dict[str, Kind]:
        also: dict[str, Kind] = {}
        if (monitor := self._monitor_of(model)) is not None:
            also |= {name: feature.type for name, feature in monitor.features.items()}
        champion = () if lineup.champion is None else (lineup.champion,)
        for other in (*lineup.contenders, *champion):
            also |= {column.name: column.type for column in other.version.feature_schema}
        return also


def _understand(
    question: Question, model: str, asked: Loaded, also: Mapping[str, Kind], now_ms: int
) -> _Understood:
    found = decode_request(question.body, asked.version.feature_schema, also)
    shown = uuid.uuid4().hex if found.request_id is None else found.request_id
    segments = _segments(found.parameters.get("segments") or {})
    request = Rows(shown.replace("#", "%23"), model, found.rows, now_ms, segments)
    return _Understood(request, shown, found.outputs, question.since_s)


def _segments(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(
        isinstance(each, bool | int | float | str) for each in value.values()
    ):
        raise DeadLetter("bad-value", "`parameters.segments` is no object of plain values")
    return value
