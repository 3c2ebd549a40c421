"""A run from its start to its end: sent until it is taken, looked at until it is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kedge.monitor import format_duration
from kedge_services.core.retrying import next_pause_s
from kedge_services.executors.reports import Report, Result
from kedge_services.executors.runs import Plan, RunFailed, Started
from kedge_services.runtime.times import Times

__all__ = ["Again", "Pipeline", "insist", "start", "watch"]

T = TypeVar("T")

_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Again:
    """It did not work this time; ``asked_s`` is when the other side wants to be asked again."""

    problem: str
    asked_s: float | None = None


class Pipeline(Protocol):
    """Somebody else's pipeline; each kind of executor is one of these.

    What will not work by repeating it raises :class:`RunFailed`.
    """

    async def start(self, plan: Plan, key: str) -> Started | Again:
        """Start the run of this key, or find the one that was started under it."""

    async def look(self, started: Started, key: str) -> Report | Again:
        """Ask for its status."""

    def may_visit(self, url: str) -> bool:
        """Say whether a model file may be fetched from this http(s) URL."""


async def start(pipeline: Pipeline, plan: Plan, key: str, times: Times) -> Started:
    """Send the plan until the pipeline has it.

    Raises
    ------
    RunFailed
        It was refused, or not taken before the deadline.
    """
    if _left_s(plan, times) <= 0:
        raise RunFailed(f"{_who(plan)} was not reached before the deadline", "late")
    return await insist(lambda: pipeline.start(plan, key), plan, times, "take the run")


async def watch(
    pipeline: Pipeline,
    plan: Plan,
    started: Started,
    key: str,
    *,
    times: Times,
    tell: Callable[[str], None],
) -> Result:
    """Look until the run is over, the last time at its deadline, but at least once.

    ``tell`` is told what the run is found to be.

    Raises
    ------
    RunFailed
        It failed, was cancelled, is not over, or nobody can say.
    """
    heard = "nothing"
    while True:
        answer = await pipeline.look(started, key)
        asked_s = 0.0
        if isinstance(answer, Again):
            heard, asked_s = answer.problem, answer.asked_s or 0.0
        elif answer.status == "succeeded":
            if answer.result is None:
                raise RunFailed(f"{_who(plan)} succeeded without a result", "unusable")
            return answer.result
        elif answer.status in ("failed", "cancelled"):
            said = f": {answer.message[:_MESSAGE]}" if answer.message else ""
            raise RunFailed(f"{_who(plan)}: the run {_was(answer)}{said}", answer.status)
        else:
            heard = answer.status
            tell(heard)
        left_s = _left_s(plan, times)
        if left_s <= 0:
            after = format_duration(plan.executor.deadline)
            raise RunFailed(f"{_who(plan)} was not done after {after}; last heard: {heard}", "late")
        pause_s = max(plan.executor.poll.total_seconds(), asked_s)
        await times.pause(min(pause_s, left_s))


async def insist(
    attempt: Callable[[], Awaitable[T | Again]], plan: Plan, times: Times, what: str
) -> T:
    """Try until it works.

    Raises
    ------
    RunFailed
        It did not before the deadline.
    """
    attempts = 0
    while True:
        answer = await attempt()
        if not isinstance(answer, Again):
            return answer
        attempts += 1
        pause_s = next_pause_s(
            attempts=attempts,
            elapsed_s=0.0,
            asked_s=answer.asked_s,
            jitter=times.jitter(),
            give_up_s=_left_s(plan, times),
        )
        if pause_s is None:
            raise RunFailed(
                f"{_who(plan)} did not {what} after {attempts} attempts, last: {answer.problem}",
                "late",
            )
        await times.pause(pause_s)


def _left_s(plan: Plan, times: Times) -> float:
    return plan.deadline_ms / 1000 - times.now_s()


def _was(report: Report) -> str:
    return "was cancelled" if report.status == "cancelled" else "failed"


def _who(plan: Plan) -> str:
    return f"executor {plan.executor.name}"
