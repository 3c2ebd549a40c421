"""All services on one broker in memory, step by step, with processes that may die."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kedge.topics import CHANGELOGS, TOPICS, model_partition, request_partition
from kedge_services.alerts.service import make as make_alerts
from kedge_services.local.recount.plain import Record as PlainRecord
from kedge_services.panes.service import make as make_panes
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import Crash, ManualClock, MemoryBroker, Step
from kedge_services.runtime.metrics import Metrics
from kedge_services.runtime.ports import Service
from kedge_services.runtime.settings import Settings, TimeSettings
from kedge_services.triggers.service import make as make_triggers
from kedge_services.windows.service import make as make_windows

MAKERS: dict[str, Callable[[Settings], Service]] = {
    "registry": make_registry,
    "panes": make_panes,
    "windows": make_windows,
    "alerts": make_alerts,
    "triggers": make_triggers,
}


OF_THE_MOMENT = ("revision", "labelled_total")


@dataclass(frozen=True)
class Lists:
    """Topics as plain lists, for the recount."""

    records: dict[str, list[PlainRecord]]
    sizes: dict[str, int]

    def partitions(self, topic: str) -> int:
        return self.sizes[topic]

    def read(self, topic: str) -> list[PlainRecord]:
        return self.records[topic]


class World:
    """A cluster with ``requests`` and ``models`` partitions and one process of each service."""

    def __init__(self, settings: Settings, *, start_ms: int) -> None:
        self.settings = settings.model_copy(
            update={"time": TimeSettings(idle_after_ms=5_000, revise_interval_ms=500)}
        )
        self.clock = ManualClock(start_ms)
        sizes = {"requests": settings.request_partitions, "models": settings.model_partitions}
        tables = {**TOPICS, **{topic.name: topic for topic in CHANGELOGS.values()}}
        self.broker = MemoryBroker(
            self.clock, {name: topic.partitions(**sizes) for name, topic in tables.items()}
        )
        self._loops: dict[str, Loop] = {}
        self.crashes: list[str] = []
        self.loses_disk = False
        self.metrics = {name: Metrics(name) for name in MAKERS}

    def crash(self, step: Step, after: int) -> None:
        """Let whoever makes the producer call of this kind next but ``after`` die in it."""
        self.broker.inject(step, Crash(f"{step}+{after}"), after=after)

    def send(self, topic: str, key: str, event: dict[str, Any], *, append_ms: int) -> None:
        by_model = TOPICS[topic].partitioned_by == "model"
        place, partitions = (
            (model_partition, self.settings.model_partitions)
            if by_model
            else (request_partition, self.settings.request_partitions)
        )
        name = str(event["model"]) if by_model else key
        self.broker.append(
            topic, key.encode(), json.dumps(event).encode(),
            partition=place(name, partitions), timestamp_ms=append_ms,
        )  # fmt: skip

    def run(self, rounds: int, *, advance_ms: int = 600) -> None:
        """Give each service so many turns; time goes on by ``advance_ms`` a round."""
        for _ in range(rounds):
            for name in MAKERS:
                self._turn(name)
            self.clock.advance(advance_ms)

    def _turn(self, name: str) -> None:
        loop = self._loops.get(name)
        if loop is None:
            service = MAKERS[name](self.settings)
            loop = Loop(service, self.broker, self.settings, self.clock, self.metrics[name])
            self._loops[name] = loop
        try:
            for _ in range(3):
                loop.step()
        except Crash as crash:
            # The next turn starts it anew.  Closing commits nothing: it only gives
            # back the lock of the store, as the kernel does for a process that died.
            self.crashes.append(f"{name} at {crash}")
            self._loops.pop(name).close()
            if self.loses_disk and name == "panes":
                shutil.rmtree(self.settings.state_dir, ignore_errors=True)

    def close(self) -> None:
        for loop in self._loops.values():
            loop.close()

    # ------------------------------------------------------------- what came out

    def events(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(r.value) for r in self.broker.records(topic) if r.value is not None]

    def examples(self) -> dict[str, dict[str, Any]]:
        """Give every example at its highest revision (the last one of it)."""
        best: dict[str, dict[str, Any]] = {}
        for event in self.events("examples"):
            known = best.get(event["prediction_id"])
            if known is None or event["revision"] >= known["revision"]:
                best[event["prediction_id"]] = event
        return best

    def final_windows(self) -> dict[str, dict[str, Any]]:
        """Give every final window at its highest revision.

        Without its number, and without how many labels the model had when it was sent.
        """
        best: dict[str, dict[str, Any]] = {}
        for event in self.events("windows"):
            known = best.get(event["window_id"])
            if known is None or event["revision"] >= known["revision"]:
                best[event["window_id"]] = event
        keep = {k: v for k, v in best.items() if v.get("is_final")}
        return {k: {n: x for n, x in v.items() if n not in OF_THE_MOMENT} for k, v in keep.items()}

    def log(self) -> Lists:
        """Give the topics as the recount reads them."""
        return Lists(
            {
                topic: [
                    PlainRecord(topic, r.partition, r.offset, r.timestamp_ms, r.key, r.value,
                                tuple(r.headers))
                    for r in self.broker.records(topic)
                ]
                for topic in TOPICS
            },
            {name: topic.partitions(requests=self.settings.request_partitions,
                                    models=self.settings.model_partitions)
             for name, topic in TOPICS.items()},
        )  # fmt: skip

    def fates(self) -> dict[str, dict[str, int]]:
        """Sum up the last Progress of every source partition."""
        last: dict[int, dict[str, Any]] = {}
        for event in self.events("panes"):
            if event["type"] == "progress":
                known = last.get(event["partition"])
                if known is None or event["sequence"] >= known["sequence"]:
                    last[event["partition"]] = event
        total: dict[str, dict[str, int]] = {}
        for event in last.values():
            for topic, fates in event["fates"].items():
                for fate, count in fates.items():
                    sums = total.setdefault(topic, {})
                    sums[fate] = sums.get(fate, 0) + count
        return {
            topic: {fate: n for fate, n in sorted(total[topic].items()) if n}
            for topic in ("predictions", "outcomes")
        }
