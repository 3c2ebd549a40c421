"""The supervisor: restarts, gives up with a sentence, leaves nobody behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from kedge.errors import UsageError
from kedge_services.local.broker import LocalBroker
from kedge_services.local.catalogue import SERVICES, run, settings_env
from kedge_services.local.stops import Patience
from kedge_services.local.supervisor import KAFKA, ServiceState, Supervisor
from kedge_services.runtime.admin import check_topics, create_topics, wait_for_kafka
from kedge_services.runtime.settings import KafkaSettings, Settings

READY = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
address = (os.environ["KEDGE_HOST"], int(os.environ["KEDGE_PORT"]))
http.server.HTTPServer(address, Handler).serve_forever()
"""
#: Once ready; then its loop stands still, as a file says.
STUCK = READY.replace(
    'self.send_response(200 if self.path == "/readyz" else 404)',
    "self.send_response(503 if os.path.exists('stuck') and self.path == '/healthz' else 200)",
)
BROKEN = "import sys; print('starting'); sys.exit('kedge: the topic windows is missing')"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('here', flush=True); time.sleep(600)"
)


HASTE = Patience(first_pause_s=0.01, longest_pause_s=0.1, stop_timeout_s=0.2)


def supervise(
    tmp_path: Path,
    patience: Patience,
    *,
    broker: LocalBroker | None = None,
    tell: Callable[[str], None] = lambda _: None,
    **programs: str,
) -> Supervisor:
    def command(name: str) -> Sequence[str]:
        return [sys.executable, "-c", programs[name]]

    return Supervisor(
        Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1")),
        list(programs),
        tmp_path / "logs",
        command=command,
        patience=patience,
        broker=broker,
        tell=tell,
    )


