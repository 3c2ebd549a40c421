"""Watermarks over source partitions: what holds them, what lets them go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.panes import ModelClock, Progress
from kedge_services.core.frontier import (
    Source,
    careful_watermark,
    data_watermark,
    event_watermark,
    silent_watermark,
    woken,
)

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


def watermark(*sources: Progress, grace: int = 0, woke: int | None = None) -> int | None:
    return event_watermark(
        sources, "predictions", "m", grace_ms=grace, idle_after_ms=IDLE, woke_ms=woke
    )


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
    woke = woken(before, back, "predictions", "m", idle_after_ms=IDLE)
    assert woke == 200
    for clock, expected in ((201, 100), (229, 100), (230, 900)):
        assert watermark(back, source(1, clock=clock, predictions=(100, 10)), woke=woke) == expected
    its_own = source(1, clock=205, predictions=(880, 204))
    assert watermark(back, its_own, woke=woke) == 880


def test_a_model_wakes_when_it_comes_first_and_after_an_idle_time_everywhere() -> None:
    def wakes(seen: int, *before: Progress) -> int | None:
        progress = source(0, clock=seen, predictions=(1, seen))
        return woken(before, progress, "predictions", "m", idle_after_ms=IDLE)

    assert wakes(70) == 70
    assert wakes(70, source(1, clock=500)) == 70
    assert wakes(70, source(0, clock=40, predictions=(1, 40))) == 70
    assert wakes(69, source(0, clock=40, predictions=(1, 40))) is None
    assert wakes(70, *(source(p, clock=60, predictions=(1, 40 + p)) for p in (0, 1))) is None
    nothing = source(0, clock=900)
    assert woken([], nothing, "predictions", "m", idle_after_ms=IDLE) is None


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
    return data_watermark(sources, "m", grace_ms=5, idle_after_ms=IDLE)


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
    arguments = {"first_ms": 7_000, "since_ms": 100, "idle_after_ms": IDLE}
    assert silent_watermark(sources, "m", **arguments) == expected
    seen = [*sources, source(2, clock=900, outcomes=(1, 1))]
    assert silent_watermark(seen, "m", **arguments) is None


TIMES = st.none() | st.tuples(st.integers(0, 60), st.integers(0, 90))
REPORTED = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 40), TIMES, TIMES), min_size=1, max_size=4
)


@given(REPORTED, st.none() | st.integers(0, 60))
def test_the_usual_case_is_no_special_case(
    reported: list[tuple[int, int, tuple[int, int] | None, tuple[int, int] | None]],
    woke_ms: int | None,
) -> None:
    sources = [
        Source.of(source(i, clock=clock, since=since, predictions=first, outcomes=second))
        for i, (clock, since, first, second) in enumerate(reported)
    ]
    for topic in ("predictions", "outcomes"):
        quick, careful = (
            watermark(sources, topic, "m", grace_ms=5, idle_after_ms=IDLE, woke_ms=woke_ms)
            for watermark in (event_watermark, careful_watermark)
        )
        assert quick == careful
