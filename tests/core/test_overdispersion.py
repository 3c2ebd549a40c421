"""How much more counts vary in time than those of independent rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import lfilter

from kedge import FeatureReference, Reference
from kedge_services.core.overdispersion import (
    LABEL,
    PREDICTION,
    SCORE,
    counter_overdispersion,
    overdispersion,
    unevenness,
)
from kedge_services.core.references import build_reference

ROWS = 5_000


def autocorrelated(seed: int, columns: int, *, phi: float = 0.7) -> NDArray[np.float64]:
    """Give normal columns, shape (rows, columns), each an AR(1)."""
    noise = np.random.default_rng(seed).normal(0, math.sqrt(1 - phi * phi), (ROWS, columns))
    made: NDArray[np.float64] = lfilter([1], [1, -phi], noise, axis=0)
    return made


def made(columns: dict[str, Any], **arguments: Any) -> Reference:
    kinds: dict[str, Any] = {
        name: "categorical" if isinstance(values[0], str) else "numeric"
        for name, values in columns.items()
    }
    return build_reference(model="m", version="1", columns=columns, kinds=kinds, **arguments)


def blocked(*blocks: list[int], **fields: Any) -> FeatureReference:
    counts = [sum(column) for column in zip(*blocks, strict=True)]
    return FeatureReference(
        **{
            "kind": "categorical",
            "categories": [str(i) for i in range(len(counts) - 1)],
            "counts": counts,
            "total": sum(counts),
            "blocks": list(blocks),
            **fields,
        }
    )


def of(**features: FeatureReference) -> Reference:
    return made({"x": [1.0]}).model_copy(update={"features": features})


def test_independent_rows_have_about_one() -> None:
    rng = np.random.default_rng(1)
    found = overdispersion(made({f"x{i}": rng.normal(size=ROWS) for i in range(20)}))
    assert max(found.values()) < 1.4


def test_rows_that_follow_each_other_count_for_fewer() -> None:
    # An AR(1) of .7: the variance of a mean is (1 + .7) / (1 - .7) = 5.7 times that of
    # independent rows, that of the share below the median 4 times.
    columns = {f"x{i}": autocorrelated(2, 20)[:, i] for i in range(20)}
    found = overdispersion(made(columns))
    assert 3 < np.mean(list(found.values())) < 5


def test_phi_is_half_the_features_own_and_half_the_mean_of_its_kind() -> None:
    # Shares .4 and .6 of 100 rows: variance .02 over .25 / 100 is 8, half and half is 0.
    uneven = blocked([40, 60, 0], [60, 40, 0])
    even = blocked([50, 50, 0], [50, 50, 0])
    assert overdispersion(of(a=uneven, b=even)) == {"a": pytest.approx(6), "b": pytest.approx(2)}


def test_a_block_weighs_as_many_rows_as_it_has() -> None:
    # Independent of how the rows are cut: (10 * .04 + 90 * .04 / 81) / (1 * .25), by hand.
    lopsided = blocked([7, 3, 0], [43, 47, 0])
    p = 0.5
    expected = (10 * (0.7 - p) ** 2 + 90 * (43 / 90 - p) ** 2) / (p * (1 - p))
    assert overdispersion(of(a=lopsided))["a"] == pytest.approx(expected)


def test_constants_have_one_and_do_not_count_for_others() -> None:
    constant = blocked([100, 0], [100, 0])
    uneven = blocked([40, 60, 0], [60, 40, 0])
    assert overdispersion(of(a=constant, b=uneven)) == {"a": 1.0, "b": pytest.approx(8)}


def test_what_is_too_rare_takes_the_mean_of_its_kind() -> None:
    rare = blocked([4, 1, 1], [1, 4, 1])
    uneven = blocked([40, 60, 0], [60, 40, 0])
    assert overdispersion(of(a=rare, b=uneven))["a"] == pytest.approx(8)


def test_without_blocks_rows_are_taken_for_independent() -> None:
    bare = blocked([40, 60, 0], [60, 40, 0]).model_copy(update={"blocks": []})
    assert overdispersion(of(a=bare)) == {"a": 1.0}
    assert unevenness(of(a=bare)) == 1.0


def test_what_was_given_beforehand_stands() -> None:
    given_before = blocked([40, 60, 0], [60, 40, 0], dispersion=3.5)
    assert overdispersion(of(a=given_before)) == {"a": 3.5}


def test_prediction_score_and_label_have_theirs_whatever_features_are_called() -> None:
    x = autocorrelated(3, 2)
    answers = ["b" if value > 0 else "a" for value in x[:, 0]]
    reference = made(
        {"score": x[:, 1], "label": ["c"] * ROWS},
        predictions=answers,
        scores=np.clip(0.5 + x[:, 0] / 10, 0, 1).tolist(),
        labels=answers,
    )
    found = overdispersion(reference)
    assert set(found) == {"score", "label", PREDICTION, SCORE, LABEL}
    assert found["label"] == 1.0
    assert min(found[PREDICTION], found[LABEL], found[SCORE]) > 2


@given(st.permutations(range(10)))
def test_the_order_of_blocks_does_not_matter(order: list[int]) -> None:
    rng = np.random.default_rng(4)
    blocks = [rng.multinomial(500, [0.5, 0.3, 0.2]).tolist() for _ in range(10)]
    mixed = [blocks[i] for i in order]
    assert overdispersion(of(a=blocked(*mixed)))["a"] == pytest.approx(
        overdispersion(of(a=blocked(*blocks)))["a"]
    )


# ------------------------------------------------------------------ unevenness


def levels(z: NDArray[np.float64]) -> list[str]:
    return [str(i) for i in np.searchsorted([-0.6, 0.0, 0.5, 1.0, 1.5], z)]


def test_independent_categories_vary_evenly() -> None:
    z = np.random.default_rng(5).normal(size=(ROWS, 20))
    assert unevenness(made({f"c{i}": levels(z[:, i]) for i in range(20)})) < 1.15


def test_ordered_levels_that_follow_each_other_vary_unevenly() -> None:
    # They go up and down together, so one contrast takes most of the variance.
    z = autocorrelated(6, 20)
    assert 1.2 < unevenness(made({f"c{i}": levels(z[:, i]) for i in range(20)})) < 3


def test_two_categories_cannot_be_uneven() -> None:
    z = autocorrelated(7, 3)
    columns = {f"c{i}": ["a" if v < 0 else "b" for v in z[:, i]] for i in range(3)}
    assert unevenness(made(columns)) == 1.0


# -------------------------------------------------------------------- counters


def test_a_counter_with_rows_enough_has_its_own() -> None:
    # All 250 nulls lie in one of ten blocks, in the other column 25 in each.
    burst = [None if i < 250 else float(i) for i in range(ROWS)]
    spread = [None if i % 20 == 0 else float(i % 977) for i in range(ROWS)]
    found = counter_overdispersion(made({"burst": burst, "spread": spread}))
    assert found["burst"]["null"] > 50
    assert found["spread"]["null"] == 1.0
    assert found["burst"]["type_error"] <= 4


def test_a_counter_without_rows_borrows_at_most_four_and_a_constant_nothing() -> None:
    trend = np.arange(ROWS, dtype=np.float64)
    found = counter_overdispersion(made({"x": trend, "constant": [1.0] * ROWS}))
    assert set(found["x"].values()) == {4.0}
    assert set(found["constant"].values()) == {1.0}


def test_without_numeric_features_counters_borrow_from_the_others() -> None:
    days = [str(i // 500) for i in range(ROWS)]
    assert counter_overdispersion(made({"day": days}))["day"]["unseen"] == 4.0
