"""docs/executors.md against the code it describes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from kedge.events import RetrainCause
from kedge.monitor import Executor
from kedge.monitor_file import load_monitor
from kedge_services.executors.kinds import KINDS
from kedge_services.executors.offering import offered
from kedge_services.executors.reports import Report, Result, read
from kedge_services.executors.runs import Run, RunFailed, Sources, plan_of, run_key
from kedge_services.runtime.metrics import OPEN_RUNS, RUNS

if TYPE_CHECKING:
    from tests.executors.conftest import World

TEXT = (Path(__file__).parents[2] / "docs" / "executors.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_monitor_is_valid_and_the_payload_is_what_is_sent_for_it(
    world: World, tmp_path: Path
) -> None:
    (toml,) = blocks("toml")
    file = tmp_path / "monitor.toml"
    file.write_text(toml, encoding="utf-8")
    monitor = load_monitor(file)
    payload: dict[str, Any] = json.loads(blocks("json")[0])
    cause = RetrainCause.model_validate(payload["cause"])
    asked = world.request(payload["run_key"], "fraud", "pipeline").model_copy(
        update={
            "base_version": payload["base_version"],
            "cause": cause,
            "since_ms": payload["since_ms"],
            "event_time_ms": payload["event_time_ms"],
        }
    )
    plan = plan_of(
        asked,
        monitor,
        champion=None,
        sources=Sources("kedge.examples", {0: (0, 48211)}),
        now_ms=payload["deadline_ms"] - 3_600_000,
    )
    assert json.loads(plan.payload) == payload
    assert run_key(payload["run_key"]) == payload["run_key"]

    result = json.loads(blocks("json")[2])["result"]
    assert set(result) == set(Result.model_fields)
    report = read(Report, blocks("json")[2].encode())
    assert isinstance(report, Report)
    assert report.result is not None
    run = Run(offset=0, request=asked, plan=plan)
    candidate = offered(run, plan, report.result, plan.sent_ms)
    assert candidate.version == "2026-11-21"
    assert candidate.reference is not None


def test_every_status_is_named() -> None:
    running = read(Report, blocks("json")[1].encode())
    assert isinstance(running, Report)
    for name in get_args(Report.model_fields["status"].annotation):
        assert f"`{name}`" in TEXT


def test_every_kind_that_a_monitor_may_name_is_there_and_documented() -> None:
    assert set(KINDS) == set(get_args(Executor.model_fields["kind"].annotation))
    assert all(f'kind = "{kind}"' in TEXT for kind in KINDS)


def test_metrics_are_named() -> None:
    assert f"`{OPEN_RUNS.name}`" in TEXT
    assert f"`{RUNS.name}`" in TEXT
    assert RunFailed("why", "late").result in TEXT
