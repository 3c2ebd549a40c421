from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import Alert, Command, ModelVersion, Monitor, RetrainRequest
from kedge.base import Event
from kedge.codec import decode, encode
from kedge.topics import model_partition
from kedge_services.runtime.ports import Batch, Commit, Record, TaskContext
from kedge_services.runtime.tables import MonitorTable, VersionTable
from kedge_services.triggers.task import TriggersTask

PARTITIONS = 2
MODEL = next(name for name in ("m", "n", "o", "p") if model_partition(name, PARTITIONS) == 1)
ELSEWHERE = next(name for name in ("m", "n", "o", "p") if model_partition(name, PARTITIONS) == 0)
T0 = round(datetime(2026, 1, 2, 2, 30, tzinfo=UTC).timestamp() * 1000)
MINUTE = 60_000

Line = tuple[str, bytes]


def monitor(model: str = MODEL, **retrain: Any) -> Monitor:
    settings = {"min_labels": 100, "cooldown": "10m", "every_labels": 5000, **retrain}
    return Monitor.model_validate(
        {
            "model": model,
            "task": "regression",
            "features": {"x": "numeric"},
            "retrain": {"on": ["error-rate", "mine"], **settings},
        }
    )


def version(name: str, sequence: int) -> ModelVersion:
    return ModelVersion(
        model=MODEL, version=name, status="champion", sequence=sequence, changed_ms=T0
    )


def window(minute: int, labelled: int, **changes: Any) -> Line:
    value = {
        "window_id": "w", "kind": "drift", "model": MODEL, "version": "k1", "scale": 1, "n": 9,
        "start_ms": T0, "end_ms": T0 + minute * MINUTE, "labelled_total": labelled, **changes,
    }  # fmt: skip
    return "windows", json.dumps(value).encode()


def alert(status: str, minute: int, rule: str = "error-rate", labelled: int = 0) -> Line:
    at_ms = T0 + minute * MINUTE
    event = Alert(
        alert_id=f"{rule}/{at_ms}", fingerprint=rule, model=MODEL, rule=rule,
        kind="rule" if rule == "mine" else "error-rate", severity="critical",
        status="firing" if status == "firing" else "resolved", starts_ms=at_ms, fired_ms=at_ms,
        summary="s", labelled_total=labelled,
    )  # fmt: skip
    return "alerts", encode(event)


def command(action: Any, **changes: Any) -> Line:
    fields = {"command_id": "c1", "model": MODEL, "by": "ann", "event_time_ms": T0, **changes}
    return "commands", encode(Command(action=action, **fields))


class Play:
    """A partition of the service with what Kafka keeps of it: it can die at any place."""

    def __init__(self, declared: Monitor | None = None) -> None:
        self.monitors, self.versions = MonitorTable(), VersionTable()
        self.changelog: dict[bytes, bytes | None] = {}
        self.outputs: list[tuple[str, bytes]] = []
        self.declare(declared or monitor())
        self.versions.apply(Record("model-versions", 1, 0, 0, b"", encode(version("k1", 1)), ()))
        self.begin()

    def declare(self, declared: Monitor) -> None:
        key = declared.model.encode()
        self.monitors.apply(Record("monitors", 0, 0, 0, key, encode(declared), ()))

    def begin(self) -> None:
        context = TaskContext(1, lambda: 0, lambda: None, lambda _: PARTITIONS)
        self.task = TriggersTask(context, self.monitors, self.versions)
        n, values = len(self.changelog), list(self.changelog.values())
        self.task.restore(Batch("c", 1, range(n), [0] * n, list(self.changelog), values, [()] * n))
        self.task.start({})

    def send(self, *lines: tuple[str, bytes | None]) -> None:
        for topic, value in lines:
            self.task.process(Batch(topic, 1, [0], [0], [b"k"], [value], [()]))

    def tick(self, now_ms: int) -> None:
        self.task.tick(now_ms, {})

    def commit(self) -> Commit:
        commit = self.task.commit()
        self.changelog.update(commit.changelog)
        self.outputs += [(out.topic, out.value or b"") for out in commit.outputs]
        self.task.committed()
        return commit

    @property
    def requests(self) -> list[RetrainRequest]:
        return [decode(RetrainRequest, v) for topic, v in self.outputs if topic != "dead-letters"]


def reasons(commit: Commit) -> list[str]:
    letters = [out for out in commit.outputs if out.topic == "dead-letters"]
    return [dict(out.headers)["kedge-reason"].decode() for out in letters]


def test_an_alert_becomes_a_request_on_the_models_partition() -> None:
    play = Play()
    play.send(window(0, 1000), alert("firing", 1, labelled=1000), window(2, 1100))
    (output,) = play.commit().outputs
    request = decode(RetrainRequest, output.value or b"")
    assert (output.topic, output.partition) == ("retrain-requests", 1)
    assert output.key == request.request_id.encode()
    assert (request.base_version, request.since_ms) == ("k1", T0 + MINUTE)
    assert request.event_time_ms == T0 + 2 * MINUTE


