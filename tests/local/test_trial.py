from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kedge import Monitor
from kedge.errors import UnsafeArtefact
from kedge.events import Output
from kedge_services.local import trial
from kedge_services.local.reference_file import Columns, ReferenceRows, read_reference_rows
from kedge_services.local.trial import answered, measured, try_model
from kedge_services.runtime.formats import Row

MONITOR = Monitor.model_validate(
    {
        "model": "m",
        "task": "binary",
        "classes": ["no", "yes"],
        "features": {"x": "numeric", "c": "categorical"},
    }
)


@dataclass
class Threshold:
    """Says yes to an x above 0; fails without one."""

    sizes: list[int] = field(default_factory=list)

    def predict(self, rows: Sequence[Row]) -> list[Output]:
        self.sizes.append(len(rows))
        numbers = [float(row["x"]) for row in rows]  # type: ignore[arg-type]
        return [
            Output(label="yes" if x > 0 else "no", score=0.5 + max(-0.5, min(0.5, x)))
            for x in numbers
        ]


def read(tmp_path: Path, lines: Sequence[str], **columns: str) -> ReferenceRows:
    path = tmp_path / "held-out.csv"
    path.write_text("\n".join(["x,c,y,p,s", *lines]) + "\n")
    return read_reference_rows(path, MONITOR, Columns(**columns))


def test_every_row_is_asked_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = read(tmp_path, [f"{(-1) ** i * i},a,no,no,0" for i in range(2_500)])
    model = Threshold()
    outputs = try_model(model, rows, "model.onnx")
    assert [output.label == "yes" for output in outputs] == [
        i % 2 == 0 and i > 0 for i in range(2_500)
    ]
    assert model.sizes == [trial.BATCH, trial.BATCH, 500]


def test_a_row_that_cannot_be_answered_is_named_with_what_is_missing_in_it(tmp_path: Path) -> None:
    rows = read(tmp_path, ["1,a,yes,yes,1", "2,,yes,yes,1", ",,no,no,0", "1,a,no,no,0"])
    with pytest.raises(UnsafeArtefact) as raised:
        try_model(Threshold(), rows, "model.onnx")
    message = str(raised.value)
    assert message.startswith(f"model.onnx: cannot answer row 3 of {tmp_path}/held-out.csv")
    assert "(missing there: x, c)" in message


def test_the_models_answers_fill_in_what_the_file_does_not_have(tmp_path: Path) -> None:
    rows = read(tmp_path, ["0.2,a,yes,,", "-0.2,a,yes,,", "0.1,b,,,"], label="y")
    filled = answered(rows, try_model(Threshold(), rows, "m"), MONITOR, "m")
    assert filled.answers == {
        "label": ["yes", "yes", None],
        "prediction": ["yes", "no", "yes"],
        "score": [0.7, 0.3, 0.6],
    }
    assert measured(filled, MONITOR) == {
        "n": 2.0, "accuracy": 0.5, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3),
    }  # fmt: skip


def test_the_files_own_answers_are_kept_if_the_model_agrees(tmp_path: Path) -> None:
    lines = ["0.2,a,yes,yes,0.7001"] * 99 + ["0.2,a,yes,no,0.7"]  # one in a hundred may differ
    rows = read(tmp_path, lines, prediction="p", score="s")
    filled = answered(rows, try_model(Threshold(), rows, "m"), MONITOR, "m")
    assert filled.answers["prediction"] == ["yes"] * 99 + ["no"]
    assert filled.answers["score"][:1] == [0.7001]
    assert measured(filled, MONITOR) == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prediction": "p"}, "its prediction differs in 3 of 3 rows, first in row 1 ('yes', the"),
        ({"score": "s"}, "its score differs in 2 of 3 rows, first in row 2 (0.7, the file says 0."),
    ],
)
def test_a_model_that_answers_otherwise_than_the_file_is_another_model(
    tmp_path: Path, columns: dict[str, str], message: str
) -> None:
    rows = read(tmp_path, ["0.2,a,yes,no,0.7", "0.2,a,yes,no,0.3", "0.2,a,yes,no,0.3"], **columns)
    with pytest.raises(UnsafeArtefact) as raised:
        answered(rows, try_model(Threshold(), rows, "model.onnx"), MONITOR, "model.onnx")
    assert message in str(raised.value)
    assert "are its columns and classes in this order?" in str(raised.value)


def test_a_regression_is_measured_by_its_errors(tmp_path: Path) -> None:
    class Double:
        def predict(self, rows: Sequence[Row]) -> list[Output]:
            return [Output(value=2 * float(row["x"])) for row in rows]  # type: ignore[arg-type]

    fields: dict[str, Any] = {"task": "regression", "classes": []}
    monitor = MONITOR.model_copy(update=fields)
    path = tmp_path / "held-out.csv"
    path.write_text("x,c,y\n1,a,2\n2,a,5\n")
    rows = read_reference_rows(path, monitor, Columns(label="y"))
    filled = answered(rows, try_model(Double(), rows, "m"), monitor, "m")
    assert filled.answers == {"label": [2.0, 5.0], "prediction": [2.0, 4.0]}
    assert measured(filled, monitor) == {"n": 2.0, "mae": 0.5, "rmse": pytest.approx(0.5**0.5)}
