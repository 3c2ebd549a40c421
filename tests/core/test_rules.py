from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Alert, Detection, Measure, Monitor, Window
from kedge.monitor import Feature, Retrain, Rule
from kedge_services.core.rules import (
    QUIET_PANES,
    REOPEN_PANES,
    drop,
    fingerprint,
    new_watch,
    observe,
)
from kedge_services.core.watch import REMEMBERED, Series, Watch

PANE = 1_000
T0 = 1_795_220_224_000


def monitor(*rules: Rule, **changes: Any) -> Monitor:
    fields = {
        "task": "binary",
        "classes": ["no", "yes"],
        "features": {"x": Feature(type="numeric")},
    }
    return Monitor(model="m", rules=list(rules), retrain=Retrain(), **{**fields, **changes})


def window(
    index: int,
    kind: str = "drift",
    *,
    version: str = "k1",
    segment: str = "",
    scale: int = 1,
    found: Sequence[str] = (),
    **changes: Any,
) -> Window:
    """Give the window whose newest pane is the index-th; ``found`` are kinds detected."""
    end = T0 + (index + 1) * PANE
    start = end - scale * PANE
    fields: dict[str, Any] = {
        "window_id": f"m/{version}/{segment}/ref/{kind}/{scale}/{start}",
        "kind": kind,
        "model": "m",
        "version": version,
        "segment": segment,
        "scale": scale,
        "start_ms": start,
        "end_ms": end,
        "is_decided": True,
        "is_final": True,
        "n": 500,
        "label_coverage": 1.0 if kind == "performance" else None,
        "labelled_total": 500 * index,
        "status": "alarm" if found else "ok",
        "detections": [
            Detection(kind=one, detector="d", value=0.4, threshold=0.1) for one in found
        ],
    }
    return Window(**{**fields, **changes})


def accuracy(index: int, value: float | None, **changes: Any) -> Window:
    measure = Measure(name="accuracy", value=value, n=500)
    return window(index, "performance", measures=[measure], **changes)


LOW = Rule(name="accuracy-low", metric="accuracy", below=0.75, for_="2 windows", severity="info")


def observe_all(
    watch: Watch, windows: Sequence[Window], declared: Monitor, champion: str | None = "k1"
) -> list[Alert]:
    return [alert for w in windows for alert in observe(watch, w, declared, champion)]


def told(alerts: Sequence[Alert]) -> list[tuple[str, str]]:
    return [(alert.rule, alert.status) for alert in alerts]


