"""Estimates held to labels: what fails, who hears of it when, and that only the data decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from kedge import Monitor, Pane, Progress, Reference, Window
from kedge.codec import decode
from kedge.panes import ModelClock, PaneSource
from kedge_services.core.binning import Binner
from kedge_services.core.calibration import fit_calibrator
from kedge_services.core.deltas import Delta, PerformanceDelta
from kedge_services.core.lookup import Lookup
from kedge_services.core.references import build_reference
from kedge_services.core.sketches import LabelledScores
from kedge_services.core.windows import Windows

S = 1_000
T0 = 1_700_000_000_000


class TwoPanes(Monitor):
    """A performance pane is two drift panes, as it is with horizons of over 200 panes."""

    @property
    def performance_pane_ms(self) -> int:
        return 2 * self.pane_ms


#: A drift pane is one second, a performance pane two, labels are final three seconds later.
MONITOR = TwoPanes.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": ["no", "yes"],
        "features": {"x": "numeric"},
        "label_horizon": "3s",
        "windows": {"pane": "1s", "scales": [1, 2], "grace": "0s"},
    }
)
NEVER_MS = 1 << 42
ROWS = 400
Event = Pane | Progress


def column(seed: int, n: int) -> Any:
    return np.random.default_rng(seed).random(n)


def made(calibrated: bool = True) -> Reference:  # noqa: FBT001, FBT002
    scores = column(1, 4_000)
    labels = column(2, 4_000) < scores
    return build_reference(
        model="m",
        version="1",
        columns={"x": scores},
        kinds={"x": "numeric"},
        scores=scores.tolist(),
        labels=["yes" if positive else "no" for positive in labels],
        calibrator=fit_calibrator(scores.tolist(), labels.tolist()) if calibrated else None,
    )


REFERENCE = made()


def event(kind: Any, start_ms: int, length: int, delta: Delta, held_to: Reference) -> Pane:
    return Pane(
        model="m",
        version="1",
        reference_id=held_to.reference_id,
        kind=kind,
        start_ms=start_ms,
        end_ms=start_ms + length,
        counts=delta.encode(),
        source=PaneSource(topic="predictions", partition=0, from_offset=0, to_offset=1),
    )


def predictions(pane: int, held_to: Reference = REFERENCE) -> list[Pane]:
    """The predictions of a drift pane, as the panes service counts them."""
    scores = column(1_000 + pane, ROWS)
    answers = ["yes" if score >= 0.5 else "no" for score in scores]
    drift = Binner(held_to).count({"x": scores}, rows=ROWS, scores=scores.tolist(), answers=answers)
    start_ms = T0 + pane * S
    performance = event(
        "performance", start_ms - pane % 2 * S, 2 * S, PerformanceDelta(predicted=ROWS), held_to
    )
    return [event("drift", start_ms, S, drift, held_to), performance]


def labels(pane: int, *, wrong: bool, held_to: Reference = REFERENCE) -> Pane:
    """Labels of a drift pane that its scores promise, or such as they do not."""
    scores = column(1_000 + pane, ROWS)
    positive = column(2_000 + pane, ROWS) < (scores**3 if wrong else scores)
    confusion = {
        truth: {
            answer: int(
                ((positive == (truth == "yes")) & ((scores >= 0.5) == (answer == "yes"))).sum()
            )
            for answer in ("no", "yes")
        }
        for truth in ("no", "yes")
    }
    delta = PerformanceDelta(
        labelled=ROWS,
        confusion=confusion,
        served=ROWS,
        scores=LabelledScores.of(
            list(zip(scores.tolist(), positive.tolist(), [1] * ROWS, strict=True))
        ),
    )
    return event("performance", T0 + (pane - pane % 2) * S, 2 * S, delta, held_to)


def progress(predicted_ms: int, labelled_ms: int) -> Progress:
    def clock(at_ms: int) -> dict[str, ModelClock]:
        return {"m": ModelClock(max_ms=at_ms, seen_ms=T0)}

    return Progress(
        partition=0,
        partitions=1,
        sequence=0,
        offsets={},
        clock_ms={"predictions": T0, "outcomes": T0},
        since_ms={"predictions": T0, "outcomes": T0},
        predictions=clock(predicted_ms),
        outcomes=clock(labelled_ms),
        fates={},
    )


class Run:
    """Windows fed step by step; a restart after every step keeps only the changelog."""

    def __init__(self, held_to: Reference = REFERENCE, *, restarts: bool = False) -> None:
        self.held_to, self.restarts = held_to, restarts
        self.changelog: dict[bytes, bytes | None] = {}
        self.sent: list[Window] = []
        self.windows = self.fresh()

    def fresh(self) -> Windows:
        return Windows(
            Lookup(lambda *_: MONITOR, lambda _: self.held_to, lambda *_: self.held_to),
            idle_after_ms=NEVER_MS,
            revise_interval_ms=NEVER_MS,
        )

    def step(self, events: Iterable[Event]) -> None:
        for one in events:
            if isinstance(one, Progress):
                self.windows.progress(one)
            else:
                self.windows.add(one, 0)
        self.windows.tick(0)
        self.sent += [decode(Window, sent.value) for sent in self.windows.take()[0]]
        self.changelog.update(self.windows.changes())
        if self.restarts:
            self.windows = self.fresh()
            for key, value in self.changelog.items():
                self.windows.restore(key, value)
            self.windows.start()

    def last(self) -> dict[str, Window]:
        """Give every window at its highest revision, without what says how it was sent."""
        return {
            w.window_id: w.model_copy(update={"revision": 0, "labelled_total": 0})
            for w in sorted(self.sent, key=lambda w: w.revision)
        }

    def finals(self) -> dict[str, Window]:
        """Give those of them that are final; how often others are sent is no law."""
        return {name: window for name, window in self.last().items() if window.is_final}

    def notes(self, scale: int = 1) -> dict[int, str]:
        """Give what drift windows say of the accuracy, by the pane they end with."""
        return {
            (w.end_ms - T0) // S - 1: measure.note or "valid"
            for w in self.last().values()
            if w.kind == "drift" and w.scale == scale
            for measure in w.measures
            if measure.name == "estimated_accuracy"
        }

    def settled(self, pane: int) -> dict[str, Any]:
        """Give the estimates and gaps of the final performance window that begins with a pane."""
        (window,) = [
            w
            for w in self.last().values()
            if w.kind == "performance" and w.scale == 1 and w.start_ms == T0 + pane * S
        ]
        assert window.is_final
        return {m.name: m for m in window.measures if m.name.startswith("estimate")}


def steady(
    panes: int, wrong: Sequence[int] = (), held_to: Reference = REFERENCE
) -> list[list[Event]]:
    """Every second a pane, and the labels of the one before last."""
    steps = []
    for pane in range(panes):
        step: list[Event] = [*predictions(pane, held_to)]
        if pane >= 2:
            step.append(labels(pane - 2, wrong=pane - 2 in wrong, held_to=held_to))
        now_ms = T0 + (pane + 1) * S
        steps.append([*step, progress(now_ms, now_ms)])
    return steps


def ran(steps: Iterable[Iterable[Event]], **changes: Any) -> Run:
    run = Run(**changes)
    for step in steps:
        run.step(step)
    return run


def at_once(steps: list[list[Event]]) -> list[list[Event]]:
    return [
        [one for step in steps for one in step if not isinstance(one, Progress)] + [steps[-1][-1]]
    ]


def labels_behind(seconds: int) -> Callable[[list[list[Event]]], list[list[Event]]]:
    """All is read in time but the outcomes, which come later; at the end all are there."""

    def behind(steps: list[list[Event]]) -> list[list[Event]]:
        told: list[list[Event]] = []
        for at in range(len(steps) + seconds):
            predicted = steps[at][:2] if at < len(steps) else []
            labelled = steps[at - seconds][2:-1] if at >= seconds else []
            predicted_ms = T0 + (min(at, len(steps) - 1) + 1) * S
            labelled_ms = T0 + max(0, at - seconds + 1) * S
            told.append([*predicted, *labelled, progress(predicted_ms, labelled_ms)])
        return told

    return behind


# The timeline of a failure: labels of panes 8 and 9 are not what their scores promised.
#
#   performance pane [8, 10)      final         first window that hears of it
#   ------|-------|---------------|-------------|------------------------>
#         8       10              13            15 (10 + horizon 3 + pane 2)


def test_an_estimate_that_labels_confirm_is_published_with_its_gap() -> None:
    found = ran(steady(20)).settled(8)
    names = ["accuracy", "precision", "recall", "f1", "auc"]
    assert list(found) == [f"estimated_{n}" for n in names] + [f"estimate_gap_{n}" for n in names]
    accuracy, gap = found["estimated_accuracy"], found["estimate_gap_accuracy"]
    assert accuracy.value == pytest.approx(0.75, abs=0.02)
    assert abs(gap.value) < gap.threshold < 0.12
    assert (accuracy.n, gap.n) == (2 * ROWS, 2 * ROWS)


def test_the_gap_is_the_estimate_less_what_the_labels_say() -> None:
    run = ran(steady(20, wrong=[8, 9]))
    found = run.settled(8)
    (window,) = [
        w
        for w in run.last().values()
        if w.kind == "performance" and w.start_ms == T0 + 8 * S and w.scale == 1
    ]
    real = {m.name: m for m in window.measures}
    for name in ("accuracy", "precision", "recall", "f1", "auc"):
        gap = found[f"estimate_gap_{name}"]
        assert gap.value == found[f"estimated_{name}"].value - real[name].value
    assert abs(found["estimate_gap_precision"].value) > found["estimate_gap_precision"].threshold


def test_windows_hear_of_a_failure_the_horizon_and_a_pane_later() -> None:
    notes = ran(steady(20, wrong=[8, 9])).notes()
    # Panes are named by their start: the first window that hears of it ends at 15.
    assert {pane for pane, note in notes.items() if note != "valid"} == set(range(14, 20))
    assert notes[14] == (
        "not valid: the estimate of the performance window that ended at "
        "2023-11-14T22:13:30+00:00 was further from the labels than chance allows; "
        "3 in a row have to agree, 0 have"
    )
    assert notes[16].endswith("3 in a row have to agree, 1 have")


def test_estimates_are_valid_again_after_three_that_agree() -> None:
    notes = ran(steady(30, wrong=[8, 9])).notes()
    # [10, 12), [12, 14) and [14, 16) agree; the last is heard of from 21 on.
    assert {pane for pane, note in notes.items() if note != "valid"} == set(range(14, 20))
    again = ran(steady(40, wrong=[8, 9, 12, 13])).notes()
    assert {pane for pane, note in again.items() if note != "valid"} == set(range(14, 24))


def test_longer_windows_hear_of_it_by_their_end_too() -> None:
    notes = ran(steady(20, wrong=[8, 9])).notes(scale=2)
    assert {pane for pane, note in notes.items() if note != "valid"} == set(range(14, 20))


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(at_once, id="all-at-once"),
        *[pytest.param(labels_behind(s), id=f"labels-{s}s-behind") for s in (1, 3, 6, 12)],
    ],
)
def test_only_the_data_decides_what_windows_say(
    told: Callable[[list[list[Event]]], list[list[Event]]],
) -> None:
    steps = steady(36, wrong=[8, 9, 20, 21])
    expected, other = ran(steps), ran(told(steps))
    assert len(set(expected.notes().values())) > 2
    assert expected.notes() == other.notes()
    assert expected.finals().items() <= other.finals().items()


def test_a_window_is_not_sent_again_when_its_panes_are_gone() -> None:
    run = ran(labels_behind(30)(steady(60, wrong=[8, 9, 20, 21])))
    drift = [w for w in run.sent if w.kind == "drift"]
    assert max(w.revision for w in drift) > 0
    assert {(w.scale, w.n) for w in drift} == {(1, ROWS), (2, 2 * ROWS)}


@pytest.mark.parametrize("told", [list, labels_behind(6)], ids=["in-time", "labels-6s-behind"])
def test_a_restart_at_every_step_changes_nothing(
    told: Callable[[list[list[Event]]], list[list[Event]]],
) -> None:
    steps = told(steady(24, wrong=[8, 9]))
    assert ran(steps).finals() == ran(steps, restarts=True).finals()


def test_what_is_kept_is_dropped_when_no_window_can_need_it() -> None:
    run = ran(steady(80))
    kept = [key for key, value in run.changelog.items() if value and b"estimate-pane" in key]
    # (largest scale + 16) performance panes and those whose labels are not final.
    assert len(kept) <= 2 + 16 + 3
    records = [value for key, value in run.changelog.items() if value and b"estimate-record" in key]
    (record,) = records
    assert record is not None
    assert record.count(b"true") <= 2 + 16 + 3


def test_no_estimate_alarms() -> None:
    run = ran(steady(24, wrong=range(24)))
    assert all(w.status != "alarm" for w in run.sent if w.kind == "drift")
    assert not any("estimate" in d.detector for w in run.sent for d in w.detections)


def test_without_labels_in_the_reference_there_is_nothing_to_reconcile() -> None:
    held_to = made(calibrated=False)
    run = ran(steady(20, held_to=held_to), held_to=held_to)
    assert run.settled(8) == {}
    assert set(run.notes().values()) == {
        "not valid: the reference has fewer than 1000 rows with score and label, or one class"
    }


def test_what_was_not_valid_is_not_held_to_its_labels() -> None:
    """Scores that are off in the reference are not estimated, and so never confirmed either."""
    calibrator = REFERENCE.calibrator
    assert calibrator is not None
    off = calibrator.model_copy(update={"error": 0.05})
    held_to = REFERENCE.model_copy(update={"calibrator": off})
    run = ran(steady(20), held_to=held_to)
    found = run.settled(8)
    assert {m.value for m in found.values()} == {None}
    assert {m.note for m in found.values()} == {
        "not valid: scores are off by 0.050 in the reference, more than 0.02"
    }
    assert not any(name.startswith("estimate_gap") for name in found)
