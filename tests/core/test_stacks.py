"""Counts side by side: adding, testing and writing many is the same as one by one."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import Measure, Reference, Window
from kedge.codec import decode, encode
from kedge_services.core.binning import Binner
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.detectors import MIN_WINDOW, DriftJudge, try_together
from kedge_services.core.folding import Series
from kedge_services.core.integers import pack_integers, unpack_integers
from kedge_services.core.measuring import measures_of, measures_text, trusted_measure
from kedge_services.core.packed import Counts
from kedge_services.core.pane_counts import Folded, PaneCounts
from kedge_services.core.publishing import Content, Publisher, WindowKey
from kedge_services.core.references import build_reference
from kedge_services.core.sketches import FeatureCounts
from kedge_services.core.stacks import Stack

Columns = dict[str, list[Any]]


def columns(seed: int, n: int, *, shift: float = 0.0) -> Columns:
    rng = np.random.default_rng(seed)
    x: list[Any] = rng.normal(shift, 1, n).tolist()
    for i in np.flatnonzero(rng.random(n) < 0.02):
        x[i] = None
    return {
        "x": x,
        "few": rng.integers(0, 5, n).tolist(),
        "c": rng.choice(list("abcdefg"), n).tolist(),
        "rare": ([None] * n if seed % 3 else rng.normal(size=n).tolist()),
    }


def reference(rows: int = 2_000, *, shift: float = 0.0) -> Reference:
    made = columns(3, rows, shift=shift)
    kinds: Any = {name: "categorical" if name == "c" else "numeric" for name in made}
    return build_reference(
        model="m", version="1", columns=made, kinds=kinds, predictions=made["c"],
        scores=np.random.default_rng(0).random(rows).tolist(),
    )  # fmt: skip


REFERENCE = reference()
BINNER, JUDGE = Binner(REFERENCE), DriftJudge(REFERENCE)
#: Counted alike, but on other bins, or too few rows.
OTHER, FEW = DriftJudge(reference(shift=0.5)), DriftJudge(reference(900))


def delta(seed: int, n: int, *, shift: float = 0.0) -> DriftDelta:
    made = columns(seed, n, shift=shift)
    if seed % 4 == 1:
        del made["few"]
    scores = np.random.default_rng(seed).random(n).tolist()
    return BINNER.count(
        made, rows=n, predictions=made["c"], scores=scores, answers=made["c"],
        latencies=[float(seed)] * n,
    )  # fmt: skip


PANES = st.lists(
    st.tuples(st.integers(0, 50), st.sampled_from([1, 40, 120, 300]), st.sampled_from([0.0, 0.8])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(PANES, st.sampled_from([1_000, 1_500]))
def test_windows_side_by_side_are_tested_like_each_alone(
    panes: list[tuple[int, int, float]], rows: int
) -> None:
    judges = [JUDGE, JUDGE if rows == 1_500 else FEW, OTHER]
    orders = [panes, panes[::-1], panes]
    sizes = sorted({1, (len(panes) + 1) // 2, len(panes)})
    asked, deltas = [], []
    for judge, order in zip(judges, orders, strict=True):
        deltas.append([delta(seed, n, shift=shift) for seed, n, shift in order])
        packed = [PaneCounts.of(one) for one in deltas[-1]]
        for pane in packed[1::2]:
            pane.rest()
        asked.append((judge, Stack(packed, sizes)))
    for judge, parts, trials in zip(judges, deltas, try_together(asked), strict=True):
        for size, trial in zip(sizes, trials, strict=True):
            merged = DriftDelta()
            for one in parts[:size]:
                merged.add(one)
            alone = judge.test(merged)
            assert (trial.rows, trial.text, trial.tested) == (alone.rows, alone.text, alone.tested)
            assert (trial.large, trial.far) == (alone.large, alone.far)
            assert (trial.counted, trial.pairs) == (alone.counted, alone.pairs)
            assert trial.evidence() == alone.evidence()


def farthest(measures: list[Measure]) -> tuple[str, float] | None:
    """Half of w bounds what the Kolmogorov-Smirnov distance is: a share of the rows."""
    share = {"kolmogorov_smirnov": 1.0, "effect_w": 0.5}
    moved = [
        (m.feature, m.low * share[m.name])
        for m in measures
        if m.name in share and m.feature and m.low is not None and m.n >= MIN_WINDOW
    ]
    return max(moved, key=lambda found: found[1], default=None)


@given(st.integers(0, 50), st.sampled_from([50, 120, 300]), st.sampled_from([0.0, 0.8, 3.0]))
def test_the_feature_that_moved_most_is_told(seed: int, n: int, shift: float) -> None:
    trial = JUDGE.test(delta(seed, n, shift=shift))
    assert trial.far == farthest(measures_of(trial.text))


@given(PANES)
def test_adding_side_by_side_is_adding_one_by_one(panes: list[tuple[int, int, float]]) -> None:
    named, packed = DriftDelta(), PaneCounts()
    for seed, n, shift in panes:
        one = delta(seed, n, shift=shift)
        named.add(one)
        packed.add(PaneCounts.of(one))
        if seed % 2:
            packed.rest()
    same = packed.named()
    assert same.encode() == packed.encode()
    assert {n: str(c) for n, c in same.features.items()} == {
        n: str(c) for n, c in named.features.items()
    }
    assert (same.rows, same.outside, same.latency) == (named.rows, named.outside, named.latency)
    again = PaneCounts.decode(json.loads(json.dumps(packed.encode())))
    assert again.encode() == packed.encode()
    assert again.scored == sum(int(s.n.sum()) for s in named.scores.values())


@given(panes=PANES, is_at_rest=st.booleans())
def test_a_pane_is_the_same_after_it_was_folded(
    *, panes: list[tuple[int, int, float]], is_at_rest: bool
) -> None:
    packed = PaneCounts()
    for seed, n, shift in panes:
        assert Folded.of(packed).unfolded().encode() == packed.encode()
        packed.add(PaneCounts.of(delta(seed, n, shift=shift)))
    if is_at_rest:
        packed.rest()
    again = Folded.of(packed).unfolded()
    assert again.encode() == packed.encode()
    assert list(again.latency.bins.items()) == list(packed.latency.bins.items())
    # It is still added to.
    more = PaneCounts.of(delta(1, 120))
    for counts in (again, packed):
        counts.add(more)
    assert again.encode() == packed.encode()


def test_squares_may_need_more_than_64_bits() -> None:
    one = Counts.of({"x": FeatureCounts(np.array([1]), squares_z=2**63 - 1, min=-1.0, max=2.0)})
    total = one
    for _ in range(9):
        total = total.plus(one)
    assert total.named()["x"].squares_z == 10 * (2**63 - 1)
    assert (total.named()["x"].min, total.named()["x"].max) == (-1.0, 2.0)


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1)))
def test_integers_as_text_come_back(values: list[int]) -> None:
    assert unpack_integers(pack_integers(np.array(values, dtype=np.int64))).tolist() == values


FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 1e16, 1e15, 1e-7, 1e300, math.inf, math.nan])
MEASURES = st.lists(
    st.builds(
        trusted_measure,
        st.text(min_size=1),
        st.none() | st.text(),
        st.none() | FLOATS,
        st.integers(0, 2**60),
        low=st.none() | FLOATS,
        threshold=st.none() | FLOATS,
        note=st.none() | st.text(),
    ),
    max_size=4,
)


@given(MEASURES, st.integers(0, 9), st.none() | st.floats(0, 1), st.text())
def test_a_window_is_written_as_the_contract_writes_it(
    measures: list[Measure], n: int, coverage: float | None, name: str
) -> None:
    publisher = Publisher(0)
    key = WindowKey.of("drift", Series("m" + name, "1", "", "r"), 2, 4_000)
    content = Content(n, measures[1:], texts=[measures_text(measures[:1]), b""])
    content.label_coverage = coverage
    publisher.send(key, 6_000, content, decided=True, final=True, now_ms=0)
    [sent] = publisher.take()
    window = decode(Window, sent.value)
    assert sent.window_id == window.window_id
    assert window.n == n
    assert encode(window) == sent.value
    assert [str(m) for m in window.measures] == [str(m) for m in measures]


@given(st.integers(0, 50), st.sampled_from([1, 120, 300]), st.sampled_from([0.0, 3.0]))
def test_what_is_written_of_tests_is_written_as_the_contract_writes_it(
    seed: int, n: int, shift: float
) -> None:
    text = JUDGE.test(delta(seed, n, shift=shift)).text
    written = b",".join(m.model_dump_json(exclude_none=True).encode() for m in measures_of(text))
    assert written == text
