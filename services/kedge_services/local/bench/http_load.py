"""Requests by HTTP at a fixed rate, open loop: each is sent when it is due.

A latency counts from when the request was due, so a server that stalls is not
spared the requests that would have come in the meantime.  Sent by a process of its
own, whose work does not stand in the way of the one that measures.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from kedge.errors import Stop

__all__ = ["Answered", "main", "send_at_rate"]

_HOST = "127.0.0.1"
_PATIENCE_S = 30.0


@dataclass(slots=True)
class Answered:
    """What came of the requests.

    Attributes
    ----------
    good
        Answers with status 200.
    latencies_s
        From when they were due to the end of the answer.
    late_s
        From when they were due to when they were sent: what the sender itself adds.
    elapsed_s
        From the first request to the last answer.
    """

    sent: int = 0
    good: int = 0
    latencies_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0


def send_at_rate(
    port: int, path: str, bodies: Sequence[bytes], *, rate: float, seconds: float
) -> Answered:
    """Send bodies in turn, and wait for the answers.

    Raises
    ------
    Stop
        The sending process could not.
    """
    task = {
        "port": port,
        "path": path,
        "bodies": [body.decode() for body in bodies],
        "rate": rate,
        "seconds": seconds,
    }
    done = subprocess.run(  # noqa: S603 -- our own command
        [sys.executable, "-m", __name__],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 2 * _PATIENCE_S,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise Stop(f"requests could not be sent: {' '.join(last)}")
    return Answered(**json.loads(done.stdout))


def main() -> None:
    """Do the task on standard input."""
    task = json.loads(sys.stdin.read())
    gc.disable()
    found = asyncio.run(_send(**task))
    sys.stdout.write(json.dumps(asdict(found)))


async def _send(
    port: int, path: str, bodies: Sequence[str], rate: float, seconds: float
) -> Answered:
    found = Answered(sent=int(rate * seconds))
    requests = [_request(path, body.encode()) for body in bodies]
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(body: bytes) -> bytes:
        while idle:
            reader, writer = idle.pop()
            writer.write(body)
            try:
                status = await _answer(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                # Servers close what was idle for long; clients then open another.
                writer.close()
                continue
            idle.append((reader, writer))
            return status
        reader, writer = await asyncio.open_connection(_HOST, port, limit=1 << 20)
        writer.write(body)
        status = await _answer(reader)
        idle.append((reader, writer))
        return status

    async def one(number: int, due_s: float) -> None:
        found.late_s.append(time.perf_counter() - due_s)
        status = await ask(requests[number % len(requests)])
        found.latencies_s.append(time.perf_counter() - due_s)
        found.good += status == b"200"

    began_s = time.perf_counter()
    tasks = []
    for number in range(found.sent):
        due_s = began_s + number / rate
        if (ahead := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(one(number, due_s)))
    done, late = await asyncio.wait(tasks, timeout=_PATIENCE_S)
    found.elapsed_s = time.perf_counter() - began_s
    for task in late:
        task.cancel()
    for task in done:
        task.exception()  # a broken connection is a request without a good answer
    for _, writer in idle:
        writer.close()
    return found


def _request(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {_HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    length = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    await reader.readexactly(length)
    return status


if __name__ == "__main__":
    main()