def timeline(alerts: Sequence[Alert], rule: str) -> list[tuple[str, int | None]]:
    """Give status and pane: the one an alert starts with, or the last before it ends."""
    return [
        (a.status, (a.starts_ms if a.ends_ms is None else a.ends_ms - PANE) // PANE - T0 // PANE)
        for a in alerts
        if a.rule == rule
    ]


# ---------------------------------------------------------------- users' rules


def test_a_users_rule_goes_from_pending_to_firing_to_resolved() -> None:
    #  accuracy  .9 | .7 | .6 | .8 |      below .75 for 2 windows
    #                 p    F    R
    values = [0.9, 0.7, 0.6, 0.8]
    watch = new_watch("m")
    alerts = observe_all(watch, [accuracy(i, v) for i, v in enumerate(values)], monitor(LOW))
    assert told(alerts) == [("accuracy-low", s) for s in ("pending", "firing", "resolved")]
    pending, firing, resolved = alerts
    assert pending.alert_id == firing.alert_id == resolved.alert_id
    assert firing.alert_id == f"{fingerprint('m', 'accuracy-low')}/{T0 + PANE}"
    assert (firing.value, firing.threshold, firing.severity) == (0.6, 0.75, "info")
    assert (firing.fired_ms, firing.labelled_total) == (T0 + 3 * PANE, 1000)
    assert firing.summary == (
        "m version k1: accuracy is 0.6, below 0.75; since 2026-11-21 00:17:05 UTC"
    )
    assert (resolved.ends_ms, resolved.resolved_because) == (T0 + 4 * PANE, "recovered")
    assert resolved.value == 0.8


def test_only_the_declared_feature_segment_and_scale_count() -> None:
    rule = Rule(name="r", metric="null_share", above=0.1, feature="x", scale=2, segment="a=1")

    def one(index: int, **changes: Any) -> Window:
        given = {"segment": "a=1", "scale": 2, **changes}
        measure = Measure(name="null_share", feature=given.pop("on", "x"), value=0.5, n=9)
        return window(index, measures=[measure], **given)

    declared = monitor(rule)
    for other in ({"segment": ""}, {"scale": 1}, {"on": "y"}, {"is_decided": False}):
        assert observe(new_watch("m"), one(0, **other), declared, "k1") == []
    (alert,) = observe(new_watch("m"), one(0), declared, "k1")
    assert (alert.feature, alert.segment, alert.status) == ("x", "a=1", "firing")
    assert "null_share of x is 0.5, above 0.1" in alert.summary


def test_a_users_rule_reads_windows_of_prediction_time_only() -> None:
    # The error rate by label time is the detector's; by prediction time it is the user's.
    rule = Rule(name="r", metric="error_rate", above=0.2)
    measure = Measure(name="error_rate", value=0.5, n=500)
    watch, declared = new_watch("m"), monitor(rule)
    assert observe(watch, window(0, "labels", measures=[measure]), declared, "k1") == []
    assert observe(watch, window(0, "performance", measures=[measure]), declared, "k1")


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_a_window_without_the_value_says_nothing(nothing: float | None) -> None:
    values = [0.7, nothing, 0.7, nothing, 0.9]
    windows = [accuracy(i, v) for i, v in enumerate(values)]
    alerts = observe_all(new_watch("m"), windows, monitor(LOW))
    assert timeline(alerts, "accuracy-low") == [("pending", 0), ("firing", 0), ("resolved", 4)]


def test_a_rule_that_is_taken_out_of_the_monitor_is_removed() -> None:
    watch = new_watch("m")
    observe_all(watch, [accuracy(i, 0.5) for i in range(2)], monitor(LOW))
    later = monitor(effective_ms=T0 + 2 * PANE)
    (alert,) = observe(watch, accuracy(2, 0.5), later, "k1")
    assert (alert.status, alert.resolved_because) == ("resolved", "removed")
    assert watch.head.effective_ms == T0 + 2 * PANE
    assert not watch.active()


def test_a_changed_threshold_goes_on_with_the_same_alert() -> None:
    watch = new_watch("m")
    first = observe_all(watch, [accuracy(i, 0.5) for i in range(2)], monitor(LOW))[-1]
    lower = monitor(LOW.model_copy(update={"below": 0.4}))
    (alert,) = observe(watch, accuracy(2, 0.5), lower, "k1")
    assert (alert.alert_id, alert.resolved_because) == (first.alert_id, "recovered")


def test_everything_ends_with_the_monitor() -> None:
    watch = new_watch("m")
    windows = [accuracy(0, 0.5), accuracy(1, 0.5), window(1, "labels", found=["error-rate"])]
    observe_all(watch, windows, monitor(LOW))
    alerts = drop(watch)
    assert sorted(told(alerts)) == [("accuracy-low", "resolved"), ("error-rate", "resolved")]
    assert {alert.resolved_because for alert in alerts} == {"removed"}
    assert drop(watch) == []


# -------------------------------------------------------------- built-in rules


def test_a_detection_fires_at_once_and_is_over_after_eight_quiet_panes() -> None:
    #  pane     0 1 2 3 4 5 6 7 8 9
    #  alarm      x                      fires in 1; 2…9 are quiet; told with the window after
    windows = [window(i, found=["data-drift"] if i == 1 else []) for i in range(11)]
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert timeline(alerts, "data-drift") == [("firing", 1), ("resolved", 1 + QUIET_PANES)]
    assert alerts[0].severity == "warning"


def test_an_alarm_at_any_scale_breaks_the_quiet() -> None:
    #  scale 1  x . . . . . . . .        the long window that ends with the eighth
    #  scale 4                  x        quiet pane still alarms
    windows = [window(0, found=["data-drift"])]
    for i in range(1, 9):
        windows.append(window(i))
        windows.append(window(i, scale=4, found=["data-drift"] if i == 8 else []))
    windows += [window(i) for i in range(9, 18)]
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert timeline(alerts, "data-drift") == [("firing", 0), ("resolved", 16)]


def test_windows_without_a_verdict_are_not_quiet() -> None:
    windows = [window(0, "labels", found=["error-rate"])]
    windows += [window(i, "labels", status="insufficient") for i in range(1, 20)]
    windows += [window(i) for i in range(20)]  # nor are those of another kind
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert told(alerts) == [("error-rate", "firing")]


def test_a_pane_is_quiet_when_the_longer_windows_that_end_with_it_are() -> None:
    # Few rows a pane: only four of them together can be tested.
    windows = [window(0, scale=4, found=["data-drift"])]
    for i in range(1, 20):
        windows += [window(i, n=30, status="insufficient"), window(i, scale=4)]
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert timeline(alerts, "data-drift") == [("firing", -3), ("resolved", QUIET_PANES)]


def test_a_pane_that_alarms_at_one_scale_is_not_quiet_at_another() -> None:
    windows = []
    for i in range(20):
        windows += [window(i, found=["data-drift"] if i < 9 else []), window(i, scale=2)]
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert timeline(alerts, "data-drift") == [("firing", 0), ("resolved", 8 + QUIET_PANES)]


def test_a_window_that_almost_alarms_keeps_the_alert() -> None:
    #  pane     0 1 2 3 4 5 6 7 8 9 … 14 15
    #  alarm    x
    #  near               n               its long window; 7…14 are the quiet ones
    windows = []
    for i in range(20):
        windows.append(window(i, found=["data-drift"] if i == 0 else []))
        near = ["data-drift", "integrity"] if i == 6 else []
        windows.append(window(i, scale=4, near_alarms=near))
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert timeline(alerts, "data-drift") == [("firing", 0), ("resolved", 6 + QUIET_PANES)]
    # What only comes near opens nothing.
    assert {alert.rule for alert in alerts} == {"data-drift"}


@pytest.mark.parametrize(("pause", "reopened"), [(REOPEN_PANES, True), (REOPEN_PANES + 1, False)])
def test_an_alert_that_is_soon_back_is_of_the_same_incident(pause: int, *, reopened: bool) -> None:
    #  pane     0 1 … 8 |9 … 8 + pause
    #  alarm    x       |          x      over with the end of pane 8
    last = QUIET_PANES + pause
    windows = [window(i, found=["data-drift"] if i in {0, last} else []) for i in range(last + 1)]
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert timeline(alerts, "data-drift") == [("firing", 0), ("resolved", 8), ("firing", last)]
    first, _, again = alerts
    # A new alert, as consumers know the old one has ended.
    assert again.alert_id != first.alert_id
    assert (again.incident_id == first.incident_id) is reopened


def test_another_version_or_kind_does_not_reopen_an_incident() -> None:
    for changes in ({"version": "k2"}, {"found": ["integrity"]}):
        watch = new_watch("m")
        windows = [window(i, found=["data-drift"] if i == 0 else []) for i in range(10)]
        first = observe_all(watch, windows, monitor(), None)[0]
        given: dict[str, Any] = {"found": ["data-drift"], **changes}
        again = observe_all(watch, [window(11, **given)], monitor(), None)[-1]
        assert (first.status, again.status) == ("firing", "firing")
        assert again.incident_id == again.alert_id


def test_drift_of_half_of_the_features_points_upstream() -> None:
    features = {name: Feature(type="numeric") for name in "abcdef"}

    def summary(names: str, scale: int = 1) -> str:
        found = [Detection(kind="data-drift", detector="ks", feature=f, value=0.4) for f in names]
        declared = monitor(features=features)
        return observe_all(new_watch("m"), [window(0, detections=found, scale=scale)], declared)[
            0
        ].summary

    assert "drifted (a, b, c), 3 of 6 features at once: look upstream; a:" in summary("abc")
    assert "upstream" not in summary("ab")
    assert "drifted (a), over 4 panes;" in summary("a", scale=4)


def test_the_features_of_one_kind_are_one_alert() -> None:
    found = [
        Detection(kind="data-drift", detector="ks", feature=f, value=v, threshold=0.05)
        for f, v in [("age", 0.1), ("loan", 0.4), ("salary", 0.3), ("car", 0.2)]
    ]
    broken = Detection(
        kind="integrity", detector="null", feature="age", summary="age: null in 5.0% of 500 rows"
    )
    names = ["age", "loan", "salary", "car", *(f"f{i}" for i in range(5))]
    nine = monitor(features={name: Feature(type="numeric") for name in names})
    alerts = observe_all(new_watch("m"), [window(0, detections=[*found, broken])], nine)
    assert told(alerts) == [("data-drift", "firing"), ("integrity", "firing")]
    assert alerts[0].summary == (
        "m version k1: its inputs have drifted (loan, salary, car and 1 more); "
        "loan: ks is 0.4, the limit 0.05; since 2026-11-21 00:17:04 UTC"
    )
    assert "its inputs are broken (age); age: null in 5.0% of 500 rows; since" in alerts[1].summary


def test_no_data_takes_three_empty_panes_and_ends_with_the_first_row() -> None:
    rows = [500, 0, 0, 500, 0, 0, 0, 0, 7]
    #       .   1  2   .   1  2  F  .  R
    windows = [window(i, n=n, status="insufficient") for i, n in enumerate(rows)]
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert timeline(alerts, "no-data") == [("firing", 4), ("resolved", 8)]
    assert alerts[0].severity == "critical"
    assert alerts[0].window_ids == [w.window_id for w in windows[4:7]]


def test_without_a_registered_version_one_with_data_is_enough() -> None:
    windows = []
    for i in range(6):
        windows += [window(i, n=0, version="old"), window(i, n=0, version="older")]
        windows.append(window(i, n=500 if i != 3 else 0, version="new"))
    assert observe_all(new_watch("m"), windows, monitor(), None) == []


def test_low_coverage_speaks_of_final_windows_with_enough_rows() -> None:
    def labelled(index: int, coverage: float, n: int = 500, *, final: bool = True) -> Window:
        return window(index, "performance", label_coverage=coverage, n=n, is_final=final)

    windows = [
        labelled(0, 0.2, n=3),
        labelled(1, 0.2, final=False),
        labelled(2, 0.2),
        labelled(3, 0.1),
        labelled(4, 0.97, final=False),
    ]
    alerts = observe_all(new_watch("m"), windows, monitor())
    assert timeline(alerts, "low-coverage") == [("firing", 2), ("resolved", 4)]
    assert "only 20% of its predictions got a label in time" in alerts[0].summary


# -------------------------------------------------------------- what counts once


def test_only_the_first_decided_revision_decides() -> None:
    watch, declared = new_watch("m"), monitor(LOW)
    provisional = accuracy(0, 0.1, is_decided=False, is_final=False)
    assert observe(watch, provisional, declared, "k1") == []
    assert told(observe(watch, accuracy(0, 0.7), declared, "k1")) == [("accuracy-low", "pending")]
    for revision in range(2, 5):
        repeated = accuracy(0, 0.1, revision=revision)
        assert observe(watch, repeated, declared, "k1") == []
    assert told(observe(watch, accuracy(1, 0.7), declared, "k1")) == [("accuracy-low", "firing")]


def test_windows_may_be_decided_out_of_order() -> None:
    series = Series("m", "s", 0)
    order = list(range(200))
    random.Random(1).shuffle(order)
    for start in order:
        assert not series.knows(start)
        series = series.add(start, start + 1)
        assert series.knows(start)


@given(st.permutations(range(60)))
def test_a_series_forgets_only_what_is_oldest(order: list[int]) -> None:
    series = Series("m", "s", 0)
    for start in order:
        series = series.add(start * 10, start * 10 + 10)
    many = series
    for start in range(1000, 1000 + REMEMBERED):
        many = many.add(start * 10, 0)
    assert len(many.starts) == REMEMBERED
    assert all(many.knows(start * 10) for start in (*order, 1000, 1000 + REMEMBERED - 1))
    assert not many.knows(9_995)


# ------------------------------------------------------------- who is followed


def test_a_shadow_alarms_nobody() -> None:
    windows = [window(0, "labels", version="k2", found=["error-rate"])]
    assert observe_all(new_watch("m"), windows, monitor(), "k1") == []


def test_what_only_the_old_version_held_is_superseded() -> None:
    #  k1  x                         error rate too high
    #  k2      o                     the first window of the promoted version
    watch, declared = new_watch("m"), monitor()
    observe(watch, window(0, "labels", found=["error-rate"]), declared, "k1")
    # Promoted, but nothing of it has come yet: the old one still counts.
    assert observe(watch, window(1, "labels"), declared, "k2") == []
    (alert,) = observe(watch, window(1, "labels", version="k2"), declared, "k2")
    assert (alert.status, alert.resolved_because) == ("resolved", "superseded")
    assert alert.version == "k1"
    assert watch.head.serving == "k2"
    # And the old one counts no more.
    assert observe(watch, window(2, "labels", found=["error-rate"]), declared, "k2") == []


def test_an_alert_lives_through_a_promotion_when_the_new_version_breaks_the_rule_too() -> None:
    watch, declared = new_watch("m"), monitor(LOW)
    first = observe_all(watch, [accuracy(i, 0.5) for i in range(2)], declared)[-1]
    assert observe(watch, accuracy(2, 0.6, version="k2"), declared, "k2") == []
    (alert,) = observe(watch, accuracy(3, 0.9, version="k2"), declared, "k2")
    assert (alert.alert_id, alert.version) == (first.alert_id, "k2")
    assert alert.resolved_because == "recovered"


def test_a_rule_the_new_version_says_nothing_about_ends_after_some_windows() -> None:
    rule = Rule(name="r", metric="accuracy", below=0.9, segment="a=1")
    watch, declared = new_watch("m"), monitor(rule)
    assert told(observe(watch, accuracy(0, 0.5, segment="a=1"), declared, "k1"))
    windows = [accuracy(i, 0.5, version="k2") for i in range(1, 10)]
    alerts = observe_all(watch, windows, declared, "k2")
    assert timeline(alerts, "r") == [("resolved", QUIET_PANES)]
    assert alerts[0].resolved_because == "superseded"


def test_without_a_registered_version_the_holder_decides_until_it_falls_silent() -> None:
    watch, declared = new_watch("m"), monitor(LOW)
    holder = [accuracy(i, 0.5, version="a") for i in range(2)]
    other = [accuracy(i, 0.9, version="b") for i in range(2)]
    mixed = [w for pair in zip(holder, other, strict=True) for w in pair]
    assert told(observe_all(watch, mixed, declared, None))[-1][1] == "firing"
    silent = [accuracy(i, 0.9, version="b") for i in range(2, 20)]
    (alert,) = observe_all(watch, silent, declared, None)
    # One of b's windows came after the holder's last one already.
    assert (alert.resolved_because, alert.ends_ms) == ("superseded", T0 + 9 * PANE)


# ------------------------------------------------------------------- incidents


def test_alerts_that_overlap_are_one_incident() -> None:
    #  data-drift   ├───────────────┤            1…10
    #  error-rate        ├───────────────┤       4…13: the same incident
    #  integrity                            ├─   30: another one
    watch, alerts = new_watch("m"), []
    for i in range(31):
        found = {1: ["data-drift"], 30: ["integrity"]}.get(i, [])
        alerts += observe(watch, window(i, found=found), monitor(), "k1")
        labels = window(i, "labels", found=["error-rate"] if i == 4 else [])
        alerts += observe(watch, labels, monitor(), "k1")
    drift, error, integrity = (a for a in alerts if a.status == "firing")
    assert drift.incident_id == error.incident_id == drift.alert_id
    assert integrity.incident_id == integrity.alert_id
    assert all(a.incident_id == drift.alert_id for a in alerts if a.status == "resolved")


def test_an_alert_that_began_before_an_incident_was_over_belongs_to_it() -> None:
    watch, declared = new_watch("m"), monitor()
    first = observe_all(watch, [window(0, found=["data-drift"])], declared)[0]
    observe_all(watch, [window(i) for i in range(1, 11)], declared)
    assert not watch.active()
    # Labels lag behind: their window lies in the time of the drift.
    (late,) = observe(watch, window(3, "labels", found=["error-rate"]), declared, "k1")
    assert late.incident_id == first.incident_id


# ------------------------------------------------------------------------ laws

KINDS = ("drift", "labels", "performance")


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[Window, str]]:
    """Windows with their champion: of two versions and three kinds, alarms at random."""
    found = {"drift": "data-drift", "labels": "error-rate", "performance": "label-drift"}
    windows: list[tuple[Window, str]] = []
    switch = draw(st.integers(0, 30))
    for i in range(draw(st.integers(1, 30))):
        for kind in KINDS:
            for version in ("k1", "k2"):
                kinds = [found[kind]] if draw(st.integers(0, 5)) == 0 else []
                value = draw(st.sampled_from([0.5, 0.9, None]))
                measures = [Measure(name="accuracy", value=value, n=9)]
                n = draw(st.sampled_from([0, 500]))
                made = window(i, kind, version=version, found=kinds, measures=measures, n=n)
                windows.append((made, "k1" if i < switch else "k2"))
    return windows


