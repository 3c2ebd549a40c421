"""The command line: help, exit statuses, one sentence for each mistake."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kedge_services.cli import application, main
from kedge_services.cli.tail import as_json, as_text, is_about
from kedge_services.local.broker import announced
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Produce, Record
from kedge_services.runtime.settings import Settings

COMMANDS = ["up", "run", "broker", "topics create", "topics check", "tail"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file of the directory the tests run in matter."""
    monkeypatch.chdir(tmp_path)


def test_every_command_and_every_option_explains_itself() -> None:
    def commands(group: Any, path: str) -> list[tuple[str, Any]]:
        found = [(f"{path} {name}".strip(), command) for name, command in group.commands.items()]
        return found + [
            pair for name, one in found if hasattr(one, "commands") for pair in commands(one, name)
        ]

    everything = dict(commands(get_command(application()), ""))
    assert {*COMMANDS} <= everything.keys()
    for name, command in everything.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_help_comes_with_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: kedge [OPTIONS] COMMAND")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kedge 0.")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["nonsense"], 2, "nonsense"),
        (["run", "pane", "--bootstrap-servers", "127.0.0.1:1"], 2, "there is no service 'pane'"),
        (["up", "--services", "panes,nobody"], 2, "--services: there is no service 'nobody'"),
        (["tail", "windoes", "--bootstrap-servers", "127.0.0.1:1"], 2, "no topic 'windoes'"),
        (["topics", "check"], 1, "no Kafka is known: start one with `kedge up`"),
        (["topics", "check", "--config", "none.toml"], 2, "none.toml: no such settings file"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_status(
    arguments: list[str], status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_a_wrong_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kedge.toml").write_text("[loop]\ncommit_interval = 3\n")
    assert main(["topics", "check"]) == 2
    assert "loop.commit_interval" in capsys.readouterr().err


def test_without_extras_the_command_says_what_to_install() -> None:
    # -S hides site-packages: a plain Python that has our sources only.
    root = Path(__file__).parents[2]
    script = (
        f"import sys; sys.path[:0] = [{str(root / 'services')!r}, {str(root / 'schemas')!r}]\n"
        "from kedge_services.cli import main; sys.exit(main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'kedge[services,local]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kafka
def test_topics_are_created_and_checked(
    kafka_settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = kafka_settings.kafka.bootstrap_servers
    assert address is not None
    monkeypatch.setenv("KEDGE_KAFKA__BOOTSTRAP_SERVERS", address)
    monkeypatch.setenv("KEDGE_PREFIX", kafka_settings.prefix)
    assert main(["topics", "check"]) == 1  # the tests have fewer partitions than the default
    assert "predictions has 2 partitions, must have 8" in capsys.readouterr().err
    monkeypatch.setenv("KEDGE_REQUEST_PARTITIONS", "2")
    monkeypatch.setenv("KEDGE_MODEL_PARTITIONS", "2")
    assert main(["topics", "create"]) == 0
    assert "0 created" in capsys.readouterr().out
    assert main(["topics", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"problems": []}


@pytest.mark.kafka
def test_tail_shows_committed_records_decoded(
    kafka_settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = kafka_settings.kafka.bootstrap_servers
    assert address is not None
    monkeypatch.setenv("KEDGE_PREFIX", kafka_settings.prefix)
    producer = KafkaBackend(kafka_settings).producer("test")
    producer.begin()
    producer.produce(Produce("windows", b"w-1", b'{"model":"a","n":1}', 0))
    producer.produce(Produce("windows", b"w-2", b'{"model":"b","n":2}', 1))
    producer.produce(Produce("windows", b"w-3", b'{"model":"a","n":3}', 1))
    producer.commit()
    producer.begin()
    producer.produce(Produce("windows", b"w-4", b'{"model":"a","n":4}', 1))
    everything = ["tail", "windows", "--from-start", "--no-follow", "--bootstrap-servers", address]
    assert main([*everything, "--json", "--model", "a"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(one["value"]["n"] for one in shown) == [1, 3]
    assert main([*everything, "--limit", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    producer.close()


@pytest.mark.kafka
def test_broker_announces_itself_and_stops_on_sigterm(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "kedge_services.cli", "broker", "--port", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        address = process.stdout.readline().split()[4]
        found = announced(tmp_path / ".kedge" / "broker.json")
        process.terminate()
        assert process.wait(30) == 0
    assert found == address
    assert announced(tmp_path / ".kedge" / "broker.json") is None


def record(value: bytes | None, *, key: bytes | None = b"m", **headers: str) -> Record:
    pairs = [(name.replace("_", "-"), text.encode()) for name, text in headers.items()]
    return Record("alerts", 1, 7, 1_795_220_224_624, key, value, pairs)


def test_tail_shows_times_and_leaves_out_what_is_empty() -> None:
    line = as_text(
        record(b'{"schema":1,"model":"m","start_ms":1795220224624,"segment":null,"value":0.25}')
    ).plain
    assert line.startswith("2026-11-21T00:17:04.624Z 1:7 ")
    assert "model=m start_ms=2026-11-21T00:17:04.624Z value=0.25" in line
    assert "schema" not in line
    assert "segment" not in line


def test_tail_shows_why_a_dead_letter_is_one() -> None:
    line = as_text(
        record(b"\xff{", kedge_reason="undecodable", kedge_detail="no JSON",
               kedge_topic="predictions", kedge_partition="3", kedge_offset="9")
    ).plain  # fmt: skip
    assert "undecodable no JSON (from predictions 3:9)" in line


def test_tail_json_keeps_bytes_that_are_no_json() -> None:
    shown = as_json(record(b"\x00\xff", kedge_reason="unsupported-format"))
    assert base64.b64decode(shown["value_base64"]) == b"\x00\xff"
    assert shown["headers"] == {"kedge-reason": "unsupported-format"}
    assert as_json(record(b"null"))["value"] is None
    assert as_json(record(b'{"a":1}'))["value"] == {"a": 1}


def test_tail_finds_the_model_in_the_value_or_in_the_key() -> None:
    assert is_about("m", record(b'{"model":"m"}', key=b"r-1"))
    assert not is_about("m", record(b'{"model":"other"}', key=b"m"))
    assert is_about("m", record(None, key=b"m/12"))
    assert not is_about("m", record(None, key=b"me/12"))
