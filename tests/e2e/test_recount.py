"""The recount agrees with the services, and finds every mistake that is planted."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kedge_services.local.recount.plain import Record
from kedge_services.local.recount.recount import Report, recount
from kedge_services.runtime.memory import Step
from test_flow_memory import CHALLENGER_FROM, PANE_MS, START_MS, Sent, play, traffic
from world import Lists

Event = dict[str, Any]
Change = Callable[[Event], Event | None]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Lists:
    return play(tmp_path_factory.mktemp("recount")).log()


@pytest.fixture(scope="module")
def report(log: Lists) -> Report:
    return recount(log, drift_started_ms=START_MS + 8 * PANE_MS)


def test_the_services_and_the_recount_agree(report: Report) -> None:
    assert report.differences == []
    assert report.is_right
    assert report.records_in == report.records_accounted
    assert report.decided_by_dead_letter == {}


def test_everything_that_was_sent_is_counted(report: Report) -> None:
    sent = traffic()
    assert report.records_in == len([s for s in sent if s.topic in ("predictions", "outcomes")])
    assert report.places["predictions"]["dead-letters"] == 1
    assert report.places["outcomes"]["dead-letters"] == 1
    assert report.figures["predictions"] == len(
        [s for s in sent if s.topic == "predictions" and s.event.get("role") != "shadow"]
    )
    kinds = {
        "cells", "dead letters", "evidence", "examples", "fates", "features of panes", "measures",
        "pairs", "panes", "performance panes", "windows",
    }  # fmt: skip
    assert set(report.compared) == kinds
    assert report.compared["windows"] > 100


def test_accuracies_are_those_of_the_traffic(report: Report) -> None:
    """A twentieth was wrong, then half of it, and a twentieth again."""
    figures = report.figures
    assert figures["accuracy_before_drift"] == pytest.approx(0.95, abs=0.02)
    assert figures["accuracy_drifted"] == pytest.approx(0.5, abs=0.05)
    assert figures["promotions"] == 1
    assert figures["rollbacks"] == 0


# ------------------------------------------------------------------- disorder


def disorder(seed: int) -> list[Sent]:
    """Make what producers do wrong out of the good traffic: one record in twelve has company."""
    chance = random.Random(seed)
    made = traffic()
    for sent in traffic():
        if chance.random() < 1 / 12:
            wrongs = WRONG_PREDICTIONS if sent.topic == "predictions" else WRONG_OUTCOMES
            made += chance.choice(wrongs)(sent, chance)
    return sorted(made, key=lambda sent: sent.append_ms)


def later(sent: Sent, chance: random.Random, **values: Any) -> Sent:
    after_ms = chance.randrange(1, 4_000)
    return replace(sent, event=sent.event | values, append_ms=sent.append_ms + after_ms)


def corrected(sent: Sent, chance: random.Random) -> list[Sent]:
    """Send other labels of the same id, of other times and in any order."""
    at_ms = sent.event["event_time_ms"]
    return [
        later(
            sent, chance, label=chance.choice(["no", "yes"]),
            event_time_ms=at_ms + chance.randrange(-400, 900),
        )
        for _ in range(chance.randrange(1, 8))
    ]  # fmt: skip


def early(sent: Sent, _: random.Random) -> list[Sent]:
    """Send an outcome that comes before its prediction, of an id of its own, and both of it."""
    identity, at_ms = f"early-{sent.key}", sent.event["event_time_ms"]
    outcome = sent.event | {"prediction_id": identity}
    prediction = {
        "prediction_id": identity, "model": "loans", "version": "v1", "event_time_ms": at_ms,
        "features": {"x": 0.5}, "output": {"scores": {"no": 0.4, "yes": 0.6}},
    }  # fmt: skip
    return [
        Sent("outcomes", identity, outcome, sent.append_ms),
        Sent("predictions", identity, prediction, sent.append_ms + 300),
    ]


def late(sent: Sent, chance: random.Random) -> list[Sent]:
    identity, at_ms = f"late-{sent.key}", sent.event["event_time_ms"]
    values = {"prediction_id": identity, "event_time_ms": at_ms - 3_000}
    return [replace(later(sent, chance, **values), key=identity)]


WRONG_PREDICTIONS: list[Callable[[Sent, random.Random], list[Sent]]] = [
    lambda sent, chance: [later(sent, chance)],
    lambda sent, chance: [later(sent, chance, prediction_id=sent.key + "x")],
    lambda sent, chance: [later(sent, chance, output={"label": "perhaps"})],
    lambda sent, chance: [later(sent, chance, features=None)],
    late,
]  # fmt: skip
WRONG_OUTCOMES: list[Callable[[Sent, random.Random], list[Sent]]] = [
    corrected,
    early,
    lambda sent, chance: [later(sent, chance)],
    lambda sent, chance: [later(sent, chance, label="perhaps")],
    lambda sent, chance: [later(sent, chance, model="loans"), later(sent, chance, model="alien")],
    lambda sent, chance: [later(sent, chance, event_time_ms="then")],
]


# A crash with a lost disk has the join read records again, among them the wrong ones.
@pytest.mark.parametrize(
    ("seed", "crash"), [(1, None), (2, ("committed", 21)), (3, ("send_offsets", 40))]
)
def test_the_two_agree_on_disorder(
    tmp_path: Path, seed: int, crash: tuple[Step, int] | None
) -> None:
    world = play(tmp_path, sent=disorder(seed), crash=crash, loses_disk=crash is not None)
    assert len(world.crashes) == (crash is not None)
    report = recount(world.log())
    assert report.differences == []
    assert report.is_right
    fates = {fate for fates in report.fates.values() for fate, number in fates.items() if number}
    assert fates >= {
        "bad-key", "counted", "duplicate", "late", "matched", "unknown-model", "unreadable",
        "unmatched-outcome",
    }  # fmt: skip
    assert max(e["revision"] for e in world.examples().values()) >= 2


# ------------------------------------------------------------- planted mistakes


def changed(log: Lists, topic: str, change: Change, *, last: bool = True) -> Lists:
    """Change the last (or first) event of a topic that ``change`` has something for.

    ``change`` gives None for an event it leaves alone, and ``{}`` for one to be dropped.
    """
    records = list(log.records[topic])
    for at in sorted(range(len(records)), reverse=last):
        event = _event(records[at])
        new = None if event is None else change(event)
        if new is not None:
            value = json.dumps(new).encode()
            records[at : at + 1] = [records[at]._replace(value=value)] if new else []
            return Lists({**log.records, topic: records}, log.sizes)
    raise AssertionError(f"nothing to change in {topic}")


def doubled(log: Lists, topic: str, wanted: Callable[[Event], bool]) -> Lists:
    """Append the first record that is wanted once more, as a crash might."""
    records = log.records[topic]
    found = next(r for r in records if (e := _event(r)) is not None and wanted(e))
    again = found._replace(offset=max(r.offset for r in records) + 1)
    return Lists({**log.records, topic: [*records, again]}, log.sizes)


def without_letters(log: Lists, reason: bytes) -> Lists:
    letters = log.records["dead-letters"]
    kept = [r for r in letters if dict(r.headers)["kedge-reason"] != reason]
    return Lists({**log.records, "dead-letters": kept}, log.sizes)


def _event(record: Record) -> Event | None:
    try:
        found = json.loads(record.value or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def is_pane(kind: str) -> Callable[[Event], bool]:
    return lambda event: event.get("kind") == kind


def drop(wanted: Callable[[Event], bool] = lambda _: True) -> Change:
    return lambda event: {} if wanted(event) else None


def put(**values: Any) -> Change:
    return lambda event: event | values


def final(kind: str, version: str, change: Callable[[Event], Event]) -> Change:
    def of(window: Event) -> Event | None:
        is_it = window["is_final"] and (window["kind"], window["version"]) == (kind, version)
        return change(window) if is_it and window["n"] else None

    return of


def measured(name: str) -> Change:
    """Move one measure of a final window a little."""

    def of(window: Event) -> Event | None:
        if not window["is_final"] or all(m["name"] != name for m in window["measures"]):
            return None
        moved = [
            m | {"value": m["value"] + 0.001} if m["name"] == name else m
            for m in window["measures"]
        ]
        return window | {"measures": moved}

    return of


def fewer(fate: str, topic: str) -> Change:
    def of(progress: Event) -> Event | None:
        fates = progress.get("fates", {}).get(topic, {})
        if fates.get(fate, 0) < 1:
            return None
        changed = {**fates, fate: fates[fate] - 1}
        # A higher sequence: what was said last counts.
        return progress | {
            "fates": {**progress["fates"], topic: changed},
            "sequence": progress["sequence"] + 1_000,
        }

    return of


def swapped(label: str) -> str:
    return {"no": "yes", "yes": "no"}[label]


def is_good(event: Event) -> bool:
    """Say whether an input is one that is counted, of the time of both versions."""
    at_ms = START_MS + (CHALLENGER_FROM + 1) * PANE_MS
    return event.get("model") != "alien" and at_ms < event["event_time_ms"] < at_ms + PANE_MS


def when_good(change: Callable[[Event], Event]) -> Change:
    return lambda event: change(event) if is_good(event) else None


def outvalued(**features: Any) -> Callable[[Event], Event]:
    return lambda event: event | {"features": event["features"] | features}


MISTAKES: dict[str, tuple[Callable[[Lists], Lists], str]] = {
    "an example is lost": (
        lambda log: changed(log, "examples", drop()),
        r"example, loans/p\d+: expected label (yes|no), revision 0.* found none",
    ),
    "an example nobody deserved": (
        lambda log: changed(log, "examples", put(prediction_id="p99")),
        r"example, loans/p99: expected none, found label",
    ),
    "an example with another label": (
        lambda log: changed(log, "examples", lambda e: e | {"label": swapped(e["label"])}),
        r"label of example, loans/p\d+: expected (yes, found no|no, found yes)",
    ),
    "an example with another revision": (
        lambda log: changed(log, "examples", put(revision=1)),
        r"revision of example, loans/p\d+: expected 0, found 1",
    ),
    "an example of another version": (
        lambda log: changed(log, "examples", put(served_by="v3")),
        r"served_by of example, loans/p\d+: expected v\d, found v3",
    ),
    "an example without the shadow's answer": (
        lambda log: changed(log, "examples", lambda e: e | {"outputs": {"v1": e["outputs"]["v1"]}}),
        r"outputs of example, loans/p\d+: expected .*'v2'.*, found \{'v1'",
    ),
    "an example with another feature": (
        lambda log: changed(log, "examples", outvalued(c="z")),
        r"features of example, loans/p\d+: .*'z'",
    ),
    "a drift delta is lost": (
        lambda log: changed(log, "panes", drop(is_pane("drift"))),
        r"rows of pane, loans/v\d from \d+: expected \d+, found \d+",
    ),
    "a drift delta is added twice": (
        lambda log: doubled(log, "panes", is_pane("drift")),
        r"rows of pane, loans/v1 from \d+: expected 150, found \d+",
    ),
    "a performance delta is added twice": (
        lambda log: doubled(log, "panes", is_pane("performance")),
        r"labels of pane, loans/v1 from \d+: expected \{'predicted': 150",
    ),
    "pairs are added twice": (
        lambda log: doubled(log, "panes", is_pane("pair")),
        r"pairs of pane, loans/v2 beside v1 from \d+: expected \{.*\}, found \{",
    ),
    "a delta of label cells is lost": (
        lambda log: changed(log, "panes", drop(is_pane("labels"))),
        r"first labels in cells.*: expected \d+, found \d+",
    ),
    "Progress leaves a record out": (
        lambda log: changed(log, "panes", fewer("counted", "predictions")),
        r"records that are counted, topic predictions: expected 3300, found 3299",
    ),
    "a drift window counts one more": (
        lambda log: changed(log, "windows", final("drift", "v1", lambda w: w | {"n": w["n"] + 1})),
        r"rows of drift window, loans/v1/.*/drift/\d/\d+: expected 150, found 151",
    ),
    "a performance window has a label less": (
        lambda log: changed(
            log, "windows",
            final("performance", "v2", lambda w: w | {"labelled": w["labelled"] - 1}),
        ),
        r"labels of window, loans/v2/.*/performance/2/\d+: expected 297, found 296",
    ),
    "the share of nulls is wrong": (
        lambda log: changed(log, "windows", measured("null_share")),
        r"null_share of \w in drift window, .*: expected 0.0, found 0.001",
    ),
    "the accuracy is wrong": (
        lambda log: changed(log, "windows", measured("accuracy")),
        r"accuracy of performance window, .*: expected 0.\d+, found 0.\d+",
    ),
    "the f1 is wrong": (
        lambda log: changed(log, "windows", measured("f1")),
        r"f1 of performance window, .*: expected 0.\d+, found 0.\d+",
    ),
    "a final window is missing": (
        lambda log: changed(
            log, "windows", drop(lambda w: w["is_final"] and w["scale"] == 1 and w["n"] == 150),
            last=False,
        ),
        r"final (drift|performance) window of a pane, loans/v1//\d+: expected True, found False",
    ),
    "a promotion states pairs nobody counted": (
        lambda log: changed(
            log, "model-versions",
            lambda v: v | {"evidence": v["evidence"] | {"n": v["evidence"]["n"] - 1}}
            if "challenger" in v["evidence"] else None,
        ),
        r"wins, losses by which v\d is \w+, loans/v1/v2, sequence \d: expected a sum of deltas",
    ),
    "a dead letter is lost": (
        lambda log: without_letters(log, b"unknown-model"),
        r"predictions\[\d\]@\d+: expected \['.*unknown-model.*'\], found \[\]",
    ),
    "an outcome is forgotten": (
        lambda log: without_letters(log, b"unmatched-outcome"),
        r"an outcome without prediction, outcomes\[\d\]@\d+: expected unmatched-outcome, found no",
    ),
    "a dead letter is written twice": (
        lambda log: Lists({**log.records, "dead-letters": log.records["dead-letters"] * 2},
                          log.sizes),
        r"predictions\[\d\]@\d+: expected .*, found \['unknown-model', 'unknown-model'\]",
    ),
    "a dead letter has other bytes": (
        lambda log: changed(log, "dead-letters", put(more=1)),
        r"bytes of the dead letter dead-letters\[\d\]@\d+, \w+\[\d\]@\d+: expected",
    ),
    "a prediction was counted that was never sent": (
        lambda log: changed(log, "predictions", drop(is_good)),
        r"rows of pane, loans/v\d from \d+: expected 149, found 150",
    ),
    "an outcome was used that was never sent": (
        lambda log: changed(log, "outcomes", drop(is_good)),
        r"example, loans/p\d+: expected none, found label",
    ),
    "a label was read wrongly": (
        lambda log: changed(
            log, "outcomes", when_good(lambda e: e | {"label": swapped(e["label"])})
        ),
        r"label of example, loans/p\d+",
    ),
    "a value was put into the wrong bin": (
        lambda log: changed(log, "predictions", when_good(outvalued(x=100.0))),
        r"feature x of pane, loans/v\d from \d+: expected .*'above': 1.*, found \{'bins'",
    ),
    "a null was not seen": (
        lambda log: changed(log, "predictions", when_good(outvalued(c=None))),
        r"feature c of pane, loans/v\d from \d+: expected .*'null': 1",
    ),
    "a record was taken under a wrong key": (
        lambda log: Lists(
            {**log.records, "outcomes": [log.records["outcomes"][0]._replace(key=b"other"),
                                         *log.records["outcomes"][1:]]}, log.sizes,
        ),
        r"dead letters of a record, outcomes\[0\]@0: expected \['bad-key.*'\], found \[\]",
    ),
    "a record was taken from a wrong partition": (
        lambda log: Lists({**log.records, "outcomes": moved(log.records["outcomes"])}, log.sizes),
        r"dead letters of a record, outcomes\[\d\]@\d+: expected \['misrouted'\], found \[\]",
    ),
}  # fmt: skip


def moved(records: Iterable[Record]) -> list[Record]:
    first, *rest = records
    return [first._replace(partition=1 - first.partition), *rest]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(log: Lists, mistake: str) -> None:
    plant, told = MISTAKES[mistake]
    report = recount(plant(log))
    assert not report.is_right
    assert report.differences_total > 0
    assert re.search(told, "\n".join(report.differences)), report.differences[:5]


def test_a_prediction_in_no_pane_is_not_accounted_for(log: Lists) -> None:
    report = recount(changed(log, "panes", drop(is_pane("drift"))))
    assert report.records_accounted < report.records_in


def test_a_prediction_in_two_panes_is_accounted_for_too_often(log: Lists) -> None:
    report = recount(doubled(log, "panes", is_pane("drift")))
    assert report.records_accounted > report.records_in
