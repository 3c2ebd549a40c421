"""One partition of the service: its requests, those of a model one after the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import structlog

from kedge.codec import decode, encode
from kedge.errors import DeadLetter, KedgeError
from kedge.events import RetrainRequest
from kedge.monitor import Monitor
from kedge.monitor_checks import LOCAL
from kedge.topics import model_partition
from kedge.versions import Artefact, Candidate
from kedge_services.executors.kinds import PipelineOf
from kedge_services.executors.offering import artefact_of, failed, offered
from kedge_services.executors.pursuing import Pipeline, start, watch
from kedge_services.executors.reports import ModelFile
from kedge_services.executors.runs import LOOKS, Plan, Run, RunFailed, Sources, plan_of, run_key
from kedge_services.runtime.metrics import OPEN_RUNS, RUNS, Metrics
from kedge_services.runtime.ports import Produce, Record
from kedge_services.runtime.times import Times

__all__ = ["Board", "Desk", "Memory", "Now", "Parts"]

_TAKEN = b"taken"
_RUN = b"run/"

_log = structlog.get_logger(__name__)


class Memory(Protocol):
    """What a desk remembers beyond its process, e.g. in a ledger."""

    def open(self) -> dict[bytes, bytes]:
        """Take it over and give what is remembered."""

    def write(
        self, changes: Sequence[tuple[bytes, bytes | None]], outputs: Sequence[Produce] = ()
    ) -> None:
        """Commit changes together with records for other topics."""

    def close(self) -> None:
        """Give up the connection."""


class Now(NamedTuple):
    """What holds for a model when a run of it is planned."""

    monitor: Monitor | None
    champion: str | None
    sources: Sources


class Board:
    """Shows how many runs are open, and as what, over all desks of the process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._looks: dict[tuple[int, int], str] = {}

    def show(self, run: tuple[int, int], look: str | None) -> None:
        """Show a run, by partition and offset, as one of :data:`LOOKS`; None takes it down."""
        if look is None:
            self._looks.pop(run, None)
        else:
            self._looks[run] = look
        counts = Counter(self._looks.values())
        for known in LOOKS:
            self._metrics.set(OPEN_RUNS, counts[known], status=known)

    def count(self, result: str) -> None:
        """Count a run that is over."""
        self._metrics.add(RUNS, result=result)


@dataclass(frozen=True, slots=True)
class Parts:
    """What desks share.

    Attributes
    ----------
    now
        Looks at the tables and topics, as they are committed by then; it waits for Kafka.
    pipeline_of
        Finds the pipeline of a declared executor.
    store
        Fetches, tries and stores the model file of a candidate.
    candidate_partitions
        Number of partitions of the topic candidates.
    on_crash
        Told of what nobody expected; the process has to stop then.
    """

    now: Callable[[str], Now]
    pipeline_of: PipelineOf
    store: Callable[[Candidate, ModelFile, Plan, Pipeline], Awaitable[Artefact]]
    candidate_partitions: int
    times: Times
    board: Board
    on_crash: Callable[[BaseException], Awaitable[None]]


