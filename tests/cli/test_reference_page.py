from __future__ import annotations

from pathlib import Path

from kedge.topics import CHANGELOGS, TOPICS
from kedge_services.cli import reference


def test_the_reference_is_fresh() -> None:
    text = reference.FILE.read_text(encoding="utf-8")
    assert text == reference.reference(), "run `make schemas`"


def test_every_topic_command_and_setting_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "reference.md"
    reference.main([str(file)])
    text = file.read_text(encoding="utf-8")
    for topic in (*TOPICS, *(log.name for log in CHANGELOGS.values())):
        assert f"| `{topic}` |" in text
    for command in ("check", "apply", "models register", "topics create", "tail"):
        assert f"### `kedge {command}`" in text
    for setting in ("kafka.bootstrap_servers", "time.idle_after_ms", "log_level"):
        assert f"| `{setting}` |" in text
