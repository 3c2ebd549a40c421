"""Sends requests at a steady rate and, later, the outcomes that belong to them."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from kedge.client import Client
from kedge.errors import QueueFull
from kedge_services.local.demo.scenario import Row
from kedge_services.local.files import FileRow

__all__ = ["Arrival", "Sender", "arrivals_from_file", "arrivals_now"]

_TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class Arrival:
    """A row with its id and times; its outcome is sent ``delay_s`` after its request."""

    identity: str
    row: Row
    event_ms: int
    label_ms: int
    delay_s: float


def arrivals_now(
    take: Callable[[int], list[Row]], *, seed: int, delay_s: tuple[float, float]
) -> Callable[[int, int], list[Arrival]]:
    """Make arrivals whose event time is the time of sending; labels come within ``delay_s``."""
    chance = random.Random(seed)  # noqa: S311 -- a simulation, not a secret
    sent = 0

    def make(rows: int, now_ms: int) -> list[Arrival]:
        nonlocal sent
        made = []
        for row in take(rows):
            delay = chance.uniform(*delay_s)
            label_ms = now_ms + round(delay * 1000)
            made.append(Arrival(f"{seed}-{sent}", row, now_ms, label_ms, delay))
            sent += 1
        return made

    return make


def arrivals_from_file(
    rows: Iterable[FileRow], *, start_ms: int, speed_up: float, rate: float
) -> Iterator[Arrival]:
    """Move the times of labelled rows to ``start_ms`` and divide them by ``speed_up``."""
    first: int | None = None
    for number, row in enumerate(rows):
        if row.label is None:
            continue
        first = row.time_ms if first is None else first
        event_ms = start_ms + round((row.time_ms - first) / speed_up)
        sent = Row(row.features, row.label, row.segments)
        yield Arrival(f"row-{number}", sent, event_ms, event_ms, delay_s=1 / rate)


class Sender(threading.Thread):
    """Sends what ``make(rows, now_ms)`` gives at ``rate`` rows a second until stopped.

    ``make`` giving fewer rows than asked ends the traffic.  Whatever goes wrong
    is kept in ``error``: a thread has nobody to raise to.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        make: Callable[[int, int], list[Arrival]],
        *,
        rate: float,
    ) -> None:
        super().__init__(name="traffic", daemon=True)
        self._client = client
        self._model = model
        self._make = make
        self._rate = rate
        self._halt = threading.Event()
        self._due: list[tuple[float, int, Arrival]] = []
        self.requests_sent = 0
        self.outcomes_sent = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Send until stopped or at the end of the rows; then send the outcomes still due."""
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 -- kept for the main thread, which raises it
            self.error = error

    def _run(self) -> None:
        began = time.monotonic()
        ended = False
        while not ended and not self._halt.is_set():
            wanted = int((time.monotonic() - began) * self._rate) - self.requests_sent
            made = self._make(wanted, time.time_ns() // 1_000_000) if wanted > 0 else []
            ended = len(made) < wanted
            for arrival in made:
                self._send(
                    partial(
                        self._client.request,
                        model=self._model,
                        rows=[arrival.row.features],
                        request_id=arrival.identity,
                        event_time_ms=arrival.event_ms,
                        segments=arrival.row.segments,
                    )
                )
                self.requests_sent += 1
                due = time.monotonic() + arrival.delay_s
                heapq.heappush(self._due, (due, self.requests_sent, arrival))
            self._send_due(time.monotonic())
            self._halt.wait(_TICK_S)
        while self._due:
            self._send_due(time.monotonic())
            time.sleep(_TICK_S)
        self._client.flush(30)

    def _send_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            arrival = heapq.heappop(self._due)[2]
            self._send(
                partial(
                    self._client.outcome,
                    arrival.identity,
                    arrival.row.label,
                    event_time_ms=arrival.label_ms,
                )
            )
            self.outcomes_sent += 1

    @staticmethod
    def _send(send: Callable[[], object]) -> None:
        """Send one event; while too many wait for Kafka, so do we."""
        while True:
            try:
                send()
            except QueueFull:
                time.sleep(_TICK_S)
            else:
                return

    def stop(self) -> None:
        """Send no more requests; the outcomes of those sent still follow."""
        self._halt.set()
