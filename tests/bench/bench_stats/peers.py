"""The peers: an environment for each, and a process that answers jobs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from bench_stats.data import ROOT, Floats, Table

__all__ = ["CACHE", "Peer", "PeerError", "PeerName", "job"]

PeerName = Literal["evidently", "nannyml"]
CACHE = ROOT / ".bench"
SCRIPTS = ROOT / "tests" / "bench" / "peers"
#: Neither peer may tell anyone that it runs here; numbers of threads are ours to choose.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "NML_DISABLE_USAGE_LOGGING": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class PeerError(Exception):
    """A peer could not be installed, or did not answer; the message says why."""


def python_of(name: PeerName) -> Path:
    """Give the interpreter of a peer's environment, made with pinned packages if need be.

    Raises
    ------
    PeerError
        It does not install on this Python.
    """
    pinned = SCRIPTS / f"{name}.txt"
    home = CACHE / name
    python = home / "bin" / "python"
    stamp = home / ".installed"
    wanted = hashlib.sha256(pinned.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    commands: list[list[str]] = [
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [
            str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--only-binary", ":all:", "--requirement", str(pinned),
        ],
    ]  # fmt: skip
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PeerError(f"NOT INSTALLED on Python {sys.version.split()[0]}: {told}")
    stamp.write_text(wanted)
    return python


class Peer:
    """A peer that runs, to be asked job by job."""

    def __init__(self, name: PeerName) -> None:
        command = ["nice", "-n", "15", str(python_of(name)), str(SCRIPTS / f"{name}_peer.py")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.wait(timeout=60) and kind is None:
            raise PeerError(f"a peer ended with status {self._process.returncode}")
        if self._process.stdout is not None:
            self._process.stdout.close()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a job, wait for its answer."""
        into, out = self._process.stdin, self._process.stdout
        if into is None or out is None:
            raise PeerError("the peer has no pipes")
        into.write(json.dumps(question) + "\n")
        into.flush()
        line = out.readline()
        if not line:
            raise PeerError(f"no answer, status {self._process.wait(timeout=60)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def job(peer: Peer, reference: Table, windows: Sequence[Floats]) -> dict[str, Any]:
    """Let a peer judge windows of equal length."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        path = Path(scratch) / "job.npz"
        np.savez(
            path,
            reference=reference.rows,
            windows=np.stack(list(windows)),
            names=np.array(reference.names),
            categorical=np.array(reference.categorical),
        )
        return peer.ask({"path": str(path)})
