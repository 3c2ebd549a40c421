"""Sends live traffic at a rate, in a thread, and remembers when each record was sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.workload import Workload
from kedge_services.runtime.settings import Settings

__all__ = ["LiveTraffic"]

_TICK_S = 0.01
#: Of the records of one topic, so much of the rate is sent at once.
_MOST_S = 0.05


class LiveTraffic:
    """Predictions at a rate, each followed by its outcome; a context manager that ends it.

    Parameters
    ----------
    rate
        Predictions a second, over all models, which take turns.
    seconds
        How long it is sent.
    delay_s
        From a prediction to its outcome.
    drifts_s
        When models drift, in seconds from the beginning, by their number.

    Attributes
    ----------
    sent_ms
        When each prediction was sent, its event time too; in the order of their numbers.
    predictions, outcomes
        How many have been sent.
    """

    def __init__(
        self,
        settings: Settings,
        workload: Workload,
        *,
        rate: float,
        seconds: float,
        delay_s: float = 0.5,
        drifts_s: Mapping[int, float] | None = None,
    ) -> None:
        self._workload, self._rate, self._delay_s = workload, rate, delay_s
        self._total = int(rate * seconds)
        self._drifts = {number: int(at_s * rate) for number, at_s in (drifts_s or {}).items()}
        # As the typed client lingers.
        self._filler = Filler(settings, **{"linger.ms": 50, "batch.size": 100_000})
        self.sent_ms: NDArray[np.float64] = np.zeros(self._total)
        self.predictions = self.outcomes = 0
        self.error: BaseException | None = None
        # Made now and not when the first record is due.
        next(workload.outcomes(0, 1))
        next(workload.mixed(0, 1, time_ms=0, drifted=set(self._drifts)))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin to send."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send no more."""
        self._stop.set()
        self._thread.join()

    @property
    def is_over(self) -> bool:
        """Whether all has been sent.

        Raises
        ------
        KedgeError
            Kafka did not take it.
        """
        if self.error is not None:
            raise self.error
        return not self._thread.is_alive()

    def drifted_ms(self, number: int) -> float:
        """Give when the first prediction of a model that had drifted was sent."""
        models = len(self._workload.models)
        first = self._drifts[number]
        return float(self.sent_ms[first + (number - first) % models])

    def _run(self) -> None:
        try:
            began_s = time.monotonic()
            # Who cannot send at this rate still sends both topics in turn, as it goes.
            most = max(1, int(self._rate * _MOST_S))
            while self.outcomes < self._total and not self._stop.is_set():
                elapsed_s = time.monotonic() - began_s
                due = min(self._total, int(elapsed_s * self._rate))
                self._send_predictions(min(due, self.predictions + most))
                ripe_ms = time.time_ns() / 1e6 - 1_000 * self._delay_s
                ripe = np.searchsorted(self.sent_ms[: self.predictions], ripe_ms, side="right")
                self._send_outcomes(min(int(ripe), self.outcomes + most))
                self._stop.wait(max(0.0, _TICK_S - (time.monotonic() - began_s - elapsed_s)))
            self._filler.flush()
        except BaseException as error:  # noqa: BLE001 -- whoever waits for us raises it
            self.error = error

    def _send_predictions(self, stop: int) -> None:
        start, self.predictions = self.predictions, stop
        if stop <= start:
            return
        now_ms = time.time_ns() / 1e6
        self.sent_ms[start:stop] = now_ms
        # A tick is cut where some model begins to drift.
        cuts = sorted({start, stop, *(c for c in self._drifts.values() if start < c < stop)})
        for low, high in pairwise(cuts):
            drifted = {number for number, first in self._drifts.items() if low >= first}
            self._filler.send(
                "predictions",
                self._workload.mixed(low, high, time_ms=int(now_ms), drifted=drifted),
            )

    def _send_outcomes(self, stop: int) -> None:
        start, self.outcomes = self.outcomes, stop
        if stop > start:
            now_ms = time.time_ns() // 1_000_000
            self._filler.send(
                "outcomes", self._workload.outcomes(start, stop, times_ms=now_ms, delay_ms=0)
            )
