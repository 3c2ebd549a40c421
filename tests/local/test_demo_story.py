"""The demo's story is told from topics alone, and its verdict can be bad."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from kedge_services.local.demo.story import Entry, Story
from kedge_services.local.demo.summary import Summary, judge, recounted, summarise
from kedge_services.local.recount.recount import Report
from kedge_services.runtime.ports import Batch

DRIFT_MS = 10_000
PROMOTED_MS = 30_000
ALERT = "f00/10500"


def tell(story: Story, topic: str, at_ms: int, *events: dict[str, Any], partition: int = 0) -> None:
    n = len(events)
    values = [json.dumps(event).encode() for event in events]
    story.apply(Batch(topic, partition, range(n), [at_ms] * n, [None] * n, values, [()] * n))


def example(number: int, at_ms: int, version: str, *, correct: bool) -> dict[str, Any]:
    return {
        "prediction_id": f"p{number}",
        "label": "yes",
        "event_time_ms": at_ms,
        "served_by": version,
        "outputs": {version: {"label": "yes" if correct else "no"}},
    }


def alert(kind: str, status: str, alert_id: str = ALERT) -> dict[str, Any]:
    return {
        "alert_id": alert_id, "rule": kind, "kind": kind, "status": status,
        "severity": "critical", "starts_ms": 10_500, "summary": "it broke",
    }  # fmt: skip


def version(name: str, status: str, sequence: int, **fields: Any) -> dict[str, Any]:
    return {"version": name, "status": status, "sequence": sequence, **fields}


def closed_loop() -> Story:
    story = Story(tell=lambda _: None)
    tell(story, "model-versions", 0, version("k1", "champion", 1))
    for number in range(100):
        tell(story, "examples", 0, example(number, 5_000, "k1", correct=number % 10 > 0))
        tell(story, "examples", 0, example(100 + number, 20_000, "k1", correct=number % 2 > 0))
        tell(story, "examples", 0, example(200 + number, 35_000, "k2", correct=number % 10 > 0))
    tell(story, "alerts", 12_000, alert("error-rate", "pending"), alert("error-rate", "firing"))
    request = {"request_id": "r", "mode": "auto", "cause": {"kind": "alert", "alert_ids": [ALERT]}}
    tell(story, "retrain-requests", 12_500, request)
    tell(story, "candidates", 20_000, {"request_id": "r", "metrics": {"accuracy": 0.9}})
    lineage = {"rows": 50, "alert_ids": [ALERT], "examples": {"0": [0, 60]}}
    tell(story, "model-versions", 25_000, version("k2", "shadow", 2))
    tell(story, "model-versions", PROMOTED_MS, version("k2", "champion", 3, lineage=lineage))
    tell(story, "model-versions", PROMOTED_MS, version("k1", "shadow", 4))
    for kind in ("data-drift", "integrity"):
        tell(story, "alerts", 40_000, alert(kind, "firing", f"{kind}/1"))
    tell(story, "predictions", 0, {"role": "champion"}, {"role": "shadow"})
    tell(story, "outcomes", 0, {"label": "yes"})
    fates = {"predictions": {"counted": 2}, "outcomes": {"matched": 1}}
    progress = {"type": "progress", "partition": 0, "sequence": 2, "fates": fates}
    tell(story, "panes", 0, progress, {**progress, "sequence": 1, "fates": {}})
    return story


def summary_of(story: Story) -> Summary:
    return summarise(
        story, scenario="drift", broker="local", drift_started_ms=DRIFT_MS,
        notifications=3, peak_rss_mb=1.0, restarts=0,
    )  # fmt: skip


def problems(summary: Summary, story: Story) -> list[str]:
    return judge(summary, story, pane_ms=2_000, label_delay_ms=1_000).problems


def test_a_closed_loop_has_no_problems_and_the_right_figures() -> None:
    story = closed_loop()
    summary = summary_of(story)
    assert problems(summary, story) == []
    assert summary.accuracy_before_drift == 0.9
    assert summary.accuracy_drifted == 0.5
    assert summary.accuracy_after_promotion == 0.9
    assert (summary.predictions, summary.records_in, summary.records_accounted) == (1, 3, 3)
    assert (summary.first_alert_ms, summary.promoted_ms) == (12_000, PROMOTED_MS)
    assert (summary.promotions, summary.rollbacks, summary.alerts) == (1, 0, 3)


def recount_of(summary: Summary, **figures: float | None) -> Report:
    """Make a recount that says what the summary says, but for some figures."""
    names = ("predictions", "outcomes", "examples", "windows", "accuracy_drifted", "promoted_ms")
    told = {name: getattr(summary, name) for name in names}
    return Report(
        records_in=3, records_accounted=3, places={}, fates={}, decided_by_dead_letter={},
        compared={"examples": 40}, figures={**told, **figures}, differences_total=0,
    )  # fmt: skip


def test_the_recount_counts_records_and_holds_every_figure_to_its_own() -> None:
    story = closed_loop()
    told = summary_of(story)
    same = recounted(told, recount_of(told), told)
    assert problems(same, story) == []
    assert same.recount_compared == 46
    other = recounted(told, recount_of(told, examples=299), told)
    assert other.recount_differences == ["examples: recounted 299, told 300"]
    assert problems(other, story) == ["the recount differs: examples: recounted 299, told 300"]
    never = recounted(told, recount_of(told, promoted_ms=None), told)
    assert problems(never, story) != []


def test_what_the_recount_cannot_find_again_is_a_problem() -> None:
    story = closed_loop()
    told = summary_of(story)
    lost = recounted(told, replace(recount_of(told), records_accounted=2), told)
    assert problems(lost, story) == ["3 records came in, 2 are accounted"]
    wrong = replace(recount_of(told), differences_total=30, differences=["pairs, k2: …"])
    found = recounted(told, wrong, told).recount_differences
    assert found == ["pairs, k2: …", "and 29 more"]


def test_what_was_on_its_way_while_the_recount_read_may_be_counted_or_not() -> None:
    told = summary_of(closed_loop())
    later = replace(told, windows=4)
    for windows, differs in ((0, False), (3, False), (4, False), (5, True)):
        found = recounted(told, recount_of(told, windows=windows), later)
        assert bool(found.recount_differences) is differs


def test_a_recount_of_a_moment_is_a_problem() -> None:
    story = closed_loop()
    (problem,) = problems(replace(summary_of(story), at_rest=False), story)
    assert "did not come to rest" in problem


def test_each_missing_step_is_named() -> None:
    story = closed_loop()
    good = summary_of(story)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"first_alert_ms": None}, "no alert"),
        ({"retrain_requested_ms": None}, "no retrain"),
        ({"candidate_ms": None}, "no candidate"),
        ({"promoted_ms": None}, "no version"),
        ({"records_accounted": 2}, "accounted"),
        ({"accuracy_drifted": 0.9}, "did not fall"),
        ({"accuracy_after_promotion": 0.86}, "did not come back"),
        ({"first_alert_ms": 18_000}, "panes after the first labels"),
        ({"notifications": 0}, "webhook"),
    ]
    for change, expected in changes:
        found = problems(replace(good, **change), story)
        assert len(found) == 1, (change, found)
        assert expected in found[0]


def test_a_promotion_that_no_alert_caused_is_a_problem() -> None:
    story = closed_loop()
    story.promotions[0].lineage.alert_ids.clear()
    assert any("does not name the alert" in p for p in problems(summary_of(story), story))


def test_a_promotion_with_more_rows_than_its_range_holds_is_a_problem() -> None:
    story = closed_loop()
    story.promotions[0].lineage.examples["0"] = (0, 49)
    assert any("50 rows, but its lineage states a range of 49" in p
               for p in problems(summary_of(story), story))  # fmt: skip


def test_the_control_must_stay_silent() -> None:
    story = closed_loop()
    control = replace(summary_of(story), scenario="no-drift")
    assert len(problems(control, story)) == 2
    silent = replace(control, alerts=0, promotions=0)
    assert problems(silent, story) == []


def test_the_story_knows_up_to_when_there_are_drift_windows() -> None:
    story = Story(tell=lambda _: None)
    window = {"kind": "drift", "n": 1, "status": "ok", "version": "k1"}
    for kind, end_ms in (("drift", 4_000), ("drift", 2_000), ("performance", 9_000)):
        tell(story, "windows", 1, {**window, "window_id": f"w{end_ms}", "kind": kind,
                                   "end_ms": end_ms})  # fmt: skip
    assert story.drift_until_ms == 4_000


def test_the_timeline_tells_each_change_once() -> None:
    told: list[Entry] = []
    story = Story(tell=told.append)
    tell(story, "model-versions", 1, version("k1", "champion", 1, reason="the first"))
    tell(story, "model-versions", 2, version("k1", "champion", 2, reason="the first"))
    tell(story, "alerts", 3, alert("error-rate", "pending"), alert("error-rate", "firing"))
    assert [(e.at_ms, e.what) for e in told] == [(1, "version"), (3, "alert firing")]
