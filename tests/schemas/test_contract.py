"""The facts of the contract: topics, names, errors, generated schemas, imports."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import kedge
from kedge import errors, schemas
from kedge.base import label_text
from kedge.topics import (
    CHANGELOGS,
    TOPICS,
    model_partition,
    murmur2,
    request_id,
    request_partition,
)

DAY_MS = 86_400_000
#: Importing ``kedge.schemas`` or any module runs nothing; the client alone needs Kafka.
MODULES = sorted(f"kedge.{module.name}" for module in pkgutil.iter_modules(kedge.__path__))


# ------------------------------------------------------------------ topics


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # from UtilsTest.testMurmur2 of the Kafka Java clients, as unsigned
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_the_java_clients(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected % 2**32


def test_all_rows_of_a_request_lie_on_its_partition() -> None:
    assert [request_id(text) for text in ("r-1", "r-1#0", "r-1#0#2", "#")] == [
        "r-1", "r-1", "r-1", "",
    ]  # fmt: skip
    assert {request_partition(f"r-1#{k}", 8) for k in range(99)} == {request_partition("r-1", 8)}
    assert {request_partition(f"r-{k}", 8) for k in range(99)} == set(range(8))
    assert model_partition("foobar", 4) == (-790332482 & 0x7FFFFFFF) % 4


def test_topics_are_partitioned_and_kept_as_designed() -> None:
    assert {
        name: (t.partitioned_by, t.retention_ms and t.retention_ms // DAY_MS, t.compacted)
        for name, t in TOPICS.items()
    } == {
        "requests": ("request", 1, False),
        "predictions": ("request", 32, False),
        "outcomes": ("request", 32, False),
        "examples": ("request", 32, False),
        "panes": ("model", 32, False),
        "references": ("model", None, True),
        "windows": ("model", 90, True),
        "alerts": ("model", 90, False),
        "retrain-requests": ("model", 90, False),
        "candidates": ("model", 90, False),
        "model-versions": ("model", None, True),
        "monitors": ("model", None, True),
        "commands": ("model", 90, False),
        "dead-letters": ("source", 30, False),
    }


def test_what_is_joined_is_partitioned_alike() -> None:
    for topic in TOPICS.values():
        assert topic.partitions(requests=8, models=4) == (
            4 if topic.partitioned_by == "model" else 8
        )
    assert CHANGELOGS["panes"].partitioned_by == TOPICS["predictions"].partitioned_by
    assert {log.config()["cleanup.policy"] for log in CHANGELOGS.values()} == {"compact"}


def test_topic_configurations_say_how_long_records_live() -> None:
    assert TOPICS["predictions"].config() == {
        "cleanup.policy": "delete",
        "retention.ms": str(32 * DAY_MS),
        "message.timestamp.type": "LogAppendTime",
    }
    assert TOPICS["windows"].config()["cleanup.policy"] == "compact,delete"
    assert TOPICS["monitors"].config()["retention.ms"] == "-1"
    assert TOPICS["references"].config()["max.message.bytes"] == str(8 * 1024 * 1024)


def test_inputs_are_stamped_by_the_broker() -> None:
    assert {name for name, topic in TOPICS.items() if topic.log_append_time} >= {
        "requests",
        "predictions",
        "outcomes",
    }


# ------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["kedge", *MODULES])
def test_everything_exported_exists(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert [item for item in exported if not hasattr(module, item)] == []


def test_every_public_class_of_the_wire_is_exported_by_its_module() -> None:
    for name in MODULES:
        module = importlib.import_module(name)
        own = {
            item
            for item, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, BaseModel)
            and value.__module__ == name
            and not item.startswith("_")
        }
        assert own <= {*getattr(module, "__all__", own), "Declaration"}


@pytest.mark.parametrize("cls", schemas.event_classes(), ids=lambda cls: cls.__name__)
def test_every_event_is_exported_and_documented(cls: type[kedge.Event]) -> None:
    assert getattr(kedge, cls.__name__) is cls
    assert cls.__doc__
    for name in cls.model_fields:
        assert not name.endswith("_time"), f"{name}: a time on the wire is in ms and says so"


def test_labels_are_compared_by_one_text() -> None:
    assert label_text(1) == label_text(1.0) == "1"
    assert label_text(True) == "true"
    assert label_text("1") == "1"


# ------------------------------------------------------------------ errors


def test_the_error_tree_is_the_one_that_is_drawn() -> None:
    drawn = {word for line in str(errors.__doc__).splitlines() for word in line.split()[:3]}
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    assert set(classes) <= drawn
    for name, cls in classes.items():
        assert issubclass(cls, errors.KedgeError)
        assert name in errors.__all__
        if name != "KedgeError":
            kinds = [errors.Retry, errors.DeadLetter, errors.Stop]
            assert sum(issubclass(cls, kind) for kind in kinds) == 1


def test_a_dead_letter_carries_a_known_reason() -> None:
    error = errors.DeadLetter("late", "3 s behind")
    assert (error.reason, error.detail, str(error)) == ("late", "3 s behind", "late: 3 s behind")
    assert error.reason in get_args(errors.Reason)


# --------------------------------------------------------------- generated


def test_json_schemas_are_fresh() -> None:
    wanted = dict(schemas.schema_texts())
    found = {path.name: path.read_text(encoding="utf-8") for path in schemas.FOLDER.iterdir()}
    assert found == wanted, "run `make schemas`"


def test_writing_schemas_removes_those_no_event_has(tmp_path: Path) -> None:
    (tmp_path / "gone.schema.json").write_text("{}")
    (tmp_path / "kept.txt").write_text("mine")
    files = schemas.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kept.txt", *(f.name for f in files)}


def test_schemas_say_where_an_event_lies_and_what_is_required() -> None:
    schema = json.loads((schemas.FOLDER / "prediction.schema.json").read_text(encoding="utf-8"))
    assert schema["x-kedge-topic"] == "predictions"
    assert set(schema["required"]) == {
        "prediction_id",
        "model",
        "version",
        "event_time_ms",
        "features",
    }


# ----------------------------------------------------- lightness of the import


def test_importing_kedge_brings_neither_kafka_nor_numpy() -> None:
    code = (
        "import sys, kedge, kedge.codec, kedge.monitor_file, kedge.schemas\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pydantic" in loaded
    assert not loaded & {"confluent_kafka", "numpy", "scipy", "faust", "kedge_services"}
