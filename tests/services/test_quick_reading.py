"""What services read quickly they read as the contract reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kedge import Detection, Measure, Pane, Progress, Window
from kedge.base import Event
from kedge.codec import decode, encode
from kedge.panes import ModelClock, PaneSource
from kedge_services.alerts.task import quick_window
from kedge_services.windows.task import quick_delta

PANE = Pane(
    model="m", version="1", segment="s=1", reference_id="r", kind="drift", start_ms=1, end_ms=2,
    counts={"rows": 3}, source=PaneSource(topic="t", partition=0, from_offset=1, to_offset=2),
)  # fmt: skip
PROGRESS = Progress(
    partition=1, partitions=2, sequence=3, offsets={"t": 1}, clock_ms={"t": 5}, since_ms={"t": 4},
    predictions={"m": ModelClock(max_ms=1, seen_ms=2)}, outcomes={}, fates={"t": {"counted": 1}},
)  # fmt: skip
WINDOW = Window(
    window_id="w/1", kind="drift", model="m", version="1", segment="s", reference_id="r", scale=2,
    start_ms=1, end_ms=3, revision=1, is_final=True, is_decided=True, n=5, labelled=2,
    label_coverage=0.5, labelled_total=7, status="alarm",
    measures=[Measure(name="psi", feature="x", value=0.5, low=0.1, high=1.0, n=5, threshold=2.0,
                      evidence=-3.0, note="why")],
    detections=[Detection(kind="data-drift", detector="d", feature="x", value=1.0, threshold=0.5,
                          evidence=-9.0, summary="s")],
    near_alarms=["integrity"],
)  # fmt: skip
GONE = "gone"
ODD: list[Any] = [
    None, "", "x", "7", 0, 1, -1, 2, 1.0, 1.5, 2**70, True, [], [1], {}, {"a": 1}, "pane",
    "progress", "drift", float("nan"), float("inf"), "é" * 300, [{"name": "a", "n": 1}], GONE,
]  # fmt: skip


def same(quick: Any, plain: Any) -> bool:
    """Compare field by field, also of lists and dictionaries of them."""
    if isinstance(plain, list):
        pairs = zip(quick, plain, strict=True)
        return len(quick) == len(plain) and all(same(*pair) for pair in pairs)
    if isinstance(plain, dict):
        return set(quick) == set(plain) and all(same(quick[key], plain[key]) for key in plain)
    fields = getattr(type(plain), "model_fields", None)
    if fields is None:
        return type(quick) is type(plain) and bool(quick == plain)
    return all(
        same(getattr(quick, name), getattr(plain, name))
        for name in fields
        if name not in {"schema_version", "type"}
    )


def test_events_are_read_in_all_their_fields() -> None:
    assert same(quick_delta(encode(PANE)), PANE)
    assert same(quick_delta(encode(PROGRESS)), PROGRESS)
    assert same(quick_window(encode(WINDOW)), WINDOW)


def changed(event: Event, path: list[str], value: Any) -> bytes:
    data: Any = event.model_dump(mode="json", by_alias=True, exclude_none=True)
    at = data
    for name in path[:-1]:
        found = at[name]
        at = found[0] if isinstance(found, list) else found
    if value == GONE:
        at.pop(path[-1], None)
    else:
        at[path[-1]] = value
    return json.dumps(data).encode()


PLACES: list[tuple[Event, list[str]]] = [
    *((PANE, [name]) for name in (*Pane.model_fields, "schema", "more")),
    *((PANE, ["source", name]) for name in PaneSource.model_fields),
    *((PROGRESS, [name]) for name in (*Progress.model_fields, "schema", "more")),
    *((PROGRESS, ["predictions", "m", name]) for name in ModelClock.model_fields),
    *((WINDOW, [name]) for name in (*Window.model_fields, "schema", "more")),
    *((WINDOW, ["measures", name]) for name in Measure.model_fields),
    *((WINDOW, ["detections", name]) for name in Detection.model_fields),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: "-".join(place[1]))
def test_what_is_read_quickly_the_contract_reads_as_the_same(
    place: tuple[Event, list[str]],
) -> None:
    event, path = place
    for value in ODD:
        text = changed(event, path, value)
        quick = quick_window(text) if isinstance(event, Window) else quick_delta(text)
        if quick is None:
            continue
        kind: type[Event] = type(event)
        if not isinstance(event, Window):
            kind = Progress if hasattr(quick, "sequence") else Pane
        assert same(quick, decode(kind, text)), value
