"""Where Java and Kafka's jars come from."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from kedge_services.local.kafka_jars import _Shown, cache_directory, find_java, kafka_jars


def java_says(directory: Path, answer: str) -> None:
    java = directory / "java"
    java.write_text(f"#!/bin/sh\necho '{answer}' >&2\n")
    java.chmod(0o755)


def test_a_java_on_the_path_is_taken_when_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    java_says(tmp_path, 'openjdk version "21.0.1" 2026-01-01')
    assert find_java() == str(tmp_path / "java")
    java_says(tmp_path, 'java version "1.8.0_392"')
    assert find_java() != str(tmp_path / "java")


def test_without_java_the_packaged_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = subprocess.run([find_java(), "-version"], capture_output=True, text=True, check=True)
    assert "version" in done.stderr


def test_the_cache_follows_xdg() -> None:
    assert cache_directory({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/kedge")
    assert cache_directory({}) == Path.home() / ".cache" / "kedge"


@pytest.mark.kafka
def test_jars_are_fetched_once() -> None:
    first = kafka_jars()
    told = io.StringIO()
    assert kafka_jars(out=told) == first
    assert told.getvalue() == ""
    assert any(jar.name.startswith("kafka_2.13-") for jar in first)


def test_progress_is_a_line_per_quarter_where_there_is_no_terminal() -> None:
    told = io.StringIO()
    shown = _Shown(told)
    for percent in range(101):
        shown.show(percent)
    lines = told.getvalue().splitlines()
    assert [line.split()[-2] for line in lines] == ["0", "25", "50", "75", "100"]
