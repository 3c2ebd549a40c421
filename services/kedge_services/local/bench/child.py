"""Services as processes of their own, whose CPU time and memory are theirs alone."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from kedge.errors import Stop
from kedge_services.local.catalogue import settings_env
from kedge_services.local.stops import trouble_in
from kedge_services.local.supervisor import FRUGAL
from kedge_services.local.tether import tethered
from kedge_services.runtime.settings import Settings

__all__ = ["Child", "Stopwatch", "cpu_seconds", "free_port"]

_HOST = "127.0.0.1"
_READY_S = 180.0
_STOP_S = 30.0
_SAMPLE_S = 0.05
_POLL_S = 0.01


class Child:
    """``kedge run SERVICE``, watched; a context manager that ends it.

    Parameters
    ----------
    settings
        Passed on as ``KEDGE_...`` variables.
    service, ordinal
        As ``kedge run`` takes them.
    log_dir
        Where its output goes.
    """

    def __init__(
        self, settings: Settings, service: str, log_dir: Path, *, ordinal: int = 0
    ) -> None:
        self.service, self.log = service, log_dir / f"{service}-{ordinal}.log"
        self.peak_rss_bytes = 0
        self.port = free_port()
        self._command = [sys.executable, "-m", "kedge_services.cli", "run", service]
        self._command += ["--ordinal", str(ordinal)]
        self._environ = {
            **FRUGAL, **os.environ, **settings_env(settings),
            "KEDGE_HOST": _HOST, "KEDGE_PORT": str(self.port), "KEDGE_LOG_LEVEL": "warning",
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: psutil.Process | None = None
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        """Start it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 -- our own command
                tethered(self._command, on_parent_death=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                start_new_session=True,
            )
        self._seen = psutil.Process(self._process.pid)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and wait until it has ended."""
        self._done.set()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._sampler.join()

    @property
    def is_ready(self) -> bool:
        """Whether it says so at ``/readyz``."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=1.0)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def metrics(self) -> str:
        """Give what it shows at ``/metrics``."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=5.0)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """Give the CPU time so far, user and system, of all its threads and children."""
        if self._seen is None:
            raise RuntimeError(f"{self.service} was not started")
        try:
            return cpu_seconds(self._seen)
        except psutil.NoSuchProcess:
            raise self.ended() from None

    def check(self) -> None:
        """Make sure that it runs.

        Raises
        ------
        Stop
            It has ended; the message has its last words.
        """
        if self._process is not None and self._process.poll() is not None:
            raise self.ended()

    def ended(self) -> Stop:
        """Say how it ended."""
        return Stop(f"{self.service} stopped in the middle: {trouble_in(self.log, 0)}")

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            try:
                if self._seen is not None:
                    self.peak_rss_bytes = max(self.peak_rss_bytes, self.rss_bytes())
            except psutil.NoSuchProcess:
                return

    def rss_bytes(self) -> int:
        """Give its resident memory."""
        return 0 if self._seen is None else int(self._seen.memory_info().rss)


class Stopwatch:
    """Measures processes from the readiness of all to the end of their work."""

    def __init__(self, *children: Child) -> None:
        self._children = children
        self._began_s = self._ended_s = 0.0
        self._cpu_s = [0.0] * len(children)
        self.cpu_s = 0.0
        self.cpu_of: dict[str, float] = {}

    @property
    def wall_s(self) -> float:
        """Seconds between :meth:`start` and :meth:`stop`."""
        return self._ended_s - self._began_s

    @property
    def peak_rss_mb(self) -> float:
        """The largest resident memory seen, of all together, in MB."""
        return sum(child.peak_rss_bytes for child in self._children) / 1e6

    def start(self) -> None:
        """Begin as soon as all are ready.

        Raises
        ------
        Stop
            One has ended, or is not ready for minutes.
        """
        deadline = time.monotonic() + _READY_S
        for child in self._children:
            while not child.is_ready:
                child.check()
                if time.monotonic() > deadline:
                    raise Stop(f"{child.service} was not ready after {_READY_S:.0f} s")
                time.sleep(_POLL_S)
        self._cpu_s = [child.cpu_s() for child in self._children]
        self._began_s = time.monotonic()

    def until(self, is_done: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> None:
        """Wait for the end of the work, and stop.

        Raises
        ------
        Stop
            A process has ended, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while not is_done():
            for child in self._children:
                child.check()
            if time.monotonic() > deadline:
                names = ", ".join(child.service for child in self._children)
                raise Stop(f"{names} did not come to the end of the work in {timeout_s:.0f} s")
            time.sleep(every_s)
        self.stop()

    def stop(self) -> None:
        """End the measurement."""
        self._ended_s = time.monotonic()
        used = [
            child.cpu_s() - before
            for child, before in zip(self._children, self._cpu_s, strict=True)
        ]
        self.cpu_s = sum(used)
        for child, seconds in zip(self._children, used, strict=True):
            self.cpu_of[child.service] = self.cpu_of.get(child.service, 0.0) + seconds


def cpu_seconds(process: psutil.Process) -> float:
    """Give the CPU time of a process, user and system, and of what it started."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def free_port() -> int:
    """Give a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
