"""The supervisor: restarts, gives up with a sentence, leaves nobody behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from kedge.errors import UsageError
from kedge_services.local.catalogue import SERVICES, run, settings_env
from kedge_services.local.supervisor import Patience, ServiceState, Supervisor
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
BROKEN = "import sys; print('starting'); sys.exit('kedge: the topic windows is missing')"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('here', flush=True); time.sleep(600)"
)


HASTE = Patience(first_pause_s=0.01, stop_timeout_s=0.2)


def supervise(tmp_path: Path, patience: Patience, **programs: str) -> Supervisor:
    def command(name: str) -> Sequence[str]:
        return [sys.executable, "-c", programs[name]]

    return Supervisor(
        Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1")),
        list(programs),
        tmp_path / "logs",
        command=command,
        patience=patience,
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
    with pytest.raises(UsageError, match=r"no service 'pane'; there are .*panes"):
        run("pane", Settings(), threading.Event())
