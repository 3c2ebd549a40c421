"""Names that are wrong in commands that look them up on a real Kafka."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kedge import ModelVersion
from kedge.codec import encode
from kedge.topics import model_partition
from kedge_services.runtime.ports import Produce

pytestmark = pytest.mark.kafka

#: What asks and waits for nobody.
ASKING = (
    ("models", "list", "{}"),
    ("models", "show", "{}"),
    ("models", "promote", "{}", "{}", "--timeout", "0"),
    ("models", "promote", "fraud", "12", "--by", "{}", "--expect", "{}", "--timeout", "0"),
    ("models", "rollback", "fraud", "--reason", "{}", "--timeout", "0"),
    ("models", "register", "--model", "{}", "--version", "1", "--timeout", "0"),
    ("models", "register", "--model", "fraud", "--version", "{}", "--timeout", "0"),
    ("tail", "windows", "--from-start", "--no-follow", "--model", "{}"),
    ("dead-letters", "resend", "--model", "{}", "--yes"),
    ("init", "--topic", "--out", "new.toml", "--model", "{}"),
)


@pytest.fixture(autouse=True)
def known(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Know one model, with a monitor and a version that serves."""
    monkeypatch.chdir(tmp_path)
    cluster.watch("fraud")
    version = ModelVersion(
        model="fraud", version="12", status="champion", sequence=1, changed_ms=1_000
    )
    where = model_partition("fraud", 2)
    cluster.write(Produce("model-versions", b"fraud/12", encode(version), where))


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "list", "fruad"),
        ("models", "show", "fruad"),
        ("models", "promote", "fruad", "12"),
        ("models", "rollback", "fruad"),
        ("models", "register", "--model", "fruad", "--version", "13"),
        ("models", "show", "fraud", "13"),
        ("models", "promote", "fraud", "13"),
    ],
    ids=" ".join,
)
def test_a_wrong_name_gets_the_right_one(arguments: tuple[str, ...], kedge: Any) -> None:
    told = kedge(*arguments)
    assert (told.status, told.out) == (2, "")
    assert told.error.count("\n") == 1
    assert ("12" if "13" in arguments and "fraud" in arguments else "fraud") in told.error


@pytest.mark.parametrize(
    "name", ["", "x" * 300, "[/x] b/c#d", "\udcff"], ids=["empty", "long", "odd", "no-text"]
)
def test_no_name_makes_a_stack_trace(name: str, kedge: Any) -> None:
    """What gets out of `main` as an exception, other than an exit, fails the test."""
    for arguments in ASKING:
        told = kedge(*(part.format(name) for part in arguments))
        assert told.status in {0, 1, 2}, arguments
        assert told.status == 0 or told.error.startswith(("kedge: ", "Usage: ")), arguments
        with suppress(FileNotFoundError):
            Path("new.toml").unlink()
