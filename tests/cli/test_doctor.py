"""``kedge doctor``: what is well is said to be well, what is not is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from kedge import Monitor
from kedge.codec import encode
from kedge.errors import Stop
from kedge.monitor import Executor, Feature, Notify
from kedge_services.local.doctor.cluster import check_versions, judge_clocks
from kedge_services.local.doctor.findings import Finding, findings_of
from kedge_services.local.doctor.machine import check_packages, check_store
from kedge_services.runtime.ports import Position, Produce, TopicPartition
from kedge_services.runtime.settings import Settings


def doctor(kedge: Any, *arguments: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Give the status, and the findings by check."""
    told = kedge("doctor", "--json", *arguments)
    assert told.error == ""
    found: dict[str, list[dict[str, str]]] = {}
    for finding in told.data["checks"]:
        found.setdefault(finding["check"], []).append(finding)
        assert finding["state"] in {"ok", "warning", "failed"}
        assert finding["state"] == "ok" or finding["move"] or finding["check"] == "monitors"
    states = [f["state"] for f in told.data["checks"]]
    assert told.data["failed"] == states.count("failed")
    assert told.data["warnings"] == states.count("warning")
    assert told.status == (1 if "failed" in states else 0)
    return told.status, found


def of(found: dict[str, list[dict[str, str]]], check: str) -> tuple[str, str]:
    """Give state and detail of the only finding of a check."""
    [finding] = found[check]
    return finding["state"], finding["detail"]


def admin_of(settings: Settings) -> AdminClient:
    return AdminClient({"bootstrap.servers": str(settings.kafka.bootstrap_servers)})


def topics_of(settings: Settings) -> set[str]:
    topics = admin_of(settings).list_topics(timeout=10).topics
    return {name for name in topics if name.startswith(settings.prefix)}


@pytest.mark.kafka
def test_a_good_set_up_has_no_failure(kedge: Any, cluster: Any, tmp_path: Path) -> None:
    before = topics_of(cluster.settings)
    status, found = doctor(kedge)
    assert status == 0
    assert of(found, "topics") == (
        "ok", f"all {len(before)} are there, with their partitions and settings",
    )  # fmt: skip
    for check in ("python", "disk", "artefact store", "brokers", "Kafka", "version",
                  "round trip", "clocks"):  # fmt: skip
        assert of(found, check)[0] == "ok", found[check]
    assert "Kafka 4.1 or newer" in of(found, "version")[1]
    assert "from KEDGE_KAFKA__BOOTSTRAP_SERVERS" in of(found, "brokers")[1]
    assert of(found, "monitors")[0] == "warning"  # there is none yet
    assert of(found, "services") == ("warning", "none is running")
    assert topics_of(cluster.settings) == before  # its own topic is gone
    assert not any(tmp_path.rglob(".doctor-*"))


