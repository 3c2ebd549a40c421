"""When a server begins to take requests by HTTP, and how it stops without losing one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

__all__ = ["Lifetime", "beside"]

#: How often it is looked whether the server can begin.
LOOK_S = 0.05


class Lifetime:
    """Opens the port when the server is able to answer, and drains it before the end.

    ::

        starting ── able ──▶ serving ── stop ──▶ draining ── after drain_s ──▶ ended
        (refused)            (ready)             (not ready, still answering)

    Once it serves it stays ready: neither a version that is being loaded nor a
    rebalance keeps it from answering by HTTP, and all servers of a model load a
    new version at the same moment.

    Parameters
    ----------
    is_able
        Whether the versions are known and the champions loaded.
    open_port
        Lets requests in.
    was_asked
        Whether anybody uses the port; if nobody does, nobody has to leave it.
    drain_s
        How long who sends requests has to notice that this server is no longer ready.

    Attributes
    ----------
    ended
        Set when it is time to stop.
    """

    def __init__(
        self,
        *,
        is_able: Callable[[], bool],
        open_port: Callable[[], None],
        was_asked: Callable[[], bool],
        drain_s: float,
    ) -> None:
        self._is_able = is_able
        self._open_port = open_port
        self._was_asked = was_asked
        self._drain_s = drain_s
        self._has_begun = False
        self._is_stopping = False
        self.ended = threading.Event()

    @property
    def is_ready(self) -> bool:
        """Say whether requests should be sent here."""
        return self._has_begun and not self._is_stopping

    @property
    def is_draining(self) -> bool:
        """Say whether it is about to stop."""
        return self._is_stopping

    def run(self, stop: threading.Event, done: threading.Event) -> None:
        """Go through all of it, beginning to drain at ``stop``; ``done`` cuts it short."""
        try:
            while not (stop.wait(LOOK_S) or done.is_set()):
                if not self._has_begun and self._is_able():
                    self._open_port()
                    self._has_begun = True
            self._is_stopping = True
            if self._was_asked():
                done.wait(self._drain_s)
        finally:
            self.ended.set()


@contextlib.contextmanager
def beside(
    work: Callable[[threading.Event], None], wake: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Run ``work`` in a thread; it ends when its event is set and it was woken."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        wake()
        thread.join()
