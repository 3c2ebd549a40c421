from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from kedge import Artefact, FeatureColumn, ModelVersion, Monitor, Output, Prediction, ScoringRequest
from kedge.base import Scalar
from kedge.codec import decode, encode
from kedge.topics import request_partition
from kedge_services.runtime.ports import Batch, Commit, Record, TaskContext
from kedge_services.runtime.tables import VersionTable
from kedge_services.serving.following import Following
from kedge_services.serving.models import Models, WatchedVersions
from kedge_services.serving.task import ServingTask

PARTITIONS = 4
SCHEMA = [FeatureColumn(name="x", type="numeric")]


@dataclass
class Echo:
    """Answers with its version's name, and fails on an x below zero."""

    name: str
    calls: int = 0

    def predict(self, rows: Sequence[Mapping[str, Scalar | None]]) -> list[Output]:
        self.calls += 1
        if any(isinstance(x := row["x"], int) and x < 0 for row in rows):
            raise ValueError("x is negative")
        return [Output(label=self.name) for _ in rows]


def version(name: str, status: str, sequence: int, **changes: Any) -> ModelVersion:
    artefact = Artefact(uri=name, sha256="0" * 64, format="skops", size=1)
    fields = {
        "model": "m", "version": name, "status": status, "sequence": sequence, "changed_ms": 0,
        "artefact": artefact, "feature_schema": SCHEMA, **changes,
    }  # fmt: skip
    return ModelVersion.model_validate(fields)


class World:
    """A task with its tables, fed by hand."""

    def __init__(
        self,
        *versions: ModelVersion,
        monitors: tuple[str, ...] = (),
        load: Callable[[ModelVersion], None] = lambda _: None,
    ) -> None:
        self.echoes: dict[str, Echo] = {}
        self.before_load = load
        self.models = Models(self._load)
        self.table = WatchedVersions(VersionTable(), self.models)
        self.unread: list[ModelVersion] = []
        self.now_ms = 1_000
        monitor = Monitor.model_validate(
            {"model": "n", "task": "binary", "classes": [1, 2], "features": {"x": "numeric"}}
        )
        for each in versions:
            self.write(each)
        known = dict.fromkeys(monitors, monitor)
        following = Following(
            self.models, known.get,
            partition=0, partitions=PARTITIONS, max_skew_ms=1_000, noticed=set(),
        )  # fmt: skip
        self.task = ServingTask(
            TaskContext(0, lambda: self.now_ms, self._refresh, lambda _: PARTITIONS),
            self.models,
            known.get,
            following,
        )
        self.task.start({})

    def _load(self, version: ModelVersion) -> Echo:
        self.before_load(version)
        return self.echoes.setdefault(version.version, Echo(version.version))

    def _refresh(self) -> None:
        while self.unread:
            self.write(self.unread.pop(0))

    def write(self, each: ModelVersion) -> None:
        key = f"{each.model}/{each.version}".encode()
        self.table.apply(Record("model-versions", 0, 0, 0, key, encode(each), ()))

    def ask(self, *requests: ScoringRequest | tuple[bytes | None, bytes | None]) -> Commit:
        pairs = [
            (r.request_id.partition("#")[0].encode(), encode(r))
            if isinstance(r, ScoringRequest) else r
            for r in requests
        ]  # fmt: skip
        n = len(pairs)
        keys, values = [k for k, _ in pairs], [v for _, v in pairs]
        self.task.process(Batch("requests", 0, range(n), [900] * n, keys, values, [()] * n))
        return self.task.commit()


def no_store(version: ModelVersion) -> None:
    if version.version != "k1":
        raise OSError("the store is not there")


def ids(start: str) -> str:
    """Give an id that belongs on partition 0."""
    tries = (f"{start}{i}" for i in range(1_000))
    return next(each for each in tries if request_partition(each, PARTITIONS) == 0)


def request(start: str = "r", *xs: int, **changes: Any) -> ScoringRequest:
    rows = [{"x": x} for x in (xs or (1,))]
    fields = {"request_id": ids(start), "model": "m", "rows": rows, "event_time_ms": 7, **changes}
    return ScoringRequest.model_validate(fields)


