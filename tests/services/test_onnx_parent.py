"""A retrain whose parent came from elsewhere."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from kedge import Artefact, Example, FeatureColumn, ModelVersion, Monitor
from kedge.events import RetrainCause, RetrainRequest
from kedge.monitor import Retrain
from kedge_services.trainer.training import train
from onnx_models import convert, logistic

CLASSES = ["no", "yes"]
MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": CLASSES,
        "features": {"a": "numeric", "b": "numeric", "c": "numeric"},
        "retrain": Retrain(),
    }
)
REQUEST = RetrainRequest(
    request_id="m/1", model="m", base_version="2024.1", mode="batch",
    cause=RetrainCause(kind="manual"), event_time_ms=5,
)  # fmt: skip


def examples(model: Any, *, missing: float) -> list[Example]:
    """Rows whose labels are the opposite of what the model answers; it has not served them."""
    chance = random.Random(1)
    numbers = np.random.default_rng(3).normal(size=(400, 3))
    labels = [CLASSES[label == "no"] for label in model.predict(numbers)]
    return [
        Example(
            prediction_id=f"r{i:04}",
            model="m",
            features={
                name: None if name == "c" and chance.random() < missing else value
                for name, value in zip("abc", row, strict=True)
            },
            label=label,
            outputs={},
            event_time_ms=i,
            label_time_ms=i + 1_000,
        )
        for i, (row, label) in enumerate(zip(numbers.tolist(), labels, strict=True))
    ]


def test_a_parent_from_elsewhere_is_held_to_the_rows_it_can_answer() -> None:
    model, _ = logistic(3, CLASSES)  # it has no way with missing values
    data = convert(model, {"X": "float[3]"})
    parent = ModelVersion(
        model="m", version="2024.1", status="champion", sequence=1, changed_ms=0, classes=CLASSES,
        feature_schema=[FeatureColumn(name=name, type="numeric") for name in "abc"],
        artefact=Artefact(uri="", sha256="0" * 64, format="onnx", size=len(data)),
    )  # fmt: skip
    rows = examples(model, missing=0.2)
    held_out = rows[-len(rows) // 4 :]
    whole = [row for row in held_out if row.features["c"] is not None]
    c = train(REQUEST, rows, monitor=MONITOR, parent=parent, parent_data=data, seed=7).candidate
    assert 0 < len(whole) < len(held_out)
    assert c.parent_metrics["n"] == c.metrics["n"] == len(whole)
    assert c.parent_metrics["accuracy"] == 0
    assert c.metrics["accuracy"] > 0.8
