"""Watermarks over source partitions: what holds them, what lets them go on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.panes import ModelClock, Progress
from kedge_services.core.frontier import NONE, TOPICS, Clock, Frontier, Source, Topic

IDLE = 30


def source(
    partition: int,
    *,
    clock: int,
    since: int = 0,
    predictions: tuple[int, int] | None = None,
    outcomes: tuple[int, int] | None = None,
) -> Progress:
    """Clocks of one partition; ``predictions`` and ``outcomes`` are (max_ms, seen_ms)."""

    def clocks(pair: tuple[int, int] | None) -> dict[str, ModelClock]:
        return {} if pair is None else {"m": ModelClock(max_ms=pair[0], seen_ms=pair[1])}

    return Progress(
        partition=partition,
        partitions=2,
        sequence=1,
        offsets={},
        clock_ms={"predictions": clock, "outcomes": clock},
        since_ms={"predictions": since, "outcomes": since},
        predictions=clocks(predictions),
        outcomes=clocks(outcomes),
        fates={},
    )


def of(*sources: Progress) -> Frontier:
    frontier = Frontier(IDLE)
    frontier.column("m")
    for one in sources:
        frontier.take(Source.of(one))
    return frontier


def times(*found: int | None) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([NONE if time is None else time for time in found], dtype=np.int64)


def known(found: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int | None]:
    return [None if time == NONE else time for time in found.tolist()]


def watermark(*sources: Progress, grace: int = 0, woke: int | None = None) -> int | None:
    return known(
        of(*sources).event_watermarks("predictions", grace_ms=times(grace), woke_ms=times(woke))
    )[0]


def woken(before: Sequence[Progress], progress: Progress) -> int | None:
    found = of(*before).take(Source.of(progress))
    return found[0].woke_ms if found else None


def test_the_slowest_partition_that_is_not_idle_holds_the_watermark() -> None:
    fast = source(0, clock=100, predictions=(500, 100))
    slow = source(1, clock=100, predictions=(200, 80))
    assert watermark(fast, slow) == 200
    assert watermark(fast, slow, grace=5) == 195


def test_an_idle_partition_leaves_the_minimum_exactly_after_its_time() -> None:
    # clock of source 1      80 (last row)        109   110
    #                         |---------------------|-----|
    fast = source(0, clock=110, predictions=(500, 110))
    assert watermark(fast, source(1, clock=109, predictions=(200, 80))) == 200
    assert watermark(fast, source(1, clock=110, predictions=(200, 80))) == 500


def test_a_partition_that_never_had_the_model_holds_until_it_is_idle() -> None:
    fast = source(0, clock=20, predictions=(500, 20))
    assert watermark(fast, source(1, clock=29)) is None
    assert watermark(fast, source(1, clock=30)) == 500
    assert watermark(fast, source(1, clock=110, since=100)) is None


def test_a_partition_that_is_read_no_further_is_not_idle_but_lagging() -> None:
    # clock of source 1      40 (last row)       100 (its process stops)
    #                         |-------------------|
    # rows of source 0        ·  ·  ·  ·  ·  ·  ·  ·  ·  130
    lagging = source(1, clock=100, predictions=(200, 40))
    assert watermark(source(0, clock=100, predictions=(500, 100)), lagging) == 500
    assert watermark(source(0, clock=130, predictions=(800, 130)), lagging) == 200
    assert watermark(source(0, clock=900, predictions=(800, 130)), lagging) == 200
    caught_up = source(1, clock=131, predictions=(200, 40))
    assert watermark(source(0, clock=130, predictions=(800, 130)), caught_up) == 800


def test_a_model_that_is_back_in_one_partition_may_be_back_in_the_others() -> None:
    # source 0     10                  200 (a batch)
    # source 1     10                  201                      229  230
    #               |-------------------|------------------------|----|
    back = source(0, clock=200, predictions=(900, 200))
    before = [source(p, clock=150, predictions=(100, 10)) for p in (0, 1)]
    woke = woken(before, back)
    assert woke == 200
    for clock, expected in ((201, 100), (229, 100), (230, 900)):
        assert watermark(back, source(1, clock=clock, predictions=(100, 10)), woke=woke) == expected
    its_own = source(1, clock=205, predictions=(880, 204))
    assert watermark(back, its_own, woke=woke) == 880


def test_a_model_wakes_when_it_comes_first_and_after_an_idle_time_everywhere() -> None:
    def wakes(seen: int, *before: Progress) -> int | None:
        progress = source(0, clock=seen, predictions=(1, seen))
        return woken(before, progress)

    assert wakes(70) == 70
    assert wakes(70, source(1, clock=500)) == 70
    assert wakes(70, source(0, clock=40, predictions=(1, 40))) == 70
    assert wakes(69, source(0, clock=40, predictions=(1, 40))) is None
    assert wakes(70, *(source(p, clock=60, predictions=(1, 40 + p)) for p in (0, 1))) is None
    nothing = source(0, clock=900)
    assert woken([], nothing) is None


def test_when_all_are_idle_only_the_time_that_passed_is_added() -> None:
    first = source(0, clock=150, predictions=(500, 100))
    second = source(1, clock=140, predictions=(200, 100))
    assert watermark(first, second, grace=5) == 500 - 5 + 40


def test_without_the_model_anywhere_there_is_no_watermark() -> None:
    assert watermark(source(0, clock=500), source(1, clock=500)) is None


clocks = st.builds(
    lambda time, seen, more: (time, seen, seen + more),
    st.integers(0, 10_000),
    st.integers(0, 1_000),
    st.integers(0, 60),
)


@given(st.lists(clocks, min_size=1, max_size=5), st.integers(0, 1_000), st.data())
def test_a_row_more_never_takes_the_watermark_back(
    found: list[tuple[int, int, int]], later: int, data: st.DataObject
) -> None:
    sources = [
        source(i, clock=clock, predictions=(time, seen))
        for i, (time, seen, clock) in enumerate(found)
    ]
    i = data.draw(st.integers(0, len(found) - 1))
    time, _, clock = found[i]
    before = watermark(*sources)
    assert before is not None
    # Rows of an idle partition come back behind the watermark; that is why it is kept.
    sources[i] = source(i, clock=clock, predictions=(time + later, clock))
    after = watermark(*sources)
    assert after is not None
    if all(clock - seen < IDLE for _, seen, clock in found):
        assert after >= before


def data(*sources: Progress) -> int | None:
    return known(of(*sources).data_watermarks(grace_ms=times(5), woke_ms=times(None)))[0]


def test_cells_wait_for_both_topics_and_no_idleness_moves_them() -> None:
    first = source(0, clock=10_000, predictions=(500, 0), outcomes=(300, 0))
    assert data(first) == 295
    assert data(first, source(1, clock=10_000, predictions=(200, 0), outcomes=(400, 0))) == 195
    assert data(first, source(1, clock=10_000, predictions=(600, 0))) is None


def test_a_partition_that_never_saw_the_model_does_not_hold_cells_for_ever() -> None:
    first = source(0, clock=10_000, predictions=(500, 0), outcomes=(300, 0))
    assert data(first, source(1, clock=20)) is None
    assert data(first, source(1, clock=30)) == 295


@pytest.mark.parametrize(("clock", "expected"), [(129, None), (130, 7_030), (500, 7_400)])
def test_time_passes_for_labels_that_never_come(clock: int, expected: int | None) -> None:
    sources = [source(0, clock=900), source(1, clock=clock)]
    arguments = {"first_ms": times(7_000), "since_ms": times(100)}
    assert known(of(*sources).silent_watermarks(**arguments)) == [expected]
    seen = [*sources, source(2, clock=900, outcomes=(1, 1))]
    assert known(of(*seen).silent_watermarks(**arguments)) == [None]


# What the arrays are held to: the same, said model by model and source by source.


def clocks_of(source: Source, topic: Topic) -> dict[str, Clock]:
    return source.predictions if topic == "predictions" else source.outcomes


def newest_seen(sources: Sequence[Source], topic: Topic, model: str) -> int | None:
    clocks = (clocks_of(source, topic).get(model) for source in sources)
    return max((clock.seen_ms for clock in clocks if clock is not None), default=None)


def silence(source: Source, topic: Topic, clock: Clock | None) -> int:
    clock_ms = source.clock_ms[topic]
    return clock_ms - (source.since_ms[topic] if clock is None else clock.seen_ms)


def is_idle(
    sources: Sequence[Source], source: Source, topic: Topic, model: str, woke_ms: int | None
) -> bool:
    least_ms = newest_seen(sources, topic, model) or 0
    if woke_ms is not None:
        least_ms = max(least_ms, woke_ms + IDLE)
    silent = silence(source, topic, clocks_of(source, topic).get(model))
    return silent >= IDLE and source.clock_ms[topic] >= least_ms


def plain_event(
    sources: Sequence[Source], topic: Topic, model: str, woke_ms: int | None
) -> int | None:
    idle = [is_idle(sources, source, topic, model, woke_ms) for source in sources]
    clocks = [clocks_of(source, topic).get(model) for source in sources]
    seen = [clock.max_ms for clock in clocks if clock is not None]
    if not seen:
        return None
    awake = [clock for clock, is_out in zip(clocks, idle, strict=True) if not is_out]
    if awake:
        least = [clock.max_ms for clock in awake if clock is not None]
        return min(least) - 5 if len(least) == len(awake) else None
    pairs = zip(sources, clocks, strict=True)
    return max(seen) - 5 + min(silence(source, topic, clock) for source, clock in pairs)


def plain_data(sources: Sequence[Source], model: str, woke_ms: int | None) -> int | None:
    if not any(model in source.outcomes for source in sources):
        return None
    found: list[int] = []
    for source in sources:
        pair = [source.predictions.get(model), source.outcomes.get(model)]
        if pair == [None, None] and is_idle(sources, source, "predictions", model, woke_ms):
            continue
        there = [clock.max_ms for clock in pair if clock is not None]
        if len(there) < 2:
            return None
        found += there
    return min(found) - 5


def plain_silent(
    sources: Sequence[Source], model: str, first_ms: int, since_ms: int | None
) -> int | None:
    if since_ms is None or any(model in source.outcomes for source in sources):
        return None
    silent = min(source.clock_ms["outcomes"] for source in sources) - since_ms
    return first_ms + silent if silent >= IDLE else None


def plain_woken(
    before: Sequence[Source], source: Source, topic: Topic, model: str
) -> tuple[str, Topic, int] | None:
    clock = clocks_of(source, topic).get(model)
    if clock is None:
        return None
    newest = newest_seen(before, topic, model)
    is_back = newest is None or clock.seen_ms - newest >= IDLE
    return (model, topic, clock.seen_ms) if is_back else None


MODELS = ("m", "n", "o")
CLOCKS = st.dictionaries(
    st.sampled_from(MODELS), st.builds(Clock, st.integers(0, 60), st.integers(0, 90))
)


def of_topics(values: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries(dict.fromkeys(TOPICS, values))


SOURCES = st.lists(
    st.builds(
        Source,
        st.integers(0, 3),
        st.just(4),
        of_topics(st.integers(0, 90)),
        of_topics(st.integers(0, 40)),
        CLOCKS,
        CLOCKS,
    ),
    min_size=1,
    max_size=8,
)
WOKE = st.tuples(*[st.none() | st.integers(0, 60)] * 3)


@given(SOURCES, WOKE)
def test_side_by_side_every_model_comes_as_far_as_by_itself(
    reported: list[Source], woke: tuple[int | None, ...]
) -> None:
    frontier = Frontier(IDLE)
    for model in MODELS:
        frontier.column(model)
    sources: dict[int, Source] = {}
    for one in reported:
        before = list(sources.values())
        expected = [
            awake
            for topic in TOPICS
            for model in clocks_of(one, topic)
            if (awake := plain_woken(before, one, topic, model)) is not None
        ]
        assert frontier.take(one) == expected
        sources[one.partition] = one
        now = list(sources.values())
        grace, woke_ms = times(5, 5, 5), times(*woke)
        by_model = list(zip(MODELS, woke, strict=True))
        for topic in TOPICS:
            assert known(frontier.event_watermarks(topic, grace_ms=grace, woke_ms=woke_ms)) == [
                plain_event(now, topic, model, at) for model, at in by_model
            ]
        assert known(frontier.data_watermarks(grace_ms=grace, woke_ms=woke_ms)) == [
            plain_data(now, model, at) for model, at in by_model
        ]
        assert known(frontier.silent_watermarks(first_ms=times(7, 8, 9), since_ms=woke_ms)) == [
            plain_silent(now, model, 7 + i, at) for i, (model, at) in enumerate(by_model)
        ]