def predictions(commit: Commit) -> list[Prediction]:
    sent = [out for out in commit.outputs if out.topic == "predictions"]
    assert all(out.partition == 0 for out in sent)
    found = [decode(Prediction, out.value or b"") for out in sent]
    assert [out.key for out in sent] == [p.prediction_id.partition("#")[0].encode() for p in found]
    return found


def reasons(commit: Commit) -> list[str]:
    letters = [out for out in commit.outputs if out.topic == "dead-letters"]
    return [dict(letter.headers)["kedge-reason"].decode() for letter in letters]


def test_the_champion_answers_and_every_shadow_predicts_beside_it() -> None:
    world = World(
        version("k1", "champion", 1), version("k2", "shadow", 2), version("k0", "retired", 3)
    )
    asked = request("r", 5, segments={"region": "NO"})
    found = predictions(world.ask(asked))
    assert [(p.version, p.role) for p in found] == [("k1", "champion"), ("k2", "shadow")]
    assert found[0] == Prediction(
        prediction_id=asked.request_id, model="m", version="k1", event_time_ms=7,
        features={"x": 5}, output=Output(label="k1"), segments={"region": "NO"}, latency_ms=100.0,
    )  # fmt: skip


def test_rows_of_one_request_are_numbered_in_its_order() -> None:
    world = World(version("k1", "champion", 1))
    asked = request("r", 5, 6, 7)
    found = predictions(world.ask(asked))
    assert [p.prediction_id for p in found] == [f"{asked.request_id}#{k}" for k in range(3)]
    assert [p.features["x"] for p in found] == [5, 6, 7]


def test_a_batch_is_one_call_a_version_and_keeps_the_order_of_requests() -> None:
    world = World(version("k1", "champion", 1), version("k2", "shadow", 2))
    asked = [request(f"r{i}-", i) for i in range(5)]
    found = predictions(world.ask(*asked))
    expected = [(r.request_id, v) for r in asked for v in ("k1", "k2")]
    assert [(p.prediction_id, p.version) for p in found] == expected
    assert [echo.calls for echo in world.echoes.values()] == [1, 1]


def test_one_request_the_model_cannot_digest_harms_no_other() -> None:
    world = World(version("k1", "champion", 1), version("k2", "shadow", 2))
    good, bad = request("good", 1), request("bad", 1, -1)
    commit = world.ask(good, bad)
    assert [p.prediction_id for p in predictions(commit)] == [good.request_id] * 2
    assert reasons(commit) == ["bad-value"]


def test_a_request_nobody_can_answer_is_put_aside() -> None:
    world = World(monitors=("n",))
    assert reasons(world.ask(request())) == ["unknown-model"]
    assert reasons(world.ask(request(model="n"))) == ["unknown-version"]
    elsewhere = World(version("v7", "champion", 1, artefact=None), load=no_store)
    assert reasons(elsewhere.ask(request())) == ["unknown-version"]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"r", None, "missing-field"),
        (b"r", b"{", "undecodable"),
        (b"other", encode(request()), "bad-key"),
        (None, encode(request()), "bad-key"),
        (b"r-2", encode(request(request_id="r-2")), "misrouted"),
        (b"r", b'{"model":"m"}', "missing-field"),
    ],
)
def test_a_bad_request_is_put_aside(key: bytes | None, value: bytes | None, reason: str) -> None:
    assert reasons(World(version("k1", "champion", 1)).ask((key, value))) == [reason]


def test_a_version_younger_than_the_last_look_is_found() -> None:
    world = World()
    world.unread.append(version("k1", "champion", 1))
    assert [p.version for p in predictions(world.ask(request()))] == ["k1"]


def test_the_tables_are_not_read_again_for_every_unknown_model() -> None:
    world = World()
    world.ask(request())
    world.unread.append(version("k1", "champion", 1))
    world.now_ms += 999
    assert reasons(world.ask(request())) == ["unknown-model"]
    world.now_ms += 1
    assert len(predictions(world.ask(request()))) == 1


def test_a_promotion_swaps_champion_and_shadow() -> None:
    world = World(version("k1", "champion", 1), version("k2", "shadow", 2))
    world.write(version("k2", "champion", 3))
    between = predictions(world.ask(request()))
    assert [(p.version, p.role) for p in between] == [("k2", "champion")]
    world.write(version("k1", "shadow", 4))
    after = predictions(world.ask(request()))
    assert [(p.version, p.role) for p in after] == [("k2", "champion"), ("k1", "shadow")]


