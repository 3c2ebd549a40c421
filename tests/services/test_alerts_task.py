from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import Alert
from kedge.base import Event
from kedge.codec import decode
from kedge_services.alerts.task import AlertsTask
from kedge_services.runtime.ports import Batch, Commit, Record, TaskContext
from kedge_services.runtime.tables import MonitorTable, VersionTable

GOLDEN = Path(__file__).parent.parent / "golden" / "alerts"
SCENARIOS = sorted(folder.name for folder in GOLDEN.iterdir())

#: A topic and the value of a record, as it lies in the golden files.
Line = tuple[str, bytes]


def lines(scenario: str) -> list[Line]:
    """Give the records of a scenario, tables and windows in the order of their arrival."""
    text = (GOLDEN / scenario / "input.ndjson").read_text(encoding="utf-8")
    read = [json.loads(line) for line in text.splitlines()]
    return [(line["topic"], json.dumps(line["value"]).encode()) for line in read]


class Play:
    """A partition of the service with what Kafka keeps of it: it can die at any place."""

    def __init__(self, *, partition: int = 0, partitions: int = 1) -> None:
        self.partition, self.partitions = partition, partitions
        self.monitors, self.versions = MonitorTable(), VersionTable()
        self.changelog: list[tuple[bytes, bytes | None]] = []
        self.outputs: list[tuple[str, bytes | None, bytes]] = []
        self.refreshed = 0
        self.begin()

    def begin(self) -> None:
        self.task = AlertsTask(
            TaskContext(self.partition, lambda: 0, self.refresh, lambda _: self.partitions),
            self.monitors,
            self.versions,
        )
        n = len(self.changelog)
        keys, values = [key for key, _ in self.changelog], [value for _, value in self.changelog]
        self.task.restore(Batch("c", self.partition, range(n), [0] * n, keys, values, [()] * n))
        self.task.start({})

    def refresh(self) -> None:
        self.refreshed += 1

    def table(self, topic: str, value: bytes | None, key: bytes = b"fraud") -> None:
        table = self.monitors if topic == "monitors" else self.versions
        table.apply(Record(topic, 0, 0, 0, key, value, ()))

    def windows(self, values: Sequence[bytes | None], *, start: int = 0) -> None:
        n = len(values)
        offsets = range(start, start + n)
        batch = Batch("windows", self.partition, offsets, [0] * n, [b"k"] * n, values, [()] * n)
        self.task.process(batch)

    def commit(self) -> Commit:
        commit = self.task.commit()
        self.changelog += commit.changelog
        self.outputs += [(out.topic, out.key, out.value or b"") for out in commit.outputs]
        self.task.committed()
        return commit

    @property
    def alerts(self) -> list[Alert]:
        return [decode(Alert, value) for topic, _, value in self.outputs if topic == "alerts"]


def run(stream: Sequence[Line], happens: Callable[[int], str] = lambda _: "") -> Play:
    """Send a stream; after each record nothing happens, a commit or a crash."""
    play = Play()
    pending: list[bytes] = []
    for index, (topic, value) in enumerate(stream):
        if topic != "windows":
            # A table is seen from some moment on; here the moment is fixed.
            play.windows(pending)
            pending.clear()
            play.commit()
            play.table(topic, value)
            uncommitted: list[bytes] = []
            continue
        pending.append(value)
        uncommitted.append(value)
        what = happens(index)
        if what == "batch":
            play.windows(pending)
            pending.clear()
        elif what == "commit":
            play.windows(pending)
            play.commit()
            pending.clear()
            uncommitted.clear()
        elif what == "crash":
            play.windows(pending)
            play.task.commit()  # the transaction never got through
            play.begin()
            pending = list(uncommitted)
    play.windows(pending)
    play.task.tick(0, {})
    play.commit()
    return play


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_golden_stream(scenario: str) -> None:
    play = run(lines(scenario))
    expected = (GOLDEN / scenario / "alerts.ndjson").read_text(encoding="utf-8")
    found = [json.loads(value) for topic, _, value in play.outputs if topic == "alerts"]
    assert found == [json.loads(line) for line in expected.splitlines()]
    assert play.outputs == [out for out in play.outputs if out[0] == "alerts"]
    for alert, (_, key, _) in zip(play.alerts, play.outputs, strict=True):
        assert key == f"{alert.alert_id}/{alert.status}".encode()


@pytest.mark.parametrize("scenario", SCENARIOS)
@settings(max_examples=15)
@given(data=st.data())
def test_batches_commits_and_crashes_change_nothing(scenario: str, data: st.DataObject) -> None:
    stream = lines(scenario)
    happens = st.sampled_from(["", "", "batch", "commit", "crash"])
    drawn = data.draw(st.lists(happens, min_size=len(stream), max_size=len(stream)))
    undisturbed, disturbed = run(stream), run(stream, drawn.__getitem__)
    assert disturbed.outputs == undisturbed.outputs
    assert dict(disturbed.changelog) == dict(undisturbed.changelog)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_stream_read_twice_gives_no_second_alert(scenario: str) -> None:
    stream = lines(scenario)
    again = [line for line in stream if line[0] == "windows"]
    assert run([*stream, *again]).outputs == run(stream).outputs


