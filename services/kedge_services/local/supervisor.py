"""Runs services, and the local Kafka beneath them, as child processes and keeps them running."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from kedge.errors import KedgeError
from kedge_services.local.broker import LocalBroker
from kedge_services.local.catalogue import settings_env
from kedge_services.local.stops import Patience, Stops, trouble_in
from kedge_services.local.tether import tethered
from kedge_services.runtime.settings import Settings

__all__ = ["FRUGAL", "KAFKA", "ServiceState", "State", "Supervisor"]

State = Literal["starting", "ready", "running", "restarting", "failed", "stopped"]
Command = Callable[[str], Sequence[str]]

#: The name of the local Kafka among the processes.
KAFKA = "kafka"
_HOST = "127.0.0.1"
_PROBE_TIMEOUT_S = 0.3
_PROBE_STARTING_S = 0.1
_PROBE_READY_S = 2.0
_LOG_BYTES = 10_000_000
_PATIENCE = Patience()
#: Eight processes share the machine: numeric libraries must not start a thread per core in each.
FRUGAL = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


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
    stops: Stops = field(default_factory=Stops)
    log_from: int = 0
    started_at: float = 0.0
    due_at: float = 0.0
    probe_at: float = 0.0
    detail: str = ""
    seen: psutil.Process | None = field(default=None, repr=False)


class Supervisor:
    """Starts services, restarts what stops or is stuck, gives up on what does not stay up.

    Which processes there are stands in ``processes.json`` beside ``log_dir``.

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
    broker
        The local Kafka, started already: it is started again when it dies, on
        the same port and with the same data.  Stopping it is left to its owner.
    tell
        Takes one sentence whenever a process stopped, or Kafka is back.

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
        patience: Patience = _PATIENCE,
        broker: LocalBroker | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._patience = patience
        self._environ = {**FRUGAL, **environ, **settings_env(settings)}
        self._log_dir = log_dir.absolute()
        self._command: Command = command or _kedge_run
        self._children = [_Child(name, self._log_dir / f"{name}.log") for name in services]
        self._broker = broker
        self._kafka = None if broker is None else _Child(KAFKA, broker.log_file, state="ready")
        self._tell = tell
        self._written = ""

    @property
    def processes_file(self) -> Path:
        """Where the processes are listed while they run."""
        return self._log_dir.parent / "processes.json"

    def start(self) -> None:
        """Start all services; return at once."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        if self._kafka is not None:
            self._kafka.started_at = time.monotonic()
        for child in self._children:
            self._spawn(child)
        self._write_processes()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until all are ready; False when one failed or the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.poll()
            states = [state.state for state in self.states()]
            if all(state == "ready" for state in states):
                return True
            if "failed" in states or time.monotonic() > deadline:
                return False
            time.sleep(_PROBE_STARTING_S)

    def poll(self) -> None:
        """Look after the children; to be called several times a second."""
        now = time.monotonic()
        if self._broker is not None and self._kafka is not None:
            self._look_after_kafka(self._broker, self._kafka, now)
        for child in self._children:
            if child.process is not None:
                if child.process.poll() is not None:
                    self._service_stopped(child, child.process.returncode, now)
                elif now >= child.probe_at:
                    _probe(child)
            elif child.state == "restarting" and now >= child.due_at and self._has_kafka():
                child.restarts += 1
                self._spawn(child)
        self._write_processes()

    def states(self) -> list[ServiceState]:
        """Give the services as of the last :meth:`poll`; the local Kafka first, if there is one."""
        return [*self._kafka_state(), *self._service_states()]

    def _kafka_state(self) -> list[ServiceState]:
        if self._broker is None or self._kafka is None:
            return []
        is_running, child = self._broker.is_running(), self._kafka
        return [
            ServiceState(
                name=KAFKA,
                pid=self._broker.pid if is_running else None,
                state=child.state,
                restarts=child.restarts,
                rss_bytes=self._broker.rss_bytes() if is_running else None,
                health_url=None,
                detail=child.detail,
            )
        ]

    def _service_states(self) -> list[ServiceState]:
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
        every = [self._kafka, *self._children]
        return [child.detail for child in every if child is not None and child.state == "failed"]

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
        self.processes_file.unlink(missing_ok=True)

    def _spawn(self, child: _Child) -> None:
        child.port = _free_port()
        if child.log.exists() and child.log.stat().st_size > _LOG_BYTES:
            child.log.replace(child.log.with_suffix(".log.1"))
        with child.log.open("ab") as log:
            child.log_from = log.tell()
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

    def _has_kafka(self) -> bool:
        """Say whether starting a service makes sense: without Kafka it would only stop again."""
        return self._kafka is None or self._kafka.state == "ready"

    def _look_after_kafka(self, broker: LocalBroker, child: _Child, now: float) -> None:
        if child.state == "restarting":
            if now < child.due_at:
                return
            child.restarts += 1
            child.started_at = now
            try:
                broker.restart()
            except (KedgeError, OSError) as error:
                self._stopped(child, f"could not start again: {error}", None, now)
            else:
                child.state = "starting"
        elif child.state != "failed" and not broker.is_running():
            self._stopped(child, *_ending(broker.status or 0, child), now)
        elif child.state == "starting" and broker.is_listening():
            child.state = "ready"
            child.detail = ""
            self._tell(f"{child.name} is back")

    def _service_stopped(self, child: _Child, code: int, now: float) -> None:
        child.process = None
        self._stopped(child, *_ending(code, child), now)

    def _stopped(self, child: _Child, what: str, place: str | None, now: float) -> None:
        """Start it again after a pause, or give it up."""
        patience, stops = self._patience, child.stops
        stops.add(patience, lived_s=now - child.started_at, place=place)
        child.detail = f"{child.name} {what}"
        if stops.are_enough(patience):
            child.state = "failed"
            where = f"at one offset, {place}" if place else "in a row soon after its start"
            child.detail = (
                f"{child.name} stopped {stops.number} times {where}; the last time it {what} "
                f"(see {child.log})"
            )
        else:
            child.state = "restarting"
            child.due_at = now + stops.pause_s(patience)
        self._tell(child.detail)

    def _write_processes(self) -> None:
        """Bring the list of processes up to date, in one piece, where it has changed."""
        logs = {child.name: child.log for child in (*self._children, self._kafka) if child}
        listed = {
            state.name: {
                **{name: value for name, value in asdict(state).items() if name in _LISTED},
                "log": str(logs[state.name]),
            }
            for state in self.states()
        }
        text = json.dumps({"supervisor": os.getpid(), "processes": listed}, indent=2) + "\n"
        if text == self._written:
            return
        partial = self.processes_file.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.processes_file)
        self._written = text


_LISTED = ("pid", "state", "restarts", "health_url", "detail")


def _ending(code: int, child: _Child) -> tuple[str, str | None]:
    """Give how a process ended, in words, and the record it was at when it says so."""
    if code < 0:
        # Whoever is killed has no last words: the end of its log is about something else.
        return f"stopped by signal {signal.Signals(-code).name}", None
    trouble = trouble_in(child.log, child.log_from)
    return f"stopped with status {code}: {trouble}", trouble.place


def _kedge_run(name: str) -> Sequence[str]:
    return [sys.executable, "-m", "kedge_services.cli", "run", name]


def _probe(child: _Child) -> None:
    """Ask /readyz; whoever does not answer is not ready.  Kill who says that it is stuck."""
    is_ready = _status(child, "/readyz") == http.client.OK
    if _status(child, "/healthz") == http.client.SERVICE_UNAVAILABLE and child.process is not None:
        # Its loop has made no step for a long time: it would not listen to SIGTERM, either.
        child.process.kill()
        is_ready = False
    if is_ready:
        child.state = "ready"
        child.detail = ""
    elif child.state == "ready":
        child.state = "running"
    pause = _PROBE_READY_S if is_ready else _PROBE_STARTING_S
    child.probe_at = time.monotonic() + pause


def _status(child: _Child, path: str) -> int | None:
    connection = http.client.HTTPConnection(_HOST, child.port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