def test_the_old_champion_goes_on_when_the_new_artefact_cannot_be_loaded() -> None:
    world = World(version("k1", "champion", 1), load=no_store)
    world.write(version("k2", "champion", 2))
    world.write(version("k1", "shadow", 3))
    found = predictions(world.ask(request()))
    assert [(p.version, p.role) for p in found] == [("k1", "champion")]
    lineup = world.models.lineup("m")
    assert lineup is not None
    assert "the store is not there" in lineup.missing["k2"]
    world.before_load = lambda _: None
    world.write(version("k2", "champion", 4))
    assert [p.version for p in predictions(world.ask(request()))] == ["k2", "k1"]


def test_after_a_restart_the_former_champion_stands_in_for_one_that_cannot_be_loaded() -> None:
    was_champion = {"evidence": {"decision": "watch"}}
    world = World(
        version("k1", "shadow", 3, **was_champion), version("k0", "shadow", 4),
        version("k2", "champion", 2), load=no_store,
    )  # fmt: skip
    found = predictions(world.ask(request()))
    assert [(p.version, p.role) for p in found] == [("k1", "champion")]


def test_who_was_rolled_back_stands_in_for_a_champion_served_elsewhere() -> None:
    rolled_back = {"evidence": {"decision": "rolled-back"}}
    world = World(
        version("k1", "retired", 5, **rolled_back), version("k0", "retired", 3),
        version("12", "champion", 4, artefact=None), version("k2", "shadow", 6),
    )  # fmt: skip
    found = predictions(world.ask(request()))
    assert [(p.version, p.role) for p in found] == [("k1", "champion"), ("k2", "shadow")]


def test_a_champion_served_elsewhere_is_named_to_whoever_asks_here() -> None:
    world = World(version("12", "champion", 1, artefact=None), version("k1", "shadow", 2))
    commit = world.ask(request())
    assert reasons(commit) == ["unknown-version"]
    (letter,) = commit.outputs
    detail = dict(letter.headers)["kedge-detail"].decode()
    assert detail == "no version of 'm' can answer (12, its champion, is served elsewhere)"
    assert world.models.unloaded == 0


def test_a_task_begins_with_every_promotion_that_anybody_knew_of() -> None:
    world = World(version("k1", "champion", 1), version("k2", "shadow", 2))
    world.unread += [version("k2", "champion", 3), version("k1", "shadow", 4)]
    world.task.start({})
    assert predictions(world.ask(request()))[0].version == "k2"


def test_a_model_whose_versions_are_deleted_is_served_no_more() -> None:
    world = World(version("k1", "champion", 1))
    world.table.apply(Record("model-versions", 0, 0, 0, b"m/k1", None, ()))
    assert reasons(world.ask(request())) == ["unknown-version"]


def test_what_serves_no_more_is_released() -> None:
    world = World(version("k1", "champion", 1), version("k2", "shadow", 2))
    world.ask(request())
    alive = {name: weakref.ref(echo) for name, echo in world.echoes.items()}
    world.echoes.clear()
    world.write(version("k2", "champion", 3))
    world.write(version("k1", "shadow", 4))
    world.ask(request())
    assert all(ref() is not None for ref in alive.values())
    world.write(version("k1", "retired", 5))
    world.ask(request())
    gc.collect()
    assert {name: ref() is not None for name, ref in alive.items()} == {"k1": False, "k2": True}


def test_requests_go_on_while_an_artefact_is_loaded_in_the_background() -> None:
    world = World(version("k1", "champion", 1))
    is_loading, may_end, stop = threading.Event(), threading.Event(), threading.Event()

    def slow(_: ModelVersion) -> None:
        is_loading.set()
        assert may_end.wait(10)

    world.before_load = slow
    worker = threading.Thread(target=world.models.run, args=(stop,))
    worker.start()
    try:
        world.write(version("k2", "champion", 2))
        assert is_loading.wait(10)
        assert [p.version for p in predictions(world.ask(request()))] == ["k1"]
        assert not world.models.is_settled
        may_end.set()
        world.models.settle()
        assert predictions(world.ask(request()))[0].version == "k2"
    finally:
        may_end.set()
        stop.set()
        world.models.wake()
        worker.join(10)
    assert not worker.is_alive()
