"""The how-to about models from elsewhere runs as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kedge_services.cli import main
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.settings import Settings
from live import Live

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "models-from-elsewhere.md").read_text(encoding="utf-8")
PROGRAM = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]


def test_program_and_commands_run_in_the_order_of_the_page(
    kafka_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(
        "KEDGE_KAFKA__BOOTSTRAP_SERVERS", str(kafka_settings.kafka.bootstrap_servers)
    )
    monkeypatch.setenv("KEDGE_PREFIX", kafka_settings.prefix)
    monkeypatch.setenv("KEDGE_ARTEFACTS", kafka_settings.artefacts)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    (program,) = PROGRAM
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)

    assert len(COMMANDS) >= 6
    shown = []
    with Live(kafka_settings, [(make_registry, 0)]):
        for command in COMMANDS:
            kedge, *arguments = shlex.split(command)
            assert kedge == "kedge"
            assert main(arguments) == 0, capsys.readouterr().err
            shown.append(capsys.readouterr().out)
    everything = "".join(shown)
    assert "fraud 2024.1 is champion: the first version of the model\n" in everything
    assert re.search(r"on the labelled rows of its reference: accuracy 0\.9\d+,", everything)
    assert re.search(r"fraud +models:/fraud/12 +shadow +served elsewhere", everything)
    assert "fraud models:/fraud/12 is champion: promote by" in everything
    assert re.search(r"artefact +served elsewhere", shown[-1])
