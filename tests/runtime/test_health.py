from __future__ import annotations

import json
import re
import socket

import httpx
import pytest
import structlog

from kedge.errors import UsageError
from kedge_services.runtime import metrics as m
from kedge_services.runtime.health import HealthServer, health_app
from kedge_services.runtime.logs import configure_logs
from kedge_services.runtime.metrics import CATALOGUE, Metrics
from kedge_services.runtime.settings import Settings


def test_the_pages_say_what_is_so() -> None:
    metrics = Metrics("panes")
    metrics.add(m.CONSUMED, 3, topic="predictions")
    is_well = True
    app = health_app(metrics, is_alive=lambda: is_well, is_ready=lambda: is_well)
    with HealthServer(app, host="127.0.0.1", port=0) as server:
        client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}")
        assert client.get("/healthz").text == client.get("/readyz").text == "ok\n"
        shown = 'kedge_consumed_records_total{service="panes",topic="predictions"} 3.0'
        assert shown in client.get("/metrics").text
        assert client.get("/nothing").status_code == 404
        assert client.post("/metrics").status_code == 405
        is_well = False
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 503


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        app = health_app(Metrics("x"), is_alive=lambda: True, is_ready=lambda: True)
        with pytest.raises(UsageError, match=f"port {port} on 127.0.0.1"):
            HealthServer(app, host="127.0.0.1", port=port)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_metrics_are_named_by_the_rule_and_explained(metric: m.Metric) -> None:
    assert re.fullmatch(r"kedge(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.meaning.endswith(".")


def test_every_metric_is_in_the_catalogue() -> None:
    declared = [value for value in vars(m).values() if isinstance(value, m.Metric)]
    assert sorted(metric.name for metric in declared) == sorted(c.name for c in CATALOGUE)


def test_what_is_not_ours_any_more_is_not_shown() -> None:
    metrics = Metrics("panes")
    metrics.set(m.LAG, 5, topic="outcomes", partition="1")
    metrics.forget(m.LAG, topic="outcomes", partition="1")
    metrics.forget(m.LAG, topic="outcomes", partition="2")
    assert b"kedge_lag_records{" not in metrics.render()


def test_logs_are_json_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        configure_logs(Settings(log_format="json", log_level="warning"), "panes")
        structlog.get_logger().info("not shown")
        structlog.get_logger().warning("shown", partition=3)
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    out, err = capsys.readouterr()
    line = json.loads(err)
    assert out == ""
    assert (line["event"], line["partition"], line["service"]) == ("shown", 3, "panes")


def test_a_wrong_log_level_is_named() -> None:
    with pytest.raises(UsageError, match="loud"):
        configure_logs(Settings(log_level="loud"))
