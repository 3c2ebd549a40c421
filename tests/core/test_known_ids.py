"""Ids of predictions without labels: who is a duplicate follows from the records alone."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kedge_services.core.id_texts import Hashes, IdTexts
from kedge_services.core.known_ids import Arrived, KnownIds, held_ms, held_until

GRACE_MS = 5_000
HOUR_MS = 3_600_000


class Sent(NamedTuple):
    name: str
    version: str
    time_ms: int
    appended_ms: int


#: Steps of event and of append time; now and then an hour passes.
SENT = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from(["1", "2"]),
        st.sampled_from([-30_000, -12_000, -4_999, 0, 1, 900, 5_000, 15_000, 40_000]),
        st.sampled_from([0, 1, 1_000, HOUR_MS - 1, HOUR_MS, 2 * HOUR_MS]),
    ),
    max_size=25,
)


def hashes(ids: list[str]) -> Hashes:
    return IdTexts.of(ids).hashes()


def log(steps: list[tuple[str, str, int, int]]) -> list[Sent]:
    time_ms, appended_ms, found = 1_000_000, 2_000_000, []
    for name, version, step, pause in steps:
        time_ms, appended_ms = max(0, time_ms + step), appended_ms + pause
        found.append(Sent(name, version, time_ms, appended_ms))
    return found


def watermarks(sent: list[Sent]) -> list[int]:
    return [
        max((s.time_ms for s in sent[:i]), default=-(1 << 62)) - GRACE_MS for i in range(len(sent))
    ]


def oracle(sent: list[Sent]) -> list[bool]:
    """Look at every earlier record for every record."""
    found = []
    for i, one in enumerate(sent):
        reached = max(one.time_ms, watermarks(sent)[i])
        is_new = True
        for j, other in enumerate(sent[:i]):
            until = held_until(other.time_ms, GRACE_MS)
            # Records of its generation, each in time to keep it, up to this one.
            alike = [
                s.appended_ms
                for s in sent[j:i]
                if s.version == one.version and held_until(s.time_ms, GRACE_MS) == until
            ]
            is_kept = all(b - a < held_ms(GRACE_MS) for a, b in pairwise([*alike, one.appended_ms]))
            if (other.name, other.version) == (one.name, one.version) and reached < until:
                is_new &= not is_kept
        found.append(is_new)
    return found


def take(ids: KnownIds, sent: list[Sent], start: int, end: int) -> list[bool]:
    """Take a batch, version by version."""
    before, found = watermarks(sent), [True] * (end - start)
    for version in ("1", "2"):
        at = [i for i in range(start, end) if sent[i].version == version]
        if at:
            arrived = Arrived(
                hashes([sent[i].name for i in at]),
                np.array([sent[i].time_ms for i in at]),
                np.array([before[i] for i in at]),
                np.array([sent[i].appended_ms for i in at]),
                at,
            )
            new = ids.take("m", version, grace_ms=GRACE_MS, arrived=arrived)
            for i, is_new in zip(at, new.tolist(), strict=True):
                found[i - start] = is_new
    return found


def watermark_after(sent: list[Sent]) -> int:
    return max((s.time_ms for s in sent), default=0) - GRACE_MS


@settings(max_examples=300)
@given(SENT, st.lists(st.integers(1, 6), max_size=25), st.integers(0, 25))
@example([("a", "1", 0, 0), ("a", "1", 0, HOUR_MS - 1), ("a", "1", 0, HOUR_MS)], [3], 0)
@example([("a", "1", 0, 0), ("b", "1", 0, HOUR_MS), ("a", "1", 0, 1)], [3], 0)
@example(
    [("d", "1", 0, 0), ("b", "1", 5_000, 2 * HOUR_MS), ("a", "1", -12_000, 0), ("d", "1", 1, 0)],
    [2], 9,
)  # fmt: skip
def test_duplicates_do_not_depend_on_batches_or_restarts(
    steps: list[tuple[str, str, int, int]], sizes: list[int], restart: int
) -> None:
    sent = log(steps)
    ids, found, at = KnownIds(), list[bool](), 0
    for size in [*sizes, len(sent)]:
        end = min(len(sent), at + size)
        found += take(ids, sent, at, end)
        ids.forget(lambda _, so_far=sent[:end]: watermark_after(so_far))  # type: ignore[misc]
        if at <= restart < end and end:
            # What is in memory is lost, and read again from where it began.
            low = end if ids.low is None else ids.low
            ids = KnownIds()
            take(ids, sent, low, end)
        at = end
    assert found == oracle(sent)


@settings(max_examples=30)
@given(st.integers(1, 3_000), st.lists(st.tuples(st.integers(0, 2_999), st.integers(0, 2_999))))
def test_every_repetition_in_a_large_batch_is_found(
    rows: int, pairs: list[tuple[int, int]]
) -> None:
    names = [f"r-{i}" for i in range(rows)]
    for one, other in pairs:
        names[one % rows] = names[other % rows]
    times = np.full(rows, 10_000)
    arrived = Arrived(hashes(names), times, times - GRACE_MS, times, range(rows))
    found = KnownIds().take("m", "1", grace_ms=GRACE_MS, arrived=arrived)
    first = {name: i for i, name in reversed([*enumerate(names)])}
    assert found.tolist() == [first[name] == i for i, name in enumerate(names)]


def test_ids_are_dropped_whole_and_memory_is_that_of_a_few_graces() -> None:
    ids, most = KnownIds(), 0
    for k in range(200):
        times = np.arange(k * 1_000, (k + 1) * 1_000, 10)
        arrived = Arrived(
            hashes([f"{k}-{i}" for i in range(100)]), times, times - GRACE_MS - 10, times,
            list(range(k * 100, (k + 1) * 100)),
        )  # fmt: skip
        assert ids.take("m", "1", grace_ms=GRACE_MS, arrived=arrived).all()
        most = max(most, len(ids))
    # A hundred a second, of at most five graces of five seconds.
    assert most <= 2_500
    assert ids.low is not None
    assert ids.low >= 20_000 - 2_500


def test_a_model_that_falls_silent_does_not_hold_its_ids_for_ever() -> None:
    ids = KnownIds()
    zero = np.zeros(1, dtype=np.int64)
    ids.take(
        "silent", "1", grace_ms=GRACE_MS, arrived=Arrived(hashes(["a"]), zero, zero - 1, zero, [0])
    )
    assert ids.holds("a", lambda _: 0)
    later = zero + 3 * HOUR_MS
    ids.take(
        "other", "1", grace_ms=GRACE_MS, arrived=Arrived(hashes(["b"]), later, zero, later, [9])
    )
    ids.forget(lambda model: 0 if model == "silent" else int(later[0]))
    assert not ids.holds("a", lambda _: 0)
    assert ids.low == 9
