"""Processes that are killed in the middle of the loop: it closes all the same, and is exact.

That a killed `panes` changes nothing is in :mod:`test_demo`, which always runs.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo_process import DemoProcess

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

#: A machine that has other things to do has time for this.
SLOWLY_S = 300.0
ALERT = r"alert firing +error-rate"
REQUEST = r"retrain +auto training asked for"
SHADOW = r"k2 is shadow: in shadow beside k1"
PROMOTED = r"k2 is champion"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[DemoProcess]:
    running = DemoProcess(tmp_path)
    yield running
    running.close()


def training_of(demo: DemoProcess) -> int | None:
    """Give the process that trains, once there is one."""
    trainer = psutil.Process(int(demo.processes()["trainer"]["pid"]))
    return next((child.pid for child in trainer.children()), None)


def is_exact(demo: DemoProcess, summary: dict[str, Any]) -> None:
    """Make sure that the demo ended well, nothing was lost or doubled, and nobody is left."""
    assert summary["problems"] == [], demo.text()
    assert demo.process.returncode == 0
    assert summary["recount_differences"] == []
    assert summary["recount_compared"] > 50_000
    assert summary["records_in"] == summary["records_accounted"] > 100_000
    assert summary["service_restarts"] >= len(demo.killed)
    for name in demo.killed:
        assert f"{name} stopped by signal SIGKILL" in demo.text()
    received = re.search(r"What on-call received:\n(.*?)The loop closed", demo.text(), re.DOTALL)
    assert received is not None
    told = re.findall(
        r"^  ((?:firing|resolved) .*?)(?=^  \w|\Z)", received[1], re.MULTILINE | re.DOTALL
    )
    assert len(told) == len(set(told)) == summary["notifications"]
    assert demo.left_behind() == []


def test_every_service_is_killed_once(demo: DemoProcess) -> None:
    demo.until_told("traffic begins")
    for name in ("panes", "serving", "windows"):
        demo.wait(2)
        demo.kill(name)
    demo.until_told(ALERT, SLOWLY_S)
    demo.kill("notifier")
    demo.kill("alerts")
    demo.until_told(REQUEST)
    demo.kill("triggers")
    demo.until(lambda: training_of(demo), "a training")
    os.kill(training_of(demo) or 0, signal.SIGKILL)
    demo.until(lambda: training_of(demo), "another training")
    demo.wait(1)
    orphan = training_of(demo)
    demo.kill("trainer")
    demo.until(lambda: orphan is None or not psutil.pid_exists(orphan), "the end of its child")
    demo.until_told(SHADOW, SLOWLY_S)
    demo.kill("registry")
    summary = demo.end()
    assert len(demo.killed) == 8
    is_exact(demo, summary)


def test_kafka_is_killed_twice(demo: DemoProcess) -> None:
    demo.until_told("traffic begins")
    demo.wait(1)
    port = demo.kill("kafka")
    demo.until_told("kafka is back")
    demo.until_told(PROMOTED, SLOWLY_S)
    assert demo.kill("kafka") != port
    summary = demo.end()
    is_exact(demo, summary)


def test_a_killed_demo_leaves_nobody_behind(demo: DemoProcess) -> None:
    demo.until_told("traffic begins")
    assert len(demo.processes()) == 9
    assert len(demo.left_behind()) == 9
    demo.process.kill()
    demo.process.wait()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in demo.left_behind()], timeout=30)
    assert alive == []
