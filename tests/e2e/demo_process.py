"""A demo as a user starts it, whose processes can be found and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

POLL_S = 0.05


class DemoProcess:
    """`kedge demo` in a directory of its own, which also holds its temporary files."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self._summary = directory / "summary.json"
        self._output = directory / "demo.log"
        self.killed: list[str] = []
        self.pids: set[int] = set()
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kedge_services.cli", "demo",
                 "--json", str(self._summary), *arguments],
                cwd=directory, env={**os.environ, "TMPDIR": str(directory)},
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def text(self) -> str:
        """Give what it has said."""
        return self._output.read_text()

    def processes(self) -> dict[str, dict[str, Any]]:
        """Give its processes, as the supervisor lists them; none before and after."""
        for file in self.directory.glob("kedge-demo-*/processes.json"):
            found: dict[str, dict[str, Any]] = json.loads(file.read_text())["processes"]
            self.pids |= {process["pid"] for process in found.values() if process["pid"]}
            return found
        return {}

    def until(self, condition: Callable[[], object], what: str, seconds: float = 120) -> None:
        """Wait for something; fail when the demo ends before it."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"it ended before {what}: {self.text()}"
            assert time.monotonic() < deadline, f"{what}: not in {seconds} s; {self.text()}"
            time.sleep(POLL_S)

    def until_told(self, pattern: str, seconds: float = 120) -> None:
        """Wait for a line of the timeline."""
        self.until(lambda: re.search(pattern, self.text()), pattern, seconds)

    def wait(self, seconds: float) -> None:
        """Let the demo go on for so long."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end, f"{seconds} s had passed", seconds + 5)

    def kill(self, name: str) -> int:
        """Send SIGKILL to a process as soon as it is ready; give its id."""
        ready = lambda: self.processes().get(name, {}).get("state") == "ready"  # noqa: E731
        self.until(ready, f"{name} was ready")
        pid = int(self.processes()[name]["pid"])
        os.kill(pid, signal.SIGKILL)
        self.killed.append(name)
        return pid

    def end(self, seconds: float = 280) -> dict[str, Any]:
        """Wait for its end; give the summary."""
        self.process.wait(seconds)
        assert self._summary.exists(), self.text()
        summary: dict[str, Any] = json.loads(self._summary.read_text())
        return summary

    def left_behind(self) -> list[int]:
        """Give those of its processes that still live."""
        return [pid for pid in self.pids if psutil.pid_exists(pid)]

    def close(self) -> None:
        """End it, whatever it is doing; its children follow."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
