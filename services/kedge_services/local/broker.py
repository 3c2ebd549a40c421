"""A real Apache Kafka (KRaft, one node) as a child process, without Docker."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

from kedge.errors import BrokerUnavailable, UsageError
from kedge_services.local.kafka_jars import find_java, kafka_jars
from kedge_services.local.tether import tethered
from kedge_services.runtime.admin import wait_for_kafka
from kedge_services.runtime.settings import KafkaSettings

__all__ = ["DEFAULT_PORT", "LocalBroker", "announce", "announced", "withdraw"]

DEFAULT_PORT = 9192
ANNOUNCEMENT = Path(".kedge/broker.json")
_HOST = "127.0.0.1"
_MESSAGE_BYTES = 8 * 1024 * 1024
# Ten years in minutes: positions of a service that rests over a long holiday must not expire.
_OFFSETS_RETENTION_MIN = 5_256_000
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
# How long a broker whose parent was killed may need to close its files.
_ORPHAN_TIMEOUT_S = 20.0
_POLL_S = 0.1


class LocalBroker:
    """One Kafka node on 127.0.0.1, stopped with its parent.

    Parameters
    ----------
    data_dir
        Where it keeps its data; kept between runs.
    port
        The port clients connect to; None takes a free one.
    fresh
        Start with empty data.
    """

    def __init__(self, data_dir: Path, *, port: int | None = None, fresh: bool = False) -> None:
        self._data_dir = data_dir.absolute()
        self._wanted_port = port
        self._port = port
        self._fresh = fresh
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """Give the address for clients; known once started."""
        if self._port is None:
            raise RuntimeError("the local Kafka has not been started")
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Give the process id of the running broker."""
        if self._child is None:
            raise RuntimeError("the local Kafka is not running")
        return self._child.pid

    @property
    def log_file(self) -> Path:
        """Give where its warnings and errors are."""
        return self._data_dir / "kafka.log"

    def is_running(self) -> bool:
        """Say whether the process lives."""
        return self._child is not None and self._child.poll() is None

    @property
    def status(self) -> int | None:
        """Give how the process ended; None while it lives."""
        return None if self._child is None else self._child.poll()

    def is_listening(self) -> bool:
        """Say whether clients can connect."""
        try:
            with socket.create_connection((_HOST, self._port or 0), timeout=0.2):
                return True
        except OSError:
            return False

    def rss_bytes(self) -> int:
        """Give the resident memory, 0 when it does not run."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self.is_running() else 0
        except psutil.NoSuchProcess:
            return 0

    def start(self) -> None:
        """Start it and return when it answers.

        Raises
        ------
        UsageError
            The port or the data directory is in use.
        BrokerUnavailable
            Kafka cannot be fetched or does not start; the message says why.
        """
        if self._child is not None:
            raise RuntimeError("the local Kafka has been started already")
        self._launch()
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Start it again after it died, on the same port and data; return before it answers.

        Raises
        ------
        UsageError
            Somebody has taken the port.
        """
        if self.is_running():
            raise RuntimeError("the local Kafka runs")
        self._wanted_port, self._fresh = self._port, False
        self._launch()

    def _launch(self) -> None:
        java, jars = find_java(), kafka_jars()
        class_path = os.pathsep.join(map(str, jars))
        self._data_dir.mkdir(parents=True, exist_ok=True)
        with self._lock() as lock:
            logs = self._data_dir / "logs"
            if self._fresh and logs.exists():
                shutil.rmtree(logs)
            self._port, controller = _ports(self._wanted_port)
            properties = self._data_dir / "server.properties"
            properties.write_text(_properties(logs, port=self._port, controller=controller))
            if not (logs / "meta.properties").exists():
                self._format(java, class_path, properties)
            # The child inherits the lock's descriptor: held until both have let go of it.
            self._child = self._run(java, class_path, properties, lock)
            lock.seek(0)
            lock.truncate()
            lock.write(f"{self._child.pid} {os.getpid()}")
            lock.flush()

    def stop(self) -> None:
        """Stop it: SIGTERM, and SIGKILL if it is not gone after half a minute."""
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _lock(self) -> IO[str]:
        file = (self._data_dir / "kedge.lock").open("a+")
        deadline = time.monotonic() + _ORPHAN_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                broker, _, parent = file.read().partition(" ")
                # A broker whose parent was killed is on its way out: wait for it.
                orphan = parent.isdigit() and not psutil.pid_exists(int(parent))
                if orphan and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                file.close()
                raise UsageError(
                    f"the data directory {self._data_dir} is in use by another local Kafka"
                    f"{f' (process {broker})' if broker else ''}: stop that, or name another "
                    "directory"
                ) from None
            return file

    def _format(self, java: str, class_path: str, properties: Path) -> None:
        # With a leading "-", one in 64, the tool would take the id for an option.
        cluster = "K" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        tool = [java, "-XX:TieredStopAtLevel=1", "-cp", class_path, "kafka.tools.StorageTool"]
        done = subprocess.run(  # noqa: S603 -- our own command
            [*tool, "format", "-t", cluster, "-c", str(properties)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise BrokerUnavailable(
                f"the local Kafka cannot use {self._data_dir}: {' '.join(last)}"
            )

    def _run(
        self, java: str, class_path: str, properties: Path, lock: IO[str]
    ) -> subprocess.Popen[bytes]:
        options = [
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
        ]
        command = [java, *options, "-cp", class_path, "kafka.Kafka", str(properties)]
        # What an earlier process said stays, should this one be its successor.
        with self.log_file.open("wb" if self._child is None else "ab") as log:
            return subprocess.Popen(  # noqa: S603 -- our own command
                tethered(command, on_parent_death=signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                # A Ctrl-C in the terminal is for the parent, which stops us in order.
                start_new_session=True,
            )

    def _wait_ready(self) -> None:
        kafka = KafkaSettings(bootstrap_servers=self.bootstrap_servers)
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while True:
            if not self.is_running():
                raise BrokerUnavailable(f"the local Kafka stopped at its start: {self._why()}")
            try:
                wait_for_kafka(kafka, timeout_s=0.5)
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _why(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        errors = [line for line in lines if " ERROR " in line or "Exception" in line]
        return f"{(errors or lines or ['no reason given'])[-1].strip()} (see {self.log_file})"


def _ports(wanted: int | None) -> tuple[int, int]:
    """Give the clients' port and a free one for the controller."""
    with socket.socket() as first, socket.socket() as second:
        # A port that a stopped broker left in TIME_WAIT is free.
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            first.bind((_HOST, wanted or 0))
        except OSError as error:
            raise UsageError(
                f"port {wanted} on {_HOST} cannot be used ({os.strerror(error.errno or 0)}): "
                "is another broker running? Stop it or choose another port"
            ) from error
        second.bind((_HOST, 0))
        return int(first.getsockname()[1]), int(second.getsockname()[1])


def _properties(logs: Path, *, port: int, controller: int) -> str:
    """Give ``server.properties``: one node, small, everything kept, no magic topics."""
    pairs = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": f"PLAINTEXT://{_HOST}:{port},CONTROLLER://{_HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{_HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@{_HOST}:{controller}",
        "log.dirs": logs,
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.retention.minutes": _OFFSETS_RETENTION_MIN,
        "transaction.state.log.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        # A transaction whose owner was killed blocks readers until it is found: look often.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "message.max.bytes": _MESSAGE_BYTES,
        "replica.fetch.max.bytes": _MESSAGE_BYTES,
        "log.cleaner.backoff.ms": 1000,
        # The default of 128 MB would be half of the heap.
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "log.index.size.max.bytes": 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
    }
    return "".join(f"{key}={_escaped(value)}\n" for key, value in pairs.items())


def _escaped(value: object) -> str:
    """Write a value as a Java properties file wants it."""
    return str(value).replace("\\", "\\\\")


def announce(broker: LocalBroker, file: Path = ANNOUNCEMENT) -> None:
    """Write where the broker is, for commands run in the same directory.

    The process id is ours: we keep the broker, which may die and come back.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(
        json.dumps({"bootstrap_servers": broker.bootstrap_servers, "pid": os.getpid()}) + "\n"
    )
    partial.replace(file)


def withdraw(file: Path = ANNOUNCEMENT) -> None:
    """Take the announcement back."""
    file.unlink(missing_ok=True)


def announced(file: Path = ANNOUNCEMENT) -> str | None:
    """Give the address of the announced broker, None when none runs."""
    try:
        found = json.loads(file.read_text())
        address, pid = str(found["bootstrap_servers"]), int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if psutil.pid_exists(pid) else None
