"""Delivers notifications: in order per destination, destinations side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from kedge_services.core.retrying import next_pause_s, retry_after_s, verdict
from kedge_services.notifier.webhook import Notification
from kedge_services.runtime.http import Answer
from kedge_services.runtime.times import Times

__all__ = ["Deliveries", "Destination", "Post", "deliver"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to; the URL is a secret and is never logged, ``name`` is shown instead."""

    name: str
    url: str
    secret: str | None = None


Post = Callable[[Destination, Notification], Awaitable[Answer]]


async def deliver(
    destination: Destination, notification: Notification, *, post: Post, times: Times
) -> str | None:
    """Send until the receiver takes it; give the reason when it cannot be delivered."""
    started_s = times.now_s()
    attempts = 0
    while True:
        answer = await post(destination, notification)
        attempts += 1
        # None of the network's failures is known to be permanent.
        meaning = "retry" if answer.status is None else verdict(answer.status)
        if meaning == "delivered":
            return None
        what = answer.problem or f"status {answer.status}"
        if meaning == "refused":
            return f"{destination.name} refused it: {what}"
        now_s = times.now_s()
        pause_s = next_pause_s(
            attempts=attempts,
            elapsed_s=now_s - started_s,
            asked_s=retry_after_s(answer.retry_after, datetime.fromtimestamp(now_s, UTC)),
            jitter=times.jitter(),
        )
        if pause_s is None:
            return f"{destination.name} did not take it after {attempts} attempts, last: {what}"
        await times.pause(pause_s)


class _Job(NamedTuple):
    destination: Destination
    notification: Notification
    done: Callable[[str | None], Awaitable[None]]


class Deliveries:
    """A queue and a worker for each destination, so that a dead one delays no other.

    Parameters
    ----------
    post
        Sends one request.
    times
        The clock.
    on_crash
        Called with what nobody expected; the process has to stop then.
    """

    def __init__(
        self, *, post: Post, times: Times, on_crash: Callable[[BaseException], Awaitable[None]]
    ) -> None:
        self._post = post
        self._times = times
        self._on_crash = on_crash
        self._queues: dict[str, asyncio.Queue[_Job]] = {}
        self._workers: list[asyncio.Task[None]] = []

    def send(
        self,
        destination: Destination,
        notification: Notification,
        done: Callable[[str | None], Awaitable[None]],
    ) -> None:
        """Queue a notification; ``done`` is told None, or why it could not be delivered."""
        queue = self._queues.get(destination.url)
        if queue is None:
            queue = self._queues[destination.url] = asyncio.Queue()
            self._workers.append(asyncio.create_task(self._work(queue)))
        queue.put_nowait(_Job(destination, notification, done))

    def send_all(
        self,
        destinations: Sequence[Destination],
        notification: Notification,
        *,
        each: Callable[[str | None], Awaitable[None]],
        after_all: Callable[[], None],
    ) -> None:
        """Queue a notification for several destinations; there may be none."""
        left = len(destinations)
        if left == 0:
            after_all()

        async def done(problem: str | None) -> None:
            nonlocal left
            await each(problem)
            left -= 1
            if left == 0:
                after_all()

        for destination in destinations:
            self.send(destination, notification, done)

    async def close(self) -> None:
        """Stop the workers; what they had in work is sent again after the next start."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, queue: asyncio.Queue[_Job]) -> None:
        try:
            while True:
                job = await queue.get()
                problem = await deliver(
                    job.destination, job.notification, post=self._post, times=self._times
                )
                await job.done(problem)
        except Exception as error:  # noqa: BLE001 -- nothing may be acknowledged after this
            await self._on_crash(error)
