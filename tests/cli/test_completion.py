"""Completion: the scripts, and what Tab offers; as the shells ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kedge import Monitor
from kedge.codec import encode
from kedge.monitor import Feature
from kedge_services.cli import main
from kedge_services.cli.completion import complete_sendable, complete_services, complete_topic
from kedge_services.local.catalogue import SERVICES
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import Produce
from kedge_services.runtime.settings import Settings

Answer = Callable[..., str]


@pytest.fixture
def answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Answer:
    """Run the program as a shell does that completes: told by variables alone."""
    monkeypatch.chdir(tmp_path)

    def ask(instruction: str, **environ: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in {**environ, "_KEDGE_COMPLETE": instruction}.items():
                patch.setenv(name, value)
            assert main([]) == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        return shown.out

    return ask


def complete(answer: Answer, line: str, **environ: str) -> list[str]:
    """Give what bash is offered at the end of a line."""
    words = str(len(line.split()) - (not line.endswith(" ")))
    return answer("complete_bash", COMP_WORDS=line, COMP_CWORD=words, **environ).split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_every_shell(shell: str, answer: Answer) -> None:
    assert f"_KEDGE_COMPLETE=complete_{shell}" in answer(f"source_{shell}")


def test_bash_takes_the_script_and_the_installed_program_answers_it(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("kedge")
    script = """
        eval "$(_KEDGE_COMPLETE=source_bash kedge)"
        COMP_WORDS=(kedge run tr) COMP_CWORD=2
        _kedge_completion kedge && echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],  # noqa: S607
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["triggers", "trainer"]


def test_run_offers_the_services(answer: Answer) -> None:
    assert complete(answer, "kedge run ") == list(SERVICES)
    assert complete(answer, "kedge run tr") == ["triggers", "trainer"]


@pytest.mark.parametrize(("shell", "action"), [("zsh", ""), ("fish", "get-args")])
def test_other_shells_are_answered_too(shell: str, action: str, answer: Answer) -> None:
    shown = answer(
        f"complete_{shell}", _TYPER_COMPLETE_ARGS="kedge run trig",
        _TYPER_COMPLETE_FISH_ACTION=action,
    )  # fmt: skip
    assert "triggers" in shown
    assert "panes" not in shown


def test_topics_and_lists_of_services() -> None:
    assert complete_topic("pre") == ["predictions"]
    assert "panes-changelog" in complete_topic("panes")
    assert complete_sendable("") == ["requests", "predictions", "outcomes", "commands"]
    assert complete_services("panes,w") == ["panes,windows"]
    assert "panes,panes" not in complete_services("panes,")


def test_models_are_not_waited_for(answer: Answer) -> None:
    began = time.monotonic()
    assert complete(answer, "kedge tail windows --bootstrap-servers 127.0.0.1:1 --model ") == []
    assert complete(answer, "kedge tail windows --model ") == []
    assert time.monotonic() - began < 5


def test_wrong_settings_do_not_spoil_the_prompt(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "kedge.toml").write_text("nonsense = [")
    assert complete(answer, "kedge tail windows --model ") == []


@pytest.mark.kafka
def test_models_come_from_kafka(kafka_settings: Settings, answer: Answer) -> None:
    producer = KafkaBackend(kafka_settings).producer("test")
    producer.begin()
    for name in ("fraud", "churn"):
        monitor = Monitor(model=name, task="regression", features={"a": Feature(type="numeric")})
        producer.produce(Produce("monitors", name.encode(), encode(monitor), 0))
    producer.commit()
    found = complete(
        answer, "kedge models show f",
        KEDGE_KAFKA__BOOTSTRAP_SERVERS=str(kafka_settings.kafka.bootstrap_servers),
        KEDGE_PREFIX=kafka_settings.prefix,
    )  # fmt: skip
    assert found == ["fraud"]
