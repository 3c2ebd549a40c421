"""Every family through the trainer's task: request and examples in, a version that serves out."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from kedge import Candidate, Example, Monitor, RetrainRequest
from kedge.base import Scalar, VersionStatus
from kedge.codec import decode, encode
from kedge.events import Output, RetrainCause
from kedge.topics import CHANGELOGS, TOPICS, model_partition, request_partition
from kedge.trainers import TRAINERS, Task
from kedge.versions import ModelVersion
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import load_predictor, river_json
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.settings import Settings
from kedge_services.trainer import work
from kedge_services.trainer.jobs import Inline
from kedge_services.trainer.plan import Plan
from kedge_services.trainer.service import trainer

PARTITIONS = 2
#: Boosting of classes takes its time, and goes the same way in the tests of the task.
CASES = [
    (name, task)
    for name, tasks in TRAINERS.items()
    for task in tasks
    if (name, task == "regression") != ("sklearn-hist-gradient-boosting", False)
]
OWN = "a_trainer_of_a_test"
Mode = Literal["incremental", "batch", "auto"]

NUMBERS = ("income", "age", "rooms", "people", "latitude", "longitude")
#: Quarters of the label, for classes.
QUARTERS = (1.2, 1.8, 2.6)


def house(i: int, *, turned: bool = False) -> tuple[dict[str, Scalar | None], float]:
    """Give a block of houses as in the Californian census of 1990, and their value."""
    chance = random.Random(i)
    income = math.exp(chance.gauss(1.2, 0.45))
    age, rooms = chance.uniform(1, 52), math.exp(chance.gauss(1.65, 0.3))
    north = chance.random() < 0.4
    latitude = (37.7 if north else 34.0) + chance.gauss(0, 0.4)
    longitude = -118.3 - (latitude - 34) * 1.05 + chance.gauss(0, 0.4)
    value = 0.45 * income + 0.008 * age - 0.05 * rooms + (0.5 if north else 0.2)
    value += 0.8 * math.exp(-((latitude - 34) ** 2 + (longitude + 118.4) ** 2) / 0.1)
    row: dict[str, Scalar | None] = {
        "income": income,
        "age": age if chance.random() > 0.05 else None,
        "rooms": rooms,
        "people": math.exp(chance.gauss(7, 0.7)),
        "latitude": latitude,
        "longitude": longitude,
        "coast": chance.choice(["near", "inland", None]),
    }
    value += 0.4 * (row["coast"] == "near")
    value = 4.5 - value if turned else value
    return row, min(5.0, max(0.15, value + chance.gauss(0, 0.1)))


def monitor_of(task: Task, name: str, mode: Mode) -> Monitor:
    classes = {"binary": ["low", "high"], "multiclass": ["a", "b", "c", "d"], "regression": []}
    return Monitor.model_validate(
        {
            "model": "m",
            "task": task,
            "classes": classes[task],
            "features": {**dict.fromkeys(NUMBERS, "numeric"), "coast": "categorical"},
            "retrain": {"trainer": name, "mode": mode},
        }
    )


@dataclass
class World:
    """A broker with examples of one monitor, and a trainer."""

    folder: Path
    task: Task
    name: str
    mode: Mode = "auto"
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.clock = ManualClock(1_000)
        topics = [*TOPICS.values(), *CHANGELOGS.values()]
        self.broker = MemoryBroker(self.clock, {topic.name: PARTITIONS for topic in topics})
        self.store = ArtefactStore(self.folder)
        self.monitor = monitor_of(self.task, self.name, self.mode)
        self.count = self.sequence = 0
        settings = Settings(request_partitions=PARTITIONS, model_partitions=PARTITIONS)
        service = trainer(self.broker, self.launch)
        self.loop = Loop(service, self.broker, settings, self.clock)
        self.declare(self.monitor)

    def launch(self, plan: Plan) -> Inline:
        return Inline(
            plan, lambda plan: work.carry_out(plan, self.broker, self.store, allow=self.allow)
        )

    def declare(self, monitor: Monitor) -> None:
        self.broker.append("monitors", b"m", encode(monitor))

    def label_of(self, value: float) -> Scalar:
        if self.task == "regression":
            return value
        if self.task == "binary":
            return "high" if value > QUARTERS[1] else "low"
        return "abcd"[sum(value > quarter for quarter in QUARTERS)]

    def happen(self, n: int, *, turned: bool = False, outputs: Any = None) -> None:
        """Let examples come."""
        for i in range(self.count, self.count + n):
            row, value = house(i, turned=turned)
            example = Example(
                prediction_id=f"p{i}", model="m", features=row, label=self.label_of(value),
                outputs=outputs or {}, event_time_ms=i, label_time_ms=i + 10,
            )  # fmt: skip
            partition = request_partition(example.prediction_id, PARTITIONS)
            self.broker.append("examples", b"", encode(example), partition=partition)
        self.count += n

    def ask(self, name: str, mode: Mode = "auto", **more: Any) -> None:
        request = RetrainRequest(
            request_id=name, model="m", mode=mode, cause=RetrainCause(kind="manual"),
            event_time_ms=1, **more,
        )  # fmt: skip
        partition = model_partition("m", PARTITIONS)
        self.broker.append("retrain-requests", b"m", encode(request), partition=partition)

    def run(self) -> Candidate:
        """Work until nothing is left to do, and give the newest candidate."""
        idle = 0
        while idle < 6:
            self.clock.advance(1_000)
            idle = 0 if self.loop.step() or not self.loop.is_ready else idle + 1
        return self.candidates()[-1]

    def candidates(self) -> list[Candidate]:
        records = self.broker.records("candidates")
        return [decode(Candidate, record.value or b"") for record in records]

    def enthrone(
        self, candidate: Candidate, version: str, status: VersionStatus = "champion"
    ) -> None:
        """Do what the registry does with a candidate that won."""
        self.sequence += 1
        c = candidate
        made = ModelVersion(
            model="m", version=version, status=status, trainer=c.trainer, artefact=c.artefact,
            feature_schema=c.feature_schema, classes=c.classes, lineage=c.lineage,
            sequence=self.sequence, changed_ms=0,
        )  # fmt: skip
        self.broker.append("model-versions", f"m/{version}".encode(), encode(made))

    def answers(self, candidate: Candidate, rows: list[Any]) -> list[Output]:
        assert candidate.artefact is not None
        return load_predictor(candidate, self.store.get(candidate.artefact)).predict(rows)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_family_makes_a_first_version_and_its_successor(
    tmp_path: Path, name: str, task: Task
) -> None:
    world = World(tmp_path, task, name)
    mode: Mode = "incremental" if name.startswith("river-") else "batch"
    world.happen(800)
    world.ask("r1", mode)
    first = world.run()
    assert (first.failure, first.trainer) == (None, name)
    world.enthrone(first, "k1")
    # What was dear is cheap now, and the other way round.
    world.happen(1_200, turned=True)
    world.ask("r2", mode)
    second = world.run()
    assert (second.failure, second.parent, second.trainer) == (None, "k1", name)
    measure = "mae" if task == "regression" else "accuracy"
    gain = second.metrics[measure] - second.parent_metrics[measure]
    assert (-gain if task == "regression" else gain) > 0.02
    assert second.reference is not None
    assert second.reference.loss is not None
    assert (second.reference.score is None) == (task == "regression")
    assert {"python", name.partition("-")[0].replace("sklearn", "scikit-learn")} <= set(
        second.lineage.libraries
    )
    [answer] = world.answers(second, [house(5_000, turned=True)[0]])
    assert (answer.value is None) == (task != "regression")


@pytest.mark.parametrize("name", [n for n, tasks in TRAINERS.items() if "regression" in tasks])
def test_a_regression_is_good_and_its_reference_honest(tmp_path: Path, name: str) -> None:
    world = World(tmp_path, "regression", name)
    world.happen(2_500)
    world.ask("r1", "incremental" if name.startswith("river-") else "batch")
    candidate = world.run()
    fresh = [house(i) for i in range(9_000, 9_500)]
    outputs = world.answers(candidate, [row for row, _ in fresh])
    mae = sum(abs((o.value or 0) - v) for o, (_, v) in zip(outputs, fresh, strict=True)) / 500
    spread = sum(abs(v - 1.9) for _, v in fresh) / 500
    # Held-out rows promised what fresh rows get.
    assert candidate.metrics["mae"] == pytest.approx(mae, rel=0.25)
    assert mae < 0.65 * spread
    reference = candidate.reference
    assert reference is not None
    assert reference.loss is not None
    assert reference.loss["n"] >= 1_000
    assert reference.loss["sum"] / reference.loss["n"] == pytest.approx(mae, rel=0.35)


@pytest.mark.parametrize("name", [n for n in TRAINERS if n.startswith("river-")])
def test_learning_on_through_the_task_is_as_if_never_stopped(tmp_path: Path, name: str) -> None:
    task = TRAINERS[name][-1]
    world = World(tmp_path, task, name, "incremental")
    world.happen(700)
    world.ask("r1", "incremental")
    first = world.run()
    world.enthrone(first, "k1")
    world.happen(700, turned=True)
    world.ask("r2", "incremental")
    second = world.run()
    assert second.failure is None
    assert second.lineage.rows == 700
    other = World(tmp_path / "other", task, name, "incremental")
    other.happen(700)
    other.happen(700, turned=True)
    other.ask("r1", "incremental")
    whole = other.run()
    assert second.artefact is not None
    assert whole.artefact is not None
    assert second.artefact.sha256 == whole.artefact.sha256


@pytest.mark.parametrize(
    ("own", "task", "expected"),
    [
        ("river-hoeffding-tree", "regression", "river-hoeffding-tree"),
        ("river-hoeffding-tree", "binary", "river-hoeffding-tree"),
        ("sklearn-linear", "binary", "river-logistic"),
        ("sklearn-hist-gradient-boosting", "regression", "river-linear"),
    ],
)
def test_the_family_that_learns_on_is_the_monitors_own_or_the_linear_one(
    tmp_path: Path, own: str, task: Task, expected: str
) -> None:
    world = World(tmp_path, task, own, "incremental")
    world.happen(500)
    world.ask("r1", "incremental")
    assert world.run().trainer == expected


def test_a_parent_of_another_kind_is_not_gone_on_from(tmp_path: Path) -> None:
    world = World(tmp_path, "binary", "river-logistic", "incremental")
    world.happen(600)
    world.ask("r1", "incremental")
    first = world.run()
    world.enthrone(first, "k1")
    world.declare(monitor_of("binary", "river-hoeffding-tree", "incremental"))
    world.happen(900, turned=True)
    world.ask("r2", "incremental")
    second = world.run()
    assert set(second.lineage.parameters["considered"]) == {"river-hoeffding-tree, from scratch"}
    if second.artefact is not None:
        assert river_json.kind_of(world.store.get(second.artefact)) == "tree-classifier"


@pytest.mark.parametrize(
    ("name", "task", "why"),
    [
        ("river-adaptive-random-forest", "binary", "no safe format.*river-hoeffding-tree"),
        ("river-hoeffding-adaptive-tree", "regression", "no safe format.*river-linear"),
        ("river-linear", "binary", "no trainer for binary.*river-logistic"),
        ("river-logistic", "regression", "no trainer for regression.*river-linear"),
        (f"{OWN}:train", "regression", r"setting trainer\.allow"),
    ],
)
def test_what_cannot_be_trained_is_answered_with_the_reason_at_once(
    tmp_path: Path, name: str, task: Task, why: str
) -> None:
    world = World(tmp_path, task, name)
    world.happen(200)
    world.ask("r1")
    candidate = world.run()
    assert len(world.candidates()) == 1
    assert candidate.artefact is None
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(candidate.failure)
    # It was no matter of luck, so it was tried once.
    assert candidate.cost == {"attempts": 1.0}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{OWN}.py").write_text(
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.linear_model import Ridge\n"
        "from sklearn.pipeline import make_pipeline\n"
        "from sklearn.compose import make_column_transformer\n"
        "def train(data, seed):\n"
        "    numbers = [i for i, c in enumerate(data.columns) if c.type == 'numeric']\n"
        "    fill = make_column_transformer((SimpleImputer(), numbers))\n"
        "    return make_pipeline(fill, Ridge()).fit(data.matrix(), data.labels)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop(OWN, None)


@pytest.mark.usefixtures("own")
def test_a_function_of_ones_own_that_is_allowed_trains(tmp_path: Path) -> None:
    world = World(tmp_path / "store", "regression", f"{OWN}:train", allow=(OWN,))
    world.happen(500)
    world.ask("r1", "batch")
    candidate = world.run()
    assert (candidate.failure, candidate.trainer) == (None, f"{OWN}:train")
    assert world.answers(candidate, [{}])[0].value is not None


# --------------------------------------------------------- who serves when training starts


def test_a_request_that_waited_is_trained_against_who_serves_by_then(tmp_path: Path) -> None:
    #  r1 ─ trains ──▶ k2 is promoted ─▶ r2 trains
    #  r2 ─ waits, asked against k1 ───┘ against k2, and goes on from it
    world = World(tmp_path, "binary", "river-logistic", "incremental")
    world.happen(600)
    world.ask("r0", "incremental")
    world.enthrone(world.run(), "k1")
    world.happen(600, turned=True)
    world.ask("r1", "incremental", base_version="k1")
    world.ask("r2", "incremental", base_version="k1")
    while len(world.candidates()) < 2:
        world.clock.advance(1_000)
        world.loop.step()
    second = world.candidates()[1]
    assert (second.request_id, second.parent, second.failure) == ("r1", "k1", None)
    world.enthrone(second, "k2")
    old = world.candidates()[0]
    world.enthrone(old, "k1", "retired")
    third = world.run()
    assert (third.request_id, third.parent) == ("r2", "k2")
    # Its champion has learnt all there is: no second version from the same rows.
    assert "new labelled rows are too few" in (third.failure or "")


def test_a_base_that_serves_elsewhere_is_kept_while_there_is_no_champion(tmp_path: Path) -> None:
    world = World(tmp_path, "binary", "sklearn-linear")
    world.happen(600, outputs={"far": Output(label="low")})
    world.ask("r1", "batch", base_version="far")
    candidate = world.run()
    assert candidate.parent == "far"
    assert candidate.parent_metrics
