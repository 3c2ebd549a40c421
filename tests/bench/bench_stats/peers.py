"""The peers: an environment for each, and a process that answers jobs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from bench_stats.data import ROOT, Floats, Table

__all__ = ["CACHE", "SCRIPTS", "Peer", "PeerError", "PeerName", "job", "pinned", "python_of"]

PeerName = Literal["bytewax", "evidently", "faust", "nannyml", "quix"]
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


def pinned(name: PeerName, distribution: str) -> str:
    """Give the version of a distribution in a peer's environment."""
    lines = (SCRIPTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{distribution}=="))


class Peer:
    """A peer that runs, to be asked job by job."""

    def __init__(self, name: PeerName, *, niceness: int = 15) -> None:
        command = ["nice", "-n", str(niceness), str(python_of(name))]
        command.append(str(SCRIPTS / f"{name}_peer.py"))
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in __exit__
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
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
        # A peer that failed has said so in answer to its job.
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._told.close()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a job, wait for its answer."""
        into, out = self._process.stdin, self._process.stdout
        if into is None or out is None:
            raise PeerError("the peer has no pipes")
        try:
            into.write(json.dumps(question) + "\n")
            into.flush()
            line = out.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait(timeout=60)
            self._told.seek(0)
            told = self._told.read().decode(errors="replace").strip().splitlines()
            raise PeerError((told or ["it ended without a word"])[-1][:200])
        answer: dict[str, Any] = json.loads(line)
        return answer


def job(peer: Peer, reference: Table, windows: Sequence[Floats], **options: Any) -> dict[str, Any]:
    """Let a peer judge windows of equal length; its script says which options it knows."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        path = Path(scratch) / "job.npz"
        np.savez(
            path,
            reference=reference.rows,
            windows=np.stack(list(windows)),
            names=np.array(reference.names),
            categorical=np.array(reference.categorical),
        )
        return peer.ask({"path": str(path), **options})
