"""``kedge init``: what it writes, shows and refuses."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from kedge import Monitor, Outcome, Prediction
from kedge.batch_layout import CONTENT_TYPE, CONTENT_TYPE_HEADER
from kedge.batches import pieces, table_of
from kedge.codec import encode
from kedge.errors import UsageError
from kedge.events import Output
from kedge.monitor_file import load_monitor
from kedge.topics import model_partition, request_partition
from kedge_services.cli import main
from kedge_services.cli.init import live_draft, write_monitor
from kedge_services.local.init.from_topic import read_traffic
from kedge_services.local.init.guess import Given
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.ports import Backend, Produce
from kedge_services.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
CALIFORNIA = ROOT / "tests" / "data" / "california_housing_500.csv.gz"
NOW = 1_795_220_224_624


# ------------------------------------------------------------------------ files


def test_the_how_to_works_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "monitors-from-data.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    told = []
    for command in block.splitlines():
        program, *arguments = shlex.split(command)
        assert program == "kedge"
        assert main(arguments) == 0
        told.append(capsys.readouterr().out)
    assert told[0].startswith(f"houses.toml written: a first monitor from {CALIFORNIA.name} (500")
    assert "Check first, in houses.toml:\n  label_horizon = 1d: how long is a label" in told[0]
    assert "kedge replay tests/data/california_housing_500.csv.gz --monitor houses.t" in told[0]
    assert told[1].startswith("houses: binary (0, 1); a score is that of 1\n")
    assert set(example.splitlines()) <= set(Path("houses.toml").read_text().splitlines())
    summary = json.loads(Path("results/summary.json").read_text())
    assert (summary["rows"], summary["labelled"]) == (300, 300)
    assert not summary["dead_letters"]


def test_json_tells_every_guess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.toml"
    assert main(["init", str(CALIFORNIA), "--out", str(out), "--json", "--every", "2h"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(out)
    assert told["monitor"] == load_monitor(out).declaration()
    guesses = {guess["field"]: guess for guess in told["guesses"]}
    assert (guesses["every"]["value"], guesses["every"]["certainty"]) == ("2h", "given")
    assert guesses["features.timestamp"]["is_left_out"]


def test_a_file_is_overwritten_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.toml"
    out.write_text("mine")
    assert main(["init", str(CALIFORNIA), "--out", str(out)]) == 2
    assert f"{out} exists; --force overwrites it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["init", str(CALIFORNIA), "--out", str(out), "--force"]) == 0
    assert load_monitor(out).model == "california_housing_500"
    assert list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_guessed_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "rows.csv", tmp_path / "m.toml"
    data.write_text("label\n1\n0\n")
    assert main(["init", str(data), "--out", str(out)]) == 2
    assert "rows.csv: no column is left that could be a feature" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a file of rows, or say --topic"),
        (["{data}", "--topic"], "one of the two"),
        (["none.csv"], "none.csv: no such file"),
        (["{data}", "--label", "clf_targt"], 'did you mean "clf_target"?'),
        (["{data}", "--timestamp", "timestamp", "--every", "1h"], "one of the two tells when"),
        (["{data}", "--every", "soon"], "--every: 'soon' is no duration"),
        (["{data}", "--model", ""], "--model: a name has 1 to 255 characters"),
        (["{data}", "--out", "nowhere/m.toml"], "there is no such directory"),
        (["{data}", "--out", "{data}", "--force"], "choose another file by --out"),
        (["{data}", "--out", "."], "choose another file by --out"),
        (["--topic", "--label", "y"], "--label is about a file"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = CALIFORNIA.read_bytes()
    assert main(["init", *(a.format(data=CALIFORNIA) for a in arguments)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert CALIFORNIA.read_bytes() == before
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------- live traffic


def predictions(model: str, rows: int, *, start: int = 0) -> list[Prediction]:
    return [
        Prediction(
            prediction_id=f"{model}-{start + i}",
            model=model,
            version="7",
            event_time_ms=NOW + 60_000 * i,
            features={
                "amount": (i * 0.618) % 1,
                "country": "NO" if i % 3 else "SE",
                "new": i % 2 == 0,
            },
            output=Output(label="fraud" if i % 4 == 0 else "ok", score=0.9 if i % 4 == 0 else 0.1),
            segments={"region": "north"},
        )
        for i in range(rows)
    ]


def outcomes(model: str, rows: int, *, delay_ms: int) -> list[Outcome]:
    return [
        Outcome(
            prediction_id=f"{model}-{i}",
            label="fraud" if i % 5 == 0 else "ok",
            event_time_ms=NOW + 60_000 * i + delay_ms,
        )
        for i in range(rows)
    ]


def send(backend: Backend, events: Sequence[Prediction | Outcome], partitions: int) -> None:
    producer = backend.producer("test")
    producer.begin()
    for event in events:
        topic = "predictions" if isinstance(event, Prediction) else "outcomes"
        key = event.prediction_id
        where = request_partition(key, partitions)
        producer.produce(Produce(topic, key.encode(), encode(event), where))
    producer.commit()
    producer.close()


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(ManualClock(NOW), {"predictions": 2, "outcomes": 2, "monitors": 2})


def monitor_of(backend: Backend, tmp_path: Path, said: Given) -> Monitor:
    draft, _ = live_draft(backend, said)
    return write_monitor(draft, tmp_path / "m.toml")


def test_a_monitor_is_guessed_from_live_traffic(broker: MemoryBroker, tmp_path: Path) -> None:
    send(broker, [*predictions("fraud", 600), *outcomes("fraud", 500, delay_ms=1_500_000)], 2)
    monitor = monitor_of(broker, tmp_path, Given())
    assert (monitor.model, monitor.task, monitor.classes) == ("fraud", "binary", ["ok", "fraud"])
    assert {name: feature.type for name, feature in monitor.features.items()} == {
        "amount": "numeric", "country": "categorical", "new": "boolean",
    }  # fmt: skip
    # Twice as long as the slowest label took, as a round number; 500 minutes a pane.
    assert (monitor.horizon_ms, monitor.pane_ms) == (3_600_000, 8 * 3_600_000)
    assert [segment.name for segment in monitor.segments] == ["region"]
    assert (monitor.replay, monitor.retrain) == (None, None)


def test_without_outcomes_only_predictions_are_watched(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    send(broker, predictions("fraud", 300), 2)
    monitor = monitor_of(broker, tmp_path, Given())
    assert not monitor.labelled
    assert "delete this when they come" in (tmp_path / "m.toml").read_text()


def test_values_are_those_of_a_regression(broker: MemoryBroker, tmp_path: Path) -> None:
    events = [
        event.model_copy(update={"output": Output(value=float(i % 7))})
        for i, event in enumerate(predictions("price", 200))
    ]
    send(broker, events, 2)
    assert monitor_of(broker, tmp_path, Given()).task == "regression"


def test_of_several_models_one_must_be_named(broker: MemoryBroker, tmp_path: Path) -> None:
    send(broker, [*predictions("fraud", 150), *predictions("churn", 120)], 2)
    with pytest.raises(UsageError, match=r"name one by --model: fraud \(150\), churn \(120\)"):
        live_draft(broker, Given())
    with pytest.raises(UsageError, match="no predictions of 'spam' among the newest 270"):
        live_draft(broker, Given(model="spam"))
    assert monitor_of(broker, tmp_path, Given(model="churn")).model == "churn"


def test_no_traffic_says_what_to_do(broker: MemoryBroker) -> None:
    with pytest.raises(UsageError, match="there are no predictions yet: send some"):
        live_draft(broker, Given())


def test_a_rare_model_is_looked_for_further_back(broker: MemoryBroker) -> None:
    send(broker, [*predictions("rare", 130), *predictions("hot", 2_000)], 2)
    traffic = read_traffic(broker, "rare", records=200)
    assert (len(traffic.predictions), traffic.records) == (130, 2_130)
    assert len(read_traffic(broker, None, records=200).predictions) <= 200


def send_batches(backend: MemoryBroker, events: Sequence[Prediction], most_rows: int) -> None:
    columns = {
        "prediction_id": [event.prediction_id for event in events],
        "event_time_ms": [event.event_time_ms for event in events],
        "features": {
            name: [event.features[name] for event in events] for name in events[0].features
        },
        "output.label": [event.output and event.output.label for event in events],
        "output.score": [event.output and event.output.score for event in events],
        "segments.region": [event.segments["region"] for event in events],
    }
    table = table_of(columns, {"model": events[0].model, "version": "7"}, now_ms=0)
    for piece in pieces(table, partitions=2, most_rows=most_rows):
        backend.append(
            "predictions", piece.key.encode(), piece.value, partition=piece.partition,
            headers=[(CONTENT_TYPE_HEADER, CONTENT_TYPE)],
        )  # fmt: skip


def test_rows_of_batches_are_traffic_like_single_events(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    single = MemoryBroker(ManualClock(NOW), {"predictions": 2, "outcomes": 2, "monitors": 2})
    for each in (broker, single):
        send(each, outcomes("fraud", 500, delay_ms=1_000), 2)
    send(single, predictions("fraud", 600), 2)
    send_batches(broker, predictions("fraud", 600), 100)
    assert read_traffic(broker, None) == read_traffic(single, None)
    assert monitor_of(broker, tmp_path, Given()) == monitor_of(single, tmp_path, Given())


def test_of_many_batches_about_as_many_rows_are_read_as_were_asked_for(
    broker: MemoryBroker,
) -> None:
    send_batches(broker, predictions("fraud", 8_000), 500)
    traffic = read_traffic(broker, None, records=2_000)
    assert 2_000 <= traffic.records == len(traffic.predictions) <= 3_000
    # Single events behind them do not hide how many rows a batch has.
    send(broker, predictions("fraud", 200, start=8_000), 2)
    traffic = read_traffic(broker, None, records=2_000)
    assert 2_000 <= traffic.records <= 3_000


def test_shadows_do_not_count_and_what_cannot_be_read_is_told(broker: MemoryBroker) -> None:
    mine = predictions("fraud", 120)
    shadows = [p.model_copy(update={"role": "shadow", "version": "8"}) for p in mine]
    send(broker, [*mine, *shadows], 2)
    producer = broker.producer("bad")
    producer.begin()
    producer.produce(Produce("predictions", b"x", b"no json", 0))
    known = Monitor.model_validate(
        {"model": "fraud", "task": "regression", "features": {"x": "numeric"}}
    )
    producer.produce(Produce("monitors", b"fraud", encode(known), model_partition("fraud", 2)))
    producer.commit()
    assert len(read_traffic(broker, "fraud").predictions) == 120
    _, note = live_draft(broker, Given(model="fraud"))
    assert note.splitlines() == [
        "note: fraud has a monitor; `kedge apply` would change it",
        "note: 1 of 241 records of predictions cannot be read",
    ]


@pytest.mark.kafka
def test_live_traffic_is_read_from_kafka(
    kafka_settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = KafkaBackend(kafka_settings)
    send(backend, [*predictions("fraud", 600), *outcomes("fraud", 500, delay_ms=1_000)], 2)
    out, config = tmp_path / "fraud.toml", tmp_path / "kedge.toml"
    config.write_text(
        f'prefix = "{kafka_settings.prefix}"\nrequest_partitions = 2\nmodel_partitions = 2\n'
    )
    servers = str(kafka_settings.kafka.bootstrap_servers)
    options = ["--config", str(config), "--bootstrap-servers", servers, "--out", str(out)]
    assert main(["init", "--topic", *options]) == 0
    shown = capsys.readouterr().out
    assert "the newest 600 predictions of fraud and 500 of their outcomes" in shown
    assert f"kedge apply {out}" in shown
    assert load_monitor(out).classes == ["ok", "fraud"]
