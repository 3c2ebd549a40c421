"""Plots: everything lies inside its frame, dates are round, and 500 features fit."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_services.local.replay.followed import follow
from kedge_services.local.replay.heat import Cell, Row, heat_map
from kedge_services.local.replay.plots import Box, Dot, Plot, Span, time_axis

T0 = 1_700_000_000_000
DAY = 86_400_000
YEAR = 366 * DAY


@given(
    start=st.integers(0, 4_000_000_000_000),
    width=st.integers(1, 200 * YEAR),
    most=st.integers(2, 12),
)
def test_dates_of_an_axis_are_few_in_order_and_within(start: int, width: int, most: int) -> None:
    span = Span(start, start + width)
    axis = time_axis(span, most=most)
    times = [at for at, _ in axis]
    assert all(a < b for a, b in pairwise(times))
    assert all(span.left_ms <= at <= span.right_ms for at in times)
    assert len(axis) <= most + 2
    assert len({told for _, told in axis}) == len(axis) or width < DAY


def test_dates_are_written_as_precisely_as_the_axis_needs() -> None:
    def labels(width: int) -> list[str]:
        return [told for _, told in time_axis(Span(T0, T0 + width), most=6)]

    assert labels(6 * 3_600_000)[0] == "11-14 23:00"
    assert labels(5 * DAY)[0] == "2023-11-15"
    assert labels(200 * DAY)[:2] == ["2024-01", "2024-04"]
    assert labels(5 * 365 * DAY)[:2] == ["2024", "2025"]
    assert datetime.fromtimestamp(T0 / 1000, UTC).year == 2023


numbers = st.floats(-1e300, 1e300, allow_nan=False)


@given(values=st.lists(st.none() | numbers, min_size=1, max_size=20), log=st.booleans())
def test_whatever_the_values_all_is_drawn_inside_the_frame(
    values: list[float | None], *, log: bool
) -> None:
    known = [value for value in values if value is not None] or [1.0]
    low, high = (1.0, max(2.0, *known)) if log else (min(known), max(known))
    box = Box(400, 100)
    plot = Plot(Span(0, len(values)), low, high, label="p", box=box, is_log=log)
    plot.line([Dot(i, value, "t") for i, value in enumerate(values)], "main")
    plot.band([(i, value, value) for i, value in enumerate(values)], "main")
    drawn = plot.svg()
    assert "nan" not in drawn
    assert "inf" not in drawn
    left, top, right, bottom = box.inner
    for x, y in re.findall(
        r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r"points='(.*?)'", drawn))
    ):
        assert left <= float(x) <= right
        assert top <= float(y) <= bottom
    assert drawn.count("<circle") == sum(value is not None for value in values)


def test_a_line_breaks_where_there_is_no_value() -> None:
    #  1 2 _ 3      two strokes: the first of two points, the second of one
    plot = Plot(Span(0, 3), 0, 4, label="p")
    plot.line([Dot(0, 1), Dot(1, 2), Dot(2, None), Dot(3, 3)], "main")
    assert plot.svg().count("<polyline") == 2


def test_a_map_of_500_features_over_300_panes_is_a_page_that_opens() -> None:
    #  every pane of every feature stands out, in runs of three levels
    levels = ["e1", "e3", "a2"]
    rows = [
        Row(f"feature {f}", f"feature {f}: title", [
            Cell(p * DAY, (p + 1) * DAY, levels[(p // 10 + f) % 3], f"pane {p}") for p in range(300)
        ])
        for f in range(500)
    ]  # fmt: skip
    named = heat_map(Span(0, 300 * DAY), rows[:40], label="m")
    dense = heat_map(Span(0, 300 * DAY), rows[40:], label="m", named=False)
    assert len(named) + len(dense) < 4_000_000
    assert "feature 39</" in named
    assert "feature 499: title" in dense
    assert ">pane 20</title>" in named


def window(version: str, pane: int, **changes: Any) -> dict[str, Any]:
    start = pane * DAY
    return {"window_id": f"{version}/{start}", "kind": "drift", "scale": 1, "version": version,
            "start_ms": start, "end_ms": start + DAY, "n": 10, "status": "ok",
            **changes}  # fmt: skip


def version(name: str, changed: int, status: str = "champion") -> dict[str, Any]:
    return {"version": name, "changed_ms": changed, "status": status}


@pytest.mark.parametrize("late_ms", [0, DAY // 2])
def test_the_windows_of_whoever_served_are_followed(late_ms: int) -> None:
    #  k1 |----|----|         registered at the first row, or a little later
    #  k2      |----|----|    serves from the end of the first pane
    windows = [window("k1", 0), window("k1", 1, n=99), window("k2", 1), window("k2", 2)]
    found = follow(windows, [version("k1", late_ms), version("k2", DAY, "shadow"),
                             version("k2", DAY)])  # fmt: skip
    assert [w["version"] for w in found.windows] == ["k1", "k2", "k2"]
    assert found.span == Span(0, 3 * DAY)


def test_a_measure_that_a_window_lacks_is_a_gap() -> None:
    measure = {"name": "precision", "value": 0.5, "n": 9}
    windows = [window("k1", p, measures=[measure] if p != 1 else []) for p in range(3)]
    points = follow(windows, [version("k1", 0)]).series("precision")
    assert [point.value for point in points] == [0.5, None, 0.5]


def test_of_all_scales_the_test_that_alarms_is_shown() -> None:
    def measured(ln_p: float) -> list[dict[str, Any]]:
        return [{"name": "effect_w", "feature": "x", "value": 0.2, "low": 0.1, "n": 9,
                 "threshold": 0.1, "evidence": ln_p}]  # fmt: skip

    alarm = {"kind": "data-drift", "detector": "effect_w", "feature": "x", "summary": "x moved"}
    one = window("k1", 3, measures=measured(-30.0))
    two = window("k1", 3, scale=2, start_ms=2 * DAY, window_id="k1/2", measures=measured(-20.0),
                 detections=[alarm])  # fmt: skip
    (test,) = follow([one, two], [version("k1", 0)]).tests()["x"]
    assert (test.scale, test.ln_p, test.summary) == (2, -20.0, "x moved")
    assert (test.start_ms, test.end_ms) == (3 * DAY, 4 * DAY)
