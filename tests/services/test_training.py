"""Training as a function: what is nominated, what is not, and the same bytes every time."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest

from kedge.errors import UsageError
from kedge.events import Example, Output, RetrainCause, RetrainRequest
from kedge.monitor import Monitor, Retrain
from kedge.trainers import TRAINERS
from kedge.versions import ModelVersion
from kedge_services.core.binning import calibrated
from kedge_services.runtime.formats import load_predictor
from kedge_services.trainer.training import Trained, shape_of, train

HOUR_MS = 3_600_000
Mode = Literal["incremental", "batch", "auto"]


def monitor(task: str = "binary", trainer: str = "sklearn-hist-gradient-boosting") -> Monitor:
    classes: dict[str, list[str]] = {"binary": ["yes", "no"], "regression": []}
    return Monitor.model_validate(
        {
            "model": "m",
            "task": task,
            "classes": classes.get(task, ["x", "y", "z"]),
            "positive": "yes" if task == "binary" else None,
            "features": {"a": "numeric", "b": "numeric", "k": "categorical"},
            "retrain": Retrain(trainer=trainer),
        }
    )


def stream(
    n: int,
    *,
    seed: int = 1,
    task: str = "binary",
    change_at: int | None = None,
    noise: float = 0.05,
    start: int = 0,
) -> list[Example]:
    """Rows by label time; from ``change_at`` on, what was high is low."""
    chance = random.Random(seed)
    rows = []
    for i in range(start, start + n):
        a, b, k = chance.gauss(0, 1), chance.gauss(0, 1), chance.choice(["u", "v", None])
        value = a + (k == "u") - 0.5
        if change_at is not None and i >= change_at:
            value = -value
        wrong = chance.random() < noise
        label: Any = value + chance.gauss(0, noise)
        if task == "binary":
            label = "yes" if (value > 0) != wrong else "no"
        elif task == "multiclass":
            label = "x" if value < -0.5 else "y" if value < 0.5 else "z"
        rows.append(
            Example(
                prediction_id=f"r{i:06}",
                model="m",
                features={"a": a, "b": b, "k": k},
                label=label,
                outputs={},
                event_time_ms=i * 1000,
                label_time_ms=i * 1000 + HOUR_MS,
            )
        )
    return rows


def request(mode: Mode = "auto", base: str | None = None, **more: Any) -> RetrainRequest:
    return RetrainRequest(
        request_id="m/alert/1",
        model="m",
        base_version=base,
        mode=mode,
        cause=RetrainCause(kind="alert", alert_ids=["a1"]),
        event_time_ms=5,
        **more,
    )


def first(rows: Sequence[Example], mode: Mode = "batch", **more: Any) -> Trained:
    return train(
        request(mode),
        rows,
        monitor=more.pop("monitor", monitor()),
        parent=None,
        parent_data=None,
        seed=7,
        **more,
    )


def version(trained: Trained, name: str = "k1") -> ModelVersion:
    c = trained.candidate
    return ModelVersion(
        model="m",
        version=name,
        status="champion",
        trainer=c.trainer,
        artefact=c.artefact,
        feature_schema=c.feature_schema,
        classes=c.classes,
        lineage=c.lineage,
        sequence=1,
        changed_ms=0,
    )


def again(rows: Sequence[Example], parent: Trained, asked: RetrainRequest, **more: Any) -> Trained:
    return train(
        asked,
        rows,
        monitor=more.pop("monitor", monitor()),
        parent=version(parent),
        parent_data=parent.data,
        seed=7,
        **more,
    )


def accuracy(trained: Trained, rows: Sequence[Example]) -> float:
    assert trained.data is not None
    predictor = load_predictor(trained.candidate, trained.data)
    outputs = predictor.predict([row.features for row in rows])
    return sum(o.label == e.label for o, e in zip(outputs, rows, strict=True)) / len(rows)


# ---------------------------------------------------------------- first versions


@pytest.mark.parametrize(("trainer", "task"), [(n, t) for n, of in TRAINERS.items() for t in of])
def test_a_first_version_is_complete(task: str, trainer: str) -> None:
    rows = stream(1_000, task=task)
    mode: Mode = "incremental" if trainer.startswith("river-") else "batch"
    trained = first(rows[::-1], mode, monitor=monitor(task, trainer), ranges={0: (3, 900)})
    c = trained.candidate
    assert (c.failure, c.trainer, c.parent, c.created_ms) == (None, trainer, None, 5)
    assert trained.data is not None
    assert c.artefact is not None
    assert c.artefact.size == len(trained.data)
    assert (c.lineage.rows, c.lineage.examples, c.lineage.seed) == (1_000, {0: (3, 900)}, 7)
    assert (c.lineage.first_label_time_ms, c.lineage.last_label_time_ms) == (
        rows[0].label_time_ms, rows[-1].label_time_ms,
    )  # fmt: skip
    assert c.lineage.alert_ids == ["a1"]
    assert set(c.lineage.libraries) > {"python"}
    assert c.metrics["n"] == 200
    assert c.reference is not None
    assert c.reference.rows == 1_000
    assert set(c.reference.features) == {"a", "b", "k"}
    assert c.reference.loss is not None
    assert c.reference.loss["n"] == (1_000 if mode == "batch" else 500)
    assert (c.reference.score is None) == (task == "regression")
    assert load_predictor(c, trained.data).predict([{"a": 1.0}])


def test_the_positive_class_comes_last() -> None:
    assert shape_of(monitor()).classes == ("no", "yes")
    trained = first(stream(1_000))
    assert trained.data is not None
    [output] = load_predictor(trained.candidate, trained.data).predict([{"a": 3.0, "k": "u"}])
    assert output.label == "yes"
    assert (output.score or 0) > 0.9


def test_the_losses_of_the_reference_are_those_of_rows_not_learnt_from() -> None:
    # Three labels in ten are wrong: a model knows those it has seen, and no others.
    rows = stream(1_000, noise=0.3)
    trained = first(rows)
    assert trained.candidate.reference is not None
    loss = trained.candidate.reference.loss
    assert loss is not None
    assert 1 - accuracy(trained, rows[-trained.candidate.lineage.rows :]) < 0.15
    assert loss["errors"] / loss["n"] > 0.3


def test_the_calibrator_is_that_of_rows_not_learnt_from() -> None:
    """Three labels in ten are wrong: whatever the score, no answer is surer than that."""
    trained = first(stream(1_200, noise=0.3))
    assert trained.candidate.reference is not None
    calibrator = trained.candidate.reference.calibrator
    assert calibrator is not None
    (share,) = calibrated(calibrator, np.array([0.95]))
    assert 0.5 < share < 0.8


def test_several_classes_have_a_calibrator_too_and_numbers_have_none() -> None:
    found = {}
    for task in ("multiclass", "regression"):
        trained = first(stream(1_200, task=task), monitor=monitor(task))
        assert trained.candidate.reference is not None
        found[task] = trained.candidate.reference.calibrator
    assert found["multiclass"] is not None
    assert found["multiclass"].error < 0.05
    assert found["regression"] is None


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (0, "0 labelled rows are too few"),
        (99, "99 labelled rows are too few"),
    ],
)
def test_too_few_rows_are_a_failure_and_no_error(rows: int, why: str) -> None:
    trained = first(stream(rows))
    assert trained.data is None
    assert trained.candidate.artefact is None
    assert why in (trained.candidate.failure or "")


def test_one_class_alone_is_a_failure() -> None:
    rows = [row.model_copy(update={"label": "no"}) for row in stream(300)]
    assert "nothing could be learnt" in (first(rows).candidate.failure or "")


def test_a_class_that_is_not_in_every_block_is_no_obstacle() -> None:
    # The one "yes" block makes four of the five blocks' complements fit to learn from.
    rows = [
        row.model_copy(update={"label": "yes" if 180 <= i < 200 else "no"})
        for i, row in enumerate(stream(300))
    ]
    trained = first(rows)
    assert trained.candidate.failure is None
    assert trained.candidate.reference is not None
    loss = trained.candidate.reference.loss
    assert loss is not None
    assert loss["n"] == 270


def test_a_first_version_worse_than_a_guess_is_not_nominated() -> None:
    # Nine in ten labels are "no", whatever the features are.
    chance = random.Random(0)
    rows = [
        row.model_copy(update={"label": "yes" if chance.random() < 0.1 else "no"})
        for row in stream(600)
    ]
    trained = first(rows)
    assert "guessing without features" in (trained.candidate.failure or "")


def test_rows_of_other_models_and_foreign_labels_are_left_out() -> None:
    rows = stream(400)
    odd = [
        rows[0].model_copy(update={"prediction_id": "o1", "label": "maybe"}),
        rows[0].model_copy(update={"prediction_id": "o2", "model": "other"}),
    ]
    assert first([*odd, *rows]).candidate == first(rows).candidate


def test_an_unknown_trainer_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r'"forest".*sklearn-hist-gradient-boosting'):
        first(stream(400), monitor=monitor(trainer="forest"))


# ------------------------------------------------------------------- selection


def test_after_a_change_of_concept_a_short_window_is_nominated() -> None:
    #  rows   0 ............................ 3000 | 3000 ....... 3750
    #         old concept                         | new concept
    #  held out: the newest 200, so the last 500 before them are all new.
    rows = stream(3_750, change_at=3_000)
    parent = first(rows[:2_000])
    trained = again(rows, parent, request("batch", "k1"))
    c = trained.candidate
    assert c.failure is None
    assert c.lineage.parameters["window"] == "last 500"
    assert c.lineage.rows == 500
    assert c.metrics["accuracy"] > c.parent_metrics["accuracy"] + 0.5
    assert accuracy(trained, stream(1_000, seed=99, change_at=0)) > 0.9
    assert c.reference is not None
    assert c.reference.loss is not None
    # Honest and of the new concept: neither the old model's losses nor in-sample ones.
    assert 0.02 < c.reference.loss["errors"] / c.reference.loss["n"] < 0.12


def test_the_time_of_the_change_makes_a_window_of_its_own() -> None:
    rows = stream(3_400, change_at=3_000)
    parent = first(rows[:2_000])
    asked = request("batch", "k1", since_ms=3_000 * 1000)
    c = again(rows, parent, asked).candidate
    assert c.lineage.parameters["window"] == f"since {3_000 * 1000}"
    assert c.lineage.rows == 400


@pytest.mark.parametrize("mistakes", [22, 60])
def test_what_is_to_serve_at_once_has_to_be_surely_better(mistakes: int) -> None:
    """The champion errs on rows of its own: a few more than the candidate, or many more."""
    rows = stream(1_400)
    parent = first(rows[:1_000])
    held = rows[-200:]
    wrong = {row.prediction_id for row in held[:: len(held) // mistakes][:mistakes]}
    other = {"yes": "no", "no": "yes"}
    rows[-200:] = [
        row.model_copy(
            update={
                "outputs": {
                    "k1": Output(
                        label=other[str(row.label)] if row.prediction_id in wrong else row.label
                    )
                }
            }
        )
        for row in held
    ]
    asked = request("batch", "k1")
    in_shadow = again(rows, parent, asked)
    assert in_shadow.data is not None
    better = in_shadow.candidate.metrics["accuracy"] - (1 - mistakes / 200)
    assert better > 0.02
    watched = monitor()
    fast = watched.model_copy(update={"retrain": Retrain(promotion="fast")})
    at_once = again(rows, parent, asked, monitor=fast)
    assert (at_once.data is not None) is (mistakes == 60)
    if mistakes == 22:
        assert "surely better than k1" in (at_once.candidate.failure or "")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_on_a_stationary_stream_nothing_is_nominated(seed: int) -> None:
    rows = stream(4_000, seed=seed)
    parent = first(rows[:3_000])
    trained = again(rows, parent, request("auto", "k1"))
    assert trained.data is None
    assert "nothing was better than version k1" in (trained.candidate.failure or "")
    assert trained.candidate.metrics["n"] == trained.candidate.parent_metrics["n"] == 200


def test_what_the_champion_answered_when_it_served_comes_before_what_it_would_say() -> None:
    rows = stream(2_000)
    parent = first(rows[:1_500])
    wrong = [
        row.model_copy(
            update={"outputs": {"k1": Output(label="no" if row.label == "yes" else "yes")}}
        )
        for row in rows
    ]
    assert again(wrong, parent, request("batch", "k1")).candidate.parent_metrics["accuracy"] == 0
    right = [row.model_copy(update={"outputs": {"k1": Output(label=row.label)}}) for row in rows]
    c = again(right, parent, request("batch", "k1")).candidate
    assert c.parent_metrics["accuracy"] == 1
    assert c.failure is not None


def test_both_sides_are_scored_on_the_same_rows() -> None:
    rows = stream(2_000)
    half = [
        row.model_copy(update={"outputs": {"far": Output(label="no")}}) if i % 4 else row
        for i, row in enumerate(rows)
    ]
    foreign = ModelVersion(
        model="m", version="far", status="champion", sequence=1, changed_ms=0
    )  # served elsewhere: there is no artefact to ask
    c = train(
        request("batch", "far"), half, monitor=monitor(), parent=foreign, parent_data=None, seed=7
    ).candidate
    assert c.metrics["n"] == c.parent_metrics["n"] == 150
    assert c.parent == "far"


def test_a_regression_is_judged_by_its_share_of_the_error() -> None:
    rows = stream(3_750, task="regression", change_at=3_000)
    parent = first(rows[:2_000], monitor=monitor("regression"))
    c = again(rows, parent, request("batch", "k1"), monitor=monitor("regression")).candidate
    assert c.failure is None
    assert c.metrics["mae"] < 0.2 < c.parent_metrics["mae"]


# ------------------------------------------------------------------ incremental

RIVER = "river-logistic"


def test_learning_on_is_as_if_never_stopped() -> None:
    rows = stream(2_400, change_at=1_200, noise=0)
    watch = monitor(trainer=RIVER)
    parent = first(rows[:1_200], "incremental", monitor=watch)
    on = again(rows, parent, request("incremental", "k1"), monitor=watch)
    assert on.candidate.failure is None
    assert on.candidate.lineage.rows == 1_200
    whole = first(rows, "incremental", monitor=watch)
    assert on.data == whole.data


def test_learning_on_takes_what_the_parent_has_not_read() -> None:
    rows = stream(2_400, change_at=1_200, noise=0)
    watch = monitor(trainer=RIVER)
    parent = first(rows[:1_200], "incremental", monitor=watch)
    fresh = {row.prediction_id for row in rows[1_100:]}
    on = again(rows, parent, request("incremental", "k1"), monitor=watch, fresh=fresh)
    assert on.candidate.lineage.rows == 1_300


def test_learning_on_needs_new_rows() -> None:
    rows = stream(1_000)
    watch = monitor(trainer=RIVER)
    parent = first(rows[:950], "incremental", monitor=watch)
    on = again(rows, parent, request("incremental", "k1"), monitor=watch)
    assert "50 new labelled rows are too few" in (on.candidate.failure or "")


def test_auto_tries_windows_and_learning_on() -> None:
    rows = stream(2_400, change_at=1_200)
    parent = first(rows[:1_200], "incremental", monitor=monitor(trainer=RIVER))
    c = again(rows, parent, request("auto", "k1")).candidate
    names = set(c.lineage.parameters["considered"])
    assert f"{RIVER}, learning on" in names
    assert "sklearn-hist-gradient-boosting, last 500" in names
    assert len(names) == 5


# ---------------------------------------------------------------------- sameness


def test_the_same_training_gives_the_same_bytes_in_any_process() -> None:
    rows = stream(600)
    here = [first(rows), first(random.Random(3).sample(rows, len(rows)))]
    assert here[0] == here[1]
    script = (
        f"import sys; sys.path.insert(0, {__file__.rpartition('/')[0]!r})\n"
        "from test_training import first, stream\n"
        "print(first(stream(600)).candidate.model_dump_json())"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == here[0].candidate.model_dump_json()


def test_numbers_that_are_none_leave_a_candidate_that_can_be_sent() -> None:
    rows = [
        row.model_copy(update={"features": {**row.features, "b": odd}})
        for row, odd in zip(
            stream(400), [math.inf, -math.inf, math.nan, 10**400] * 100, strict=True
        )
    ]
    for trained in (first(rows), first(rows, "incremental", monitor=monitor(trainer=RIVER))):
        assert trained.candidate.failure is None
        text = trained.candidate.model_dump_json()
        assert "NaN" not in text
        assert "Infinity" not in text