@given(streams(), st.randoms(use_true_random=False))
def test_repeated_windows_and_revisions_change_nothing(
    stream: list[tuple[Window, str]], chance: random.Random
) -> None:
    declared = monitor(LOW)
    plain, noisy = new_watch("m"), new_watch("m")
    expected: list[Alert] = []
    alerts: list[Alert] = []
    seen: list[Window] = []
    for made, champion in stream:
        expected += observe(plain, made, declared, champion)
        alerts += observe(noisy, made, declared, champion)
        seen.append(made)
        again = chance.choice(seen)
        changed = again.model_copy(
            update={
                "revision": again.revision + 1,
                "detections": [Detection(kind="integrity", detector="d")],
                "measures": [Measure(name="accuracy", value=0.0, n=9)],
            }
        )
        alerts += observe(noisy, changed, declared, champion)
    assert alerts == expected
    assert noisy == plain


@given(streams())
def test_every_alert_that_fires_does_so_once_and_ends_at_most_once(
    stream: list[tuple[Window, str]],
) -> None:
    watch, declared = new_watch("m"), monitor(LOW)
    alerts = [a for made, champion in stream for a in observe(watch, made, declared, champion)]
    for status in ("firing", "resolved"):
        ids = [alert.alert_id for alert in alerts if alert.status == status]
        assert len(set(ids)) == len(ids)
    fired = {alert.alert_id: alert for alert in alerts if alert.status == "firing"}
    for alert in alerts:
        if alert.status == "resolved":
            assert alert.ends_ms is not None
            assert alert.ends_ms > alert.starts_ms
            assert alert.incident_id == fired[alert.alert_id].incident_id
    still = {i.alert_id for i in watch.active() if i.fired_at_ms is not None}
    over = {alert.alert_id for alert in alerts if alert.status == "resolved"}
    assert still == set(fired) - over