@dataclass(slots=True)
class Desk:
    """Takes requests over and answers each with a candidate.

    A run is saved at every step, before anybody outside learns of it::

        taken ─▶ planned ─▶ (sent) ─▶ started ─▶ (over) ─▶ candidate, forgotten

    so whoever opens the partition next goes on from there: what was sent may be
    sent again with the same key and body, a candidate is never.
    """

    partition: int
    memory: Memory
    parts: Parts
    _is_closed: bool = False
    _taken: int = -1
    _runs: dict[int, Run] = field(default_factory=dict)
    _queues: dict[str, asyncio.Queue[int]] = field(default_factory=dict)
    _workers: list[asyncio.Task[None]] = field(default_factory=list)

    async def open(self) -> None:
        """Take the partition over and go on with the runs that are open."""
        found = await asyncio.to_thread(self.memory.open)
        self._taken = int(found.get(_TAKEN, b"-1"))
        runs = [decode(Run, value) for key, value in found.items() if key.startswith(_RUN)]
        for run in sorted(runs, key=lambda run: run.offset):
            self._line_up(run)

    async def take(self, record: Record) -> bool:
        """Take a request over, if it is for an executor; True when it needs no one else."""
        if record.offset <= self._taken:
            return True
        try:
            request = decode(RetrainRequest, record.value or b"")
        except DeadLetter as error:
            # The trainer reads this record too and puts it aside.
            _log.warning("a request was skipped", offset=record.offset, because=str(error))
            return True
        if request.executor == LOCAL or self._is_open(request):
            return True
        run = Run(offset=record.offset, request=request)
        taken = (_TAKEN, str(record.offset).encode())
        try:
            await asyncio.to_thread(self.memory.write, [taken, (run.key, encode(run))])
        except KedgeError:
            if self._is_closed:
                return False
            raise
        if self._is_closed:
            return False
        self._taken = record.offset
        self._line_up(run)
        return True

    async def close(self) -> None:
        """Stop; whoever opens the partition next goes on."""
        self._is_closed = True
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for offset in self._runs:
            self.parts.board.show((self.partition, offset), None)
        await asyncio.to_thread(self.memory.close)

    def _is_open(self, request: RetrainRequest) -> bool:
        return any(run.request.request_id == request.request_id for run in self._runs.values())

    def _line_up(self, run: Run) -> None:
        self._runs[run.offset] = run
        self._show(run, "waiting")
        queue = self._queues.get(run.request.model)
        if queue is None:
            queue = self._queues[run.request.model] = asyncio.Queue()
            self._workers.append(asyncio.create_task(self._work(queue)))
        queue.put_nowait(run.offset)

    async def _work(self, queue: asyncio.Queue[int]) -> None:
        try:
            while True:
                await self._answer(await queue.get())
        except Exception as error:  # noqa: BLE001 -- what is saved is gone on with after a restart
            await self.parts.on_crash(error)

    async def _answer(self, offset: int) -> None:
        times = self.parts.times
        try:
            candidate, result = await self._run(self._runs[offset]), "succeeded"
        except RunFailed as failure:
            now_ms = round(times.now_s() * 1000)
            candidate = failed(self._runs[offset], str(failure), now_ms)
            result = failure.result
        run = self._runs[offset]
        where = model_partition(candidate.model, self.parts.candidate_partitions)
        output = Produce("candidates", candidate.request_id.encode(), encode(candidate), where)
        await asyncio.to_thread(self.memory.write, [(run.key, None)], [output])
        del self._runs[offset]
        self._show(run, None)
        self.parts.board.count(result)
        _log.info(
            "a run is over", model=candidate.model, request=candidate.request_id, result=result,
            failure=candidate.failure,
        )  # fmt: skip

    async def _run(self, run: Run) -> Candidate:
        """Bring a run to its end.

        Raises
        ------
        RunFailed
            There will be no new version.
        """
        parts, key = self.parts, run_key(run.request.request_id)
        self._show(run, "starting")
        if (plan := run.plan) is None:
            plan = await self._plan(run)
            run = await self._save(run.model_copy(update={"plan": plan}))
        pipeline = parts.pipeline_of(plan.executor)
        if (started := run.started) is None:
            started = await start(pipeline, plan, key, parts.times)
            run = await self._save(run.model_copy(update={"started": started}))
            _log.info("a run was started", model=run.request.model, key=key, run=started.run_id)
        result = await watch(
            pipeline, plan, started, key, times=parts.times, tell=lambda s: self._show(run, s)
        )
        candidate = offered(run, plan, result, round(parts.times.now_s() * 1000))
        return artefact_of(candidate, await parts.store(candidate, result.model, plan, pipeline))

    async def _plan(self, run: Run) -> Plan:
        now = await asyncio.to_thread(self.parts.now, run.request.model)
        return plan_of(
            run.request,
            now.monitor,
            champion=now.champion,
            sources=now.sources,
            now_ms=round(self.parts.times.now_s() * 1000),
        )

    async def _save(self, run: Run) -> Run:
        await asyncio.to_thread(self.memory.write, [(run.key, encode(run))])
        self._runs[run.offset] = run
        return run

    def _show(self, run: Run, look: str | None) -> None:
        self.parts.board.show((self.partition, run.offset), look)
