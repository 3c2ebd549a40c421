from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kedge_services.core.watermark import BEFORE_ALL, Clocks

TIMES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1_000)), max_size=40)


@given(TIMES, st.integers(0, 50))
def test_watermark_never_regresses(records: list[tuple[str, int]], grace_ms: int) -> None:
    clocks = Clocks()
    seen = {"a": BEFORE_ALL, "b": BEFORE_ALL}
    for clock, (model, time_ms) in enumerate(records):
        clocks.of(model).advance(time_ms, clock)
        for name, before in seen.items():
            now = clocks.watermark(name, grace_ms)
            assert now >= before
            seen[name] = now


@given(TIMES)
def test_watermark_is_the_largest_time_of_the_model_alone(records: list[tuple[str, int]]) -> None:
    clocks = Clocks()
    for model, time_ms in records:
        clocks.of(model).advance(time_ms, 0)
    for name in "ab":
        times = [time_ms for model, time_ms in records if model == name]
        assert clocks.watermark(name, 5) == (max(times) - 5 if times else BEFORE_ALL)


def test_clock_never_goes_back_and_remembers_where_it_began() -> None:
    clocks = Clocks()
    for now in (100, 90, 300):
        clocks.tick(now)
    assert (clocks.since_ms, clocks.clock_ms) == (100, 300)


def test_a_model_is_idle_when_the_partition_goes_on_without_it() -> None:
    # clock  100 ........ 129 | 130
    # a       x                 ^ 30 after its last record
    # b     (never seen: since the beginning, 100)
    clocks = Clocks()
    clocks.tick(100)
    clocks.of("a").advance(7, 100)
    clocks.tick(129)
    assert not clocks.is_idle("a", 30)
    clocks.tick(130)
    assert clocks.is_idle("a", 30)
    assert clocks.is_idle("b", 30)
