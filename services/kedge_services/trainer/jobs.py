"""Trainings on their way: as a bounded subprocess, or at once in this process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil
import structlog

from kedge.codec import decode, encode
from kedge.errors import DeadLetter, KedgeError, Retry
from kedge.versions import Candidate
from kedge_services.runtime.settings import Settings
from kedge_services.trainer.job import Order, Result
from kedge_services.trainer.plan import Plan

__all__ = ["Inline", "Job", "Launch", "Subprocess"]

_log = structlog.get_logger(__name__)

_PROGRAM = (sys.executable, "-m", "kedge_services.trainer.job")


class Job(Protocol):
    """A training that has been started."""

    def poll(self) -> Result | None:
        """Give the result, or None while it works; never waits."""

    def close(self) -> None:
        """End it if it still works, and leave nothing behind."""


Launch = Callable[[Plan], Job]


class Inline:
    """A training done at once, in this process: for replays and tests."""

    def __init__(self, plan: Plan, work: Callable[[Plan], Candidate]) -> None:
        try:
            self._result = Result(candidate=work(plan))
        except KedgeError as error:
            self._result = Result(failure=str(error), is_final=not isinstance(error, Retry))

    def poll(self) -> Result | None:
        """Give the result."""
        return self._result

    def close(self) -> None:
        """Leave nothing behind."""


class Subprocess:
    """A training in a child process, with the bounds of the request's budget.

    Wall time and resident memory are looked at on every :meth:`poll`, some ten
    times a second.  ``RLIMIT_AS`` would be no bound worth having: OpenMP, NumPy
    and librdkafka reserve gigabytes of addresses they never touch.

    Parameters
    ----------
    plan
        What to do.
    settings
        Where Kafka and the store are; handed over in a file that only this
        user can read, and that is gone with the job.
    program
        The program to run.
    """

    def __init__(
        self, plan: Plan, settings: Settings, *, program: Sequence[str] = _PROGRAM
    ) -> None:
        self._budget = plan.request.budget
        self._directory = Path(tempfile.mkdtemp(prefix="kedge-trainer-"))
        order = Order(plan=plan, settings=settings, parent_process=os.getpid())
        order_file = self._directory / "order.json"
        order_file.write_bytes(encode(order))
        self._result_file = self._directory / "result.json"
        self._child = subprocess.Popen(  # noqa: S603 -- our own program
            [*program, str(order_file), str(self._result_file)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._process = psutil.Process(self._child.pid)
        self._deadline_s = time.monotonic() + self._budget.seconds

    @property
    def pid(self) -> int:
        """Give the child's process id."""
        return self._child.pid

    def poll(self) -> Result | None:
        """Give the result, or None while it works; what exceeds its budget is killed."""
        if self._child.poll() is not None:
            return self._read()
        if time.monotonic() > self._deadline_s:
            self._kill()
            return Result(failure=f"the training took longer than {self._budget.seconds:g} s")
        with suppress(psutil.NoSuchProcess):
            if self._process.memory_info().rss > self._budget.memory_mb << 20:
                self._kill()
                return Result(failure=f"the training took more than {self._budget.memory_mb} MB")
        return None

    def close(self) -> None:
        """Kill the child if it still works, and remove its files."""
        self._kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _kill(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def _read(self) -> Result:
        try:
            return decode(Result, self._result_file.read_bytes())
        except (OSError, DeadLetter) as error:
            _log.warning("a training left no result", because=str(error))
            return Result(failure=f"the training ended with status {self._child.returncode}")
