"""Where errors became more: rises taken apart by segment, and remarks in alerts on errors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from kedge import Measure, Monitor, Pane, Window
from kedge.base import WindowKind
from kedge.codec import decode
from kedge.panes import PaneSource
from kedge_services.core.attribution import change_text
from kedge_services.core.deltas import PerformanceDelta
from kedge_services.core.lookup import Lookup
from kedge_services.core.loss_parts import change_measures, has_risen
from kedge_services.core.performance_windows import PerformanceWindows
from kedge_services.core.publishing import Publisher
from kedge_services.core.remarks import REMARK_PANES, remark, remarks_text
from kedge_services.core.sketches import FIXED_POINT
from kedge_services.core.watch import Head

MINUTE = 60_000


def errors(n: int, wrong: int) -> PerformanceDelta:
    confusion = {"a": {"a": n - wrong}, "b": {"a": wrong}}
    return PerformanceDelta(predicted=n, labelled=n, confusion=confusion)


def absolute(n: int, each: float) -> PerformanceDelta:
    """Half of the errors are 0, the others twice as large."""
    return PerformanceDelta(
        predicted=n,
        labelled=n,
        absolute_error=round(n * each * FIXED_POINT),
        squared_error=round(n * 2 * each * each * FIXED_POINT),
    )


def values(measures: list[Measure]) -> dict[str | None, float]:
    return {m.feature: m.value for m in measures if m.value is not None}


@pytest.mark.parametrize(
    ("before", "now", "risen"),
    [
        (errors(500, 50), errors(500, 100), True),
        (errors(500, 50), errors(500, 60), False),  # chance
        (errors(500, 100), errors(500, 50), False),  # better
        (errors(99, 1), errors(500, 400), False),  # too few labels
        (errors(500, 0), errors(500, 500), True),
        (PerformanceDelta(), errors(500, 400), False),
        (absolute(500, 1.0), absolute(500, 1.5), True),
        (absolute(500, 1.0), absolute(500, 1.1), False),
    ],
)
def test_only_a_clear_rise_is_one(
    before: PerformanceDelta, now: PerformanceDelta, *, risen: bool
) -> None:
    assert has_risen(before, now) is risen


def test_the_segment_that_errs_more_comes_first_and_the_parts_are_the_change() -> None:
    before = {"": errors(1_000, 100), "land=NO": errors(300, 30), "land=SE": errors(700, 70)}
    now = {"": errors(1_000, 190), "land=NO": errors(300, 120), "land=SE": errors(700, 70)}
    found = values(change_measures(before, now, ["land"]))
    assert list(found) == [None, "land=NO", "land=SE"]
    assert found[None] == pytest.approx(0.09)
    assert found["land=NO"] == pytest.approx(0.09)
    assert found["land=SE"] == 0


def test_rows_of_no_segment_have_their_part_and_every_segment_adds_up() -> None:
    before = {
        "": errors(1_000, 100),
        "land=NO": errors(300, 30),
        "age=old": errors(500, 60),
        "age=young": errors(500, 40),
    }
    now = {
        "": errors(800, 300),
        "land=NO": errors(100, 10),
        "age=old": errors(200, 80),
        "age=young": errors(600, 220),
    }
    found = values(change_measures(before, now, ["land", "age"]))
    total = found.pop(None)
    for segment in ("land", "age"):
        mine = [v for name, v in found.items() if name is not None and segment in name]
        assert math.fsum(mine) == pytest.approx(total, abs=1e-15)
    assert set(found) == {"land=NO", "no land", "age=old", "age=young"}


def test_absolute_errors_are_in_the_unit_of_the_label() -> None:
    before = {"": absolute(1_000, 1.0), "s=a": absolute(500, 1.0)}
    now = {"": absolute(1_000, 2.0), "s=a": absolute(500, 3.0)}
    measures = change_measures(before, now, ["s"])
    assert {m.name for m in measures} == {"mae_change"}
    assert values(measures) == {None: pytest.approx(1.0), "s=a": pytest.approx(1.0), "no s": 0.0}
    assert change_text(measures) == "s=a (1 of 1)"


@pytest.mark.parametrize("value", [None, "region=NO"])
def test_a_segment_that_all_rows_are_in_explains_nothing(value: str | None) -> None:
    before, now = errors(400, 20), errors(400, 200)
    groups = [{"": side} | ({value: side} if value else {}) for side in (before, now)]
    measures = change_measures(groups[0], groups[1], ["region"])
    assert [m.feature for m in measures] == [None]
    assert change_text(measures) is None


def test_without_a_segment_that_is_worse_there_is_nothing_to_tell() -> None:
    assert change_text([]) is None
    assert change_text([Measure(name="error_rate_change", value=0.1, n=500)]) is None


# ---------------------------------------------------------------------- windows


class Task:
    """Performance windows of a model with one segment; revisions are sent at once."""

    def __init__(self) -> None:
        watched = Monitor.model_validate({
            "model": "m",
            "task": "binary",
            "classes": ["a", "b"],
            "features": {"x": "numeric"},
            "windows": {"pane": "1m", "scales": [1, 2], "grace": "0s"},
            "label_horizon": "1m",
            "segments": [{"name": "land"}],
        })  # fmt: skip
        self.publisher = Publisher(0)
        look = Lookup(lambda *_: watched, lambda _: None, lambda *_: None)
        self.windows = PerformanceWindows(look, self.publisher, lambda *_: [])
        self.sent: dict[tuple[int, int], Window] = {}

    def pane(self, pane: int, **wrong: int) -> None:
        """Add 500 labelled rows of each segment, so many of them wrong."""
        for segment, delta in (
            ("", errors(500 * len(wrong), sum(wrong.values()))),
            *((f"land={land}", errors(500, k)) for land, k in wrong.items()),
        ):
            self.add(pane, segment, delta)

    def add(self, pane: int, segment: str, delta: PerformanceDelta) -> None:
        event = Pane(
            model="m", version="1", segment=segment, kind="performance", start_ms=pane * MINUTE,
            end_ms=(pane + 1) * MINUTE, counts={},
            source=PaneSource(topic="outcomes", partition=0, from_offset=0, to_offset=0),
        )  # fmt: skip
        self.windows.add(event, delta)

    def advance(self, pane: int) -> None:
        """Let everything that ends before this pane be final."""
        at_ms = (pane + 1) * MINUTE
        self.windows.advance("m", predictions_ms=at_ms, outcomes_ms=at_ms, now_ms=0)
        for key in self.publisher.due(0):
            self.windows.revise(key, 0)
        found = [decode(Window, sent.value) for sent in self.publisher.take()]
        self.sent |= {(w.scale, w.start_ms // MINUTE): w for w in found if not w.segment}

    def change(self, scale: int, pane: int) -> dict[str | None, float]:
        found = self.sent[scale, pane].measures
        return values([m for m in found if m.name == "error_rate_change"])


def test_a_window_is_held_against_the_one_before_of_the_same_length() -> None:
    # pane:      0   1   2   3
    # wrong NO: 50  50 150 150  (of 500; SE always 50)
    task = Task()
    for pane, wrong in enumerate([50, 50, 150, 150]):
        task.pane(pane, NO=wrong, SE=50)
    task.advance(6)
    assert task.change(1, 1) == {}
    assert task.change(1, 2) == {
        None: pytest.approx(0.1), "land=NO": pytest.approx(0.1), "land=SE": 0.0,
    }  # fmt: skip
    assert task.change(1, 3) == {}  # no worse than the pane before
    assert task.change(2, 2)[None] == pytest.approx(0.1)  # panes 2 and 3 against 0 and 1


def test_late_labels_of_the_window_before_revise_what_is_held_against_it() -> None:
    task = Task()
    task.pane(0, NO=50, SE=50)
    task.pane(1, NO=150, SE=50)
    task.advance(4)
    assert task.change(1, 1)[None] == pytest.approx(0.1)
    task.pane(0, NO=350, SE=50)  # 500 rows more of each
    task.advance(5)
    assert task.sent[1, 1].revision > 0
    assert task.change(1, 1) == {}


# ---------------------------------------------------------------------- remarks


def window(
    kind: WindowKind, pane: int, measures: Mapping[str | None, float] | None = None, **fields: str
) -> Window:
    name = "attribution" if kind == "drift" else "error_rate_change"
    return Window(
        window_id=f"{kind}/{pane}",
        kind=kind,
        model="m",
        version=fields.get("version", "1"),
        segment=fields.get("segment", ""),
        scale=1,
        start_ms=pane * MINUTE,
        end_ms=(pane + 1) * MINUTE,
        n=500,
        measures=[
            Measure(name=name, feature=feature, value=value, n=500)
            for feature, value in (measures or {}).items()
        ],
    )


DRIFT: dict[str | None, float] = {"amount": 0.6, "age": 0.4}
RISE: dict[str | None, float] = {None: 0.04, "land=NO": 0.03}


def test_an_alert_on_errors_tells_segments_and_what_drifted_at_the_same_time() -> None:
    # panes:   drift 4    performance 5    labels 6
    head = Head("m")
    for seen in (window("drift", 4, DRIFT), window("performance", 5, RISE)):
        head = remark(head, seen)
    assert remarks_text(head, window("labels", 6)) == (
        "; mostly in land=NO (0.03 of 0.04); at the same time drifted amount (60 %), age (40 %)"
    )


def test_remarks_come_neither_from_later_nor_from_long_ago_nor_from_others() -> None:
    head = Head("m")
    for seen in (
        window("drift", 4, DRIFT),
        window("performance", 7, RISE),
        window("drift", 5, RISE, version="2"),
        window("performance", 5, RISE, segment="land=NO"),
        window("labels", 5, RISE),
    ):
        head = remark(head, seen)
    drifted = "; at the same time drifted amount (60 %), age (40 %)"
    assert remarks_text(head, window("labels", 3)) == ""
    assert remarks_text(head, window("labels", 4)) == drifted
    assert remarks_text(head, window("labels", 3 + REMARK_PANES)).endswith(drifted)
    assert "drifted" not in remarks_text(head, window("labels", 4 + REMARK_PANES))


def test_of_windows_that_end_together_the_first_is_told_and_memory_is_bounded() -> None:
    head = remark(Head("m"), window("drift", 0, DRIFT))
    assert remark(head, window("drift", 0, {"other": 1.0})) is head
    for pane in range(1, 200):
        head = remark(head, window("drift", pane, DRIFT))
    assert len(head.remarks) == 4 * REMARK_PANES
    assert head.remarks[-1][0] == 200 * MINUTE
