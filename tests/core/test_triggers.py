from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Alert, Command, Monitor, RetrainRequest
from kedge.errors import UsageError
from kedge.monitor import Feature, Retrain
from kedge_services.core.schedule import last_slot, next_slot
from kedge_services.core.triggers import (
    DAY_MS,
    Firing,
    State,
    Step,
    check_schedule,
    decide,
    keep_schedule,
    obey,
    see_alert,
    see_window,
)

MINUTE = 60_000
HOUR = 60 * MINUTE


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


T0 = at("2026-01-02T12:00:00")


def monitor(**changes: Any) -> Monitor:
    retrain = None if changes.get("retrain", 1) is None else Retrain(**changes)
    features = {"x": Feature(type="numeric")}
    return Monitor(model="m", task="regression", features=features, retrain=retrain)


def alert(status: str = "firing", *, starts_ms: int = T0, labelled: int = 0, **more: Any) -> Alert:
    rule = more.pop("rule", "error-rate")
    fields: dict[str, Any] = {
        "alert_id": f"{rule.replace('-', '')[:8]:0<16}/{starts_ms}",
        "fingerprint": f"{rule.replace('-', '')[:8]:0<16}",
        "model": "m",
        "rule": rule,
        "kind": rule,
        "severity": "critical",
        "status": status,
        "starts_ms": starts_ms,
        "fired_ms": starts_ms,
        "ends_ms": None,
        "summary": "s",
        "labelled_total": labelled,
    }
    return Alert(**{**fields, **more})


def command(action: str, **fields: Any) -> Command:
    given = {"command_id": f"c-{action}", "model": "m", "by": "ann", "event_time_ms": T0, **fields}
    return Command(action=action, **given)


class Drive:
    """A model's state with the monitor and everything it asked for."""

    def __init__(self, state: State | None = None, **settings: Any) -> None:
        self.state = state or State("m")
        self.monitor = monitor(**settings)
        self.requests: list[RetrainRequest] = []
        self.champion: str | None = "k1"

    def take(self, step: Step) -> list[RetrainRequest]:
        self.state = step.state
        new = [] if step.request is None else [step.request]
        self.requests += new
        return new

    def window(self, end_ms: int, labelled: int) -> list[RetrainRequest]:
        state = see_window(self.state, end_ms=end_ms, labelled_total=labelled)
        return self.take(decide(state, self.monitor, self.champion))

    def alert(self, status: str = "firing", **fields: Any) -> list[RetrainRequest]:
        state = see_alert(self.state, alert(status, **fields))
        return self.take(decide(state, self.monitor, self.champion))

    def clock(self, now_ms: int) -> list[RetrainRequest]:
        return self.take(keep_schedule(self.state, self.monitor, "k1", now_ms))

    def command(self, action: str, **fields: Any) -> Step:
        step = obey(self.state, command(action, **fields), self.monitor, "k1")
        self.take(step)
        return step


# ---------------------------------------------------------------------- alerts


def test_an_alert_asks_when_enough_labels_came_since_it_fired() -> None:
    #  labels  1000 (fires) 1200   1299   1300
    #                                      ▲ asks
    drive = Drive(min_labels=300)
    drive.window(T0, 1000)
    assert not drive.alert(labelled=1000)
    assert not drive.window(T0 + 1, 1299)
    (request,) = drive.window(T0 + 2, 1300)
    assert request.cause.kind == "alert"
    assert request.cause.alert_ids == [f"errorrat00000000/{T0}"]
    assert (request.cause.rule, request.cause.attempt, request.cause.labelled) == (
        "error-rate", 0, 1300,
    )  # fmt: skip
    assert (request.since_ms, request.event_time_ms, request.base_version) == (T0, T0 + 2, "k1")


def test_labels_counted_before_the_alert_was_read_are_counted_from_its_window() -> None:
    drive = Drive(min_labels=300)
    drive.window(T0 + 5, 1400)  # windows may be read ahead of alerts
    assert len(drive.alert(labelled=1000)) == 1


def test_an_alert_that_is_over_before_asks_nothing() -> None:
    drive = Drive(min_labels=300)
    drive.alert(labelled=1000)
    drive.alert("resolved", ends_ms=T0 + MINUTE)
    assert not drive.window(T0 + HOUR, 9000)


def test_an_alert_that_is_over_never_asks_again_under_its_id() -> None:
    drive = Drive(min_labels=1, cooldown="0s")
    drive.alert()
    drive.alert("resolved", ends_ms=T0 + 1)
    drive.alert()
    assert not drive.window(T0 + 2, 10)


