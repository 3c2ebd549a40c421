"""The cases on a real Kafka with next to no records: what they check, and that they check it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kedge_services.local.bench.cases import Bench, Case, run_case
from kedge_services.local.bench.catalogue import catalogue
from kedge_services.local.bench.child import Child, Stopwatch
from kedge_services.local.bench.figures import CaseResult
from kedge_services.local.bench.ground import Ground
from kedge_services.local.bench.panes import panes_bench
from kedge_services.local.bench.sizes import TINY
from kedge_services.local.bench.workload import Shape
from kedge_services.local.broker import LocalBroker
from kedge_services.runtime.settings import KafkaSettings, Settings

pytestmark = pytest.mark.kafka

CASES = {case.name: case for case in catalogue(TINY, 1)}
#: The others take longer, with as little to do as they may have.
SHORT = ("panes-labelled", "windows")


@pytest.fixture
def ground(kafka: LocalBroker, tmp_path: Path) -> Ground:
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap_servers), request_partitions=2
    )
    return Ground(settings, tmp_path, kafka.pid)


def results(case: Case, ground: Ground, *, runs: int = 1) -> dict[str, CaseResult]:
    told: list[str] = []
    found = {r.name: r for r in run_case(case, ground, runs=runs, tell=told.append)}
    assert told[0] == f"{case.name}: filling the topics"
    return found


@pytest.mark.parametrize("name", SHORT)
def test_a_case_runs_and_its_results_are_right(ground: Ground, name: str) -> None:
    found = results(CASES[name], ground)[name]
    assert found.problems == ()
    assert found.figures["rate_per_cpu_s"] > 0
    assert found.figures["peak_rss_mb"] > 20


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(CASES) - set(SHORT)))
def test_every_case_runs_and_its_results_are_right(ground: Ground, name: str) -> None:
    found = results(CASES[name], ground, runs=2)
    assert [result.problems for result in found.values()] == [()] * len(found)
    if name != "scale-out":  # the first process is through before the last is ready
        assert all(result.figures["rate_wall"] > 0 for result in found.values())
    if name == "panes-json":
        assert found[name].figures["ratio_to_limit_per_cpu"] > 0
        assert found["limit"].runs == found[name].runs == 2


def test_a_wrong_count_is_a_failure(ground: Ground) -> None:
    with panes_bench(ground, "wrong", Shape(distinct=50), 300, 1) as bench:
        assert bench.limit().problems == ()
        bench.records += 1
        problems = bench.measure().problems
    assert problems == (
        "fates of predictions: counted is 300, must be 301",
        "rows of panes: drift is 300, must be 301",
    )


def test_a_service_that_stops_is_a_failure(ground: Ground) -> None:
    @contextmanager
    def nobody(ground: Ground) -> Iterator[Bench]:
        child = Child(ground.settings, "nobody", ground.work_dir)
        with child, panes_bench(ground, "none", Shape(distinct=50), 10, 1) as bench:
            Stopwatch(child).start()
            yield bench

    found = results(Case("none", "nothing", "records", nobody), ground)["none"]
    assert len(found.problems) == 1
    assert found.problems[0].startswith("nobody stopped in the middle: ")
    assert "there is no service 'nobody'" in found.problems[0]
