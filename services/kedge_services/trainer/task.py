"""One partition of the trainer: plan, commit, train in a child, commit the candidate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

import structlog

from kedge import Candidate, ModelVersion, Monitor, RetrainRequest
from kedge.codec import decode, encode
from kedge.errors import DeadLetter
from kedge.topics import model_partition
from kedge_services.runtime.dead_letters import dead_letter
from kedge_services.runtime.ports import Batch, Commit, Position, Produce, Record, TaskContext
from kedge_services.trainer.jobs import Job, Launch
from kedge_services.trainer.plan import ATTEMPTS, Plan, failed, seed_of

__all__ = ["SERVICE", "TOPIC", "Ends", "TrainerTask"]

SERVICE = "trainer"
TOPIC = "retrain-requests"
_KEY = b"plan"

Ends = Callable[[], dict[int, tuple[int, int]]]
"""Gives the offsets ``[first, end)`` of every partition of examples."""

_log = structlog.get_logger(__name__)


class TrainerTask:
    """Answers the retrain requests of its partition one after the other.

    A request goes through these states; only what a commit has made durable is
    acted upon::

        planned ──commit──▶ ready ──tick──▶ running ──▶ done ──commit──▶ (next request)
           ▲                                   │
           └───────── another attempt ◀────────┘

    Parameters
    ----------
    context
        Partition, clock and tables.
    monitor_of, version_of, champion_of
        Look into the tables.
    ends
        How far the examples go now.
    launch
        Starts a training.
    """

    def __init__(
        self,
        context: TaskContext,
        *,
        monitor_of: Callable[[str], Monitor | None],
        version_of: Callable[[str, str], ModelVersion | None],
        champion_of: Callable[[str], ModelVersion | None],
        ends: Ends,
        launch: Launch,
    ) -> None:
        self._context = context
        self._monitor_of = monitor_of
        self._version_of = version_of
        self._champion_of = champion_of
        self._ends = ends
        self._launch = launch
        #: Handed over, but not looked at: their effects belong to the commit of their offset.
        self._waiting: deque[Record] = deque()
        self._plan: Plan | None = None
        self._state: Literal["planned", "ready", "running", "done"] = "planned"
        #: Whether the loop has handed the open request over: only then its offset can go on.
        self._is_handed = True
        self._candidate: Candidate | None = None
        self._job: Job | None = None
        self._outputs: list[Produce] = []
        self._is_sent: Literal["", "planned", "done"] = ""

    # ------------------------------------------------------------------- state

    def restore(self, batch: Batch) -> None:
        """Take the open plan back."""
        for record in batch.records():
            if record.key == _KEY:
                self._plan = None if record.value is None else decode(Plan, record.value)

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:  # noqa: ARG002
        """Count the attempt that was open as failed; whatever it was, its process is gone."""
        if self._plan is not None:
            self._is_handed = False
            self._again("the process that trained was stopped")
        return {}

    def replay(self, batch: Batch) -> None:
        """Take nothing: the state is in the changelog alone."""

    def commit(self) -> Commit:
        """Give a new plan, or a candidate; the offset stays on the open request."""
        result = Commit(outputs=self._outputs)
        self._outputs = []
        self._is_sent = ""
        following = self._waiting[0].offset if self._waiting else None
        if self._plan is None:
            pass
        elif self._state == "done" and self._is_handed and self._candidate is not None:
            result.outputs.append(self._produce(self._candidate))
            result.changelog.append((_KEY, None))
            self._is_sent = "done"
        else:
            following = self._plan.offset
            if self._state == "planned":
                result.changelog.append((_KEY, encode(self._plan)))
                self._is_sent = "planned"
        if following is not None:
            result.offsets[TOPIC] = following
        return result

    def committed(self) -> None:
        """Go on: what was sent is durable."""
        if self._is_sent == "planned" and self._state == "planned":
            self._state = "ready"
        elif self._is_sent == "done":
            self._plan = self._candidate = None
        self._is_sent = ""

    def close(self) -> None:
        """End the training: another process may have the partition by now."""
        if self._job is not None:
            self._job.close()
            self._job = None

    # ------------------------------------------------------------------ records

    def process(self, batch: Batch) -> None:
        """Queue records."""
        for record in batch.records():
            self._is_handed = True
            if self._plan is None or record.offset != self._plan.offset:
                self._waiting.append(record)

    def paused(self) -> frozenset[str]:
        """Read no further while a request is open; its own record has to be read first."""
        is_busy = self._plan is not None or bool(self._waiting)
        return frozenset((TOPIC,)) if is_busy and self._is_handed else frozenset()

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:  # noqa: ARG002
        """Make the next plan, start it, look after it."""
        while self._plan is None and self._waiting:
            self._open(self._waiting.popleft(), now_ms)
        if self._plan is not None and self._state == "ready":
            _log.info(
                "training starts",
                model=self._plan.request.model,
                request=self._plan.request.request_id,
                attempt=self._plan.attempt,
            )
            self._job = self._launch(self._plan)
            self._state = "running"
        elif self._job is not None and (result := self._job.poll()) is not None:
            self.close()
            if result.candidate is not None:
                self._finish(result.candidate)
            elif result.is_final:
                self._fail(result.failure)
            else:
                self._again(result.failure)

    # ------------------------------------------------------------------- inside

    def _open(self, record: Record, now_ms: int) -> None:
        """Take the next record; a request for an executor elsewhere is none of ours."""
        try:
            request = decode(RetrainRequest, record.value or b"")
        except DeadLetter as error:
            letter = dead_letter(record, error.reason, error.detail, service=SERVICE)
            self._outputs.append(letter)
            return
        if request.executor == "local":
            self._make_plan(record.offset, request, now_ms)

    def _make_plan(self, offset: int, request: RetrainRequest, now_ms: int) -> None:
        """Fix everything the training depends on, as it is committed by now.

        A request may have waited while another training, or a person, made
        another version champion.  A comparison with the one that no longer
        serves would say nothing (the registry would not promote on it), and
        learning on from it would leave out what its successor has learnt: so
        the parent is whoever serves when the training starts.
        """
        self._context.refresh()
        champion = self._champion_of(request.model)
        if champion is not None and request.base_version != champion.version:
            _log.info(
                "training against the present champion",
                request=request.request_id,
                asked=request.base_version,
                champion=champion.version,
            )
            request = request.model_copy(update={"base_version": champion.version})
        base = request.base_version
        monitor = self._monitor_of(request.model)
        plan = Plan(
            offset=offset,
            request=request,
            monitor=monitor,
            parent=None if base is None else self._version_of(request.model, base),
            ranges=self._ends(),
            seed=seed_of(request.request_id),
            created_ms=now_ms,
        )
        self._plan, self._state = plan, "planned"
        if monitor is None:
            self._fail(f"no monitor declares a model {request.model!r}")

    def _again(self, why: str) -> None:
        """Plan another attempt, or give up."""
        if self._plan is None:
            return
        _log.warning("a training failed", request=self._plan.request.request_id, because=why)
        if self._plan.attempt >= ATTEMPTS:
            self._fail(f"{ATTEMPTS} attempts failed, the last because {why}")
            return
        self._plan = self._plan.model_copy(update={"attempt": self._plan.attempt + 1})
        self._state = "planned"

    def _fail(self, why: str) -> None:
        if self._plan is not None:
            now_ms = self._context.clock()
            self._finish(failed(self._plan.request, why, created_ms=now_ms, plan=self._plan))

    def _finish(self, candidate: Candidate) -> None:
        self._candidate, self._state = candidate, "done"
        _log.info(
            "training is over",
            model=candidate.model,
            request=candidate.request_id,
            failure=candidate.failure,
            metrics=candidate.metrics,
        )

    def _produce(self, candidate: Candidate) -> Produce:
        partition = model_partition(candidate.model, self._context.partitions("candidates"))
        key = candidate.request_id.encode()
        return Produce("candidates", key, encode(candidate), partition)