# ------------------------------------------------------------------ the shell


def of_windows(scenario: str = SCENARIOS[0]) -> list[bytes]:
    return [value for topic, value in lines(scenario) if topic == "windows"]


def with_tables(scenario: str = SCENARIOS[0], **kwargs: Any) -> Play:
    play = Play(**kwargs)
    for topic, value in lines(scenario)[:2]:
        play.table(topic, value)
    return play


def changed(value: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(value), **changes}).encode()


def reasons(commit: Commit) -> list[str]:
    letters = [out for out in commit.outputs if out.topic == "dead-letters"]
    return [dict(out.headers)["kedge-reason"].decode() for out in letters]


def test_a_window_nobody_can_read_is_a_dead_letter_and_harms_no_other() -> None:
    play = with_tables()
    good = of_windows()
    bad = [
        b"\xff",
        b"[]",
        changed(good[1], scale="two"),
        changed(good[1], model=7),
        json.dumps({"is_decided": True}).encode(),
    ]
    play.windows([*bad, None, *good])
    commit = play.commit()
    assert reasons(commit) == [
        "undecodable", "undecodable", "bad-value", "bad-value", "missing-field"
    ]  # fmt: skip
    assert play.alerts == run(lines(SCENARIOS[0])).alerts


def test_a_window_on_the_wrong_partition_is_misrouted() -> None:
    outcomes = {}
    for partition in (0, 1):
        play = with_tables(partition=partition, partitions=2)
        play.windows(of_windows())
        outcomes[partition] = set(reasons(play.commit())), len(play.alerts) > 0
    assert sorted(outcomes.values(), key=str) == [(set(), True), ({"misrouted"}, False)]


def test_an_unknown_model_is_looked_for_and_then_left_alone() -> None:
    play = Play()
    play.windows(of_windows())
    assert play.commit().outputs == []
    assert play.refreshed > 0


def test_the_alerts_of_a_model_end_when_its_monitor_is_removed() -> None:
    play = with_tables()
    play.windows(of_windows()[:12])
    play.commit()
    assert [alert.status for alert in play.alerts][-1] == "firing"
    play.task.tick(0, {})
    assert play.commit() == Commit()
    play.table("monitors", None)
    play.begin()  # it does not matter who sees it first
    for _ in range(2):
        play.task.tick(0, {})
    play.commit()
    assert [alert.resolved_because for alert in play.alerts if alert.ends_ms][-1] == "removed"
    assert sum(alert.status == "resolved" for alert in play.alerts) == 1


def test_a_window_that_lags_behind_does_not_bring_an_old_monitor_back() -> None:
    #  monitor without the rule from pane 2 on:  drift 2 (in force)  performance 0, 1 (late)
    play = with_tables()
    windows = [json.loads(value) for value in of_windows()]
    decided = [w for w in windows if w["is_decided"] and w["revision"] == 1]
    pane_ms = decided[0]["end_ms"] - decided[0]["start_ms"]
    declared = json.loads(lines(SCENARIOS[0])[0][1])
    later_ms = decided[2]["start_ms"]
    play.table("monitors", json.dumps({**declared, "rules": [], "effective_ms": later_ms}).encode())
    drift = {
        **decided[0], "window_id": "fraud/k1//r/drift/1/x", "kind": "drift", "measures": [],
        "start_ms": later_ms, "end_ms": later_ms + pane_ms,
    }  # fmt: skip
    low = [{**w, "measures": [{"name": "accuracy", "value": 0.1, "n": 9}]} for w in decided[:2]]
    play.windows([json.dumps(w).encode() for w in [drift, *low]])
    assert play.commit().outputs == []
    # Without the newer pane the rule is still in force in those two.
    other = with_tables()
    other.windows([json.dumps(w).encode() for w in low])
    assert len(other.commit().outputs) == 2


def test_what_does_not_change_is_not_written_again() -> None:
    play = with_tables()
    play.windows(of_windows())
    assert play.commit().changelog
    play.windows(of_windows())
    play.task.tick(0, {})
    assert play.commit() == Commit()


def test_every_event_of_a_golden_stream_is_one_of_the_contract() -> None:
    from kedge import ModelVersion, Monitor, Window

    classes: dict[str, type[Event]] = {
        "windows": Window,
        "monitors": Monitor,
        "model-versions": ModelVersion,
    }
    for scenario in SCENARIOS:
        for topic, value in lines(scenario):
            decode(classes[topic], value)
