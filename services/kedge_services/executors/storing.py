"""From a result to an artefact in the store: fetched here, tried in a subprocess."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from kedge.codec import decode, encode
from kedge.errors import DeadLetter
from kedge.versions import Artefact, Candidate
from kedge_services.executors.fetching import fetch
from kedge_services.executors.inspecting import TIME_S, Finding, Order
from kedge_services.executors.pursuing import Again, Pipeline, insist
from kedge_services.executors.reports import ModelFile
from kedge_services.executors.runs import Plan, RunFailed
from kedge_services.runtime.http import Web
from kedge_services.runtime.times import Times

__all__ = ["Inspect", "Storing", "in_child"]

_PROGRAM = (sys.executable, "-m", "kedge_services.executors.inspecting")
_LOOK_S = 0.05
_MB = 1 << 20
#: What a child may take, whatever the request's budget is: imports alone take 200.
_MEMORY_MB = 2048

Inspect = Callable[[Order], Awaitable[Finding]]


class Storing:
    """Brings model files into the store.

    Parameters
    ----------
    web, times
        The network and the clock.
    inspect
        Tries and stores, e.g. :func:`in_child`.
    artefacts
        The store's address.
    incoming
        A directory of this process's own for files on their way; it is emptied,
        as a process that was killed leaves what it had.
    """

    def __init__(
        self, *, web: Web, times: Times, inspect: Inspect, artefacts: str, incoming: Path
    ) -> None:
        self._web = web
        self._times = times
        self._inspect = inspect
        self._artefacts = artefacts
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        self._incoming = incoming.absolute()

    async def __call__(
        self, candidate: Candidate, model: ModelFile, plan: Plan, pipeline: Pipeline
    ) -> Artefact:
        """Fetch a candidate's model file, try it, store it.

        Raises
        ------
        RunFailed
            There is nothing that could be served.
        """
        with TemporaryDirectory(dir=self._incoming) as directory:
            file = Path(directory) / "model"
            await fetch(model, file, plan=plan, pipeline=pipeline, web=self._web, times=self._times)
            artefact = Artefact(
                uri="", sha256=model.sha256, format=model.format, size=file.stat().st_size
            )
            named = candidate.model_copy(update={"artefact": artefact})
            order = Order(candidate=named, file=file, store=self._artefacts)

            async def attempt() -> Finding | Again:
                finding = await self._inspect(order)
                return Again(finding.problem) if finding.may_pass else finding

            finding = await insist(attempt, plan, self._times, "let its model be stored")
        if finding.artefact is None:
            text = f"executor {plan.executor.name}: its model is not taken: {finding.problem}"
            raise RunFailed(text, "unusable")
        return finding.artefact


async def in_child(
    order: Order,
    *,
    program: Sequence[str] = _PROGRAM,
    time_s: float = TIME_S,
    memory_mb: int = _MEMORY_MB,
) -> Finding:
    """Inspect in a subprocess with bounds on time and resident memory."""
    child = await asyncio.create_subprocess_exec(
        *program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    talk = asyncio.create_task(child.communicate(encode(order)))
    try:
        problem = await _guard(child.pid, talk, time_s, memory_mb)
        if problem:
            return Finding(problem=problem)
        output, _ = await talk
        return decode(Finding, output)
    except DeadLetter:
        return Finding(problem=f"loading it ended with status {child.returncode}")
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await asyncio.wait([talk])


async def _guard(
    pid: int, talk: asyncio.Task[tuple[bytes, bytes]], time_s: float, memory_mb: int
) -> str:
    """Wait for the end; give what the child took too much of."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + time_s
    process: psutil.Process | None = None
    while not talk.done():
        if loop.time() > deadline_s:
            return f"loading it took longer than {time_s:g} s"
        with contextlib.suppress(psutil.Error):
            process = process or psutil.Process(pid)
            if process.memory_info().rss > memory_mb * _MB:
                return f"loading it took more than {memory_mb} MB"
        await asyncio.wait([talk], timeout=_LOOK_S)
    return ""
