"""``kedge dead-letters`` on a real Kafka, with the service that puts records aside."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from kedge.topics import request_partition
from kedge_services.panes import service as panes
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.dead_letters import dead_letter
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.ports import Produce, Record
from kedge_services.runtime.settings import Settings

pytestmark = pytest.mark.kafka

PLACE = "1:0"


@pytest.fixture
def running_panes(kafka_settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    backend = KafkaBackend(kafka_settings)
    loop = Loop(panes.make(kafka_settings), backend, kafka_settings, wall_clock)
    thread = threading.Thread(target=loop.run, args=(stop,))
    with capture_logs():  # they would stand between the lines of the commands
        thread.start()
        yield
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def prediction(name: str) -> bytes:
    return json.dumps(
        {"prediction_id": name, "model": "m", "version": "1", "event_time_ms": wall_clock(),
         "features": {"a": 1}}
    ).encode()  # fmt: skip


def letters(kedge: Any, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kedge("dead-letters", "list", "--json", *arguments).data
    return found


def wait_for(kedge: Any, count: int, *arguments: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 30
    while True:
        found = letters(kedge, *arguments)
        if sum(group["letters"] for group in found) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.mark.usefixtures("running_panes")
def test_what_was_misrouted_comes_right_and_nothing_goes_twice(kedge: Any, cluster: Any) -> None:
    cluster.watch("m")
    name = next(f"r{i}" for i in range(99) if request_partition(f"r{i}", 2) == 1)
    value = prediction(name)
    cluster.write(Produce("predictions", name.encode(), value, 0))
    [group] = wait_for(kedge, 1)
    assert (group["reason"], group["topic"], group["model"]) == ("misrouted", "predictions", "m")

    dry = kedge("dead-letters", "resend", "--reason", "misrouted", "--dry-run")
    assert (dry.status, dry.out) == (0, "nothing was sent (--dry-run)\n")
    assert "1 misrouted to predictions of m" in dry.error
    told = kedge("dead-letters", "resend", "--reason", "misrouted", "--yes")
    assert (told.status, told.out) == (0, "sent back 1 to predictions\n")
    sent = [record for record in cluster.read("predictions") if record.partition == 1]
    assert [(r.key, r.value) for r in sent] == [(name.encode(), value)]
    assert (
        dict(sent[0].headers)["kedge-resent-from"]
        == f"dead-letters/0/{group['newest'][2:]}".encode()
    )
    assert [(g["letters"], g["resent"]) for g in letters(kedge)] == [(1, 1)]

    again = kedge("dead-letters", "resend", "--reason", "misrouted", "--yes")
    assert (again.status, again.out) == (0, "nothing was sent back\n")
    assert "1 letter left out: sent back before" in again.error
    named = kedge("dead-letters", "resend", group["newest"], "--yes")
    assert named.status == 2
    assert f"{group['newest']} was sent back already" in named.error
    shown = kedge("dead-letters", "show", group["newest"], "--json").data
    assert len(shown["resent"]) == 1
    tailed = kedge("tail", "dead-letters", "--from-start", "--no-follow").out
    assert f"resent {group['newest']} by " in tailed
    # The service takes it now: no second letter comes while it reads on.
    cluster.write(Produce("predictions", b"x", b"nonsense", 1))
    wait_for(kedge, 2)
    assert sorted(g["reason"] for g in letters(kedge)) == ["misrouted", "undecodable"]


@pytest.mark.usefixtures("running_panes")
def test_what_is_still_wrong_is_put_aside_again(kedge: Any, cluster: Any) -> None:
    cluster.watch("m")
    cluster.write(Produce("predictions", b"x", b"nonsense", 1))
    [group] = wait_for(kedge, 1)
    assert kedge("dead-letters", "resend", group["newest"], "--yes", "--json").data["sent"] == {
        "predictions": 1
    }
    [group] = wait_for(kedge, 2)
    assert (group["letters"], group["resent"]) == (2, 1)
    second = kedge("dead-letters", "show", group["newest"], "--json").data
    assert second["headers"].keys() == {"kedge-resent-from"}
    assert second["resent"] == []


def put_aside(cluster: Any, value: bytes, reason: Any, **source: Any) -> None:
    record = Record(source.get("topic", "predictions"), 1, 4, 1_000, b"k\x1b[2J", value,
                    [("content-type", b"text")])  # fmt: skip
    cluster.write(dead_letter(record, reason, "because \x1b[31mred", service="panes"))


def test_a_letter_is_shown_whole_and_cannot_touch_the_terminal(kedge: Any, cluster: Any) -> None:
    put_aside(cluster, '{"model":"[/x]\\u001b[2J","a":"\x9b"}'.encode(), "late")
    put_aside(cluster, b"\x00\x1b[2J" + bytes(5_000), "undecodable")
    told = kedge("dead-letters", "show", PLACE)
    assert told.status == 0
    for part in ("late", "because", "predictions 1:4", "content-type: text", '"model": "[/x]'):
        assert part in told.out
    listed = kedge("dead-letters", "list")
    assert "[/x]" in listed.out
    assert "2 dead letters in 2 groups" in listed.out
    dumped = kedge("dead-letters", "show", "1:2")
    assert "00000000  00 1b 5b 32 4a 00" in dumped.out
    assert "… and 909 bytes more" in dumped.out
    plan = kedge("dead-letters", "resend", "--reason", "late", "--dry-run")
    for shown in (told, listed, dumped, plan):
        assert not {"\x1b", "\x9b", "\x00"} & {*shown.out, *shown.error}
    data = kedge("dead-letters", "show", "1:2", "--json").data
    assert data["value_base64"].startswith("ABtbMko")


def test_lists_are_filtered_and_cut(kedge: Any, cluster: Any) -> None:
    assert kedge("dead-letters", "list").out == "no dead letters\n"
    put_aside(cluster, b'{"model":"m"}', "late")
    put_aside(cluster, b'{"model":"n"}', "late")
    put_aside(cluster, b"{}", "invalid", topic="windows")
    assert [g["model"] for g in letters(kedge, "--model", "n")] == ["n"]
    assert [g["topic"] for g in letters(kedge, "--topic", "windows")] == ["windows"]
    assert len(letters(kedge, "--reason", "late", "--since", "1h")) == 2
    assert kedge("dead-letters", "list", "--since", "1ms").out == "no such dead letters\n"
    assert "2 more groups, see --limit" in kedge("dead-letters", "list", "--limit", "1").out
    tailed = kedge("tail", "dead-letters", "--from-start", "--no-follow")
    assert len(tailed.out.splitlines()) == 3


def test_what_cannot_go_back_is_said(kedge: Any, cluster: Any) -> None:
    put_aside(cluster, b"{}", "invalid", topic="windows")
    told = kedge("dead-letters", "resend", PLACE, "--yes")
    assert told.status == 2
    assert "windows is written by its service alone" in told.error
    told = kedge("dead-letters", "resend", "--topic", "windows", "--yes")
    assert (told.status, told.out) == (0, "nothing was sent back\n")
    assert "1 letter cannot go back" in told.error
    for place in ("0:0", "1:77", "9:0"):
        assert f"no dead letter at {place}" in kedge("dead-letters", "show", place).error
        assert kedge("dead-letters", "resend", place, "--yes").status == 2
