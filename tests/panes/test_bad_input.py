"""Each bad record is a dead letter or a counter with its reason, and harms no other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kedge.codec import decode
from kedge.events import Example
from kedge.panes import Pane, Progress

if TYPE_CHECKING:
    from tests.panes.conftest import Driver

MONITOR: dict[str, Any] = {
    "model": "fraud",
    "task": "binary",
    "classes": ["ok", "fraud"],
    "features": {"amount": "numeric", "country": "categorical"},
    "label_horizon": "10s",
    "outcome_wait": "2s",
    "windows": {"pane": "1s", "grace": "100ms"},
}


def prediction(name: str = "r-1", time_ms: int = 10_000, **changes: Any) -> dict[str, Any]:
    return {
        "prediction_id": name,
        "model": "fraud",
        "version": "1",
        "event_time_ms": time_ms,
        "features": {"amount": 12.5, "country": "NO"},
        "output": {"label": "ok", "score": 0.1},
    } | changes


def outcome(name: str = "r-1", time_ms: int = 11_000, **changes: Any) -> dict[str, Any]:
    return {"prediction_id": name, "label": "ok", "event_time_ms": time_ms} | changes


@pytest.fixture
def panes(driver: type[Driver]) -> Driver:
    made = driver()
    made.monitor(**MONITOR)
    return made


def balanced(panes: Driver) -> None:
    for topic in ("predictions", "outcomes"):
        records = sum(len(log) for (name, _), log in panes.logs.items() if name == topic)
        assert sum(panes.fates(topic).values()) == records


BAD_PREDICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"event_time_ms": "soon"}, "bad-value"),
    ({"features": [1]}, "bad-value"),
    ({"features": {"amount": {"nested": 1}}}, "bad-value"),
    ({"model": "nobody"}, "unknown-model"),
    ({"model": None}, "bad-value"),
    ({"prediction_id": ""}, "bad-value"),
    ({"schema": 2}, "unsupported-format"),
    ({"output": {"label": "maybe"}}, "bad-value"),
    ({"event_time_ms": 10_000 + 300_001}, "bad-time"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD_PREDICTIONS)
def test_a_bad_prediction_is_put_aside_with_its_reason(
    panes: Driver, changes: dict[str, Any], reason: str
) -> None:
    panes.send("predictions", prediction("good-1"))
    bad = json.dumps(prediction() | changes).encode()
    panes.append("predictions", 0, type(panes.logs["predictions", 0][0])(b"r-1", bad, 10_000))
    panes.send("predictions", prediction("good-2"))
    panes.run()
    assert panes.dead_letters() == {(bad, reason): 1}
    assert panes.fates("predictions") == {"counted": 2, reason: 1}
    balanced(panes)


BAD_OUTCOMES: list[tuple[dict[str, Any], str]] = [
    ({"label": None}, "bad-value"),
    ({"label": "maybe"}, "bad-value"),
    ({"label": 1}, "bad-value"),
    ({"model": "nobody"}, "unknown-model"),
    ({"event_time_ms": 10_000 + 300_001}, "bad-time"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD_OUTCOMES)
def test_a_bad_outcome_is_put_aside_with_its_reason(
    panes: Driver, changes: dict[str, Any], reason: str
) -> None:
    panes.send("predictions", prediction())
    panes.send("outcomes", outcome() | changes, at_ms=10_000)
    panes.send("outcomes", outcome())
    panes.run()
    assert panes.reasons() == {reason: 1}
    assert panes.fates("outcomes") == {"matched": 1, reason: 1}
    balanced(panes)


@pytest.mark.parametrize("topic", ["predictions", "outcomes"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing-field"),
        (b"\xff\xfe", "undecodable"),
        (b"\x00\x00\x00\x00\x01x", "unsupported-format"),
        (b"{}", "missing-field"),
        (b"[]", "invalid"),
    ],
)
def test_bytes_that_are_no_event_are_put_aside_untouched(
    panes: Driver, topic: str, value: bytes | None, reason: str
) -> None:
    panes.send(topic, prediction() if topic == "predictions" else outcome())
    template = panes.logs[topic, 0][0]
    panes.append(topic, 0, type(template)(b"r-1", value, 10_000, [("trace", b"7")]))
    panes.run()
    (dead,) = [o for o in panes.outputs if o.topic == "dead-letters"]
    assert (dead.key, dead.value, dead.headers[0]) == (b"r-1", value, ("trace", b"7"))
    assert dict(dead.headers)["kedge-reason"].decode() == reason
    balanced(panes)


def test_another_format_is_named_by_its_content_type(panes: Driver) -> None:
    panes.send("predictions", prediction())
    template = type(panes.logs["predictions", 0][0])
    kind = ("content-type", b"application/vnd.apache.avro+binary")
    panes.append("predictions", 0, template(b"r", b"\xff\xff\xff\xff", 10_000, [kind]))
    assert panes.run().reasons() == {"unsupported-format": 1}


@pytest.mark.parametrize("key", [None, b"", b"something-else"])
def test_a_record_without_its_request_id_as_key_is_put_aside(
    panes: Driver, key: bytes | None
) -> None:
    panes.send("predictions", prediction("r-1#4"))
    panes.logs["predictions", 0].append(
        type(panes.logs["predictions", 0][0])(key, json.dumps(prediction("r-1#5")).encode(), 10_000)
    )
    assert panes.run().reasons() == {"bad-key": 1}
    assert panes.fates("predictions") == {"counted": 1, "bad-key": 1}


def test_a_record_on_the_wrong_partition_is_put_aside(driver: type[Driver]) -> None:
    panes = driver(partitions=4)
    panes.monitor(**MONITOR)
    for i in range(20):
        panes.send("predictions", prediction(f"r-{i}"))
    right, wrong = panes.logs["predictions", 0], panes.logs["predictions", 1]
    right.append(wrong[0])
    panes.run()
    assert panes.dead_letters() == {(wrong[0].value, "misrouted"): 1}
    assert panes.fates("predictions") == {"counted": 20, "misrouted": 1}


def test_duplicates_are_counted_once_and_put_aside_never(panes: Driver) -> None:
    for _ in range(3):
        panes.send("predictions", prediction())
        panes.send("outcomes", outcome())
    panes.run()
    assert panes.fates("predictions") == {"counted": 1, "duplicate": 2}
    assert panes.fates("outcomes") == {"matched": 1, "duplicate": 2}
    assert not panes.dead_letters()
    (performance,) = [d for k, d in panes.sums().items() if k[0] == "performance"]
    assert performance.pop("scores")["negative"] == [1]
    assert list(map(tuple, performance.pop("offered"))) == [(10, 1)]
    assert performance == {
        "predicted": 1, "labelled": 1, "served": 1, "confusion": {"ok": {"ok": 1}},
        "answers": {"ok": 1},
    }  # fmt: skip


def test_the_first_prediction_by_offset_wins(panes: Driver) -> None:
    panes.send("predictions", prediction(output={"label": "ok"}))
    panes.send("predictions", prediction(output={"label": "fraud"}))
    panes.send("outcomes", outcome())
    (example,) = panes.run().examples().values()
    assert example.outputs["1"].label == "ok"


def test_an_outcome_without_prediction_waits_and_then_is_put_aside_as_it_was(
    panes: Driver,
) -> None:
    # outcome at 11.0 waits 2.0: until the predictions' watermark is beyond 13.0
    panes.send("outcomes", outcome("lost"))
    panes.send("predictions", prediction("other", 13_100))
    panes.run()
    assert panes.fates("outcomes") == {"waiting": 1}
    panes.send("predictions", prediction("another", 13_101))
    panes.run()
    assert panes.fates("outcomes") == {"unmatched-outcome": 1}
    lost = json.dumps(outcome("lost")).encode()
    assert panes.dead_letters() == {(lost, "unmatched-outcome"): 1}
    balanced(panes)


def test_a_wrongly_typed_feature_is_counted_not_put_aside(panes: Driver) -> None:
    panes.send("predictions", prediction(features={"amount": "twelve", "country": 7}))
    panes.run()
    assert panes.fates("predictions") == {"counted": 1}


def test_features_nobody_declared_never_leave(panes: Driver) -> None:
    panes.send("predictions", prediction(features={"amount": 1, "password": "swordfish"}))
    panes.send("outcomes", outcome())
    panes.run()
    assert not any(b"swordfish" in (o.value or b"") for o in panes.outputs)
    assert not any(b"swordfish" in value for value in panes.changelogs[0].values())
    assert len(panes.examples()) == 1


def test_a_late_prediction_is_put_aside_but_its_label_still_counts(panes: Driver) -> None:
    # watermark 20.0 - 0.1 = 19.9; 19.899 is behind it, 19.9 is not
    for name, time_ms in (("now", 20_000), ("late", 19_899), ("just", 19_900)):
        panes.send("predictions", prediction(name, time_ms))
    panes.send("outcomes", outcome("late", 20_000))
    panes.run()
    assert panes.fates("predictions") == {"counted": 2, "late": 1}
    assert panes.reasons() == {"late": 1}
    counted = sum(d["rows"] for k, d in panes.sums().items() if k[0] == "learning")
    predicted = sum(d["predicted"] for k, d in panes.sums().items() if k[0] == "performance")
    assert (counted, predicted) == (2, 3)
    assert panes.fates("outcomes") == {"matched": 1}


def test_lateness_is_judged_record_by_record_not_by_the_end_of_the_batch(panes: Driver) -> None:
    for i in range(50):
        panes.send("predictions", prediction(f"r-{i}", 10_000 + 1_000 * i))
    assert panes.run().fates("predictions") == {"counted": 50}


def test_a_late_outcome_is_joined_if_its_prediction_is_there_and_else_never_waits(
    panes: Driver,
) -> None:
    for name in ("a", "b"):
        panes.send("predictions", prediction(name, 10_000))
    panes.send("outcomes", outcome("a", 15_000))
    panes.send("outcomes", outcome("b", 14_000))
    panes.send("outcomes", outcome("nobody", 14_000))
    panes.run()
    assert panes.fates("outcomes") == {"matched": 2, "late": 1}
    assert panes.reasons() == {"late": 1}
    balanced(panes)


def test_one_models_fast_clock_makes_no_other_model_late(panes: Driver) -> None:
    panes.monitor(**(MONITOR | {"model": "churn"}))
    panes.send("predictions", prediction("a", 100_000, model="churn"))
    panes.send("predictions", prediction("b", 10_000))
    assert panes.run().fates("predictions") == {"counted": 2}


def test_outcomes_of_models_without_labels_are_counted_and_need_no_prediction(
    driver: type[Driver],
) -> None:
    panes = driver()
    panes.monitor(**(MONITOR | {"labelled": False}))
    panes.send("predictions", prediction())
    panes.send("predictions", prediction())
    panes.send("outcomes", outcome())
    panes.send("outcomes", outcome("unheard-of", model="fraud"))
    panes.run()
    assert panes.fates("predictions") == {"counted": 1, "duplicate": 1}
    assert panes.fates("outcomes") == {"unlabelled": 2}
    assert {key[0] for key in panes.sums()} == {"learning"}


def test_an_id_whose_label_never_rests_is_not_believed_for_ever(panes: Driver) -> None:
    panes.send("predictions", prediction())
    for i in range(100):
        panes.send("outcomes", outcome(label=("ok", "fraud")[i % 2], time_ms=11_000 + i))
    panes.run()
    assert panes.fates("outcomes") == {
        "matched": 64, "duplicate": 18, "conflicting-duplicate": 18,
    }  # fmt: skip
    (example,) = panes.examples().values()
    assert (example.revision, example.label) == (63, "fraud")
    balanced(panes)


def test_a_model_whose_monitor_was_just_committed_is_known(driver: type[Driver]) -> None:
    panes = driver(clock_ms=5_000)
    panes.on_refresh = lambda: panes.monitor(**MONITOR)
    panes.send("predictions", prediction())
    assert panes.run().fates("predictions") == {"counted": 1}


def test_unknown_models_are_looked_for_at_most_once_a_second(panes: Driver) -> None:
    for i in range(30):
        panes.clock_ms = 100 * i
        panes.send("predictions", prediction(f"r-{i}", model="nobody"))
        panes.run()
    assert panes.refreshed == [0, 1_000, 2_000]
    assert panes.fates("predictions") == {"unknown-model": 30}


def test_everything_sent_is_valid_by_the_contract(panes: Driver) -> None:
    nan = float("nan")
    answer = {"score": nan, "scores": {"ok": nan, "fraud": 0.5}}
    weird = json.dumps(prediction("r-2", features={"amount": nan}, output=answer))
    panes.send("predictions", prediction(features={"amount": 10**30}))
    template = type(panes.logs["predictions", 0][0])
    panes.append("predictions", 0, template(b"r-2", weird.encode(), 10_000))
    panes.send("outcomes", outcome("r-1"))
    panes.send("outcomes", outcome("r-2"))
    panes.run()
    assert panes.fates("predictions") == {"counted": 2}
    assert len(panes.examples()) == 2
    for output in panes.outputs:
        value = output.value or b""
        if output.topic == "examples":
            decode(Example, value)
        elif output.topic == "panes":
            decode(Progress if b'"progress"' in value else Pane, value)
