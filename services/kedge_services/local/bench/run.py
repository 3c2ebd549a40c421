"""A whole benchmark: a Kafka of its own, the cases asked for, the figures."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from kedge.errors import UsageError
from kedge.monitor_checks import suggestion
from kedge_services.local.bench.cases import LIMIT, Case, Tell, run_case
from kedge_services.local.bench.catalogue import catalogue
from kedge_services.local.bench.child import cpu_seconds
from kedge_services.local.bench.figures import CaseResult
from kedge_services.local.bench.ground import Ground
from kedge_services.local.bench.sizes import Sizes
from kedge_services.local.broker import LocalBroker
from kedge_services.runtime.settings import KafkaSettings, Settings

__all__ = ["Benchmark", "chosen", "local_ground", "machine", "names"]


def names(sizes: Sizes) -> dict[str, str]:
    """Give the names of all cases, and what each is."""
    listed = {LIMIT: "consume and decode alone: what panes-json is held to"}
    return listed | {case.name: case.what for case in catalogue(sizes, 0)}


def chosen(sizes: Sizes, seed: int, only: Sequence[str], *, with_long: bool) -> list[Case]:
    """Give the cases that were asked for by name, else all, or all that are short.

    Raises
    ------
    UsageError
        There is no such case; the message says which may have been meant.
    """
    known = names(sizes)
    for name in only:
        if name not in known:
            raise UsageError(f"there is no case {name!r}; {suggestion(name, list(known))}")
    # The limit is measured beside panes-json, on the same records.
    asked = {"panes-json" if name == LIMIT else name for name in only}
    return [
        case
        for case in catalogue(sizes, seed)
        if (case.name in asked if only else with_long or not case.is_long)
    ]


@dataclass(slots=True)
class Benchmark:
    """What is to be run, and the results so far."""

    sizes: Sizes
    seed: int
    runs: int
    only: Sequence[str]
    with_long: bool = True
    cases: list[Case] = field(init=False)
    results: list[CaseResult] = field(default_factory=list)
    kafka_cpu_s: float = 0.0

    def __post_init__(self) -> None:
        self.cases = chosen(self.sizes, self.seed, self.only, with_long=self.with_long)

    def run(self, tell: Tell, each: Callable[[CaseResult], None]) -> None:
        """Run every case on a Kafka that is started for it and ended after it.

        Raises
        ------
        BrokerUnavailable
            It cannot be started; the message says why.
        """
        only_limit = LIMIT in self.only and "panes-json" not in self.only
        for case in self.cases:
            with local_ground() as ground:
                found = run_case(
                    case, ground, runs=self.runs, tell=tell,
                    only_limit=only_limit and case.name == "panes-json",
                )  # fmt: skip
                self.kafka_cpu_s += cpu_seconds(psutil.Process(ground.kafka_pid))
            for result in found:
                self.results.append(result)
                each(result)

    @property
    def has_failed(self) -> bool:
        """Whether any result is wrong or missing."""
        return any(result.problems for result in self.results)

    def encode(self) -> dict[str, Any]:
        """Give JSON data."""
        return {
            "cases": {result.name: result.encode() for result in self.results},
            "machine": machine() | {"kafka_cpu_s": round(self.kafka_cpu_s, 1)},
            "seed": self.seed,
            "sizes": asdict(self.sizes),
        }


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    return {
        "cpus": psutil.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{
            name.replace("-", "_"): version(name)
            for name in ("confluent-kafka", "msgspec", "numpy", "rocksdict")
        },
        "load_before": round(os.getloadavg()[0], 2),
    }


@contextmanager
def local_ground() -> Iterator[Ground]:
    """Start a Kafka and end it, in a directory that goes with it."""
    with tempfile.TemporaryDirectory(prefix="kedge-bench-") as directory:
        work_dir = Path(directory)
        with LocalBroker(work_dir / "kafka", fresh=True) as broker:
            yield Ground(_ground_settings(broker), work_dir, broker.pid)


def _ground_settings(broker: LocalBroker) -> Settings:
    # Nobody's kedge.toml or variables: the defaults are what is measured.
    defaults: dict[str, Any] = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
    }
    defaults["kafka"] = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    return Settings(**defaults)
