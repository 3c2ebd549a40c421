from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from kedge_services.serving.lanes import LARGEST, MOST, OF_ONE, THREADS, Lanes

WAIT_S = 10.0


@dataclass
class Held:
    """Work that goes on only when the test says so."""

    may_end: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    pieces: list[tuple[str, list[int]]] = field(default_factory=list)
    free: frozenset[str] = frozenset()

    def __call__(self, key: str, items: list[int]) -> None:
        self.pieces.append((key, items))
        self.begun.release()
        if key not in self.free:
            assert self.may_end.wait(WAIT_S)
        for _ in items:
            self.done.release()

    def wait_for(self, semaphore: threading.Semaphore, count: int) -> None:
        for _ in range(count):
            assert semaphore.acquire(timeout=WAIT_S)


def lanes(work: Held, size: Callable[[int], int] = lambda _: 1) -> Lanes[str, int]:
    return Lanes(work, size)


def busy(work: Held, size: Callable[[int], int] = lambda _: 1) -> Lanes[str, int]:
    """Give lanes of which lane ``a`` has all its threads at work, with items below zero."""
    made = lanes(work, size)
    for i in range(OF_ONE):
        made.put("a", -1 - i)
        work.wait_for(work.begun, 1)
    return made


def test_what_finds_a_thread_free_is_worked_off_alone_and_at_once() -> None:
    work = Held()
    busy(work)
    assert work.pieces == [("a", [-1]), ("a", [-2])]
    work.may_end.set()
    work.wait_for(work.done, OF_ONE)


def test_what_comes_while_a_lane_is_busy_is_worked_off_together_in_its_order() -> None:
    work = Held()
    made = busy(work)
    for i in range(10):
        made.put("a", i)
    work.may_end.set()
    work.wait_for(work.done, OF_ONE + 10)
    assert work.pieces[OF_ONE:] == [("a", list(range(10)))]


def test_a_piece_of_work_is_bounded_in_number_and_size() -> None:
    work = Held()
    sizes = [1] * (MOST + 5) + [LARGEST, 1, LARGEST + 7, 1]
    made = busy(work, lambda i: 1 if i < 0 else sizes[i])
    for i in range(len(sizes)):
        made.put("a", i)
    work.may_end.set()
    work.wait_for(work.done, OF_ONE + len(sizes))
    pieces = sorted(items for _, items in work.pieces[OF_ONE:])
    last = len(sizes)
    assert pieces == [
        list(range(MOST)), list(range(MOST, MOST + 5)),
        [last - 4], [last - 3], [last - 2], [last - 1],
    ]  # fmt: skip


def test_a_lane_that_stands_still_holds_no_other_up() -> None:
    work = Held(free=frozenset({"b"}))
    made = busy(work)
    for i in range(5):
        made.put("a", i)
        made.put("b", 10 + i)
    work.wait_for(work.done, 5)
    found = [i for key, items in work.pieces if key == "b" for i in items]
    assert sorted(found) == [10, 11, 12, 13, 14]
    assert len([key for key, _ in work.pieces if key == "a"]) == OF_ONE < THREADS
    work.may_end.set()
    work.wait_for(work.done, OF_ONE + 5)


def test_many_at_once_are_each_worked_off_once() -> None:
    work = Held()
    work.may_end.set()
    made = lanes(work)

    def put(start: int) -> None:
        for i in range(start, start + 500):
            made.put("abc"[i % 3], i)

    threads = [threading.Thread(target=put, args=(start,)) for start in (0, 500, 1_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    work.wait_for(work.done, 1_500)
    assert sorted(i for _, items in work.pieces for i in items) == list(range(1_500))
    assert all("abc"[i % 3] == key for key, items in work.pieces for i in items)