@pytest.mark.kafka
def test_monitors_and_their_variables_are_looked_at(
    kedge: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {"a": Feature(type="numeric")}
    monitor = Monitor(
        model="good", task="regression", features=features,
        notify=[Notify(kind="slack", url_env="SLACK"), Notify(kind="webhook", url_env="HOOK"),
                Notify(kind="webhook", url_env="NOWHERE")],
        executors=[Executor(name="x", kind="webhook", url_env="RUNS", secret_env="SIGNING")],  # noqa: S106 -- its name
    )  # fmt: skip
    cluster.write(
        Produce("monitors", b"good", encode(monitor), 0),
        Produce("monitors", b"bad", b'{"model": "bad"}', 0),
        Produce("monitors", b"gone", b"nonsense", 1),
        Produce("monitors", b"gone", None, 1),
    )
    monkeypatch.setenv("SLACK", "https://hooks.example/t0ken")
    monkeypatch.setenv("HOOK", "s3cret-but-no-url")
    monkeypatch.setenv("RUNS", "http://runs.example")
    told = kedge("doctor", "--json")
    assert told.status == 1
    assert "t0ken" not in told.out
    assert "s3cret" not in told.out
    checks = json.loads(told.out)["checks"]
    monitors = [(c["state"], c["detail"].split(":")[0]) for c in checks if c["check"] == "monitors"]
    assert monitors == [("failed", "bad"), ("ok", "good is valid")]
    variables = {
        c["detail"].split(",")[0]: (c["state"], "notifier" in c["detail"])
        for c in checks
        if c["check"] == "variables"
    }
    assert variables == {
        "$SLACK": ("ok", True), "$HOOK": ("failed", True), "$NOWHERE": ("warning", True),
        "$RUNS": ("ok", False), "$SIGNING": ("warning", False),
    }  # fmt: skip


@pytest.mark.kafka
def test_wrong_topics_are_named_with_what_to_do(kedge: Any, cluster: Any) -> None:
    admin = admin_of(cluster.settings)
    alerts, outcomes = (cluster.settings.prefix + name for name in ("alerts", "outcomes"))
    for future in admin.delete_topics([alerts, outcomes]).values():
        future.result()
    wrong = NewTopic(outcomes, num_partitions=3, replication_factor=1)
    admin.create_topics([wrong])[outcomes].result()
    status, found = doctor(kedge)
    assert status == 1
    moves = {finding["detail"]: finding["move"] for finding in found["topics"]}
    assert moves[f"{alerts} is missing"] == "`kedge topics create`"
    assert "never change" in moves[f"{outcomes} has 3 partitions, must have 2"]
    assert any("message.timestamp.type=CreateTime" in detail for detail in moves)


@pytest.mark.kafka
def test_services_and_what_waits_for_them_are_counted(kedge: Any, cluster: Any) -> None:
    for number in range(3):  # each transaction ends with a marker that is no record
        cluster.write(Produce("windows", b"w", b"%d" % number, 0))
    reader = cluster.backend.consumer(group="alerts")
    held: list[TopicPartition] = []
    reader.subscribe(
        ["windows"], on_assign=held.extend, on_revoke=lambda _: None, on_lost=lambda _: None
    )
    while not held:
        reader.poll(1, 0.1)
    producer = cluster.backend.producer("offsets")
    producer.begin()
    producer.send_offsets({TopicPartition("windows", 0): Position(1)}, reader.group_metadata())
    producer.commit()
    _, found = doctor(kedge)
    lines = {f["detail"].split(":")[0]: (f["state"], f["detail"]) for f in found["services"]}
    assert lines["alerts"] == ("ok", "alerts: 1 process, 2 records behind")
    assert lines["panes"] == ("warning", "panes: not running, nothing read yet")
    reader.close()
    producer.close()
    assert of(doctor(kedge)[1], "services") == ("warning", "none is running; 2 records wait")


@pytest.mark.kafka
def test_a_cluster_without_our_topics_is_told_apart(
    kedge: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del cluster
    monkeypatch.setenv("KEDGE_PREFIX", "nobody-has-this.")
    status, found = doctor(kedge)
    assert status == 1
    assert of(found, "topics")[1].startswith("none of the")
    assert of(found, "round trip")[0] == "ok"
    assert of(found, "monitors")[0] == "failed"


def test_without_a_broker_the_rest_is_still_checked(
    kedge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, found = doctor(kedge)
    assert status == 1
    assert of(found, "brokers") == ("failed", "no Kafka is known, so nothing on it was checked")
    assert of(found, "artefact store")[0] == "ok"
    assert not (tmp_path / ".kedge").exists()


def test_secrets_are_not_shown(kedge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_KAFKA__PROPERTIES", '{"sasl.password": "hush-1"}')
    monkeypatch.setenv("KEDGE_ARTEFACTS", "nothing://user:hush-2@bucket/models?key=hush-3")
    monkeypatch.setenv("KEDGE_KAFKA__TIMEOUT_S", "0.2")
    for arguments in ((), ("--json",), ("--bootstrap-servers", "127.0.0.1:1")):
        told = kedge("doctor", *arguments)
        assert told.status == 1
        assert "hush" not in told.out + told.error
        assert "nothing://bucket/models" in "".join(told.out.split())


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_page_fits_its_terminal(
    kedge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    (tmp_path / "kedge.toml").write_text(f"artefacts = '/dev/null/{'x' * 150}'")
    told = kedge("doctor")
    assert max(map(len, told.out.splitlines())) <= int(columns)
    assert "→ make it writable" in told.out
    assert "failed" in told.out


def test_a_wrong_setting_is_a_finding(kedge: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kedge.toml").write_text("nonsense = 1")
    status, found = doctor(kedge)
    assert status == 1
    assert "nonsense: no such setting" in of(found, "settings")[1]


def test_missing_packages_are_named_with_their_extra() -> None:
    found = list(check_packages([
        "no-such-package>=1; extra == 'services'", "typer>=0.1; extra == 'services'",
        "neither<2,>=1; extra == 'onnx'", "pydantic>=2",
    ]))  # fmt: skip
    assert [(f.state, f.move) for f in found] == [
        ("failed", "pip install 'kedge[services]'"), ("ok", ""),
        ("warning", "pip install 'kedge[onnx]'"),
    ]  # fmt: skip
    assert "no-such-package" in found[0].detail
    assert "typer" not in found[0].detail


@pytest.mark.parametrize(
    ("append_ms", "state", "words"),
    [
        (10_500, "ok", "agree"),
        (11_900, "ok", "agree"),
        (14_000, "warning", "3.0 s ahead of"),
        (7_000, "warning", "3.0 s behind"),
        (-300_001, "failed", "put aside as bad-time"),
    ],
)
def test_clocks_are_compared(append_ms: int, state: str, words: str) -> None:
    """Sent between 10,000 and 11,000 ms by our clock; the broker says ``append_ms``."""
    found = judge_clocks(append_ms, 10_000, 11_000, 300_000)
    assert found.state == state
    assert words in found.detail


def test_an_old_kafka_is_refused() -> None:
    assert [f.state for f in check_versions({1: 11, 28: 2})] == ["failed"]
    assert [f.state for f in check_versions({1: 11, 28: 3})] == ["ok"]
    assert [f.state for f in check_versions({})] == ["warning"]


def test_a_check_that_breaks_off_is_a_finding() -> None:
    def check() -> Any:
        yield Finding("a", "ok", "")
        raise Stop("the rest cannot be seen")

    assert [f.state for f in findings_of("a", check)] == ["ok", "failed"]


def test_a_store_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [found] = check_store(Settings(artefacts=str(tmp_path / "file" / "store")))
    assert found.state == "failed"
    [found] = check_store(Settings(artefacts="memory://models"))
    assert found.state == "ok"
