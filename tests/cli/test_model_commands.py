"""``kedge models`` with a registry, on a real Kafka."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kedge_services.cli import main
from kedge_services.registry import service as registry
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.settings import Settings

Run = Callable[..., tuple[int, Any, str]]

pytestmark = pytest.mark.kafka

MONITOR = """\
model = "loans"
task = "binary"
classes = ["no", "yes"]
features.age = "numeric"
"""


@pytest.fixture
def run(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command with --json on this test's topics: status, answer, complaint."""
    monkeypatch.setenv(
        "KEDGE_KAFKA__BOOTSTRAP_SERVERS", str(kafka_settings.kafka.bootstrap_servers)
    )
    monkeypatch.setenv("KEDGE_PREFIX", kafka_settings.prefix)
    monkeypatch.setenv("KEDGE_ARTEFACTS", kafka_settings.artefacts)

    def command(*arguments: str) -> tuple[int, Any, str]:
        status = main([*arguments, "--json"])
        shown = capsys.readouterr()
        return status, json.loads(shown.out) if shown.out else None, shown.err

    return command


@pytest.fixture
def running_registry(kafka_settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    loop = Loop(
        registry.make(kafka_settings), KafkaBackend(kafka_settings), kafka_settings, wall_clock
    )
    thread = threading.Thread(target=loop.run, args=(stop,))
    with capture_logs():  # they would stand between the lines of the commands
        thread.start()
        yield
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def monitor_file(tmp_path: Path) -> str:
    path = tmp_path / "loans.toml"
    path.write_text(MONITOR)
    return str(path)


def register(run: Run, version: str, *more: str) -> tuple[int, Any, str]:
    return run("models", "register", "--model", "loans", "--version", version, *more)


@pytest.mark.usefixtures("running_registry")
def test_versions_are_registered_promoted_and_rolled_back(
    run: Run, monitor_file: str, tmp_path: Path
) -> None:
    status, _, complaint = register(run, "v1")
    assert status == 2
    assert complaint == (
        "kedge: loans has no monitor (there are: none); publish one first: "
        "kedge apply MONITOR.toml\n"
    )
    status, applied, _ = run("apply", monitor_file)
    assert (status, applied[0]["result"]) == (0, "new")
    assert run("apply", monitor_file)[1][0]["result"] == "unchanged"

    reference = tmp_path / "reference.csv"
    reference.write_text("age,y\n" + "30,no\n40,yes\n" * 50)
    status, first, complaint = register(
        run, "v1", "--as-champion", "--reference", str(reference), "--label", "y"
    )
    assert (status, complaint) == (0, "")
    assert (first["status"], first["lineage"]["rows"]) == ("champion", 100)
    status, second, _ = register(run, "v2")
    assert (status, second["status"]) == (0, "shadow")
    status, _, complaint = register(run, "v2")
    assert (status, complaint) == (
        2, "kedge: v2 is a version of loans already, and a version never changes\n",
    )  # fmt: skip

    status, _, complaint = run("models", "promote", "loans", "v2", "--expect", "v7")
    assert (status, complaint) == (1, "kedge: refused: the champion is v1, not v7\n")
    status, promoted, _ = run(
        "models", "promote", "loans", "v2", "--expect", "v1", "--by", "alice", "--reason", "faster"
    )
    assert (status, promoted["version"], promoted["status"]) == (0, "v2", "champion")
    assert promoted["reason"] == "promote by alice: faster"
    status, back, _ = run("models", "rollback", "loans")
    assert (status, back["version"], back["status"]) == (0, "v1", "champion")

    status, versions, _ = run("models", "list")
    assert {v["version"]: v["status"] for v in versions} == {"v1": "champion", "v2": "retired"}
    assert run("models", "show", "loans")[1]["version"] == "v1"
    assert run("models", "show", "loans", "v2")[1]["status"] == "retired"


@pytest.mark.usefixtures("running_registry")
def test_versions_served_elsewhere_stand_side_by_side_under_their_own_names(
    run: Run, monitor_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("apply", monitor_file)
    names = ["2024.1", "models:/loans/12", "k1", "über #3"]
    for name in names:
        assert register(run, name)[0] == 0
    assert run("models", "promote", "loans", names[1])[1]["status"] == "champion"
    assert run("models", "promote", "loans", names[3])[1]["status"] == "champion"

    assert main(["models", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    places = [head.index(word) for word in ("version", "status", "artefact", "since (UTC)")]
    shown = [tuple(line[start:end].strip() for start, end in pairwise(places)) for line in lines]
    assert sorted(shown) == [
        ("2024.1", "retired", "served elsewhere"),
        ("k1", "shadow", "served elsewhere"),
        ("models:/loans/12", "shadow", "served elsewhere"),
        ("über #3", "champion", "served elsewhere"),
    ]
    assert main(["models", "show", "loans", "models:/loans/12"]) == 0
    fields = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert fields["version"] == "models:/loans/12"
    assert fields["artefact"] == "served elsewhere"
    assert fields["features"] == "age numeric"

    known = "there are: k1, über #3, 2024.1, models:/loans/12"
    for command in (("promote", "loans", "12"), ("show", "loans", "12")):
        status, _, complaint = run("models", *command)
        assert (status, complaint) == (2, f"kedge: loans has no version '12'; {known}\n")
    status, _, complaint = run("models", "promote", "loans", "über #3")
    assert (status, complaint) == (1, "kedge: refused: über #3 is the champion already\n")


def test_without_an_answer_a_command_says_so_and_stays_in_kafka(
    run: Run, monitor_file: str
) -> None:
    run("apply", monitor_file)
    status, _, complaint = register(run, "v1", "--timeout", "0.2")
    assert status == 1
    assert complaint.startswith("kedge: no answer within 0.2 s: is the registry running?")


def test_what_does_not_exist_is_named_with_what_does(run: Run) -> None:
    assert run("models", "list")[:2] == (0, [])
    for arguments in (("list", "loans"), ("show", "loans"), ("promote", "loans", "v1")):
        status, _, complaint = run("models", *arguments)
        assert (status, complaint) == (2, "kedge: no model 'loans' has versions; there are: none\n")


def test_options_that_belong_together_are_asked_for(run: Run) -> None:
    for option in (("--format", "skops"), ("--features", "age")):
        status, _, complaint = register(run, "v1", *option)
        assert status == 2
        assert complaint.endswith("say something about --artefact FILE\n")
    assert register(run, "")[::2] == (
        2, "kedge: --version: a version's name has 1 to 255 characters\n",
    )  # fmt: skip
    status, _, complaint = register(run, "v1", "--label", "y")
    assert status == 2
    assert "--reference FILE" in complaint
