"""`kedge up` and a stranger's producer: plain confluent-kafka, plain JSON, the README alone.

Nothing here imports Kedge.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, Producer

ROOT = Path(__file__).parent.parent.parent
KEDGE = [sys.executable, "-m", "kedge_services.cli"]
PANE_MS = 10_000
PANES = 40
ROWS_PER_PANE = 400
BROKEN_FROM = 32
IDLE_RSS_MB = 1_800
SERVICES = 9


class Up:
    """A running `kedge up` in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = (directory / "up.log").open("w")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KEDGE_")}
        self.environment = {**environment, "KEDGE_SERVING__PORT": "0"}
        self.process = subprocess.Popen(
            [*KEDGE, "up", "--port", "0"],
            cwd=directory, env=self.environment, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.servers = self._announced()

    def _announced(self) -> str:
        announcement = self.directory / ".kedge" / "broker.json"
        wait_for(announcement.exists, 90, "Kafka")
        return str(json.loads(announcement.read_text())["bootstrap_servers"])

    def kedge(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*KEDGE, *arguments], cwd=self.directory, env=self.environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def text(self) -> str:
        return (self.directory / "up.log").read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.log.close()


def wait_for(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up"))
    try:
        yield running
    finally:
        status = running.stop()
    assert status == 0, running.text()


def family_rss_mb(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> float:
    parent = psutil.Process(process.pid)
    return sum(p.memory_info().rss for p in [parent, *parent.children(recursive=True)]) / 1e6


def read_until(servers: str, topic: str, enough: Any, seconds: float) -> list[dict[str, Any]]:
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": f"stranger-{topic}",
         "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    )  # fmt: skip
    consumer.subscribe([topic])
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and not enough(found):
            message = consumer.poll(0.5)
            value = None if message is None or message.error() else message.value()
            if value is not None:
                found.append(json.loads(value))
    finally:
        consumer.close()
    return found


def test_idle_it_stays_below_its_memory(up: Up) -> None:
    # The services, and Kafka: first alone, then under the supervisor.
    ready = SERVICES + 2
    wait_for(lambda: len(re.findall(r"\bready\b", up.text())) >= ready, 120, "all ready")
    assert family_rss_mb(up.process) < IDLE_RSS_MB


def test_the_readme_example_is_checked_applied_and_watched(up: Up) -> None:
    monitor = str(ROOT / "docs" / "examples" / "fraud.toml")
    for command in ("check", "apply"):
        done = up.kedge(command, monitor)
        assert done.returncode == 0, done.stderr
    send_a_model_that_breaks(up.servers)

    def fired(alerts: list[dict[str, Any]]) -> bool:
        return any(a["status"] == "firing" and a["rule"] == "accuracy-low" for a in alerts)

    alerts = read_until(up.servers, "kedge.alerts", fired, 90)
    assert fired(alerts), [(a["rule"], a["status"], a["summary"]) for a in alerts]

    def performance(windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [w for w in windows if w["kind"] == "performance" and w.get("labelled")]

    windows = read_until(up.servers, "kedge.windows", lambda w: len(performance(w)) > 5, 60)
    kinds = {w["kind"] for w in windows}
    assert {"drift", "performance"} <= kinds
    assert {w["model"] for w in windows} == {"fraud"}


def test_the_producer_of_the_readme_runs_as_it_stands(up: Up) -> None:
    assert up.kedge("apply", str(ROOT / "docs" / "examples" / "fraud.toml")).returncode == 0
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    code = found[1].replace("127.0.0.1:9192", up.servers)
    assert code != found[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def joined(examples: list[dict[str, Any]]) -> bool:
        return any(e["prediction_id"] == "r-1" and e["label"] == "fraud" for e in examples)

    assert joined(read_until(up.servers, "kedge.examples", joined, 60))


def send_a_model_that_breaks(servers: str) -> None:
    """Send some minutes of the near past: answers are good, then from one pane on they are not."""
    chance = random.Random(7)
    now_ms = int(time.time() * 1000)
    start_ms = (now_ms // PANE_MS - PANES) * PANE_MS
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})
    for pane in range(PANES):
        for row in range(ROWS_PER_PANE):
            at_ms = start_ms + pane * PANE_MS + row * PANE_MS // ROWS_PER_PANE
            identity = f"r-{pane}-{row}"
            label = "fraud" if chance.random() < 0.3 else "ok"
            wrong = chance.random() < (0.05 if pane < BROKEN_FROM else 0.45)
            answer = {"ok": "fraud", "fraud": "ok"}[label] if wrong else label
            prediction = {
                "prediction_id": identity, "model": "fraud", "version": "12",
                "event_time_ms": at_ms,
                "features": {"amount": chance.lognormvariate(3, 1),
                             "country": chance.choice(["NO", "SE", "DK"])},
                "output": {"label": answer, "score": 0.9 if answer == "fraud" else 0.1},
            }  # fmt: skip
            outcome = {"prediction_id": identity, "label": label, "event_time_ms": at_ms + 500}
            producer.produce("kedge.predictions", key=identity, value=json.dumps(prediction))
            producer.produce("kedge.outcomes", key=identity, value=json.dumps(outcome))
            producer.poll(0)
    assert producer.flush(30) == 0
