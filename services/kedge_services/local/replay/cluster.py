"""All services on one broker in memory, drained until nothing moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from kedge.codec import encode
from kedge.monitor import Monitor
from kedge.panes import ModelClock, Progress
from kedge.topics import CHANGELOGS, TOPICS, model_partition
from kedge_services.alerts.service import make as make_alerts
from kedge_services.core.partitioning import key_partitions
from kedge_services.panes.service import make as make_panes
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.ports import Record, Service, TopicPartition
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.stores import MemoryStore
from kedge_services.serving.service import make as make_serving
from kedge_services.trainer.jobs import Inline, Job
from kedge_services.trainer.plan import Plan
from kedge_services.trainer.service import trainer
from kedge_services.trainer.work import carry_out, farthest
from kedge_services.triggers.service import make as make_triggers
from kedge_services.windows.service import make as make_windows

__all__ = ["Cluster"]


_decode = msgspec.json.Decoder(dict[str, Any]).decode
#: Turns a service takes at once; a service needs a few to join its group.
_TURNS = 4
#: More records than there are.
_ALL = 1 << 62
#: Rounds after which services that still move are taken to go round in circles.
_ROUNDS = 1_000


class _Timed:
    """A training whose result is there when its time has passed."""

    def __init__(self, job: Job, clock: ManualClock, until_ms: int) -> None:
        self._job, self._clock, self._until_ms = job, clock, until_ms

    def poll(self) -> Any:
        """Give the result once it is due."""
        return self._job.poll() if self._clock() >= self._until_ms else None

    def close(self) -> None:
        """Give up the training."""
        self._job.close()


class Cluster:
    """A broker in memory with one process of every service that takes part.

    Parameters
    ----------
    settings
        Numbers of partitions, times, and where artefacts are kept.
    monitor
        The one model there is.
    start_ms
        Where the clock begins.
    closed_loop
        Serve and train here, too.
    training_ms
        Event time a training takes.
    """

    def __init__(
        self,
        settings: Settings,
        monitor: Monitor,
        *,
        start_ms: int,
        closed_loop: bool,
        training_ms: int,
    ) -> None:
        self.settings, self.monitor = settings, monitor
        self.clock = ManualClock(start_ms)
        sizes = {"requests": settings.request_partitions, "models": settings.model_partitions}
        tables = {**TOPICS, **{topic.name: topic for topic in CHANGELOGS.values()}}
        self.broker = MemoryBroker(
            self.clock, {name: topic.partitions(**sizes) for name, topic in tables.items()}
        )
        self.artefacts = ArtefactStore(settings.artefacts)
        self._training_ms = training_ms
        # A trainer that has committed its plan starts, and sees the end, in two
        # turns that send nothing.
        self._silent_turns = 2 if closed_loop else 0
        #: When the trainings under way end.
        self.ends_ms: list[int] = []
        stores: dict[int, MemoryStore] = {}
        services = [
            make_registry(settings),
            make_panes(settings, lambda partition: stores.setdefault(partition, MemoryStore())),
            make_windows(settings),
            make_alerts(settings),
            make_triggers(settings),
        ]
        if closed_loop:
            services.insert(1, make_serving(settings))
            services.append(trainer(self.broker, self._launch))
        self._loops = {service.name: self._loop(service) for service in services}
        # Tables are read whole, by whoever needs them next.
        lasting = {table.topic for service in services for table in service.tables}
        self._keeps_examples = closed_loop
        self._places = [
            TopicPartition(name, partition)
            for name in tables
            for partition in range(self.broker.partitions(name))
        ]
        self._passing = [place for place in self._places if place.topic not in lasting]
        #: Up to where :meth:`take` has given what a partition has.
        self._taken: dict[TopicPartition, int] = {}
        self._progress: dict[bytes, bytes] = {}

    def __enter__(self) -> Self:
        """Give the cluster."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all services."""
        for loop in self._loops.values():
            loop.close()

    # ------------------------------------------------------------------- input

    def send_by_model(self, topic: str, key: str, value: bytes) -> None:
        """Append what is partitioned by model, at the present time."""
        partition = model_partition(self.monitor.model, self.settings.model_partitions)
        self.broker.append(topic, key.encode(), value, partition=partition)

    def send_by_request(
        self, topic: str, names: Sequence[str], values: Sequence[bytes], times_ms: Sequence[int]
    ) -> None:
        """Append what is partitioned by request: columns of ids, events and arrival times."""
        keys = [name.encode() for name in names]
        count = self.settings.request_partitions
        if count == 1:
            self.broker.append_many(topic, 0, keys, values, times_ms)
            return
        places = key_partitions(keys, count).tolist()
        for partition in range(count):
            mine = [i for i, place in enumerate(places) if place == partition]
            self.broker.append_many(
                topic,
                partition,
                [keys[i] for i in mine],
                [values[i] for i in mine],
                [times_ms[i] for i in mine],
            )

    def step(self, service: str) -> None:
        """Let one service read what is there."""
        self._loops[service].step()

    def run(self, *, only: Sequence[str] | None = None) -> None:
        """Let the services work until there is nothing left to do at this time."""
        loops = [loop for name, loop in self._loops.items() if only is None or name in only]
        quiet = 0
        for _ in range(_ROUNDS):
            before = self._appended
            for loop in loops:
                for _ in range(_TURNS):
                    if not loop.step():
                        break
                loop.commit()
            is_quiet = self._appended == before and all(loop.is_ready for loop in loops)
            quiet = quiet + 1 if is_quiet else 0
            if quiet > self._silent_turns:
                return
        raise RuntimeError("the services of a replay never come to rest")

    def forget(self) -> None:
        """Free what all services have read that read it, and nobody will read again.

        A trainer reads examples back from their end, so far and no farther.
        """
        for record in self.take("panes"):
            if record.key is not None and record.key.startswith(b"progress/"):
                self._progress[record.key] = record.value or b""
        for place in self._passing:
            log = self.broker.log(place)
            if place.topic == "examples" and self._keeps_examples:
                kept = farthest(self.settings.request_partitions)
                # Not for every single one: what is behind it has to move up.
                if log.end - log.start > 2 * kept:
                    log.delete_before(log.end - kept)
            elif log.start < log.end:
                read = self.broker.read_by_all(place)
                log.delete_before(log.stable if read is None else read)

    def finish(self, *, predictions_ms: int, outcomes_ms: int) -> None:
        """Say that nothing more will come: the watermarks move past everything.

        A last Progress of every source partition says so; what is decided then
        is decided by windows and alerts alone.
        """
        model = self.monitor.model
        self.forget()
        newest = [Progress.model_validate_json(value) for value in self._progress.values()]
        for last in sorted(newest, key=lambda progress: progress.partition):
            ended = last.model_copy(
                update={
                    "sequence": last.sequence + 1,
                    "predictions": {model: ModelClock(max_ms=predictions_ms, seen_ms=self.clock())},
                    "outcomes": {model: ModelClock(max_ms=outcomes_ms, seen_ms=self.clock())},
                }
            )
            self.send_by_model("panes", f"progress/{last.partition}", encode(ended))
        self.run(only=("windows", "alerts"))
        self.clock.advance(self.settings.time.revise_interval_ms)
        self.run(only=("windows", "alerts"))

    # ------------------------------------------------------------------ output

    def take(self, topic: str) -> Iterator[Record]:
        """Give what a topic has got since it was last taken, by partition and offset."""
        for partition in range(self.broker.partitions(topic)):
            place = TopicPartition(topic, partition)
            batch, self._taken[place] = self.broker.log(place).read(self._taken.get(place, 0), _ALL)
            if batch is not None:
                yield from batch.records()

    def events(self, topic: str) -> Iterator[dict[str, Any]]:
        """Give the events of a topic that are new, like :meth:`take`."""
        return (_decode(record.value) for record in self.take(topic) if record.value is not None)

    # ------------------------------------------------------------------ pieces

    @property
    def _appended(self) -> int:
        """Count everything that was ever appended, transaction markers included."""
        return sum(self.broker.log(place).end for place in self._places)

    def _loop(self, service: Service) -> Loop:
        return Loop(service, self.broker, self.settings, self.clock)

    def _launch(self, plan: Plan) -> Job:
        allow = self.settings.trainer.allow
        job = Inline(plan, lambda plan: carry_out(plan, self.broker, self.artefacts, allow=allow))
        if not self._training_ms:
            return job
        until_ms = self.clock() + self._training_ms
        self.ends_ms.append(until_ms)
        return _Timed(job, self.clock, until_ms)
