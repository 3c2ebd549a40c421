from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kedge import Monitor
from kedge.errors import UsageError
from kedge_services.core.binning import calibrated
from kedge_services.local.reference_file import Columns, read_reference

ALL = Columns(label="y", prediction="p", score="s")


def monitor(**fields: Any) -> Monitor:
    return Monitor.model_validate(
        {
            "model": "m",
            "task": "binary",
            "classes": [0, 1],
            "features": {"age": "numeric", "car": "categorical", "new": "boolean"},
            **fields,
        }
    )


HEADER = "age,car,new,y,p,s\n"
ROWS = "30,volvo,true,1,1,0.9\n,saab,false,0,1,0.7\n50,,1,,0,0.1\n"


def write(folder: Path, text: str, name: str = "reference.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_rows_are_counted_in_their_declared_types(tmp_path: Path) -> None:
    reference = read_reference(write(tmp_path, HEADER + ROWS), monitor(), "7", ALL)
    assert (reference.model, reference.version, reference.rows) == ("m", "7", 3)
    assert (reference.origin, reference.effective_ms) == ("file", 0)
    age = reference.features["age"]
    assert (age.kind, age.min, age.max, age.null) == ("numeric", 30.0, 50.0, 1)
    assert set(reference.features["car"].categories) == {"volvo", "saab"}
    assert dict(
        zip(reference.features["new"].categories, reference.features["new"].counts, strict=False)
    ) == {"true": 2, "false": 1}
    assert reference.label is not None
    assert set(reference.label.categories) == {"0", "1"}
    assert reference.loss == {"n": 2.0, "errors": 1.0}  # the third row has no label
    assert reference.lineage["file"] == "reference.csv"


def scored(task: str, n: int = 2_000) -> str:
    """Give rows whose score is the chance of class 1, or of several that the answer is right."""
    chance = random.Random(4)
    lines = ["age,y,p,s"]
    for _ in range(n):
        score = chance.random()
        hit = chance.random() < score**2
        if task == "binary":
            lines.append(f"1,{int(hit)},{int(score > 0.5)},{score}")
        else:
            answer = chance.choice("abc")
            other = chance.choice([name for name in "abc" if name != answer])
            lines.append(f"1,{answer if hit else other},{answer},{score}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("task", "classes"), [("binary", [0, 1]), ("multiclass", ["a", "b", "c"])])
def test_scores_and_labels_give_the_calibrator(
    task: str, classes: list[Any], tmp_path: Path
) -> None:
    declared = monitor(task=task, classes=classes, features={"age": "numeric"})
    file = write(tmp_path, scored(task))
    reference = read_reference(file, declared, "7", ALL)
    assert reference.calibrator is not None
    assert reference.calibrator.error < 0.02
    # A score of .7 stands for half: .7 squared.
    (share,) = calibrated(reference.calibrator, np.array([0.7]))
    assert share == pytest.approx(0.49, abs=0.1)
    for columns in (Columns(label="y", prediction="p"), Columns(prediction="p", score="s")):
        assert read_reference(file, declared, "7", columns).calibrator is None


def test_the_answers_have_to_be_known_to_calibrate_several_classes(tmp_path: Path) -> None:
    declared = monitor(task="multiclass", classes=["a", "b", "c"], features={"age": "numeric"})
    file = write(tmp_path, scored("multiclass"))
    assert read_reference(file, declared, "7", Columns(label="y", score="s")).calibrator is None


def test_formats_do_not_matter(tmp_path: Path) -> None:
    csv = write(tmp_path, HEADER + ROWS)
    lines = [
        {"age": 30, "car": "volvo", "new": True, "y": 1, "p": 1, "s": 0.9},
        {"age": None, "car": "saab", "new": False, "y": 0, "p": 1, "s": 0.7},
        {"age": 50, "car": None, "new": True, "y": None, "p": 0, "s": 0.1},
    ]
    ndjson = write(tmp_path, "\n".join(map(json.dumps, lines)), "reference.ndjson")
    zipped = tmp_path / "reference.csv.gz"
    zipped.write_bytes(gzip.compress(csv.read_bytes()))
    references = [read_reference(path, monitor(), "7", ALL) for path in (csv, ndjson, zipped)]
    assert len({reference.reference_id for reference in references}) == 1


def test_a_file_with_features_alone_is_enough(tmp_path: Path) -> None:
    reference = read_reference(
        write(tmp_path, "age,car,new\n30,volvo,true\n"), monitor(), "7", Columns()
    )
    assert (reference.label, reference.prediction, reference.score, reference.loss) == (
        None, None, None, None,
    )  # fmt: skip


def test_regression_holds_sums_of_the_absolute_error(tmp_path: Path) -> None:
    declared = monitor(task="regression", classes=[], features={"age": "numeric"})
    reference = read_reference(
        write(tmp_path, "age,y,p\n1,2,5\n2,2.5,2\n"), declared, "7", Columns("y", "p")
    )
    assert reference.loss == {"n": 2.0, "sum": 3.5, "sum_of_squares": 9.25}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "no rows"),
        ("age,car\n1,volvo\n", "row 1: no column 'new'; there are: age, car"),
        (HEADER + ROWS + "old,volvo,true,1,1,0.5\n", "row 4: age: expected a number (got 'old')"),
        (HEADER + "1,volvo,true,2,1,0.5\n", "row 1: y: expected one of 0, 1 (got '2')"),
        (HEADER + "1,volvo,true,1,1,high\n", "row 1: s: expected a finite number (got 'high')"),
        (HEADER + "1,volvo,true,1,1,nan\n", "row 1: s: expected a finite number (got 'nan')"),
    ],
)
def test_a_wrong_file_names_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_reference(write(tmp_path, text), monitor(), "7", ALL)
    assert str(raised.value).removeprefix(f"{tmp_path}/reference.csv: ") == message