def test_a_pending_alert_asks_nothing() -> None:
    drive = Drive(min_labels=1)
    drive.alert("pending", fired_ms=None)
    drive.alert("pending", fired_ms=None, ends_ms=T0 + 1)
    assert not drive.window(T0 + HOUR, 9000)


@pytest.mark.parametrize(
    ("on", "asks"),
    [(["error-rate"], True), (["mine"], False), (["rule"], False), (["data-drift"], False)],
)
def test_only_what_the_monitor_names_asks(on: list[str], *, asks: bool) -> None:
    drive = Drive(on=on, min_labels=1)
    drive.alert()
    assert bool(drive.window(T0 + 1, 500)) is asks


def test_a_users_rule_asks_by_its_name() -> None:
    drive = Drive(on=["mine"], min_labels=1)
    drive.alert(rule="mine", kind="rule")
    assert drive.window(T0 + 1, 500)[0].cause.rule == "mine"


def test_an_alert_that_keeps_firing_asks_again_after_each_cooldown() -> None:
    #  cooldown 10 min:   0 ──────── 10 ──────── 20
    #                     ▲ 0        ▲ 1         ▲ 2   attempts
    drive = Drive(cooldown="10m", min_labels=1)
    drive.alert()
    for minute in range(25):
        drive.window(T0 + minute * MINUTE, 100 * (minute + 1))
    assert [(r.event_time_ms - T0) // MINUTE for r in drive.requests] == [0, 10, 20]
    assert [r.cause.attempt for r in drive.requests] == [0, 1, 2]
    assert len({r.request_id for r in drive.requests}) == 3


def test_a_repetition_needs_new_labels_too() -> None:
    drive = Drive(cooldown="1m", min_labels=300)
    drive.alert()
    assert drive.window(T0, 300)
    assert not drive.window(T0 + HOUR, 599)
    assert drive.window(T0 + HOUR, 600)


def test_the_cooldown_holds_for_every_cause() -> None:
    drive = Drive(cooldown="10m", min_labels=1, every_labels=1000)
    drive.alert()
    assert drive.window(T0, 900)
    drive.alert("resolved", ends_ms=T0 + 1)
    drive.alert(starts_ms=T0 + 2)
    assert not drive.window(T0 + 10 * MINUTE - 1, 5000)
    (request,) = drive.window(T0 + 10 * MINUTE, 5001)
    assert request.cause.alert_ids == [f"errorrat00000000/{T0 + 2}"]
    assert request.cause.attempt == 0


def test_a_promotion_answers_the_alerts_before_it_for_a_cooldown() -> None:
    #  cooldown 10 min:  0 asks   15 promoted            25 still firing: asks
    #                             20 another alert: asks at once, about the new version
    drive = Drive(on=["error-rate", "integrity"], cooldown="10m", min_labels=1)
    drive.window(T0, 1)
    drive.alert(labelled=1)
    for minute in range(30):
        drive.champion = "k2" if minute >= 15 else "k1"
        if minute == 20:
            drive.alert(rule="integrity", starts_ms=T0 + 20 * MINUTE, labelled=20)
        drive.window(T0 + minute * MINUTE, minute + 1)
    found = [((r.event_time_ms - T0) // MINUTE, r.cause.rule) for r in drive.requests]
    assert found == [(1, "error-rate"), (11, "error-rate"), (21, "integrity")]
    drive.window(T0 + 31 * MINUTE, 100)
    assert drive.requests[-1].cause.alert_ids[0] == f"errorrat00000000/{T0}"
    assert drive.requests[-1].base_version == "k2"


def test_the_first_version_that_is_seen_is_no_promotion() -> None:
    drive = Drive(min_labels=1)
    drive.champion = None
    drive.alert()
    drive.champion = "k1"
    assert drive.window(T0 + 1, 10)


def test_alerts_that_fire_together_ask_once_and_are_all_named() -> None:
    drive = Drive(on=["error-rate", "integrity"], min_labels=300, cooldown="1m")
    drive.alert(rule="error-rate", starts_ms=T0)
    drive.alert(rule="integrity", starts_ms=T0 - 5)
    (first,) = drive.window(T0 + 10, 300)
    assert first.cause.alert_ids == [f"errorrat00000000/{T0}", f"integrit00000000/{T0 - 5}"]
    assert first.since_ms == T0
    drive.alert("resolved", rule="error-rate", starts_ms=T0)
    (second,) = drive.window(T0 + HOUR, 900)
    # It was named in the first request: this is its second.
    assert second.cause.attempt == 1
    assert second.request_id != first.request_id


def test_a_day_has_a_budget_that_midnight_renews() -> None:
    #  per_day 2:  22:00 ask  22:30 ask  23:00 -  23:59 -  00:00 ask
    drive = Drive(cooldown="1m", per_day=2, min_labels=1)
    drive.alert()
    times = ["22:00", "22:30", "23:00", "23:59:59.999"]
    asked = [bool(drive.window(at(f"2026-01-02T{t}"), 10 * i)) for i, t in enumerate(times, 1)]
    assert asked == [True, True, False, False]
    assert drive.window(at("2026-01-03T00:00"), 100)
    assert drive.state.asked_that_day == 1


def test_without_retrain_kedge_only_watches() -> None:
    drive = Drive(retrain=None)
    drive.alert()
    assert not drive.window(T0 + 1, 10_000)
    assert not drive.clock(T0)
    step = drive.command("retrain")
    assert step.refused is not None
    assert step.refused[0] == "invalid"


# ---------------------------------------------------------------------- labels


def test_every_labels_asks_at_each_multiple() -> None:
    drive = Drive(every_labels=1000, cooldown="0s")
    for i, total in enumerate([0, 999, 1000, 1500, 1999, 2001, 5200, 5999, 6000]):
        drive.window(T0 + i, total)
    assert [r.cause.labelled for r in drive.requests] == [1000, 2001, 5200, 6000]
    assert [r.request_id.rpartition(".")[2] for r in drive.requests] == ["1", "2", "5", "6"]
    assert all(r.since_ms is None for r in drive.requests)


def test_labels_of_a_revision_never_count_back() -> None:
    drive = Drive(every_labels=1000, cooldown="0s")
    for i, total in enumerate([1000, 400, 1000, 1999]):
        drive.window(T0 - i, total)
    assert len(drive.requests) == 1
    assert drive.state.clock_ms == T0


def test_labels_wait_for_the_cooldown_and_ask_once() -> None:
    drive = Drive(every_labels=100, cooldown="10m")
    assert drive.window(T0, 100)
    assert not drive.window(T0 + MINUTE, 900)
    assert drive.window(T0 + 10 * MINUTE, 950)
    assert not drive.window(T0 + 20 * MINUTE, 999)


def test_any_training_uses_the_labels_so_far() -> None:
    drive = Drive(every_labels=1000, cooldown="0s", min_labels=1)
    drive.alert()
    assert drive.window(T0, 1200)[0].cause.kind == "alert"
    drive.alert("resolved", ends_ms=T0 + 1)
    assert not drive.window(T0 + 2, 1999)
    assert drive.window(T0 + 3, 2000)[0].cause.kind == "labels"


def test_a_setting_that_comes_later_asks_for_later_labels_only() -> None:
    drive = Drive()
    drive.window(T0, 123_456)
    drive.monitor = monitor(every_labels=1000)
    assert not drive.window(T0 + 1, 123_999)
    assert drive.window(T0 + 2, 124_000)


# -------------------------------------------------------------------- schedule


def test_a_schedule_asks_once_a_slot() -> None:
    drive = Drive(schedule="0 3 * * *", cooldown="0s")
    drive.window(at("2026-01-01T20:00"), 10)
    assert not drive.clock(at("2026-01-01T20:00"))
    assert not drive.clock(at("2026-01-02T02:59:59.999"))
    (request,) = drive.clock(at("2026-01-02T03:00"))
    assert (request.cause.kind, request.cause.slot_ms) == ("schedule", at("2026-01-02T03:00"))
    assert request.event_time_ms == at("2026-01-01T20:00")
    assert not drive.clock(at("2026-01-02T03:00:01"))
    assert not drive.clock(at("2026-01-03T02:59"))
    assert drive.clock(at("2026-01-03T03:07"))[0].cause.slot_ms == at("2026-01-03T03:00")


def test_slots_missed_while_nobody_looked_ask_once_for_the_last() -> None:
    drive = Drive(schedule="0 * * * *", cooldown="0s")
    drive.clock(at("2026-01-01T20:30"))
    revived = Drive(drive.state, schedule="0 * * * *", cooldown="0s")
    (request,) = revived.clock(at("2026-01-05T07:20"))
    assert request.cause.slot_ms == at("2026-01-05T07:00")
    assert not revived.clock(at("2026-01-05T07:59"))


def test_a_new_schedule_does_not_ask_for_the_past() -> None:
    drive = Drive(schedule="0 3 * * *")
    drive.clock(at("2026-01-01T20:00"))
    drive.monitor = monitor(schedule="0 4 * * *")
    assert not drive.clock(at("2026-01-10T05:00"))
    assert drive.clock(at("2026-01-11T04:00"))


def test_a_slot_within_the_cooldown_waits_for_its_end() -> None:
    drive = Drive(schedule="0 3 * * *", cooldown="10m", min_labels=1)
    drive.clock(at("2026-01-02T02:00"))
    drive.alert(starts_ms=at("2026-01-02T02:55"))
    assert drive.window(at("2026-01-02T02:55"), 10)
    drive.alert("resolved", starts_ms=at("2026-01-02T02:55"))
    assert not drive.clock(at("2026-01-02T03:00"))
    drive.window(at("2026-01-02T03:05"), 20)
    assert drive.clock(at("2026-01-02T03:06"))


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        ("* * * * *", "2026-01-02T03:00:00", "2026-01-02T03:00:00"),
        ("* * * * *", "2026-01-02T03:00:59.999", "2026-01-02T03:00:00"),
        ("0 0 * * *", "2026-01-02T00:00:00", "2026-01-02T00:00:00"),
        ("0 0 * * *", "2026-01-01T23:59:59.999", "2026-01-01T00:00:00"),
        ("30 2 29 2 *", "2026-01-01T00:00:00", "2024-02-29T02:30:00"),
        ("0 9 * * MON-FRI", "2026-01-04T12:00:00", "2026-01-02T09:00:00"),
    ],
)
def test_the_last_slot_is_not_after_now(text: str, now: str, expected: str) -> None:
    assert last_slot(text, at(now)) == at(expected)


@given(st.integers(T0, T0 + 400 * DAY_MS), st.sampled_from(["*/7 * * * *", "5 4 1 * *"]))
def test_slots_follow_each_other(now_ms: int, text: str) -> None:
    last, following = last_slot(text, now_ms), next_slot(text, now_ms)
    assert last is not None
    assert following is not None
    assert last <= now_ms < following
    assert last_slot(text, following) == following
    assert last_slot(text, following - 1) == last


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "0 fields"),
        ("0 3 * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("@daily", "1 fields"),
        ("61 * * * *", "bad minute"),
        ("0 25 * * *", "bad hour"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 * * FUN", "bad day-of-week"),
    ],
)
def test_a_wrong_schedule_is_named_with_what_is_expected(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f'schedule "{text}": {problem}; expected five')):
        check_schedule(text)
    with pytest.raises(UsageError):
        Drive(schedule=text).clock(T0)


