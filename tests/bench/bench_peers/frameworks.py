"""Stream frameworks and Kedge on the same events, in turn, on one Kafka.

The work is the least a monitor does: count and mean of one feature in tumbling windows of
10 s of event time, model by model.  The frameworks get a topic keyed by model, so that none
has to send its events round once more to group them; each keeps its defaults.  Kedge gets its
own topics, keyed by request, checks every key and id, and commits in transactions.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench_stats.peers import ENVIRONMENT, SCRIPTS, PeerError, python_of
from kedge.errors import Retry
from kedge.monitor import Monitor
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.ground import Ground
from kedge_services.local.bench.panes import PanesBench
from kedge_services.local.bench.workload import Shape, Workload
from kedge_services.runtime.admin import client_properties

__all__ = ["FRAMEWORKS", "SHAPE", "Framework", "KedgeSide", "kedge_side", "run_framework"]

SHAPE = Shape(features=10, models=4, rate=10_000)
_PARTITIONS = 4
_TIMEOUT_S = 560.0
_AGO_MS = 60_000


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework, and as many events as it works through in about half a minute."""

    name: Literal["faust", "quix", "bytewax"]
    title: str
    records: int
    note: str


FRAMEWORKS = (
    Framework("quix", "Quix Streams", 200_000, "at least once, state in RocksDB, changelog"),
    Framework("faust", "Faust", 12_000, "at least once, state in memory, changelog"),
    Framework("bytewax", "Bytewax", 600_000, "no commits, state in memory, no changelog"),
)


def run_framework(ground: Ground, framework: Framework, *, seed: int, share: float) -> Run:
    """Let a framework work through a topic of its own.

    Parameters
    ----------
    share
        Of the events; less than 1 for a first look.

    Raises
    ------
    PeerError
        It failed, or is not installed; the message says why.
    """
    records = int(framework.records * share) // SHAPE.models * SHAPE.models
    topic = f"peer-{framework.name}-{time.time_ns()}"
    brokers = ground.settings.kafka.bootstrap_servers
    _fill(ground, topic, records, seed)
    command = [
        str(python_of(framework.name)),
        str(SCRIPTS / f"{framework.name}_peer.py"),
        str(brokers),
        topic,
        str(records),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{framework.title} did not end within {_TIMEOUT_S:.0f} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        told = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise PeerError(f"{framework.title}: {told[:200]}")
    answer = json.loads(lines[-1])
    wrong = {what: number for what in ("records", "counted") if (number := answer[what]) != records}
    problems = tuple(f"{what} {number:,} of {records:,}" for what, number in wrong.items())
    return Run(records, answer["wall_s"], answer["cpu_s"], 0.0, problems)


class KedgeSide:
    """Kedge's panes on the same kind of events: one feature watched, or all ten."""

    def __init__(self, bench: PanesBench) -> None:
        self._bench = bench

    def measure(self) -> Run:
        """Run panes until everything is committed."""
        return self._bench.measure()


@contextmanager
def kedge_side(ground: Ground, records: int, *, features: int, seed: int) -> Iterator[KedgeSide]:
    """Set up panes with monitors that declare the first ``features`` of the ten."""
    workload = _Watched(SHAPE, seed, _start_ms(records), features)
    with ground.site(f"same-work-{features}") as site:
        bench = PanesBench(site, workload, records)
        bench.fill()
        yield KedgeSide(bench)


class _Watched(Workload):
    """The same events, of which monitors watch some features."""

    def __init__(self, shape: Shape, seed: int, start_ms: int, watched: int) -> None:
        super().__init__(shape, seed, start_ms)
        self._watched = self.features[:watched]

    def monitors(self) -> list[Monitor]:
        """Declare the models, with some of their features."""
        return [
            monitor.model_copy(
                update={"features": {name: monitor.features[name] for name in self._watched}}
            )
            for monitor in super().monitors()
        ]


def _start_ms(records: int) -> int:
    return time.time_ns() // 1_000_000 - _AGO_MS - int(records * 1_000 / SHAPE.rate)


def _fill(ground: Ground, topic: str, records: int, seed: int) -> None:
    """Write the events keyed by model, in event-time order, with that as the message's time.

    They are not compressed: the client beneath Faust would need more packages to read them.
    """
    properties = {**client_properties(ground.settings.kafka), "log_level": 2}
    config = {"message.timestamp.type": "CreateTime"}
    admin = AdminClient(properties)
    admin.create_topics([NewTopic(topic, _PARTITIONS, 1, config=config)])[topic].result()
    producer = Producer({**properties, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000})
    workload = Workload(SHAPE, seed, _start_ms(records))
    for number, (_, value) in enumerate(workload.predictions(0, records)):
        model = number % SHAPE.models
        producer.produce(
            topic, value, workload.models[model].encode(),
            partition=model % _PARTITIONS, timestamp=workload.time_ms(number),
        )  # fmt: skip
        producer.poll(0)
    if producer.flush(120.0):
        raise Retry("the local Kafka did not take the events")
