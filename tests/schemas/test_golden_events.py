"""The bytes on Kafka: what a release has written, every later one must read.

A golden file changes only together with a decision to change the wire; run this
file as a program to write them anew, and look at the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kedge import (
    Alert,
    Artefact,
    Candidate,
    Command,
    Detection,
    Event,
    Example,
    FeatureColumn,
    FeatureReference,
    Lineage,
    Measure,
    ModelVersion,
    Monitor,
    Outcome,
    Output,
    Pane,
    Prediction,
    Progress,
    Reference,
    RetrainBudget,
    RetrainCause,
    RetrainRequest,
    ScoringRequest,
    Window,
)
from kedge.codec import decode, encode
from kedge.monitor import Retrain, Rule
from kedge.panes import ModelClock, PaneSource
from kedge.schemas import event_classes

GOLDEN = Path(__file__).parents[1] / "golden" / "events"
NOW = 1_795_220_224_624
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

REFERENCE = Reference(
    reference_id=SHA,
    model="fraud",
    version="k2",
    effective_ms=0,
    origin="held-out",
    rows=100,
    features={
        "amount": FeatureReference(
            kind="numeric", cuts=[1.5, 20.0], counts=[40, 50, 9], total=100, null=1, min=0.0, max=99
        ),
        "country": FeatureReference(
            kind="categorical",
            categories=["NO", "SE"],
            others=["DK"],
            counts=[60, 35, 5],
            total=100,
        ),
    },
    loss={"n": 100, "errors": 7},
)

EXAMPLES: dict[str, Event] = {
    "scoring-request": ScoringRequest(
        request_id="r-1",
        model="fraud",
        rows=[{"amount": 12.5, "country": "NO"}, {"amount": None, "country": "SE"}],
        event_time_ms=NOW,
        segments={"region": "north"},
    ),
    "prediction": Prediction(
        prediction_id="r-1#0",
        model="fraud",
        version="12",
        role="shadow",
        event_time_ms=NOW,
        features={"amount": 12.5, "country": "NO", "new": True, "visits": 3, "age": None},
        output=Output(label="fraud", score=0.93, scores={"fraud": 0.93, "fair": 0.07}),
        segments={"region": "Østlandet"},
        latency_ms=1.25,
    ),
    "prediction-of-a-value": Prediction(
        prediction_id="r-2",
        model="price",
        version="1",
        event_time_ms=NOW,
        features={"size": float("nan"), "year": float("inf")},
        output=Output(value=-3.5),
    ),
    "outcome": Outcome(
        prediction_id="r-1#0", label="fraud", event_time_ms=NOW, model="fraud", source="ledger"
    ),
    "outcome-least": Outcome(prediction_id="r-1", label=False, event_time_ms=NOW),
    "example": Example(
        prediction_id="r-1#0",
        model="fraud",
        features={"amount": 12.5, "age": None},
        label="fair",
        outputs={"12": Output(label="fraud", score=0.93), "k1": Output(label="fair", score=0.2)},
        served_by="12",
        segments={"region": "north"},
        event_time_ms=NOW,
        label_time_ms=NOW + 86_400_000,
        revision=1,
    ),
    "pane": Pane(
        model="fraud",
        version="k2",
        segment="region=north",
        reference_id=SHA,
        kind="performance",
        start_ms=NOW - 4_624,
        end_ms=NOW - 2_624,
        counts={"predicted": 2, "labelled": 1, "confusion": {"fraud": {"fair": -1, "fraud": 1}}},
        source=PaneSource(topic="predictions", partition=3, from_offset=10, to_offset=12),
    ),
    "progress": Progress(
        partition=3,
        partitions=8,
        sequence=7,
        offsets={"predictions": 12, "outcomes": 4},
        clock_ms={"predictions": NOW, "outcomes": NOW},
        since_ms={"predictions": 1, "outcomes": 2},
        predictions={"fraud": ModelClock(max_ms=NOW, seen_ms=NOW)},
        outcomes={},
        fates={"predictions": {"counted": 11, "late": 1}, "outcomes": {"waiting": 4}},
    ),
    "reference": REFERENCE,
    "window": Window(
        window_id=f"fraud/k2//{SHA[:12]}/drift/2/{NOW}",
        kind="drift",
        model="fraud",
        version="k2",
        reference_id=SHA,
        scale=2,
        start_ms=NOW,
        end_ms=NOW + 4_000,
        revision=1,
        is_final=True,
        is_decided=True,
        n=812,
        labelled=31,
        label_coverage=0.0382,
        labelled_total=2_031,
        status="alarm",
        measures=[
            Measure(name="ks", feature="amount", value=0.21, low=0.18, high=0.24, n=812,
                    threshold=0.1, evidence=1e-12),
            Measure(name="accuracy", value=None, n=0),
        ],
        detections=[
            Detection(kind="data-drift", detector="ks", feature="amount", value=0.21,
                      threshold=0.1, evidence=1e-12, summary="amount drifted")
        ],
    ),
    "alert": Alert(
        alert_id="00aa11bb22cc33dd/1795220224624",
        fingerprint="00aa11bb22cc33dd",
        model="fraud",
        version="k2",
        rule="accuracy-low",
        kind="rule",
        severity="critical",
        status="resolved",
        segment="region=north",
        starts_ms=NOW,
        ends_ms=NOW + 10_000,
        value=0.6,
        threshold=0.75,
        summary="accuracy 0.6 is below 0.75",
        window_ids=["w-1"],
        resolved_because="recovered",
    ),
    "retrain-request": RetrainRequest(
        request_id="fraud/alert/00aa11bb22cc33dd/1795220224624/0",
        model="fraud",
        base_version="12",
        mode="batch",
        cause=RetrainCause(kind="alert", alert_ids=["00aa11bb22cc33dd/1795220224624"],
                           rule="accuracy-low", attempt=1),
        event_time_ms=NOW,
        since_ms=NOW - 60_000,
        budget=RetrainBudget(seconds=60.5, memory_mb=512),
    ),
    "candidate": Candidate(
        request_id="q-1",
        ordinal=1,
        model="fraud",
        parent="12",
        version="13",
        as_champion=True,
        trainer="river-logistic",
        artefact=Artefact(uri=f"file:///a/{SHA}.skops", sha256=SHA, format="skops", size=4),
        feature_schema=[FeatureColumn(name="amount", type="numeric")],
        classes=["fair", "fraud"],
        reference=REFERENCE,
        lineage=Lineage(
            examples={0: (5, 105)}, rows=100, data_sha256=SHA, first_label_time_ms=1,
            last_label_time_ms=2, parameters={"l2": 0.1}, seed=4, libraries={"river": "0.22"},
            request_id="q-1", alert_ids=["a-1"],
        ),
        metrics={"accuracy": 0.93},
        parent_metrics={"accuracy": 0.9},
        cost={"seconds": 1.5},
        created_ms=NOW,
    ),
    "candidate-that-failed": Candidate(
        request_id="q-2", model="fraud", created_ms=NOW, failure="only 12 labels, 300 are needed"
    ),
    "model-version": ModelVersion(
        model="fraud",
        version="k2",
        status="champion",
        parent="12",
        request_id="q-1",
        trainer="river-logistic",
        artefact=Artefact(uri=f"s3://models/{SHA}", sha256=SHA, format="onnx", size=4),
        signature="c2ln",
        feature_schema=[FeatureColumn(name="amount", type="numeric")],
        feature_schema_hash=SHA,
        classes=[False, True],
        reference_id=SHA,
        lineage=Lineage(examples={1: (0, 9)}, rows=9),
        metrics={"accuracy": 0.93},
        evidence={"pairs": 400, "e_value": 31.5},
        reason="better on 400 pairs",
        sequence=9,
        changed_ms=NOW,
    ),
    "monitor": Monitor.model_validate(
        {
            "model": "fraud",
            "task": "binary",
            "classes": ["fair", "fraud"],
            "positive": "fraud",
            "features": {"amount": "numeric", "country": {"type": "categorical"}},
            "rules": [Rule(name="low", metric="accuracy", below=0.75, for_="2 windows")],
            "retrain": Retrain(on=["low"], schedule="0 3 * * *"),
            "effective_ms": NOW,
        }
    ),
    "command": Command(
        command_id="c-1",
        model="fraud",
        action="promote",
        by="alice",
        event_time_ms=NOW,
        version="k2",
        expected_champion="12",
        reason="tested by hand",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_event_is_written_as_these_bytes_and_read_from_them(name: str) -> None:
    golden = (GOLDEN / f"{name}.json").read_bytes().removesuffix(b"\n")
    assert encode(EXAMPLES[name]) == golden
    read = decode(type(EXAMPLES[name]), golden)
    assert encode(read) == golden
    if name != "prediction-of-a-value":  # NaN is not equal to itself
        assert read == EXAMPLES[name]


def test_every_event_has_golden_bytes_and_no_file_is_left_over() -> None:
    assert {type(event) for event in EXAMPLES.values()} == set(event_classes())
    assert {path.stem for path in GOLDEN.iterdir()} == set(EXAMPLES)


if __name__ == "__main__":
    for file, event in EXAMPLES.items():
        (GOLDEN / f"{file}.json").write_bytes(encode(event) + b"\n")