def until(supervisor: Supervisor, condition: Callable[[list[ServiceState]], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition(supervisor.states()):
        assert time.monotonic() < deadline, supervisor.states()
        supervisor.poll()
        time.sleep(0.02)


def test_ready_services_are_seen_and_a_killed_one_comes_back(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, Patience(), panes=READY, windows=READY)
    supervisor.start()
    try:
        assert supervisor.wait_ready(20)
        before = supervisor.states()[0]
        assert before.pid is not None
        assert before.rss_bytes is not None
        assert before.rss_bytes > 1_000_000
        psutil.Process(before.pid).kill()
        until(supervisor, lambda states: states[0].state == "restarting")
        assert "by signal SIGKILL" in supervisor.states()[0].detail
        until(supervisor, lambda states: states[0].state == "ready")
        after = supervisor.states()[0]
        assert (after.restarts, supervisor.states()[1].restarts) == (1, 0)
        assert after.pid != before.pid
    finally:
        pids = [state.pid for state in supervisor.states()]
        supervisor.stop()
    assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids)
    assert {state.state for state in supervisor.states()} == {"stopped"}


def test_a_service_whose_loop_stands_still_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    supervisor = supervise(tmp_path, HASTE, panes=STUCK)
    supervisor.start()
    try:
        assert supervisor.wait_ready(20)
        (tmp_path / "stuck").touch()
        until(supervisor, lambda states: states[0].state == "restarting")
        (tmp_path / "stuck").unlink()
        until(supervisor, lambda states: states[0].state == "ready" and states[0].restarts == 1)
    finally:
        supervisor.stop()


def test_gives_up_after_quick_stops_naming_service_and_error(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, HASTE, panes=BROKEN)
    supervisor.start()
    try:
        assert not supervisor.wait_ready(20)
    finally:
        supervisor.stop()
    (failure,) = supervisor.failures()
    assert failure.startswith("panes stopped 5 times in a row")
    assert "status 1: kedge: the topic windows is missing" in failure
    assert supervisor.states()[0].state == "failed"
    assert supervisor.states()[0].restarts == 4


def failing_at(offset: str) -> str:
    """Give a program that ends as a service does whose handler raised."""
    return (
        f"import sys; sys.exit(\"KeyError: 'x'\\nprocessing predictions/3 from offset {offset}\")"
    )


def test_gives_up_after_stops_at_one_offset_however_long_each_took(tmp_path: Path) -> None:
    patience = replace(HASTE, quick_s=0.0)
    supervisor = supervise(tmp_path, patience, panes=failing_at("120"))
    supervisor.start()
    try:
        assert not supervisor.wait_ready(20)
    finally:
        supervisor.stop()
    (failure,) = supervisor.failures()
    assert failure.startswith(
        "panes stopped 5 times at one offset, predictions/3 from offset 120; the last time it "
        "stopped with status 1: KeyError: 'x'"
    )
    assert supervisor.states()[0].restarts == 4


def test_a_service_that_gets_on_between_its_stops_is_not_given_up(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    program = (
        f"from pathlib import Path; file = Path({str(counter)!r})\n"
        "n = int(file.read_text()) + 1; file.write_text(str(n))\n"
        "import sys; sys.exit(f'KeyError: 0\\nprocessing predictions/3 from offset {n}')"
    )
    supervisor = supervise(tmp_path, HASTE, panes=program)
    supervisor.start()
    try:
        until(supervisor, lambda states: states[0].restarts >= HASTE.quick_stops + 2)
        assert supervisor.failures() == []
    finally:
        supervisor.stop()


def test_what_stopped_and_why_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    supervisor = supervise(tmp_path, HASTE, tell=told.append, panes=READY, windows=BROKEN)
    supervisor.start()
    try:
        supervisor.wait_ready(20)
    finally:
        supervisor.stop()
    assert told[:4] == [
        "windows stopped with status 1: kedge: the topic windows is missing"
    ] * 4  # fmt: skip
    assert told[4:] == supervisor.failures()


def test_the_processes_are_listed_while_they_run(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, Patience(), panes=READY, windows=READY)
    file = tmp_path / "processes.json"
    supervisor.start()
    try:
        assert supervisor.wait_ready(20)
        listed = json.loads(file.read_text())
        assert listed["supervisor"] == os.getpid()
        panes = listed["processes"]["panes"]
        assert panes["state"] == "ready"
        assert panes["health_url"].startswith("http://127.0.0.1:")
        assert Path(panes["log"]) == tmp_path / "logs" / "panes.log"
        psutil.Process(panes["pid"]).kill()
        until(supervisor, lambda states: states[0].restarts == 1)
        again = json.loads(file.read_text())["processes"]
        assert again["panes"]["restarts"] == 1
        assert again["panes"]["pid"] not in (None, panes["pid"])
        assert again["windows"] == listed["processes"]["windows"]
    finally:
        supervisor.stop()
    assert not file.exists()


@pytest.mark.kafka
def test_a_killed_kafka_comes_back_with_its_port_and_data(tmp_path: Path) -> None:
    told: list[str] = []
    with LocalBroker(tmp_path / "kafka") as broker:
        servers = broker.bootstrap_servers
        settings = Settings(kafka=KafkaSettings(bootstrap_servers=servers))
        create_topics(settings, ["monitors"])
        supervisor = supervise(tmp_path, HASTE, broker=broker, tell=told.append, panes=READY)
        supervisor.start()
        try:
            assert supervisor.wait_ready(30)
            kafka = supervisor.states()[0]
            assert (kafka.name, kafka.pid, kafka.state) == (KAFKA, broker.pid, "ready")
            psutil.Process(broker.pid).kill()
            until(supervisor, lambda states: states[0].state == "restarting")
            # A service would only stop again: it waits until Kafka is back.
            panes = supervisor.states()[1]
            assert panes.pid is not None
            psutil.Process(panes.pid).kill()
            until(supervisor, lambda states: states[1].state == "restarting")
            until(supervisor, lambda states: states[0].state != "restarting")
            assert supervisor.states()[1].restarts == 0
            until(supervisor, lambda states: [s.state for s in states] == ["ready", "ready"])
            assert [state.restarts for state in supervisor.states()] == [1, 1]
        finally:
            supervisor.stop()
        assert broker.is_running()
        assert broker.bootstrap_servers == servers
        wait_for_kafka(settings.kafka, timeout_s=30)
        assert check_topics(settings, ["monitors"]) == []
    assert told[0] == "kafka stopped by signal SIGKILL"
    assert "kafka is back" in told


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, HASTE, panes=STUBBORN)
    supervisor.start()
    log = tmp_path / "logs" / "panes.log"
    until(supervisor, lambda _: "here" in log.read_text())
    pid = supervisor.states()[0].pid
    assert pid is not None
    supervisor.stop()
    assert not psutil.pid_exists(pid)


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from kedge_services.local.supervisor import Supervisor
from kedge_services.runtime.settings import Settings
supervisor = Supervisor(Settings(), ["panes"], Path({str(tmp_path)!r}),
                        command=lambda _: [sys.executable, "-c", {STUBBORN!r}])
supervisor.start()
while "here" not in Path({str(tmp_path)!r}, "panes.log").read_text(): time.sleep(.02)
print(supervisor.states()[0].pid, flush=True); sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    child.wait(10)


def test_settings_travel_through_the_environment_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        kafka=KafkaSettings(
            bootstrap_servers="a:1,b:2", properties={"linger.ms": 3, "ssl.ca.location": "x y"}
        ),
        prefix="other.",
        request_partitions=3,
        state_dir=tmp_path,
        log_format="json",
    )
    for name, value in settings_env(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_every_service_of_the_catalogue_is_a_package() -> None:
    root = Path(__file__).parents[2] / "services" / "kedge_services"
    assert all((root / name / "__init__.py").is_file() for name in SERVICES)


def test_an_unknown_service_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"no service 'zzz'; known: .*panes"):
        run("zzz", Settings(), threading.Event())
