"""Notifications over the real network."""

from __future__ import annotations

from kedge_services.notifier.delivery import Destination
from kedge_services.notifier.webhook import Notification
from kedge_services.runtime.http import Answer, Web

__all__ = ["HttpPost"]


class HttpPost:
    """Sends by HTTP, with one pool of connections."""

    def __init__(self) -> None:
        self._web = Web()

    async def __call__(self, destination: Destination, notification: Notification) -> Answer:
        """Send once."""
        headers = notification.headers(destination.secret)
        return await self._web.post(destination.url, notification.body, headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._web.close()
