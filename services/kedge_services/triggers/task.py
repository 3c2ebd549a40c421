"""One partition of the triggers: when its models are to be trained again."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import structlog

from kedge import Alert, Command, Monitor
from kedge.codec import decode, encode
from kedge.errors import DeadLetter, UsageError
from kedge.topics import model_partition
from kedge_services.core.triggers import (
    OBEYED,
    State,
    Step,
    decide,
    keep_schedule,
    obey,
    see_alert,
    see_window,
)
from kedge_services.runtime.ports import Batch, Commit, Produce, Record, TaskContext
from kedge_services.runtime.tables import MonitorTable, VersionTable
from kedge_services.runtime.tasks import RecordTask

__all__ = ["SERVICE", "TriggersTask"]

SERVICE = "triggers"
#: How often schedules are looked at; they are no finer than a minute.
SCHEDULE_MS = 1_000
_log = structlog.get_logger(__name__)


class _Window(msgspec.Struct):
    """The fields of a window that count here; the rest may be large."""

    model: str
    end_ms: int
    labelled_total: int = 0


_window = msgspec.json.Decoder(_Window)
_state = msgspec.json.Decoder(State)


class TriggersTask(RecordTask):
    """Asks for retrains; see :mod:`kedge_services.core.triggers`."""

    service = SERVICE

    def __init__(
        self, context: TaskContext, monitors: MonitorTable, versions: VersionTable
    ) -> None:
        super().__init__(context)
        self._monitors = monitors
        self._versions = versions
        self._states: dict[str, State] = {}
        self._changed: set[str] = set()
        self._looked_ms: int | None = None
        self._complained: set[tuple[str, str]] = set()

    # ------------------------------------------------------------------- state

    def restore(self, batch: Batch) -> None:
        """Take state back; the last value of a model counts."""
        for record in batch.records():
            if record.value is not None:
                state = _state.decode(record.value)
                self._states[state.model] = state

    def commit(self) -> Commit:
        """Give the requests, and the state of the models that changed."""
        changelog: list[tuple[bytes, bytes | None]] = [
            (f"model/{model}".encode(), msgspec.json.encode(self._states[model]))
            for model in sorted(self._changed)
        ]
        self._changed.clear()
        return Commit(outputs=self._take_outputs(), changelog=changelog)

    # ----------------------------------------------------------------- records

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:  # noqa: ARG002
        """Look at the schedules, at most once a second."""
        looked_ms = self._looked_ms
        if looked_ms is not None and 0 <= now_ms - looked_ms < SCHEDULE_MS:
            return
        self._looked_ms = now_ms
        for model in self._monitors.models():
            monitor = self._monitors.get(model, now_ms)
            if monitor is not None and self._is_mine(model, "retrain-requests"):
                try:
                    self._take(keep_schedule(self._of(model), monitor, self._base(model), now_ms))
                except UsageError as error:
                    self._complain(model, str(error))

    def _one(self, record: Record) -> None:
        value = record.value
        if value is None and record.topic == "windows":
            return  # removed by hand: the labels it counted were there
        if value is None:
            raise DeadLetter("missing-field", f"a record of {record.topic} without a value")
        if record.topic == "windows":
            try:
                window = _window.decode(value)
            except msgspec.MsgspecError as error:
                raise DeadLetter("undecodable", f"no window: {error}") from error
            state = self._own(window.model, record.topic)
            total = window.labelled_total
            self._decide(see_window(state, end_ms=window.end_ms, labelled_total=total))
        elif record.topic == "alerts":
            alert = decode(Alert, value)
            self._decide(see_alert(self._own(alert.model, record.topic), alert))
        else:
            command = decode(Command, value)
            if command.action not in OBEYED:
                return
            state = self._own(command.model, record.topic)
            step = obey(state, command, self._monitor(state), self._base(command.model))
            self._take(step)
            if step.refused is not None:
                raise DeadLetter(*step.refused)
            self._decide(step.state)

    def _decide(self, state: State) -> None:
        monitor = self._monitor(state)
        if monitor is None:
            self._take(Step(state))
        else:
            self._take(decide(state, monitor, self._base(state.model)))

    # ---------------------------------------------------------------- look-ups

    def _of(self, model: str) -> State:
        return self._states.get(model) or State(model)

    def _own(self, model: str, topic: str) -> State:
        self._require_mine(model, topic)
        return self._of(model)

    def _monitor(self, state: State) -> Monitor | None:
        return self._monitors.get(state.model, state.clock_ms)

    def _base(self, model: str) -> str | None:
        champion = self._versions.champion(model)
        return None if champion is None else champion.version

    # ----------------------------------------------------------------- results

    def _take(self, step: Step) -> None:
        state, request = step.state, step.request
        if state != self._of(state.model):
            self._states[state.model] = state
            self._changed.add(state.model)
        if request is not None:
            because = ", ".join(request.cause.alert_ids) or request.cause.kind
            _log.info("retrain asked for", model=request.model, because=because)
            where = model_partition(request.model, self._context.partitions("retrain-requests"))
            key = request.request_id.encode()
            self._outputs.append(Produce("retrain-requests", key, encode(request), where))

    def _complain(self, model: str, problem: str) -> None:
        if (model, problem) not in self._complained:
            self._complained.add((model, problem))
            _log.warning("a schedule cannot be kept", model=model, problem=problem)