# -------------------------------------------------------------------- commands


def test_a_person_waits_for_neither_cooldown_nor_budget_but_counts() -> None:
    drive = Drive(cooldown="10m", per_day=1, min_labels=1)
    drive.alert()
    drive.window(T0, 10)
    step = drive.command("retrain", command_id="c1", event_time_ms=T0 + 5)
    assert step.request is not None
    assert (step.request.cause.kind, step.request.cause.command_id) == ("manual", "c1")
    assert step.request.event_time_ms == T0
    assert drive.command("retrain", command_id="c1").request is None
    assert drive.command("retrain", command_id="c2").request is not None
    assert len({request.request_id for request in drive.requests}) == 3
    assert drive.state.asked_that_day == 3


def test_a_person_may_ask_before_there_is_any_data() -> None:
    request = Drive().command("retrain", event_time_ms=T0).request
    assert request is not None
    assert request.event_time_ms == T0


def test_a_command_for_a_model_without_monitor_is_refused() -> None:
    step = obey(State("m"), command("retrain"), None, None)
    assert step.refused == ("unknown-model", "no monitor declares m")


def test_a_pause_holds_back_everything_but_people() -> None:
    drive = Drive(min_labels=1, cooldown="0s", every_labels=10, schedule="0 * * * *")
    drive.clock(T0 - 1)
    drive.command("pause", until_ms=T0 + HOUR)
    drive.alert()
    assert not drive.window(T0 + 1, 100)
    assert not drive.clock(T0 + 1)
    assert drive.command("retrain").request is not None
    assert drive.window(T0 + HOUR, 200)
    assert not drive.clock(T0 + HOUR - 1)


