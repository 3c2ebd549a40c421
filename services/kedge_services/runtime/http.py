"""HTTP outwards, careful with those at the other end.

They may be slow, answer without end, or send a redirect to where only this
machine can go.  So every request has a time and a size it may take, and what
is followed is said by the caller.  URLs are secrets: none is logged or told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple, cast

import httpx

__all__ = ["Answer", "Visit", "Web", "origin", "resolve"]

_SILENCE_S = 10.0
_ANSWER_S = 30.0
_DOWNLOAD_S = 600.0
_REDIRECTS = 5
_SMALL = 64 * 1024

Visit = Callable[[str], bool]
"""Says whether a URL may be asked for."""


class Answer(NamedTuple):
    """What came back: a status with its body, or a failure of the network.

    ``status`` is None for what may pass: nobody there, nothing heard for too
    long.  ``problem`` says in words what else is wrong, also of an answer that
    is larger, or leads elsewhere, than allowed.
    """

    status: int | None
    retry_after: str | None = None
    problem: str = ""
    body: bytes = b""


def origin(url: str) -> str:
    """Give scheme, host and port of a URL.

    Raises
    ------
    ValueError
        It is no http(s) URL.

    >>> origin("https://Hooks.example/a?b#c"), origin("http://me:pw@127.0.0.1:8080")
    ('https://hooks.example:443', 'http://127.0.0.1:8080')
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except httpx.InvalidURL as error:
        raise ValueError("no URL") from error
    if parsed.scheme not in ("http", "https") or not host:
        raise ValueError("no http(s) URL")
    shown = f"[{host}]" if ":" in host else host
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return f"{parsed.scheme}://{shown}:{port}"


def resolve(base: str, url: str) -> str:
    """Give a URL that may be relative to another one as an absolute one.

    Raises
    ------
    ValueError
        It is no URL.
    """
    try:
        return str(httpx.URL(base).join(url))
    except httpx.InvalidURL as error:
        raise ValueError("no URL") from error


class Web:
    """A pool of connections; ``transport`` replaces the network."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        # It logs every request with its URL, and ours are secrets.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.AsyncClient(
            timeout=_SILENCE_S,
            transport=transport,
            # What unpacks itself has no size one could trust.
            headers={"Accept-Encoding": "identity"},
        )

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, limit: int = _SMALL
    ) -> Answer:
        """Send once; a redirect is an answer like any other."""
        parts: list[bytes] = []
        request = self._request("POST", url, headers, body)
        answer, _ = await self._send(request, parts.append, limit, _ANSWER_S)
        return answer._replace(body=b"".join(parts))

    async def get(
        self, url: str, headers: Mapping[str, str], *, may_visit: Visit, limit: int = _SMALL
    ) -> Answer:
        """Ask once, along redirects to where one may go."""
        parts: list[bytes] = []
        answer = await self._follow(url, headers, may_visit, parts.append, limit, _ANSWER_S)
        return answer._replace(body=b"".join(parts))

    async def download(self, url: str, file: Path, *, may_visit: Visit, limit: int) -> Answer:
        """Write what a URL holds into a file, as far as ``limit``."""
        with file.open("wb") as target:
            return await self._follow(url, {}, may_visit, target.write, limit, _DOWNLOAD_S)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _follow(
        self,
        url: str,
        headers: Mapping[str, str],
        may_visit: Visit,
        write: Callable[[bytes], object],
        limit: int,
        time_s: float,
    ) -> Answer:
        for _ in range(_REDIRECTS):
            if not may_visit(url):
                return Answer(0, problem="it leads to an origin that is not allowed")
            request = self._request("GET", url, headers)
            answer, following = await self._send(request, write, limit, time_s)
            if following is None:
                return answer
            url = following
        return Answer(0, problem="it redirects without end")

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> httpx.Request | None:
        try:
            return self._client.build_request(method, url, headers=dict(headers), content=body)
        except httpx.InvalidURL:
            return None

    async def _send(
        self,
        request: httpx.Request | None,
        write: Callable[[bytes], object],
        limit: int,
        time_s: float,
    ) -> tuple[Answer, str | None]:
        """Give the answer and where it redirects to; only a success has a body worth reading."""
        if request is None:
            return Answer(None, problem="InvalidURL"), None
        try:
            async with asyncio.timeout(time_s):
                response = await self._client.send(request, stream=True)
                try:
                    if response.next_request is not None:
                        return Answer(response.status_code), str(response.next_request.url)
                    retry_after = response.headers.get("Retry-After")
                    answer = Answer(response.status_code, retry_after)
                    if not response.is_success:
                        return answer, None
                    return await _read(response, answer, write, limit), None
                finally:
                    await response.aclose()
        except (httpx.TransportError, httpx.InvalidURL, TimeoutError) as error:
            # Its text may hold the URL; its kind says enough.
            return Answer(None, problem=type(error).__name__), None


async def _read(
    response: httpx.Response, answer: Answer, write: Callable[[bytes], object], limit: int
) -> Answer:
    read = 0
    # It is a generator, though httpx says no more than that it can be iterated.
    async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as chunks:
        async for chunk in chunks:
            read += len(chunk)
            if read > limit:
                return answer._replace(problem=f"it is larger than {limit} bytes")
            write(chunk)
    return answer
