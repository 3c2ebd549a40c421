"""Counters against scipy's hypergeometric distribution, and with overdispersion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kedge_services.core.binning import Binner
from kedge_services.core.budget import Budget
from kedge_services.core.detectors import DriftJudge
from kedge_services.core.integrity import LEAST_LN_P, ln_hypergeometric
from kedge_services.core.references import build_reference

BUDGET = Budget(per_pane=1 / 168, per_week=1.0)


@pytest.mark.parametrize(("k", "known", "p"), [(7, 0, 4.94e-8), (25, 100, 1.1346e-4)])
def test_golden_tails(k: int, known: int, p: float) -> None:
    assert math.exp(ln_hypergeometric(k, 500, known, 5_000)) == pytest.approx(p, rel=1e-3)


@given(st.data())
def test_more_than_before_is_the_upper_tail_and_fewer_the_lower(data: st.DataObject) -> None:
    n, rows = data.draw(st.integers(1, 2_000)), data.draw(st.integers(1, 20_000))
    k, known = data.draw(st.integers(0, n)), data.draw(st.integers(0, rows))
    law = stats.hypergeom(n + rows, k + known, n)
    expected = law.logsf(k - 1) if k * rows > known * n else law.logcdf(k)
    assert ln_hypergeometric(k, n, known, rows) == pytest.approx(
        max(float(expected), LEAST_LN_P), rel=1e-5, abs=1e-6
    )


@given(st.integers(1, 500), st.integers(0, 5_000), st.floats(1, 8))
def test_overdispersion_never_makes_a_counter_more_suspect(k: int, known: int, phi: float) -> None:
    # Rows count for less and are rounded against an alarm, on either side.
    plain = ln_hypergeometric(k, 500, known, 5_000)
    assert ln_hypergeometric(k, 500, known, 5_000, phi=phi) >= plain - 1e-6


def test_rows_are_divided_by_phi_and_rounded_against_an_alarm() -> None:
    found = ln_hypergeometric(25, 500, 99, 5_000, phi=2.0)
    law = stats.hypergeom(250 + 2_500, 12 + 50, 250)  # 12.5 down, 49.5 up
    assert found == pytest.approx(float(law.logsf(11)), rel=1e-6)


@pytest.mark.parametrize(("share", "before", "panes"), [(0.05, 0.0, 1), (0.01, 0.0, 4)])
def test_nulls_that_come_are_seen_soon(share: float, before: float, panes: int) -> None:
    rng = np.random.default_rng(1)

    def column(n: int, nulls: float) -> list[float | None]:
        return [None if rng.random() < nulls else float(v) for v in rng.normal(size=n)]

    reference = build_reference(
        model="m", version="1", columns={"x": column(5_000, before)}, kinds={"x": "numeric"}
    )
    window = Binner(reference).count({"x": column(500 * panes, share)}, rows=500 * panes)
    verdict = DriftJudge(reference).judge(window, budget=BUDGET)
    assert "null_share" in {d.detector for d in verdict.detections}


def test_nulls_that_come_in_bursts_are_nothing_new_where_they_always_did() -> None:
    # A tenth of the reference, in bursts of 100 rows; the window has one burst in 500 rows.
    bursts: list[float | None] = [
        None if i % 1_000 < 100 else float(i * 7_919 % 977) for i in range(5_000)
    ]
    spread: list[float | None] = [
        None if i % 10 == 0 else float(i * 7_919 % 977) for i in range(5_000)
    ]
    reference = build_reference(
        model="m",
        version="1",
        columns={"bursts": bursts, "spread": spread},
        kinds={"bursts": "numeric", "spread": "numeric"},
    )
    now = [None if i < 100 else float(i) for i in range(500)]
    window = Binner(reference).count({"bursts": now, "spread": now}, rows=500)
    verdict = DriftJudge(reference).judge(window, budget=BUDGET)
    nulls = {d.feature for d in verdict.detections if d.detector == "null_share"}
    assert nulls == {"spread"}
