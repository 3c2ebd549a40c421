"""What waits for the same is worked off together; what is for something else has its own lane.

Nobody waits for company: an item that finds a thread free is worked off at once and
alone.  While threads are busy with its lane it gathers with those that come behind it.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["LARGEST", "Lanes"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

#: Threads; more than the processors only help lanes whose work waits for something.
THREADS = 4
#: Of those one lane has at most so many: the others stay for other lanes.
OF_ONE = 2
#: Items of one piece of work, at most.
MOST = 64
#: Their sizes together, at most; an item that is larger is worked off alone.
LARGEST = 64 * 1024


class Lanes(Generic[K, T]):
    """Threads that work off lanes in the order of their first items.

    Parameters
    ----------
    work
        Takes a lane's key and some of its items; must not raise.
    size
        How much of a piece of work an item is, see :data:`LARGEST`.
    """

    def __init__(self, work: Callable[[K, list[T]], None], size: Callable[[T], int]) -> None:
        self._work = work
        self._size = size
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="score")
        self._lock = threading.Lock()
        self._waiting: dict[K, deque[T]] = {}
        self._runs = Counter[K]()

    def put(self, key: K, item: T) -> None:
        """Let an item be worked off."""
        with self._lock:
            self._waiting.setdefault(key, deque()).append(item)
            if self._runs[key] == OF_ONE:
                return
            self._runs[key] += 1
        self._pool.submit(self._run, key)

    def _run(self, key: K) -> None:
        with self._lock:
            items = self._take(self._waiting[key])
        if items:
            self._work(key, items)
        with self._lock:
            if not self._waiting[key]:
                self._runs[key] -= 1
                if not self._runs[key]:
                    del self._runs[key], self._waiting[key]
                return
        # Behind the lanes that have waited meanwhile.
        self._pool.submit(self._run, key)

    def _take(self, waiting: deque[T]) -> list[T]:
        items: list[T] = []
        room = LARGEST
        while waiting and len(items) < MOST:
            room -= self._size(waiting[0])
            if room < 0 and items:
                break
            items.append(waiting.popleft())
        return items
