"""The detectors of a version's labels: which losses each sees, and what an alarm tells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from kedge import Detection, Monitor, Reference
from kedge_services.core.deltas import LabelsDelta
from kedge_services.core.folding import Series
from kedge_services.core.label_detectors import Cell, Found, LabelDetectors
from kedge_services.core.lookup import Lookup
from kedge_services.core.references import build_reference
from kedge_services.core.shelf import Shelf
from kedge_services.core.sketches import FIXED_POINT

PANE, CELL = 16_000, 1_000
SERIES = Series("m", "1", "", "r")
Windows = list[dict[int, Cell]]


def monitor(**changes: Any) -> Monitor:
    binary = {"task": "binary", "classes": ["no", "yes"]}
    return Monitor.model_validate(
        {
            "model": "m",
            **(binary if "task" not in changes else {}),
            "features": {"x": "numeric"},
            "windows": {"pane": "16s"},
            "drift": {"false_alarms": "1 per 10 windows"},
            **changes,
        }
    )


def reference(losses: list[float], *, regression: bool = False) -> Reference:
    return build_reference(
        model="m", version="1", columns={"x": [0.0]}, kinds={"x": "numeric"}, losses=losses,
        regression=regression,
    )  # fmt: skip


def made(held_to: Reference | None) -> LabelDetectors:
    return LabelDetectors(Lookup(lambda *_: None, lambda _: held_to, lambda *_: held_to))


def run(
    detectors: LabelDetectors, windows: Windows, watched: Monitor, *, restart: bool = False
) -> list[Found]:
    """Feed windows; with ``restart`` lose everything but the changelog after each."""
    found, log = [], dict[bytes, bytes | None]()
    for cells in windows:
        found.append(detectors.feed(SERIES, cells, watched))
        if restart:
            log |= changes(detectors)
            detectors = made(detectors._look.reference("r"))  # noqa: SLF001
            for key, value in log.items():
                name, *rest = json.loads(key)
                shelf: Shelf[Any] = (
                    detectors.river if name == "river-detector" else detectors.sequential
                )
                shelf.restore(tuple(rest), value)
    return found


def changes(detectors: LabelDetectors) -> Mapping[bytes, bytes | None]:
    return {**dict(detectors.sequential.changes()), **dict(detectors.river.changes())}


def counted(rng: np.random.Generator, n: int, miss: float, false: float) -> LabelsDelta:
    """Labels of which half are "yes"; ``miss`` of those and ``false`` of the others are wrong."""
    yes = n // 2
    missed, wrong = int(rng.binomial(yes, miss)), int(rng.binomial(n - yes, false))
    table = {
        "yes": {"yes": yes - missed, "no": missed},
        "no": {"yes": wrong, "no": n - yes - wrong},
    }
    return LabelsDelta(n, (missed + wrong) * FIXED_POINT, table)


def windows_of(parts: list[tuple[int, LabelsDelta | None]]) -> Windows:
    found: Windows = []
    for start, labels in parts:
        if start % PANE == 0:
            found.append({})
        if labels is not None:
            found[-1][start] = Cell(start + CELL, labels)
    return found


def classified(rates: list[tuple[int, float, float]], seed: int = 1, n: int = 25) -> Windows:
    """Cells of n labels: so many windows at each pair of rates."""
    rng, at = np.random.default_rng(seed), 0
    parts: list[tuple[int, LabelsDelta | None]] = []
    for windows, miss, false in rates:
        for _ in range(windows * PANE // CELL):
            parts.append((at, counted(rng, n, miss, false)))
            at += CELL
    return windows_of(parts)


def alarms(found: list[Found]) -> Iterator[tuple[int, Detection]]:
    for at, each in enumerate(found):
        for detection in each.detections:
            yield at, detection


def test_recall_has_a_detector_of_its_own_where_errors_only_move() -> None:
    # Errors move from negatives to positives: the error rate stays .15, recall falls.
    found = run(
        made(reference([float(i % 20 < 3) for i in range(4_000)])),
        classified([(20, 0.05, 0.25), (10, 0.25, 0.05)]),
        monitor(),
    )
    told = list(alarms(found))
    assert {d.detector for _, d in told} == {"e_sr_recall"}
    at, detection = told[0]
    assert at in {20, 21}
    assert 0.15 < (detection.value or 0) < 0.35
    assert "recall 0." in detection.summary
    assert "positives" in detection.summary
    measured = {m.name for m in found[-1].measures}
    assert measured == {"e_sr", "e_sr_recall", "e_sr_precision"}


def test_the_alarm_tells_the_rate_since_it_rose() -> None:
    # The whole first window is below p0; only its last cells are bad.
    windows = classified([(5, 0.1, 0.1)])
    worse = np.random.default_rng(3)
    for start in list(windows[-1])[-4:]:
        windows[-1][start] = Cell(start + CELL, counted(worse, 100, 0.4, 0.4))
    found = run(made(reference([float(i % 10 == 0) for i in range(4_000)])), windows, monitor())
    main = next(d for _, d in alarms(found) if d.detector == "e_sr")
    assert main.value is not None
    assert main.value > 0.3 > (main.threshold or 1)
    assert f"error rate {main.value:.3f} in the last" in main.summary
    assert found[-1].status == "alarm"


def test_regression_is_watched_by_the_ranks_of_its_errors() -> None:
    rng = np.random.default_rng(9)
    held_to = reference(np.abs(rng.normal(0, 1, 5_000)).tolist(), regression=True)
    parts: list[tuple[int, LabelsDelta | None]] = []
    for at in range(0, 40 * PANE, CELL):
        errors = np.abs(rng.normal(0, 1 if at < 30 * PANE else 1.5, 25))
        ranks = np.searchsorted(held_to.loss_cuts, errors).tolist()
        labels = LabelsDelta(25, round(errors.sum() * FIXED_POINT))
        labels.ranks = {rank: ranks.count(rank) for rank in set(ranks)}
        parts.append((at, labels))
    watched = monitor(
        task="regression",
        performance={"detectors": ["e-sr", "adwin"]},
        drift={"false_alarms": "1 per 1000 windows"},
    )
    found = run(made(held_to), windows_of(parts), watched)
    told = [(detection.detector, at) for at, detection in alarms(found)]
    assert next(at for name, at in told if name == "e_sr") in {30, 31}
    assert {at for name, at in told if name == "adwin"} & {30, 31}
    summary = next(d.summary for _, d in alarms(found) if d.detector == "e_sr")
    assert "rank 0." in summary


def test_regression_without_enough_losses_in_its_reference_is_not_tested() -> None:
    few = reference([float(i) for i in range(900)], regression=True)
    windows = windows_of([(0, LabelsDelta(200, 0, ranks={3: 200}))])
    for held_to in (few, None):
        found = run(made(held_to), windows, monitor(task="regression"))
        assert [(f.status, f.measures) for f in found] == [("insufficient", [])]


@pytest.mark.parametrize("name", ["adwin", "ddm", "page-hinkley", "kswin"])
def test_rivers_detectors_are_chosen_in_the_monitor(name: str) -> None:
    watched = monitor(performance={"detectors": [name]})
    found = run(made(None), classified([(10, 0.1, 0.1), (8, 0.6, 0.6)]), watched)
    told = list(alarms(found))
    assert {d.detector for _, d in told} == {name}
    assert any(at >= 10 for at, _ in told)
    assert f"{name} detects a rise: error rate 0." in told[-1][1].summary
    assert not [m for each in found for m in each.measures]
    assert {each.status for each in found} <= {"ok", "alarm"}


def test_a_restart_after_every_window_changes_nothing() -> None:
    every = ["e-sr", "adwin", "ddm", "page-hinkley", "kswin"]
    watched = monitor(performance={"detectors": every})
    windows = classified([(6, 0.1, 0.1), (6, 0.5, 0.5), (4, 0.1, 0.1)], n=10)
    held_to = reference([float(i % 10 == 0) for i in range(2_000)])
    whole = run(made(held_to), windows, watched)
    assert run(made(held_to), windows, watched, restart=True) == whole
    assert {d.detector for _, d in alarms(whole)} >= {"e_sr", "adwin"}


def test_without_a_loss_reference_each_detector_learns_its_own() -> None:
    found = run(made(None), classified([(6, 0.1, 0.1)]), monitor())
    assert [f.status for f in found] == ["learning"] * 2 + ["ok"] * 4
    # 1,000 labels, 1,000 positives, 1,000 positive answers: 40, 84 and about 80 cells.
    measured = [{m.name for m in each.measures} for each in found]
    assert measured[2] == {"e_sr"}
    assert measured[5] == {"e_sr", "e_sr_recall", "e_sr_precision"}


def test_recall_and_precision_of_the_reference_hold_from_the_first_label() -> None:
    # 6,000 rows: of 2,000 that are "yes" a tenth is missed, of 4,000 others 5 % are wrong.
    labels = ["yes" if i % 3 == 0 else "no" for i in range(6_000)]
    wrong = [i % 30 == 0 or i % 60 == 1 or i % 60 == 32 or i % 60 == 4 for i in range(6_000)]
    other = {"yes": "no", "no": "yes"}
    said = [other[label] if bad else label for label, bad in zip(labels, wrong, strict=True)]

    def held_to(losses: list[float]) -> Reference:
        return build_reference(
            model="m", version="1", columns={"x": [0.0]}, kinds={"x": "numeric"},
            predictions=said, labels=labels, losses=losses, regression=False,
        )  # fmt: skip

    known = held_to([float(bad) for bad in wrong])
    missed = sum(bad for bad, label in zip(wrong, labels, strict=True) if label == "yes")
    assert known.loss is not None
    assert (known.loss["labelled:yes"], known.loss["missed:yes"]) == (2_000, missed)
    found = run(made(known), classified([(1, 0.1, 0.05)]), monitor())
    assert {m.name for m in found[0].measures} == {"e_sr", "e_sr_recall", "e_sr_precision"}
    # Losses of other rows than the predictions': what they say of a class is not known.
    found = run(made(held_to([0.0] * 6_000)), classified([(1, 0.1, 0.05)]), monitor())
    assert {m.name for m in found[0].measures} == {"e_sr"}


def test_an_empty_window_is_no_test() -> None:
    found = run(made(reference([0.0, 1.0] * 1_000)), [{}], monitor())
    assert found[0].status == "insufficient"
    assert found[0].detections == []
