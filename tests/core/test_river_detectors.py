"""River's detectors: the same as plain River, over any number of restarts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import drift

from kedge_services.core.river_detectors import RIVER, RiverDetector, spread

PLAIN: dict[str, Any] = {
    "adwin": drift.ADWIN,
    "ddm": drift.binary.DDM,
    "page-hinkley": lambda: drift.PageHinkley(mode="up"),
    "kswin": lambda: drift.KSWIN(seed=1),
}


def stream(length: int = 1_500) -> Sequence[float]:
    """Losses whose rate goes .1, .5, .1, .6."""
    rng = np.random.default_rng(2)
    rates = np.repeat([0.1, 0.5, 0.1, 0.6], length // 4)
    return [float(x < rate) for x, rate in zip(rng.random(rates.size), rates, strict=True)]


@pytest.mark.parametrize("name", RIVER)
def test_it_is_river_itself_through_restarts_at_odd_places(name: str) -> None:
    plain, mine = PLAIN[name](), RiverDetector(name)
    alarms, rises = [], []
    for at, loss in enumerate(stream()):
        before = plain.drift_detected
        plain.update(loss)
        if mine.update(loss) is not None:
            rises.append(at)
        if plain.drift_detected:
            alarms.append(at)
            assert not before or name != "adwin"
        # A restart after every alarm, and every 37 losses.
        if plain.drift_detected or at % 37 == 0:
            mine = RiverDetector.decode(json.loads(json.dumps(mine.encode())))
        assert mine.is_alarming == plain.drift_detected
    assert alarms
    assert rises
    assert set(rises) <= set(alarms)
    # The rate falls at 750: no alarm of a rise until it rises again.
    assert not [at for at in rises if 800 < at < 1_100]


@pytest.mark.parametrize("name", RIVER)
def test_its_state_is_bounded_and_that_of_another_river_begins_anew(name: str) -> None:
    rng = np.random.default_rng(1)
    mine = RiverDetector(name)
    for loss in (rng.random(20_000 if name != "kswin" else 500) < 0.2).astype(float).tolist():
        mine.update(loss)
    data = mine.encode()
    assert len(json.dumps(data)) < 12_000
    fresh = RiverDetector.decode({**data, "river": "0.0.1"})
    assert fresh.encode() == RiverDetector(name).encode()


@given(st.integers(0, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_spread_keeps_every_loss_and_has_errors_in_every_part(case: tuple[int, int]) -> None:
    n, wrong = case
    fed = list(spread([(0.0, n - wrong), (1.0, wrong)]))
    assert sorted(fed) == [0.0] * (n - wrong) + [1.0] * wrong
    if n:
        sums = np.cumsum(fed) - wrong / n * np.arange(1, n + 1)
        assert np.abs(sums).max() <= 6
