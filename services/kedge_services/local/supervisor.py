"""Runs services as child processes and keeps them running."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from kedge_services.local.catalogue import settings_env
from kedge_services.local.tether import tethered
from kedge_services.runtime.settings import Settings

__all__ = ["Patience", "ServiceState", "State", "Supervisor"]

State = Literal["starting", "ready", "running", "restarting", "failed", "stopped"]
Command = Callable[[str], Sequence[str]]

_HOST = "127.0.0.1"
_PROBE_TIMEOUT_S = 0.3
_PROBE_STARTING_S = 0.1
_PROBE_READY_S = 2.0
_LOG_BYTES = 10_000_000
_TAIL_BYTES = 8_192
_TROUBLE = re.compile(r"error|exception|fatal|cannot|refused", re.IGNORECASE)
# Eight processes share the machine: numeric libraries must not start a thread per core in each.
_FRUGAL = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True, slots=True)
class Patience:
    """How a supervisor deals with services that stop, or do not.

    A service that lived less than ``quick_s`` stopped quickly; after
    ``quick_stops`` of these in a row it is given up.  Between them the pause
    doubles, beginning with ``first_pause_s``.
    """

    quick_s: float = 30.0
    quick_stops: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    stop_timeout_s: float = 20.0


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service as seen now.

    ``starting``: not yet ready.  ``ready``: answers /readyz with 200.  ``running``:
    was ready and is not now.  ``restarting``: stopped, waits for its next start.
    ``failed``: given up; ``detail`` says why.
    """

    name: str
    pid: int | None
    state: State
    restarts: int
    rss_bytes: int | None
    health_url: str | None
    detail: str = ""


@dataclass(slots=True)
class _Child:
    name: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    state: State = "stopped"
    restarts: int = 0
    quick_stops: int = 0
    started_at: float = 0.0
    due_at: float = 0.0
    probe_at: float = 0.0
    detail: str = ""
    seen: psutil.Process | None = field(default=None, repr=False)


class Supervisor:
    """Starts services, restarts what stops, gives up on what does not stay up.

    Parameters
    ----------
    settings
        Passed on to the children through ``KEDGE_…`` variables.
    services
        Names from the catalogue.
    log_dir
        Where the children's output goes, ``NAME.log`` each.
    command
        Gives the command that runs a service; None takes ``kedge run NAME``.
    environ
        The environment the children inherit.
    patience
        When to start again and when to give up.

    Notes
    -----
    Children end with the thread that called :meth:`start` or :meth:`poll`
    (see :mod:`kedge_services.local.tether`): call them from the main thread.
    """

    def __init__(
        self,
        settings: Settings,
        services: Sequence[str],
        log_dir: Path,
        *,
        command: Command | None = None,
        environ: Mapping[str, str] = os.environ,
        patience: Patience = Patience(),
    ) -> None:
        self._patience = patience
        self._environ = {**_FRUGAL, **environ, **settings_env(settings)}
        self._log_dir = log_dir.absolute()
        self._command: Command = command or _kedge_run
        self._children = [_Child(name, self._log_dir / f"{name}.log") for name in services]

    def start(self) -> None:
        """Start all services; return at once."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for child in self._children:
            self._spawn(child)

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until all are ready; False when one failed or the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.poll()
            states = [child.state for child in self._children]
            if all(state == "ready" for state in states):
                return True
            if "failed" in states or time.monotonic() > deadline:
                return False
            time.sleep(_PROBE_STARTING_S)

    def poll(self) -> None:
        """Look after the children; to be called several times a second."""
        now = time.monotonic()
        for child in self._children:
            if child.process is not None:
                if child.process.poll() is not None:
                    self._stopped(child, child.process.returncode, now)
                elif now >= child.probe_at:
                    _probe(child)
            elif child.state == "restarting" and now >= child.due_at:
                child.restarts += 1
                self._spawn(child)

    def states(self) -> list[ServiceState]:
        """Give the services as of the last :meth:`poll`."""
        return [
            ServiceState(
                name=child.name,
                pid=child.process.pid if child.process is not None else None,
                state=child.state,
                restarts=child.restarts,
                rss_bytes=_rss_bytes(child),
                health_url=f"http://{_HOST}:{child.port}" if child.process is not None else None,
                detail=child.detail,
            )
            for child in self._children
        ]

    def failures(self) -> list[str]:
        """Give one sentence for each service that was given up."""
        return [child.detail for child in self._children if child.state == "failed"]

    def stop(self) -> None:
        """Stop all: SIGTERM, then SIGKILL for what is still there when patience ends."""
        running = [child for child in self._children if child.process is not None]
        for child in running:
            if child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + self._patience.stop_timeout_s
        for child in running:
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.process = None
        for child in self._children:
            if child.state != "failed":
                child.state = "stopped"

    def _spawn(self, child: _Child) -> None:
        child.port = _free_port()
        if child.log.exists() and child.log.stat().st_size > _LOG_BYTES:
            child.log.replace(child.log.with_suffix(".log.1"))
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(  # noqa: S603 -- our own command
                # SIGKILL: what a service leaves behind then is what its restart is made for.
                tethered(list(self._command(child.name)), on_parent_death=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environ, "KEDGE_PORT": str(child.port), "KEDGE_HOST": _HOST},
                # A Ctrl-C in the terminal is for the parent, which stops us in order.
                start_new_session=True,
            )
        child.state = "starting"
        child.seen = None
        child.started_at = time.monotonic()
        child.probe_at = child.started_at

    def _stopped(self, child: _Child, code: int, now: float) -> None:
        patience = self._patience
        child.process = None
        lived = now - child.started_at
        child.quick_stops = child.quick_stops + 1 if lived < patience.quick_s else 1
        how = f"with status {code}" if code >= 0 else f"by signal {signal.Signals(-code).name}"
        child.detail = f"{child.name} stopped {how}: {_last_error(child.log)}"
        if child.quick_stops >= patience.quick_stops:
            child.state = "failed"
            child.detail = (
                f"{child.name} stopped {child.quick_stops} times in a row soon after its start, "
                f"last {how}: {_last_error(child.log)} (see {child.log})"
            )
            return
        child.state = "restarting"
        pause = patience.first_pause_s * 2 ** (child.quick_stops - 1)
        child.due_at = now + min(pause, patience.longest_pause_s)


def _kedge_run(name: str) -> Sequence[str]:
    return [sys.executable, "-m", "kedge_services.cli", "run", name]


def _probe(child: _Child) -> None:
    """Ask /readyz; whoever does not answer is not ready."""
    connection = http.client.HTTPConnection(_HOST, child.port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        is_ready = connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        is_ready = False
    finally:
        connection.close()
    if is_ready:
        child.state = "ready"
        child.detail = ""
    elif child.state == "ready":
        child.state = "running"
    pause = _PROBE_READY_S if is_ready else _PROBE_STARTING_S
    child.probe_at = time.monotonic() + pause


def _rss_bytes(child: _Child) -> int | None:
    """Give the resident memory of a service and of what it started."""
    if child.process is None:
        return None
    try:
        child.seen = child.seen or psutil.Process(child.process.pid)
        family = [child.seen, *child.seen.children(recursive=True)]
        return sum(int(process.memory_info().rss) for process in family)
    except psutil.NoSuchProcess:
        return None


def _last_error(log: Path) -> str:
    """Give the last line of a log that tells of trouble, else the last one."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    trouble = [line for line in lines if _TROUBLE.search(line)]
    return (trouble or lines or ["it said nothing"])[-1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