def test_a_model_without_monitor_is_followed_so_that_one_that_comes_knows_its_time() -> None:
    play = Play(monitor(ELSEWHERE))
    play.send(window(0, 1000), alert("firing", 1, labelled=900))
    assert play.commit().outputs == []
    play.declare(monitor())
    play.send(window(2, 1000))
    assert len(play.commit().outputs) == 1


def test_a_schedule_asks_once_and_a_restart_does_not_lose_the_slot() -> None:
    play = Play(monitor(schedule="0 3 * * *"))
    play.tick(T0)
    play.commit()
    play.begin()  # down from half past two until four
    play.tick(T0 + 90 * MINUTE)
    play.tick(T0 + 90 * MINUTE + 100)
    play.tick(T0 + 95 * MINUTE)
    play.commit()
    play.begin()
    play.tick(T0 + 96 * MINUTE)
    play.commit()
    assert [r.cause.slot_ms for r in play.requests] == [T0 + 30 * MINUTE]


def test_only_the_owner_of_a_model_keeps_its_schedule() -> None:
    play = Play(monitor(ELSEWHERE, schedule="* * * * *"))
    for minute in range(3):
        play.tick(T0 + minute * MINUTE)
    assert play.commit() == Commit()


def test_a_wrong_schedule_stops_nothing() -> None:
    play = Play(monitor(schedule="at three"))
    play.tick(T0)
    play.tick(T0 + MINUTE)
    play.send(alert("firing", 1), window(2, 500))
    assert len(play.commit().outputs) == 1


def test_what_cannot_be_read_or_obeyed_is_a_dead_letter_and_harms_no_other() -> None:
    play = Play()
    play.send(
        ("commands", b"{"),
        ("commands", None),
        command("retrain", model=ELSEWHERE),
        ("alerts", b'{"schema": 2}'),
        ("alerts", b"{}"),
        ("windows", b"[]"),
        ("windows", b'{"model": "m"}'),
        ("windows", None),
        alert("firing", 1),
        window(2, 500),
    )
    commit = play.commit()
    assert reasons(commit) == [
        "undecodable", "missing-field", "misrouted", "unsupported-format", "missing-field",
        "undecodable", "undecodable",
    ]  # fmt: skip
    assert len(play.requests) == 1


def test_a_person_learns_why_a_retrain_was_refused() -> None:
    watched = monitor().model_copy(update={"retrain": None})
    play = Play(watched)
    play.send(command("retrain"))
    assert reasons(play.commit()) == ["invalid"]


@pytest.mark.parametrize("action", ["promote", "rollback", "register"])
def test_commands_of_the_registry_are_left_to_it(action: str) -> None:
    play = Play()
    play.send(command(action, model=ELSEWHERE))
    assert play.commit() == Commit()


def test_what_does_not_change_is_not_written_again() -> None:
    play = Play()
    play.send(window(5, 100))
    assert len(play.commit().changelog) == 1
    play.send(window(4, 100))
    play.tick(T0)
    assert play.commit() == Commit()


LINES = st.one_of(
    st.builds(window, st.integers(0, 60), st.integers(0, 20_000)),
    st.builds(
        alert,
        st.sampled_from(["firing", "resolved"]),
        st.integers(0, 3),
        st.sampled_from(["error-rate", "mine", "other"]),
        st.integers(0, 5000),
    ),
    st.builds(
        lambda action, number: command(action, command_id=f"c{number}"),
        st.sampled_from(["retrain", "pause", "resume", "silence"]),
        st.integers(0, 3),
    ),
)


def run(lines: Sequence[Line], happens: Sequence[str]) -> Play:
    play = Play(monitor(schedule="*/20 * * * *"))
    uncommitted: list[tuple[int, Line]] = []

    def one(index: int, line: Line) -> None:
        play.send(line)
        play.tick(T0 + index * 5 * MINUTE)

    for index, line in enumerate(lines):
        uncommitted.append((index, line))
        one(index, line)
        if happens[index] == "commit":
            play.commit()
            uncommitted.clear()
        elif happens[index] == "crash":
            play.task.commit()  # the transaction never got through
            play.begin()
            for again in uncommitted:
                one(*again)
    play.commit()
    return play


@settings(max_examples=60)
@given(st.lists(LINES, max_size=40), st.data())
def test_commits_and_crashes_change_no_request(lines: list[Line], data: st.DataObject) -> None:
    n = len(lines)
    drawn = data.draw(
        st.lists(st.sampled_from(["", "", "commit", "crash"]), min_size=n, max_size=n)
    )
    undisturbed, disturbed = run(lines, [""] * n), run(lines, drawn)
    assert disturbed.outputs == undisturbed.outputs
    assert disturbed.changelog == undisturbed.changelog
    ids = [request.request_id for request in disturbed.requests]
    assert len(set(ids)) == len(ids)


def test_every_event_sent_here_is_one_of_the_contract() -> None:
    from kedge import Window

    classes: dict[str, type[Event]] = {"windows": Window, "alerts": Alert, "commands": Command}
    for topic, value in (window(1, 2), alert("firing", 1), command("pause")):
        decode(classes[topic], value)
