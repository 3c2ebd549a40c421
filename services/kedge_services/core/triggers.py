"""When to ask for a retrain: alerts, a schedule, new labels, a person.

Everything is a function of a frozen state.  Alerts and labels are judged in
event time after every record; a schedule is judged on the clock, which the
caller passes in.  Between two requests lies ``cooldown``, a day (UTC) has no
more than ``per_day``; a person's request waits for neither, but counts.

===========  ==================================================  ==============
cause        asks when                                           its id is from
===========  ==================================================  ==============
alert        it fires, ``min_labels`` labels came since, and     alert id and
             again after each cooldown, and after a cooldown     attempt
             from a promotion, while it fires
labels       the labels counted pass a multiple of               the multiple
             ``every_labels``
schedule     a slot has come; of several missed ones the last    the slot
manual       at once                                             the command id
===========  ==================================================  ==============
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

from kedge.base import AlertKind
from kedge.errors import Reason
from kedge.events import Alert, Command, RetrainBudget, RetrainCause, RetrainRequest
from kedge.monitor import Monitor, Retrain
from kedge_services.core.schedule import check_schedule, last_slot, next_slot

__all__ = [
    "OBEYED",
    "Firing",
    "State",
    "Step",
    "check_schedule",
    "decide",
    "keep_schedule",
    "next_slot",
    "obey",
    "see_alert",
    "see_window",
]

#: Actions of commands that are for triggers; the others are the registry's.
OBEYED = frozenset({"retrain", "pause", "resume", "silence"})
DAY_MS = 86_400_000
#: A pause or silence without end.
FOREVER_MS = 1 << 62
#: No monitor of the model has been seen yet.
UNSEEN = -1
#: Commands and ended alerts that are remembered, so that a repeated one does nothing.
REMEMBERED = 100

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert that fires.

    ``labelled`` is the number of labels when it last made itself heard;
    ``answered_ms`` is when a promotion answered it, as far as one can know so soon.
    """

    alert_id: str
    rule: str
    kind: AlertKind
    starts_ms: int
    labelled: int
    attempts: int = 0
    answered_ms: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of one model.

    Attributes
    ----------
    clock_ms
        The latest event time seen.
    labelled_total
        Labels counted so far.
    base_version
        The version that serves, as last seen.
    firing, ended
        Alerts that fire, and the ids of the last that ended.
    asked_ms
        Event time of the last request.
    day, asked_that_day
        The day (since the epoch, event time) of the last request, and how many.
    schedule, slot_ms
        The schedule and its last slot that was answered, or when it came into
        force (clock).
    every_labels, label_step
        The setting, :data:`UNSEEN` before any, and the last multiple answered.
    silenced
        Rules, "" for all, and until when (event time) they cause nothing.
    """

    model: str
    clock_ms: int = 0
    labelled_total: int = 0
    base_version: str | None = None
    firing: tuple[Firing, ...] = ()
    ended: tuple[str, ...] = ()
    asked_ms: int | None = None
    day: int = -1
    asked_that_day: int = 0
    schedule: str | None = None
    slot_ms: int = 0
    every_labels: int | None = UNSEEN
    label_step: int = 0
    paused_until_ms: int = 0
    silenced: tuple[tuple[str, int], ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """The state after something happened, and what came of it."""

    state: State
    request: RetrainRequest | None = None
    refused: tuple[Reason, str] | None = None


# --------------------------------------------------------------------- seeing


def see_window(state: State, *, end_ms: int, labelled_total: int) -> State:
    """Take the time and the labels of a window."""
    return replace(
        state,
        clock_ms=max(state.clock_ms, end_ms),
        labelled_total=max(state.labelled_total, labelled_total),
    )


def see_alert(state: State, alert: Alert) -> State:
    """Take an alert; what fires stays until it is resolved."""
    seen_ms = max(alert.starts_ms, alert.fired_ms or 0, alert.ends_ms or 0)
    state = replace(
        state,
        clock_ms=max(state.clock_ms, seen_ms),
        labelled_total=max(state.labelled_total, alert.labelled_total or 0),
    )
    known = any(firing.alert_id == alert.alert_id for firing in state.firing)
    if alert.status == "firing" and not known and alert.alert_id not in state.ended:
        # The count at its window, as this topic may be read later than windows.
        labelled = alert.labelled_total or state.labelled_total
        new = Firing(alert.alert_id, alert.rule, alert.kind, alert.starts_ms, labelled)
        return replace(state, firing=(*state.firing, new))
    if alert.status == "resolved" and known:
        kept = tuple(f for f in state.firing if f.alert_id != alert.alert_id)
        ended = (*state.ended, alert.alert_id)[-REMEMBERED:]
        return replace(state, firing=kept, ended=ended)
    return state


# ------------------------------------------------------------------- deciding


def decide(state: State, monitor: Monitor, base_version: str | None) -> Step:
    """Ask for what alerts and labels call for; called after every record."""
    retrain = monitor.retrain
    state = _notice_promotion(state, base_version)
    every_labels = None if retrain is None else retrain.every_labels
    if state.every_labels != every_labels:
        # A setting that comes later does not ask for the labels before it.
        is_new = state.every_labels == UNSEEN
        step = 0 if is_new else state.labelled_total // (every_labels or 1)
        state = replace(state, every_labels=every_labels, label_step=step)
    if retrain is None:
        return Step(state)
    if state.clock_ms < state.paused_until_ms or not _may_ask(state, retrain):
        return Step(state)
    # In the order they fired: that of the topic, whatever was read meanwhile.
    causes = list(_causes(state, retrain))
    if causes:
        return _ask_for_alerts(state, retrain, causes, base_version)
    if retrain.every_labels and state.labelled_total // retrain.every_labels > state.label_step:
        step = state.labelled_total // retrain.every_labels
        cause = RetrainCause(kind="labels", labelled=state.labelled_total)
        request_id = _request_id(state.model, "labels", retrain.every_labels, step)
        return _ask(state, retrain, cause, request_id, base_version)
    return Step(state)


def _notice_promotion(state: State, base_version: str | None) -> State:
    """Give a new version the time of a cooldown to end the alerts that it may have answered."""
    if base_version is None or base_version == state.base_version:
        return state
    firing = state.firing
    if state.base_version is not None:
        firing = tuple(
            replace(f, labelled=state.labelled_total, answered_ms=state.clock_ms) for f in firing
        )
    return replace(state, base_version=base_version, firing=firing)


def keep_schedule(state: State, monitor: Monitor, base_version: str | None, now_ms: int) -> Step:
    """Ask when a slot of the schedule has come; called now and then.

    Raises
    ------
    UsageError
        The monitor's schedule is wrong.
    """
    retrain = monitor.retrain
    schedule = None if retrain is None else retrain.schedule
    if schedule != state.schedule:
        state = replace(state, schedule=schedule, slot_ms=now_ms)
    if retrain is None or schedule is None:
        return Step(state)
    slot_ms = last_slot(schedule, now_ms)
    if slot_ms is None or slot_ms <= state.slot_ms:
        return Step(state)
    if max(now_ms, state.clock_ms) < state.paused_until_ms:
        return Step(replace(state, slot_ms=slot_ms))
    if not _may_ask(state, retrain):
        return Step(state)
    cause = RetrainCause(kind="schedule", slot_ms=slot_ms)
    request_id = _request_id(state.model, "schedule", slot_ms)
    return _ask(replace(state, slot_ms=slot_ms), retrain, cause, request_id, base_version)


def obey(state: State, command: Command, monitor: Monitor | None, base_version: str | None) -> Step:
    """Take a command; those for others change nothing."""
    until_ms = FOREVER_MS if command.until_ms is None else command.until_ms
    rule = command.rule or ""
    if command.action == "retrain":
        return _retrain_now(state, command, monitor, base_version)
    if command.action == "pause":
        return Step(replace(state, paused_until_ms=until_ms))
    if command.action == "silence":
        others = tuple(pair for pair in state.silenced if pair[0] != rule)
        return Step(replace(state, silenced=(*others, (rule, until_ms))))
    if command.action == "resume":
        if rule:
            kept = tuple(pair for pair in state.silenced if pair[0] != rule)
            return Step(replace(state, silenced=kept))
        return Step(replace(state, paused_until_ms=0, silenced=()))
    return Step(state)


def _retrain_now(
    state: State, command: Command, monitor: Monitor | None, base_version: str | None
) -> Step:
    if monitor is None:
        return Step(state, refused=("unknown-model", f"no monitor declares {command.model}"))
    if monitor.retrain is None:
        detail = f"the monitor of {command.model} has no [retrain]: Kedge only watches it"
        return Step(state, refused=("invalid", detail))
    if command.command_id in state.commands:
        return Step(state)
    commands = (*state.commands, command.command_id)[-REMEMBERED:]
    # With neither data nor requests so far, the person's time is all there is.
    clock_ms = state.clock_ms or command.event_time_ms
    state = replace(state, commands=commands)
    cause = RetrainCause(kind="manual", command_id=command.command_id, rule=command.rule)
    request_id = _request_id(state.model, "manual", _digest(command.command_id))
    step = _ask(state, monitor.retrain, cause, request_id, base_version)
    if step.request is not None:
        request = step.request.model_copy(update={"event_time_ms": clock_ms})
        step = replace(step, request=request)
    return step


# --------------------------------------------------------------------- asking


def _is_cool(state: State, retrain: Retrain, since_ms: int | None) -> bool:
    cooldown_ms = round(retrain.cooldown.total_seconds() * 1000)
    return since_ms is None or state.clock_ms - since_ms >= cooldown_ms


def _may_ask(state: State, retrain: Retrain) -> bool:
    if not _is_cool(state, retrain, state.asked_ms):
        return False
    return state.clock_ms // DAY_MS > state.day or state.asked_that_day < retrain.per_day


def _causes(state: State, retrain: Retrain) -> Iterator[Firing]:
    silenced = dict(state.silenced)
    for firing in state.firing:
        until_ms = max(silenced.get(name, 0) for name in ("", firing.rule, firing.kind))
        is_wanted = firing.rule in retrain.on or firing.kind in retrain.on
        has_labels = state.labelled_total >= firing.labelled + retrain.min_labels
        is_due = state.clock_ms >= until_ms and _is_cool(state, retrain, firing.answered_ms)
        if is_wanted and has_labels and is_due:
            yield firing


def _ask_for_alerts(
    state: State, retrain: Retrain, causes: list[Firing], base_version: str | None
) -> Step:
    first = causes[0]
    cause = RetrainCause(
        kind="alert",
        alert_ids=[firing.alert_id for firing in causes],
        rule=first.rule,
        labelled=state.labelled_total,
        attempt=first.attempts,
    )
    request_id = _request_id(state.model, "alert", *first.alert_id.split("/"), first.attempts)
    heard = {firing.alert_id for firing in causes}
    firing = tuple(
        replace(f, attempts=f.attempts + 1, labelled=state.labelled_total)
        if f.alert_id in heard
        else f
        for f in state.firing
    )
    state = replace(state, firing=firing)
    return _ask(state, retrain, cause, request_id, base_version, since_ms=first.starts_ms)


def _ask(
    state: State,
    retrain: Retrain,
    cause: RetrainCause,
    request_id: str,
    base_version: str | None,
    since_ms: int | None = None,
) -> Step:
    request = RetrainRequest(
        request_id=request_id,
        model=state.model,
        base_version=base_version,
        mode=retrain.mode,
        cause=cause,
        event_time_ms=state.clock_ms or cause.slot_ms or 0,
        since_ms=since_ms,
        executor=retrain.executor,
        budget=RetrainBudget(
            seconds=max(retrain.timeout.total_seconds(), 0.001), memory_mb=retrain.memory_mb
        ),
    )
    day = max(state.day, state.clock_ms // DAY_MS)
    state = replace(
        state,
        asked_ms=state.clock_ms,
        day=day,
        asked_that_day=state.asked_that_day + 1 if day == state.day else 1,
        # Whoever asked, the labels so far are trained on.
        label_step=state.labelled_total // (retrain.every_labels or 1),
    )
    return Step(state, request)


def _request_id(model: str, *parts: str | int) -> str:
    """Name a request: readable, and safe as a run key of every executor."""
    name = _UNSAFE.sub("-", model)[:40]
    return ".".join(map(str, (name, _digest(model)[:8], *parts)))


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
