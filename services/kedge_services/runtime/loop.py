"""The one loop that consumes, lets tasks process, and commits in a transaction.

Everything between two commits lives in the tasks' memory: the transaction is
opened only when its whole content is known, and it holds outputs, changelog
and input offsets of all tasks of the process.  What makes it fail drops that
memory; the tasks are made anew, restored, and go on from what is committed.
So nothing that happens to a process or to its broker shows in the output.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Sequence

import structlog

from kedge.errors import KedgeError, Misconfigured, Stop
from kedge.topics import CHANGELOGS, TOPICS
from kedge_services.runtime import metrics as m
from kedge_services.runtime.committing import Committer
from kedge_services.runtime.ports import (
    Backend,
    Batch,
    Clock,
    Consumer,
    Producer,
    Service,
    TaskContext,
    TopicPartition,
    TransactionAborted,
)
from kedge_services.runtime.reading import TableReader
from kedge_services.runtime.restore import Restorer, Slot
from kedge_services.runtime.settings import Settings

__all__ = ["Loop"]

#: How long a poll gathers records, at least and at most; low where an answer is waited for.
POLL_S = 0.1
LONGEST_POLL_S = 0.5
QUICK_POLL_S = 0.01
#: Who is behind commits after half the age of what it reads, at most so many times as
#: seldom: a commit costs its share for every pane, be there few rows or many.
SELDOMER = 4
#: Records taken at a time where each of them makes many times as much.
PART_RECORDS = 2_000

_log = structlog.get_logger(__name__)


class Loop:
    """Runs one service; single-threaded, and drivable step by step.

    Parameters
    ----------
    service
        What to run.
    backend
        Kafka, or the broker in memory.
    settings
        ``loop``, ``ordinal`` and the numbers of partitions are used.
    clock
        Processing time in ms, for commits and for the tasks.
    metrics
        Where to count; by default a registry that nobody sees.
    """

    def __init__(
        self,
        service: Service,
        backend: Backend,
        settings: Settings,
        clock: Clock,
        metrics: m.Metrics | None = None,
    ) -> None:
        self._service = service
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._metrics = metrics or m.Metrics(service.name)
        self._name = f"{service.name}-{settings.ordinal}"
        self._changelog = f"{service.name}-changelog"
        self._committer = Committer(service, backend, settings.loop, self._metrics)
        self._tables: TableReader | None = None
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._restorer: Restorer | None = None
        self._slots: dict[int, Slot] = {}
        self._paused: set[TopicPartition] = set()
        self._counts: Counter[int] = Counter()
        #: Records handed to tasks that are not in the metrics yet, by topic.
        self._consumed: Counter[str] = Counter()
        self._shown_tasks = (0, 0)
        self._committed_ms = clock()
        #: Of the newest record of the last poll; 0 when there was none.
        self._age_ms = 0
        self._is_assigned = False
        #: Monotonic time of the last step, for the health check.
        self.stepped_s = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Whether the tables are read, all tasks restored and few records put aside."""
        return (
            self._is_assigned
            # Asked from other threads, too: a list is made in one piece.
            and all(slot.state == "running" for slot in list(self._slots.values()))
            and not self._committer.limit.exceeded()
        )

    @property
    def running(self) -> list[int]:
        """The partitions whose tasks take new records."""
        return sorted(p for p, slot in self._slots.items() if slot.state == "running")

    # ------------------------------------------------------------------ driving

    def run(self, stop: threading.Event) -> None:
        """Go on until ``stop`` is set, commit and leave.

        Raises
        ------
        KedgeError
            Going on is impossible; the open transaction has been aborted.
        """
        try:
            while not stop.is_set():
                self.step(self._gather_s())
            self.commit()
        except BaseException:
            if self._producer is not None:
                # The reason why we stop counts, not that a broker is gone, too.
                with contextlib.suppress(KedgeError):
                    self._producer.abort()
            raise
        finally:
            self.close()

    def step(self, timeout_s: float = 0.0) -> int:
        """Make one round; give the number of records handed to tasks."""
        self.stepped_s = time.monotonic()
        if self._tables is None:
            self._check_topics()
            self._tables = TableReader(self._backend, self._service.tables)
        if self._consumer is None or self._restorer is None:
            self._tables.poll(timeout_s)
            if self._tables.is_read:
                self._join()
            return 0
        self._tables.poll(0.0)
        is_restoring = self._restorer.is_busy
        most = self._settings.loop.poll_records
        batches = self._consumer.poll(
            min(most, PART_RECORDS) if self._service.sends_in_parts else most,
            0.0 if is_restoring or self._is_pressed() else timeout_s,
        )
        count = sum(self._process(batch) for batch in batches)
        now_ms = self._clock()
        self._age_ms = now_ms - max((b.timestamps_ms[-1] for b in batches), default=now_ms)
        if self._restorer.is_busy:
            for slot in self._restorer.step(self._settings.loop.poll_records, timeout_s):
                for topic, offset in slot.next.items():
                    self._consumer.seek(TopicPartition(topic, slot.partition), offset)
        self._tick(self._consumer)
        self._apply_pauses(self._consumer)
        self._show_tasks()
        if self._is_commit_due():
            self.commit()
        return count

    def commit(self) -> bool:
        """Commit what the tasks have; give False when the transaction was aborted."""
        try:
            self._commit()
        except TransactionAborted as error:
            self._abort(error)
            for slot in [s for s in self._slots.values() if s.state == "running"]:
                slot.task.close()
                self._begin(slot.partition)
            if self._consumer is not None:
                self._apply_pauses(self._consumer)
            return False
        return True

    def close(self) -> None:
        """Leave without committing; what is open is aborted."""
        self._release(list(self._slots))
        for resource in (self._restorer, self._consumer, self._tables, self._producer):
            if resource is not None:
                resource.close()

    # ------------------------------------------------------------------- joining

    def _check_topics(self) -> None:
        """Stop where the cluster does not have the partitions it must have."""
        names = [*self._service.inputs, *(table.topic for table in self._service.tables)]
        if self._service.changelog:
            names.append(self._changelog)
        known = {**TOPICS, **{topic.name: topic for topic in CHANGELOGS.values()}}
        found = {name: self._backend.partitions(name) for name in names}
        for name, count in found.items():
            if name in known:
                expected = known[name].partitions(
                    requests=self._settings.request_partitions,
                    models=self._settings.model_partitions,
                )
                if count != expected:
                    raise Misconfigured(
                        f"topic {name} has {count} partitions, the settings say {expected}; the "
                        "number never changes in the life of a cluster"
                    )
        together = [*self._service.inputs, *([self._changelog] if self._service.changelog else [])]
        if len({found[name] for name in together}) > 1:
            counts = ", ".join(f"{name} {found[name]}" for name in together)
            raise Misconfigured(f"{self._service.name} needs as many partitions in each: {counts}")

    def _join(self) -> None:
        # The producer first: it ends what a dead process of this slot left open.
        self._producer = self._backend.producer(self._name)
        self._consumer = self._backend.consumer(group=self._service.name, instance=self._name)
        self._restorer = Restorer(
            self._service,
            self._backend,
            self._consumer,
            self._metrics,
            accept_loss=self._settings.loop.accept_loss,
        )
        self._consumer.subscribe(
            self._service.inputs,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def _on_assign(self, assigned: list[TopicPartition]) -> None:
        by_topic = {
            topic: {partition for name, partition in assigned if name == topic}
            for topic in self._service.inputs
        }
        if len({frozenset(partitions) for partitions in by_topic.values()}) > 1:
            raise Stop(f"the group assigned different partitions of its inputs: {by_topic}")
        self._release(list(self._slots))
        self._paused = set(assigned)
        for partition in sorted({partition for _, partition in assigned}):
            self._begin(partition)
        self._is_assigned = True
        _log.info("partitions assigned", partitions=sorted(self._slots))

    def _on_revoke(self, revoked: list[TopicPartition]) -> None:
        try:
            self._commit()
        except TransactionAborted as error:
            self._abort(error)
        self._release([partition for _, partition in revoked])

    def _on_lost(self, lost: list[TopicPartition]) -> None:
        _log.warning("partitions lost", partitions=sorted({partition for _, partition in lost}))
        self._release([partition for _, partition in lost])

    def _begin(self, partition: int) -> None:
        """Make a task and have it restored; it gets no records before."""
        if self._restorer is None or self._tables is None:
            raise RuntimeError("the loop has not joined its group")
        context = TaskContext(
            partition, self._clock, self._tables.refresh, self._backend.partitions
        )
        places = {topic: TopicPartition(topic, partition) for topic in self._service.inputs}
        slot = Slot(partition, self._service.make_task(context), places)
        self._slots[partition] = slot
        self._counts.pop(partition, None)
        self._restorer.add(slot)

    def _release(self, partitions: Sequence[int]) -> None:
        for partition in dict.fromkeys(partitions):
            slot = self._slots.pop(partition, None)
            if slot is not None:
                slot.task.close()
                self._counts.pop(partition, None)
                self._committer.limit.forget(partition)
                for topic in self._service.inputs:
                    for gauge in (m.LAG, m.LAG_SECONDS):
                        self._metrics.forget(gauge, topic=topic, partition=str(partition))
                if self._restorer is not None:
                    self._restorer.drop(slot)
            self._paused = {p for p in self._paused if p.partition != partition}

    # ---------------------------------------------------------------- processing

    def _process(self, batch: Batch) -> int:
        slot = self._slots.get(batch.partition)
        if slot is None or slot.state != "running":
            return 0  # given up in this very poll; its next owner reads them
        if batch.offsets[0] < slot.next[batch.topic]:
            raise Stop(
                f"{batch.topic}/{batch.partition} went back from {slot.next[batch.topic]} to "
                f"{batch.offsets[0]}"
            )
        try:
            slot.task.process(batch)
        except Exception as error:
            # The last line of the traceback: by it a supervisor knows a stop at the same place.
            committed = slot.committed.get(batch.topic)
            offset = committed.offset if committed else batch.offsets[0]
            error.add_note(f"processing {batch.topic}/{batch.partition} from offset {offset}")
            raise
        slot.next[batch.topic] = batch.offsets[-1] + 1
        slot.read_ms[batch.topic] = batch.timestamps_ms[-1]
        self._counts[batch.partition] += len(batch)
        self._consumed[batch.topic] += len(batch)
        return len(batch)

    def _show_tasks(self) -> None:
        """Show how many tasks are running, where that has changed."""
        running = sum(slot.state == "running" for slot in self._slots.values())
        if (shown := (running, len(self._slots) - running)) != self._shown_tasks:
            self._shown_tasks = shown
            for count, state in zip(shown, ("running", "restoring"), strict=True):
                self._metrics.set(m.TASKS, count, state=state)

    def _tick(self, consumer: Consumer) -> None:
        now_ms, at_end = self._clock(), consumer.at_end
        for slot in self._slots.values():
            if slot.state == "running":
                ends = {topic: at_end(place) for topic, place in slot.places.items()}
                slot.task.tick(now_ms, ends)

    def _apply_pauses(self, consumer: Consumer) -> None:
        """Tell the consumer what is wanted where that has changed; we keep the account."""
        wanted: set[TopicPartition] = set()
        for slot in self._slots.values():
            if slot.state != "running":
                wanted.update(slot.places.values())
            elif paused := slot.task.paused():
                wanted.update(slot.places[topic] for topic in paused)
        if wanted == self._paused:
            return
        if more := wanted - self._paused:
            consumer.pause(sorted(more))
        if fewer := self._paused - wanted:
            consumer.resume(sorted(fewer))
        self._paused = wanted

    # ---------------------------------------------------------------- committing

    def _gather_s(self) -> float:
        """Give how long the next poll may wait for records.

        What is read before a commit leaves with it, be it read early or late; read at
        once it is fewer and larger batches, and each of them costs its share once.
        """
        if "requests" in self._service.inputs:
            return QUICK_POLL_S
        left_ms = self._interval_ms() - (self._clock() - self._committed_ms)
        return min(max(left_ms / 1_000, POLL_S), LONGEST_POLL_S)

    def _interval_ms(self) -> int:
        """Give how long after a commit the next is due, while records come."""
        usual_ms = self._settings.loop.commit_interval_ms
        own_ms = min(self._service.commit_interval_ms or usual_ms, usual_ms)
        if self._service.sends_in_parts or "requests" in self._service.inputs:
            return own_ms
        return max(own_ms, min(self._age_ms // 2, SELDOMER * usual_ms))

    def _is_pressed(self) -> bool:
        """Say whether a task goes on with its work only when this part of it is committed."""
        return self._service.sends_in_parts and any(
            slot.state == "running" and slot.task.paused() for slot in self._slots.values()
        )

    def _is_commit_due(self) -> bool:
        loop, count = self._settings.loop, self._counts.total()
        if count >= loop.commit_records or self._is_pressed():
            return True
        interval_ms = self._interval_ms() if count else loop.idle_commit_interval_ms
        # A wall clock that was set back must not hold commits up.
        return not 0 <= self._clock() - self._committed_ms < interval_ms

    def _commit(self) -> None:
        self._committed_ms = self._clock()
        if self._producer is None or self._consumer is None:
            return
        running = [slot for slot in self._slots.values() if slot.state == "running"]
        for topic, count in self._consumed.items():
            self._metrics.add(m.CONSUMED, count, topic=topic)
        self._consumed.clear()
        self._committer.commit(running, self._counts, self._producer, self._consumer)
        self._counts.clear()
        self._committer.show_lag(running, self._consumer, self._committed_ms)

    def _abort(self, error: TransactionAborted) -> None:
        _log.warning("transaction aborted", because=str(error))
        self._metrics.add(m.ABORTS)
        if self._producer is not None:
            self._producer.abort()
