"""``kedge models register`` with a model file: refused on the spot, or offered as it is."""

from __future__ import annotations

import csv
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kedge import Candidate
from kedge.codec import decode
from kedge_services.cli import main
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.ports import TopicPartition
from kedge_services.runtime.settings import Settings
from onnx_models import Floats, convert, logistic

Run = Callable[..., tuple[int, str]]

pytestmark = pytest.mark.kafka

MONITOR = """\
model = "loans"
task = "binary"
classes = ["no", "yes"]
features = { a = "numeric", b = "numeric", c = "numeric" }
"""


@pytest.fixture
def run(
    kafka_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Run register in a directory with a monitor applied; no registry runs."""
    monkeypatch.setenv(
        "KEDGE_KAFKA__BOOTSTRAP_SERVERS", str(kafka_settings.kafka.bootstrap_servers)
    )
    monkeypatch.setenv("KEDGE_PREFIX", kafka_settings.prefix)
    monkeypatch.setenv("KEDGE_ARTEFACTS", kafka_settings.artefacts)
    monkeypatch.chdir(tmp_path)
    Path("loans.toml").write_text(MONITOR)
    assert main(["apply", "loans.toml"]) == 0
    capsys.readouterr()

    def command(*arguments: str) -> tuple[int, str]:
        options = ("--model", "loans", "--version", "v1", "--timeout", "0")
        status = main(["models", "register", *options, *arguments])
        return status, capsys.readouterr().err

    return command


@pytest.fixture
def model(tmp_path: Path) -> tuple[Any, Floats]:
    """Write ``model.onnx`` and labelled rows, ``held-out.csv``; give scikit-learn's model."""
    fitted, rows = logistic(3, ["no", "yes"])
    (tmp_path / "model.onnx").write_bytes(convert(fitted, {"X": "float[3]"}))
    write(tmp_path / "held-out.csv", rows, y=fitted.predict(rows), p=fitted.predict(rows))
    return fitted, rows


def write(path: Path, rows: Floats, **more: Any) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", *more])
        writer.writerows(
            [*row, *rest] for row, *rest in zip(rows.tolist(), *more.values(), strict=True)
        )


def offered(settings: Settings) -> list[Candidate]:
    """Give what lies in Kafka for the registry."""
    backend = KafkaBackend(settings)
    consumer = backend.consumer(group=None)
    places = [TopicPartition("candidates", p) for p in range(backend.partitions("candidates"))]
    consumer.assign(dict.fromkeys(places, 0))
    found: list[Candidate] = []
    while not all(consumer.at_end(place) for place in places):
        for batch in consumer.poll(1_000, 0.1):
            found += [decode(Candidate, value or b"") for value in batch.values]
    consumer.close()
    return found


def test_a_model_is_tried_measured_and_stored_before_it_is_offered(
    run: Run, model: tuple[Any, Floats], kafka_settings: Settings
) -> None:
    fitted, rows = model
    status, complaint = run(
        "--artefact", "model.onnx", "--reference", "held-out.csv", "--label", "y"
    )
    assert status == 1  # nobody answers here
    assert complaint.startswith("kedge: no answer within 0 s")
    (candidate,) = offered(kafka_settings)
    assert (candidate.version, candidate.metrics["accuracy"]) == ("v1", 1.0)
    assert candidate.reference is not None
    assert candidate.reference.loss is not None
    assert (candidate.reference.loss["n"], candidate.reference.loss["errors"]) == (200.0, 0.0)
    assert candidate.reference.score is not None
    scores = fitted.predict_proba(rows)[:, 1]
    assert candidate.reference.score.min == pytest.approx(scores.min(), abs=1e-6)
    assert candidate.reference.score.max == pytest.approx(scores.max(), abs=1e-6)
    data = Path("model.onnx").read_bytes()
    assert candidate.artefact is not None
    assert candidate.artefact.sha256 == hashlib.sha256(data).hexdigest()
    assert (candidate.artefact.format, candidate.artefact.size) == ("onnx", len(data))
    (stored,) = Path(kafka_settings.artefacts).rglob("*.onnx")
    assert stored.read_bytes() == data


def test_where_hours_are_told_apart_the_file_says_when(
    run: Run, tmp_path: Path, kafka_settings: Settings
) -> None:
    hours = '[windows]\npane = "1h"\n[reference]\nfrom = "same-hour"\ntimezone = "Europe/Oslo"\n'
    Path("loans.toml").write_text(MONITOR + hours)
    assert main(["apply", "loans.toml"]) == 0
    rows = np.random.default_rng(0).normal(size=(28 * 24 * 30, 3))
    times = [1_767_571_200_000 + i * 120_000 for i in range(len(rows))]
    write(tmp_path / "weeks.csv", rows, at=times)
    write(tmp_path / "days.csv", rows[:2_000], at=times[:2_000])
    for options, complaint in (
        (("weeks.csv",), "so its rows need a column of times (--timestamp)"),
        (("days.csv", "--timestamp", "at"), "2000 rows of 3 days are too few to compare"),
        (("days.csv", "--timestamp", "when"), "row 1: no column 'when'; there are: a, b, c, at"),
    ):
        status, told = run("--reference", *options)
        assert status == 2
        assert complaint in told
    assert offered(kafka_settings) == []
    run("--reference", "weeks.csv", "--timestamp", "at")
    (candidate,) = offered(kafka_settings)
    assert candidate.reference is not None
    assert candidate.reference.seasons is not None
    assert candidate.reference.seasons.timezone == "Europe/Oslo"
    assert candidate.reference.lineage["hours_of_week"]["weekdays or weekend"] == 120


def test_the_order_of_a_models_features_can_be_told(
    run: Run, model: tuple[Any, Floats], kafka_settings: Settings
) -> None:
    fitted, rows = model
    # The same file with its columns renamed: the model takes a, b, c from c, a, b.
    turned = np.column_stack([rows[:, 1], rows[:, 2], rows[:, 0]])
    write(Path("turned.csv"), turned, p=fitted.predict(rows))
    file = ("--artefact", "model.onnx", "--reference", "turned.csv", "--prediction", "p")
    status, complaint = run(*file)
    assert status == 1
    assert "kedge: model.onnx: is not the model that answered turned.csv" in complaint
    assert "are its columns and classes in this order?" in complaint
    assert offered(kafka_settings) == []
    run(*file, "--features", "c,a,b")
    (candidate,) = offered(kafka_settings)
    assert [column.name for column in candidate.feature_schema] == ["c", "a", "b"]


REFERENCE = ("--reference", "held-out.csv", "--label", "y")


@pytest.mark.usefixtures("model")
def test_a_wrong_file_is_refused_in_a_sentence_and_nobody_hears_of_it(
    run: Run, kafka_settings: Settings
) -> None:
    Path("model.bin").write_bytes(pickle.dumps(["model"]))
    Path("model.json").write_text("{}")
    rows = logistic(3, [0, 1])[1]
    other, _ = logistic(2, ["no", "yes"])
    Path("two.onnx").write_bytes(convert(other, {"X": "float[2]"}))
    Path("fraud.onnx").write_bytes(convert(logistic(3, ["fraud", "ok"])[0], {"X": "float[3]"}))
    write(Path("holes.csv"), np.where(np.abs(rows) > 2, np.nan, rows))
    expected = [
        (("--artefact", "model.pkl"), 1, "model.pkl: is a pickle, which can run any code"),
        (("--artefact", "model.bin"), 1, "model.bin: is a pickle, which can run any code"),
        (("--artefact", "nothing.onnx"), 2, "nothing.onnx: No such file or directory"),
        (("--artefact", "loans.toml"), 2, "its name does not tell what it is"),
        (("--artefact", "model.json"), 1, "model.json: a river-json file cannot be read"),
        (("--artefact", "model.onnx", "--format", "skops"), 1, "model.onnx: a skops file cannot"),
        (("--artefact", "two.onnx"), 1, "has 2 columns where the version has 3: a, b, c"),
        (("--artefact", "fraud.onnx"), 1, "the classes fraud, ok where the version has no, yes"),
        (("--artefact", "model.onnx", "--features", "a,b,d"), 2, "has no feature 'd'; known: a"),
        (("--artefact", "model.onnx", "--features", "a,b,a"), 2, "'a' is named twice"),
        (("--artefact", "model.onnx", *REFERENCE[:2], "--label", "z"), 2, "no column 'z'"),
        (("--artefact", "model.onnx", "--reference", "holes.csv"), 1, "(missing there: "),
    ]
    for arguments, status, sentence in expected:
        found, complaint = run(*arguments)
        assert (found, sentence in complaint) == (status, True), complaint
        assert complaint.startswith("kedge: ")
        assert complaint.count("\n") == 1
    assert offered(kafka_settings) == []
    assert not Path(kafka_settings.artefacts).exists()


@pytest.mark.usefixtures("model")
def test_a_store_that_cannot_be_written_is_one_sentence(
    run: Run, kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("occupied").write_text("a file where a directory should be")
    monkeypatch.setenv("KEDGE_ARTEFACTS", "occupied/store")
    status, complaint = run("--artefact", "model.onnx")
    assert status == 1
    assert complaint.startswith("kedge: the artefact store occupied/store cannot be used: ")
    assert offered(kafka_settings) == []
