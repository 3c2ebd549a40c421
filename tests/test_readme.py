"""Every command of the README runs, or is what another test runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
    if line.strip()
]
#: Run as they stand by other tests: the demo and its variants, `kedge up` and `apply`,
#: and the closed loop, which takes minutes.
ELSEWHERE = ("demo", "up", "apply", "--closed-loop")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory that looks like this one, for commands that write files."""
    directory = tmp_path_factory.mktemp("checkout")
    for name in ("docs", "tests"):
        (directory / name).symlink_to(ROOT / name)
    return directory


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_every_make_target_exists(command: str) -> None:
    done = subprocess.run(
        [*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if "kedge " in c])
def test_every_kedge_command_is_understood(command: str, checkout: Path) -> None:
    program, verb, *arguments = shlex.split(command)
    assert program == ".venv/bin/kedge"
    kedge = [sys.executable, "-m", "kedge_services.cli", verb]
    if not {verb, *arguments} & set(ELSEWHERE):
        done = subprocess.run(
            [*kedge, *arguments], cwd=checkout, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return
    usage = subprocess.run(
        [*kedge, "--help"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    for option in (a for a in arguments if a.startswith("--")):
        assert option in usage
    for path in (a for a in arguments if "/" in a):
        assert (ROOT / path).exists(), path


def test_the_folders_it_describes_are_the_folders_there_are() -> None:
    described = set(re.findall(r"^- \*\*(\w+)\*\*", README, re.MULTILINE))
    services = ROOT / "services" / "kedge_services"
    found = {path.parent.name for path in services.glob("*/__init__.py")}
    assert described == found
