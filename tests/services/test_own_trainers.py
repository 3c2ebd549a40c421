"""A function of the user's own: allowed or not, stored safely or refused; docs/trainers.md runs."""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from kedge.base import Scalar
from kedge.errors import UnsafeArtefact, UsageError
from kedge.events import Example, RetrainCause, RetrainRequest
from kedge.monitor import Monitor, Retrain
from kedge.trainers import TRAINERS, Task
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import load_predictor
from kedge_services.runtime.formats.skops_files import estimators
from kedge_services.trainer.families import Shape, Table, family
from kedge_services.trainer.training import Trained, train

DOCS = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
COLUMNS = tuple(FeatureColumn(name=name, type="numeric") for name in "ab")
MODULE = "own_trainers_of_a_test"

SOURCE = """
from sklearn.ensemble import RandomForestClassifier
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

def mixed(data, seed):
    texts = [i for i, column in enumerate(data.columns) if column.type != "numeric"]
    numbers = [i for i, column in enumerate(data.columns) if column.type == "numeric"]
    encode = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=""), OneHotEncoder(handle_unknown="ignore")
    )
    prepare = ColumnTransformer(
        [("t", encode, texts), ("n", SimpleImputer(keep_empty_features=True), numbers)]
    )
    model = LogisticRegression(max_iter=500) if data.classes else Ridge()
    return make_pipeline(prepare, model).fit(data.matrix(), data.labels)

def fragile(data, seed):
    return LogisticRegression().fit([[0.0, 0.0] for _ in data.rows], data.labels)

def indices(data, seed):
    labels = [list(data.classes).index(label) for label in data.labels]
    return make_pipeline(SimpleImputer(), LogisticRegression()).fit(data.matrix(), labels)

def forest(data, seed):
    return RandomForestClassifier(3).fit(data.matrix(), data.labels)

class Model:
    def __reduce__(self):
        raise AssertionError("nobody pickles")

def object_of_its_own(data, seed):
    return Model()

def nothing(data, seed):
    return None

def pickle(data, seed):
    import pickle
    return pickle.dumps(data.labels)

def river(data, seed):
    from kedge_services.trainer.families import Shape, Table, family
    shape = Shape(tuple(data.columns), tuple(data.classes))
    targets = [float(list(data.classes).index(label)) for label in data.labels]
    return family("river-logistic", "binary").fit(Table(data.rows, targets), shape, seed=0).dump()

def broken(data, seed):
    return {}["secret of a row"]

def too_little(data, seed):
    raise ValueError("not these rows")

number = 7
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    (tmp_path / "my_training.py").write_text("\n\n".join(EXAMPLES))
    (tmp_path / "does_not_import.py").write_text("raise RuntimeError('no')")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in (MODULE, "my_training", "does_not_import"):
        sys.modules.pop(name, None)


def stream(n: int, task: Task = "binary") -> list[Example]:
    chance = random.Random(1)
    rows = []
    for i in range(n):
        a, b, k = chance.gauss(0, 1), chance.gauss(0, 1), chance.choice(["u", "v"])
        value = a - b + (k == "u") + chance.gauss(0, 0.1)
        label: Scalar = value if task == "regression" else "yes" if value > 0.5 else "no"
        features: dict[str, Scalar | None] = {"a": a if i % 9 else None, "b": b, "k": k}
        rows.append(
            Example(
                prediction_id=f"r{i:05}", model="m", features=features, label=label, outputs={},
                event_time_ms=i, label_time_ms=i + 10,
            )
        )  # fmt: skip
    return rows


def trained(
    trainer: str, task: Task = "binary", *, allow: tuple[str, ...] = (MODULE, "my_training"),
    features: str = "ab",
) -> Trained:  # fmt: skip
    types = {"a": "numeric", "b": "numeric", "k": "categorical"}
    monitor = Monitor.model_validate(
        {
            "model": "m",
            "task": task,
            "classes": [] if task == "regression" else ["no", "yes"],
            "features": {name: types[name] for name in features},
            "retrain": Retrain(trainer=trainer),
        }
    )
    request = RetrainRequest(
        request_id="r", model="m", mode="batch", cause=RetrainCause(kind="manual"), event_time_ms=1
    )
    return train(
        request, stream(400, task), monitor=monitor, parent=None, parent_data=None, seed=3,
        allow=allow,
    )  # fmt: skip


# ------------------------------------------------------------------- what the page says


@pytest.mark.parametrize(("function", "kind"), [("train", "skops"), ("train_forest", "onnx")])
def test_the_examples_of_the_page_train_a_version_that_loads(function: str, kind: str) -> None:
    result = trained(f"my_training:{function}")
    candidate = result.candidate
    assert candidate.failure is None
    assert candidate.trainer == f"my_training:{function}"
    assert candidate.artefact is not None
    assert candidate.artefact.format == kind
    assert candidate.metrics["accuracy"] > 0.8
    assert result.data is not None
    outputs = load_predictor(candidate, result.data).predict([{"a": 3.0, "b": -3.0}, {}])
    assert outputs[0].label == "yes"
    assert len(candidate.lineage.parameters["source_sha256"]) == 64
    assert "scikit-learn" in candidate.lineage.libraries
    # The same request gives the same bytes.
    assert trained(f"my_training:{function}").data == result.data


def test_the_page_lists_every_trainer_and_every_type() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ([\w, ]+) \|", DOCS, re.MULTILINE)
    everything = {name: ("all" if len(t) == 3 else ", ".join(t)) for name, t in TRAINERS.items()}
    assert dict(rows) == everything
    assert {cls.__name__ for cls in estimators()} <= set(re.findall(r"`(\w+)`", DOCS))


# ------------------------------------------------------------------- what it may give


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_categories_and_missing_values_come_through(task: Task) -> None:
    result = trained(f"{MODULE}:mixed", task, features="abk")
    assert result.data is not None
    predictor = load_predictor(result.candidate, result.data)
    outputs = predictor.predict([{"a": 5.0, "b": 0.0, "k": "u"}, {"k": "never seen"}, {}])
    if task == "binary":
        assert outputs[0].label == "yes"
        assert result.candidate.metrics["accuracy"] > 0.85
    else:
        assert outputs[0].value == pytest.approx(6, abs=1)
        assert result.candidate.metrics["mae"] < 0.5


def test_river_json_is_stored_as_such() -> None:
    result = trained(f"{MODULE}:river")
    assert result.candidate.artefact is not None
    assert result.candidate.artefact.format == "river-json"


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("forest", r"sklearn\.tree\._tree\.Tree"),
        ("object_of_its_own", "a Model has no safe format"),
        ("nothing", "a NoneType has no safe format"),
        ("pickle", "ONNX"),
        ("indices", "classes 0, 1, not the monitor's no, yes"),
    ],
)
def test_what_has_no_safe_format_is_refused_and_the_formats_are_named(
    function: str, why: str
) -> None:
    with pytest.raises(UnsafeArtefact, match=why) as refused:
        trained(f"{MODULE}:{function}")
    for word in (f"{MODULE}:{function}", "skops", "ONNX", "river-json", "docs/trainers.md"):
        assert word in str(refused.value)


def test_a_model_that_cannot_answer_a_missing_value_is_refused() -> None:
    with pytest.raises(UnsafeArtefact, match="NaN"):
        trained(f"{MODULE}:fragile")


# ------------------------------------------------------------------- who may run what


@pytest.mark.parametrize(
    "allow", [(), ("other",), (MODULE[:-1],), (f"{MODULE}.deeper",), (f"{MODULE}:train",)]
)
def test_nothing_is_imported_that_is_not_allowed(allow: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"setting trainer\.allow") as refused:
        trained(f"{MODULE}:mixed", allow=allow)
    assert MODULE in str(refused.value)
    assert MODULE not in sys.modules


def test_a_package_that_is_allowed_allows_what_is_in_it() -> None:
    with pytest.raises(UsageError, match="cannot be imported: ModuleNotFoundError"):
        trained("not_there.training:train", allow=("not_there",))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{MODULE}:not_there", "has no such function"),
        (f"{MODULE}:number", "has no such function"),
        ("does_not_import:train", "cannot be imported: RuntimeError"),
        (f"{MODULE}:broken", "fails with KeyError, see the log"),
    ],
)
def test_a_function_that_fails_is_a_sentence(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as failed:
        trained(name, allow=(MODULE, "does_not_import"))
    assert "secret" not in str(failed.value)


def test_a_value_error_says_that_nothing_can_be_learnt() -> None:
    assert "nothing could be learnt" in (trained(f"{MODULE}:too_little").candidate.failure or "")


def test_a_check_of_the_name_imports_nothing() -> None:
    code = dedent(
        f"""
        import sys
        from kedge.trainers import trainer_mistake
        assert trainer_mistake("{MODULE}:mixed", "binary") is None
        print([m for m in ("{MODULE}", "sklearn") if m in sys.modules])
        """
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(sys.path[0]))},
    )  # fmt: skip
    assert out.stdout.strip() == "[]"


def test_a_function_cannot_be_asked_to_go_on() -> None:
    own = family(f"{MODULE}:mixed", "binary", allow=(MODULE,))
    table: Any = Table([{"a": math.nan}], [0.0])
    with pytest.raises(ValueError, match="cannot go on"):
        own.fit(table, Shape(COLUMNS, ("no", "yes")), seed=0, start=b"{}")
