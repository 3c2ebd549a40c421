"""The real network and the real clock for :mod:`kedge_services.notifier.delivery`."""

from __future__ import annotations

import asyncio
import logging
import random
import time

import httpx

from kedge_services.notifier.delivery import Answer, Destination
from kedge_services.notifier.webhook import Notification

__all__ = ["HttpPost", "RealTimes"]

_TIMEOUT_S = 10.0


class HttpPost:
    """Sends by HTTP, with one pool of connections."""

    def __init__(self) -> None:
        # It logs every request with its URL, and ours are secrets.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S)

    async def __call__(self, destination: Destination, notification: Notification) -> Answer:
        """Send once."""
        try:
            response = await self._client.post(
                destination.url,
                content=notification.body,
                headers=notification.headers(destination.secret),
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            # Its text may hold the URL; its kind says enough.
            return Answer(None, problem=type(error).__name__)
        return Answer(response.status_code, response.headers.get("Retry-After"))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


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
