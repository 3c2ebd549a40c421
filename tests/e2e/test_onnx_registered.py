"""A model from elsewhere, as its owner would bring it: register, be ready, answer."""

from __future__ import annotations

import contextlib
import csv
import json
import socket
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from kedge import Prediction, ScoringRequest
from kedge.codec import encode
from kedge_services.cli import main
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.settings import ServingSettings, Settings
from kedge_services.serving.service import run as run_serving
from live import Live, wait_until
from onnx_models import Floats, convert, logistic

pytestmark = pytest.mark.kafka

CLASSES = ["rejected", "approved"]  # not in the order of the alphabet, as scikit-learn has them
MONITOR = f"""\
model = "loans"
task = "binary"
classes = {json.dumps(CLASSES)}
features = {{ income = "numeric", debt = "numeric", age = "numeric" }}

[[rules]]
name = "accuracy-low"
metric = "accuracy"
below = 0.7
"""
FEATURES = ["income", "debt", "age"]


class Owner:
    """Who trains models and brings them, and who asks for answers."""

    def __init__(self, live: Live, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        self.live = live
        self._capsys = capsys
        self._url = f"http://127.0.0.1:{settings.serving.port}/v2/models/loans/infer"

    def kedge(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command; give status, last line and complaint, without what services log."""
        self._capsys.readouterr()
        status = main(list(arguments))
        shown = self._capsys.readouterr()
        complaints = [line for line in shown.err.splitlines() if line.startswith("kedge: ")]
        return status, shown.out.rpartition("\n{")[2], "\n".join(complaints)

    def register(self, version: str, *more: str) -> dict[str, Any]:
        options = ("--model", "loans", "--version", version, "--json")
        status, answer, complaint = self.kedge("models", "register", *options, *more)
        assert (status, complaint) == (0, "")
        found: dict[str, Any] = json.loads("{" + answer.strip().removeprefix("{"))
        return found

    def infer(self, rows: Floats) -> dict[str, Any]:
        """Ask over HTTP; give the version that answers, and its tensors by name."""
        tensor = {"name": "x", "datatype": "FP64", "shape": list(rows.shape)}
        inputs = [{**tensor, "data": rows.ravel().tolist()}]
        answer = httpx.post(self._url, json={"inputs": inputs}, timeout=10)
        assert answer.status_code == 200, answer.text
        tensors = {each["name"]: each["data"] for each in answer.json()["outputs"]}
        return {"version": answer.json()["model_version"], **tensors}

    def serves(self, version: str) -> bool:
        try:
            return bool(self.infer(np.zeros((1, 3)))["version"] == version)
        except (httpx.TransportError, AssertionError):
            return False

    def ask(self, name: str, rows: Floats) -> None:
        """Ask over the topic."""
        named = [dict(zip(FEATURES, row, strict=True)) for row in rows.tolist()]
        request = ScoringRequest(request_id=name, model="loans", rows=named, event_time_ms=1)
        self.live.send_by_request("requests", name, encode(request))
        self.live.flush()

    def predictions(self, name: str) -> dict[str, list[Prediction]]:
        """Give the predictions of a request by version, in the order of its rows."""
        found: dict[str, dict[int, Prediction]] = {}
        for event in self.live.events("predictions"):
            request, _, row = event["prediction_id"].rpartition("#")
            if request == name:
                prediction = Prediction.model_validate(event)
                found.setdefault(prediction.version, {})[int(row)] = prediction
        return {version: [rows[k] for k in sorted(rows)] for version, rows in found.items()}


@pytest.fixture
def owner(
    kafka_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Owner]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = kafka_settings.model_copy(update={"serving": ServingSettings(port=port)})
    monkeypatch.setenv("KEDGE_KAFKA__BOOTSTRAP_SERVERS", str(settings.kafka.bootstrap_servers))
    monkeypatch.setenv("KEDGE_PREFIX", settings.prefix)
    monkeypatch.setenv("KEDGE_ARTEFACTS", settings.artefacts)
    monkeypatch.chdir(tmp_path)
    stop = threading.Event()
    serving = threading.Thread(target=run_serving, args=(settings, stop))
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(settings, [(make_registry, 0)]))
        serving.start()
        stack.callback(serving.join, 30)
        stack.callback(stop.set)
        yield Owner(live, settings, capsys)
    assert not serving.is_alive()


def train(seed: int, name: str) -> Any:
    """Fit a pipeline; write it as ONNX, and rows it has not seen with what they were."""
    model, _ = logistic(3, CLASSES, seed)
    Path(f"{name}.onnx").write_bytes(convert(model, {"X": "float[3]"}))
    rows = np.random.default_rng(seed + 1).normal(size=(300, 3))
    labels = np.where(rows[:, 0] > 0, "approved", "rejected")
    with Path(f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                [*FEATURES, "decision"],
                *([*row, y] for row, y in zip(rows.tolist(), labels, strict=True)),
            ]
        )
    return model


def of_approved(model: Any, rows: Floats) -> list[float]:
    place = model.classes_.tolist().index("approved")
    scores: list[float] = model.predict_proba(rows)[:, place].tolist()
    return scores


def test_a_converted_model_is_registered_serves_and_answers_as_it_did_at_home(
    owner: Owner,
) -> None:
    Path("loans.toml").write_text(MONITOR)
    assert owner.kedge("apply", "loans.toml")[0] == 0
    first, second = train(1, "first"), train(2, "second")
    asked = np.random.default_rng(9).normal(size=(40, 3))

    # Labels turned round: the gate refuses what breaks a rule on its own reference.
    upside_down = Path("first.csv").read_text()
    for a, b in (("approved", "?"), ("rejected", "approved"), ("?", "rejected")):
        upside_down = upside_down.replace(a, b)
    Path("upside-down.csv").write_text(upside_down)
    with_labels = ("--label", "decision", "--reference")
    options = ("models", "register", "--model", "loans", "--version", "bad", *with_labels)
    status, _, complaint = owner.kedge(*options, "upside-down.csv", "--artefact", "first.onnx")
    assert status == 1
    assert complaint.startswith("kedge: rejected: its accuracy of 0.0")
    assert complaint.endswith(" breaks the rule accuracy-low (below 0.7)")

    made = owner.register("2024.1", "--artefact", "first.onnx", *with_labels, "first.csv")
    assert (made["status"], made["reason"]) == ("champion", "the first version of the model")
    assert made["metrics"]["accuracy"] > 0.9
    wait_until(lambda: owner.serves("2024.1"), "2024.1 serving")
    answer = owner.infer(asked)
    assert answer["version"] == "2024.1"
    assert answer["score"] == pytest.approx(of_approved(first, asked), abs=1e-6)
    assert answer["predict"] == first.predict(asked).tolist()

    # A second one shadows it, then a person promotes it.
    made = owner.register("2024.2", "--artefact", "second.onnx", *with_labels, "second.csv")
    assert made["status"] == "shadow"

    tries = (f"by-topic-{number}" for number in range(1_000))

    def shadowed() -> str:
        name = next(tries)
        owner.ask(name, asked)
        wait_until(lambda: len(owner.predictions(name).get("2024.1", ())) == len(asked), name)
        return name if "2024.2" in owner.predictions(name) else ""

    names = iter(shadowed, None)
    found = owner.predictions(next(name for name in islice(names, 20) if name))
    for version, model, role in (("2024.1", first, "champion"), ("2024.2", second, "shadow")):
        assert {p.role for p in found[version]} == {role}
        scores = [p.output.score for p in found[version] if p.output is not None]
        assert scores == pytest.approx(of_approved(model, asked), abs=1e-6)

    status, _, complaint = owner.kedge("models", "promote", "loans", "2024.2")
    assert (status, complaint) == (0, "")
    wait_until(lambda: owner.serves("2024.2"), "2024.2 serving")
    answer = owner.infer(asked)
    assert answer["version"] == "2024.2"
    assert answer["score"] == pytest.approx(of_approved(second, asked), abs=1e-6)