def test_resume_ends_a_pause_without_end() -> None:
    drive = Drive(min_labels=1)
    drive.command("pause")
    drive.alert()
    assert not drive.window(T0 + 1000 * DAY_MS, 100)
    drive.command("resume")
    assert drive.window(T0 + 1000 * DAY_MS, 100)


def test_a_silenced_rule_asks_nothing_while_others_do() -> None:
    drive = Drive(on=["error-rate", "integrity"], min_labels=1, cooldown="0s")
    drive.command("silence", rule="error-rate", until_ms=T0 + HOUR)
    drive.alert()
    assert not drive.window(T0 + 1, 10)
    drive.alert(rule="integrity", starts_ms=T0 + 2)
    (request,) = drive.window(T0 + 3, 20)
    assert request.cause.rule == "integrity"
    (request,) = drive.window(T0 + HOUR, 30)
    assert request.cause.rule == "error-rate"


def test_silence_without_a_rule_silences_all_alerts_until_resumed() -> None:
    drive = Drive(min_labels=1, cooldown="0s", every_labels=1000)
    drive.command("silence")
    drive.alert()
    assert not drive.window(T0 + DAY_MS, 10)
    assert drive.window(T0 + DAY_MS, 1000)[0].cause.kind == "labels"
    drive.command("resume", rule="integrity")
    assert not drive.window(T0 + DAY_MS, 1010)
    drive.command("resume")
    assert drive.window(T0 + DAY_MS, 1011)


