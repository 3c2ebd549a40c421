"""The clock of what leaves Kafka, as a port: its waiting is a matter of hours."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol

__all__ = ["RealTimes", "Times"]


class Times(Protocol):
    """A clock, and a way to wait."""

    def now_s(self) -> float:
        """Give seconds since the epoch."""

    def jitter(self) -> float:
        """Give a number in [0, 1)."""

    async def pause(self, seconds: float) -> None:
        """Wait."""


class RealTimes:
    """The machine's clock."""

    def now_s(self) -> float:
        """Give seconds since the epoch."""
        return time.time()

    def jitter(self) -> float:
        """Give a number in [0, 1)."""
        return random.random()  # noqa: S311 -- spreads retries, guards nothing

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
