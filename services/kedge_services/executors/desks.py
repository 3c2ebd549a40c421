"""A desk for each partition this process owns, opened and closed as the group decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from kedge_services.executors.desk import Desk

__all__ = ["Desks"]


class Desks:
    """Follows the assignment of partitions.

    Parameters
    ----------
    make
        Makes the desk of a partition.
    on_crash
        Told of a desk that cannot be opened; the process has to stop then.
    """

    def __init__(
        self, make: Callable[[int], Desk], on_crash: Callable[[BaseException], Awaitable[None]]
    ) -> None:
        self._make = make
        self._on_crash = on_crash
        self._opening: dict[int, asyncio.Task[Desk]] = {}
        #: Set by the next assignment.
        self._next = asyncio.Event()
        self._is_assigned = False

    @property
    def are_open(self) -> bool:
        """Whether every partition that is assigned has been taken over."""
        return self._is_assigned and all(
            task.done() and not task.cancelled() and task.exception() is None
            for task in self._opening.values()
        )

    async def assign(self, partitions: Collection[int]) -> None:
        """Own exactly these; returns before they are open."""
        await self._close(self._opening.keys() - set(partitions))
        for partition in partitions:
            if partition not in self._opening:
                self._opening[partition] = asyncio.create_task(self._open(partition))
        self._is_assigned = True
        self._next.set()
        self._next = asyncio.Event()

    async def revoke(self) -> None:
        """Own none until the next assignment, so that nothing is done by two."""
        self._is_assigned = False
        await self._close(list(self._opening))

    async def of(self, partition: int) -> Desk | None:
        """Give the desk of a partition when it is open, None if another process has it."""
        while True:
            if not self._is_assigned:
                await self._next.wait()
                continue
            task = self._opening.get(partition)
            if task is None:
                return None
            await asyncio.wait([task])
            if not task.cancelled():
                return task.result()

    async def _open(self, partition: int) -> Desk:
        try:
            desk = self._make(partition)
            try:
                await desk.open()
            except asyncio.CancelledError:
                await desk.close()
                raise
        except Exception as error:
            await self._on_crash(error)
            raise
        return desk

    async def _close(self, partitions: Collection[int]) -> None:
        tasks = [self._opening.pop(partition) for partition in partitions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and task.exception() is None:
                await task.result().close()