def test_commands_for_others_change_nothing() -> None:
    state = State("m")
    for action in ("promote", "rollback", "register"):
        assert obey(state, command(action), monitor(), "k1") == Step(state)


# ------------------------------------------------------------------------ laws


def test_the_request_carries_what_the_monitor_says() -> None:
    drive = Drive(min_labels=1, mode="batch", timeout="90s", memory_mb=512, executor="airflow")
    drive.alert()
    (request,) = drive.window(T0, 5)
    assert (request.mode, request.executor) == ("batch", "airflow")
    assert (request.budget.seconds, request.budget.memory_mb) == (90.0, 512)


@given(st.text(min_size=1, max_size=60))
def test_a_request_id_is_a_run_key_everywhere(model: str) -> None:
    firing = Firing("0123456789abcdef/5", "error-rate", "error-rate", 5, 0)
    state = State(model, clock_ms=T0, labelled_total=500, firing=(firing,))
    request = decide(state, monitor(), None).request
    assert request is not None
    assert re.fullmatch(r"[A-Za-z0-9_.~:+-]{1,255}", request.request_id)
    other = decide(replace(state, model=model + "x"), monitor(), None).request
    assert other is not None
    assert other.request_id != request.request_id


EVENTS = st.one_of(
    st.tuples(st.just("window"), st.integers(0, 50), st.integers(0, 400)),
    st.tuples(st.just("firing"), st.integers(0, 50), st.integers(0, 3)),
    st.tuples(st.just("resolved"), st.integers(0, 50), st.integers(0, 3)),
    st.tuples(st.just("clock"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("retrain"), st.just(0), st.integers(0, 3)),
)


@given(st.lists(EVENTS, max_size=60), st.integers(1, 5), st.integers(0, 40))
def test_cooldown_and_budget_hold_and_ids_never_repeat(
    events: list[tuple[str, int, int]], per_day: int, cooldown_minutes: int
) -> None:
    cooldown = timedelta(minutes=cooldown_minutes)
    drive = Drive(
        cooldown=cooldown, per_day=per_day, min_labels=5, every_labels=100, schedule="0 * * * *"
    )
    now, labelled = T0, 0
    drive.window(now, labelled)  # event time begins with the first window
    for what, minutes, number in events:
        now += minutes * MINUTE
        if what == "window":
            labelled += number
            drive.window(now, labelled)
        elif what == "clock":
            drive.clock(now)
        elif what == "retrain":
            drive.command("retrain", command_id=f"c{number}")
        else:
            drive.alert(what, starts_ms=T0 + number, fired_ms=now)
    ids = [request.request_id for request in drive.requests]
    assert len(set(ids)) == len(ids)
    days: dict[int, int] = {}
    last_ms: int | None = None
    for request in drive.requests:
        day = request.event_time_ms // DAY_MS
        if request.cause.kind != "manual":
            assert days.get(day, 0) < per_day
            if last_ms is not None:
                assert request.event_time_ms - last_ms >= cooldown / timedelta(milliseconds=1)
        last_ms = request.event_time_ms
        days[day] = days.get(day, 0) + 1
