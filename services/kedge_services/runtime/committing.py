"""One transaction: outputs, changelog and input offsets of all tasks of a process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from kedge_services.runtime import metrics as m
from kedge_services.runtime.dead_letters import TOPIC, DeadLetterLimit, reason_of
from kedge_services.runtime.ports import (
    Backend,
    Commit,
    Consumer,
    Position,
    Produce,
    Producer,
    Service,
    TopicPartition,
)
from kedge_services.runtime.restore import Slot
from kedge_services.runtime.settings import LoopSettings

__all__ = ["METADATA_BYTES", "Committer"]

#: Kafka refuses metadata from 4,096 bytes on and aborts the transaction.
METADATA_BYTES = 4_000

_topic = attrgetter("topic")


class _Work(NamedTuple):
    """A slot, what its task wants, where its inputs then stand, and why it put records aside."""

    slot: Slot
    commit: Commit
    target: dict[str, Position]
    reasons: list[str]


class Committer:
    """Commits what the tasks want committed, and counts it.

    Parameters
    ----------
    service
        Its name gives the name of the changelog.
    backend
        Asked for the number of partitions of dead-letters.
    settings
        The limit of dead letters.
    metrics
        Where to count.
    """

    def __init__(
        self, service: Service, backend: Backend, settings: LoopSettings, metrics: m.Metrics
    ) -> None:
        self._changelog = f"{service.name}-changelog"
        self._backend = backend
        self._metrics = metrics
        self.limit = DeadLetterLimit(settings.dead_letter_ratio, settings.dead_letter_minimum)

    def commit(
        self,
        slots: Sequence[Slot],
        counts: Mapping[int, int],
        producer: Producer,
        consumer: Consumer,
    ) -> None:
        """Commit these running slots in one transaction, if there is anything to commit.

        Parameters
        ----------
        slots
            Slots whose tasks are running.
        counts
            Records read since the last commit, by partition.
        producer, consumer
            Of this process; the consumer says who we are in the group.

        Raises
        ------
        TransactionAborted
            Nothing was committed, or nobody knows: restore the tasks.
        Stop
            Too many of the first records cannot be processed.
        """
        work = [
            _Work(s, commit := s.task.commit(), _target(s, commit), _reasons(commit.outputs))
            for s in slots
        ]
        changed = [
            w
            for w in work
            if w.commit.outputs or w.commit.changelog or w.target != w.slot.committed
        ]
        if changed:
            for slot, commit, _, reasons in changed:
                records = max(counts.get(slot.partition, 0), _judged(commit))
                self.limit.count(slot.partition, records, reasons)
            started = time.perf_counter()
            produced = self._produced(changed)
            self._transact(changed, producer, consumer)
            self._metrics.observe(m.COMMIT_SECONDS, time.perf_counter() - started)
            self._count(changed, produced)
        for slot, _, target, _ in work:
            slot.committed = target
            slot.task.committed()

    def show_lag(self, slots: Sequence[Slot], consumer: Consumer, now_ms: int) -> None:
        """Show how far behind these running slots are, in offsets and in time."""
        for slot in slots:
            labels = {"partition": str(slot.partition)}
            for topic, place in slot.places.items():
                lag = consumer.lag(place)
                late_ms = now_ms - slot.read_ms.get(topic, now_ms) if lag else 0
                self._metrics.set(m.LAG, lag, topic=topic, **labels)
                self._metrics.set(m.LAG_SECONDS, max(0, late_ms) / 1_000, topic=topic, **labels)

    def _transact(self, changed: Sequence[_Work], producer: Producer, consumer: Consumer) -> None:
        produce = producer.produce
        offsets = {}
        producer.begin()
        for slot, commit, target, reasons in changed:
            for output in map(self._placed, commit.outputs) if reasons else commit.outputs:
                produce(output)
            for key, value in commit.changelog:
                produce(Produce(self._changelog, key, value, slot.partition))
            # What is handed over is in the producer's memory; it need not be in ours, too.
            commit.outputs, commit.changelog = [], []
            # All inputs of the task, moved or not: these offsets are by what the
            # group fences this transaction, and what the next owner waits for.
            for topic, position in target.items():
                offsets[TopicPartition(topic, slot.partition)] = position
        producer.send_offsets(offsets, consumer.group_metadata())
        producer.commit()

    def _placed(self, output: Produce) -> Produce:
        if output.topic != TOPIC:
            return output
        count = self._backend.partitions(TOPIC)
        return output._replace(partition=(output.partition or 0) % count)

    def _produced(self, changed: Sequence[_Work]) -> Counter[str]:
        """Give the number of records by topic."""
        produced: Counter[str] = Counter()
        for w in changed:
            produced.update(map(_topic, w.commit.outputs))
        produced[self._changelog] += sum(len(w.commit.changelog) for w in changed)
        return produced

    def _count(self, changed: Sequence[_Work], produced: Mapping[str, int]) -> None:
        """Count what is committed now; once a transaction, not once a record."""
        self._metrics.add(m.COMMITS)
        for topic, count in produced.items():
            self._metrics.add(m.PRODUCED, count, topic=topic)
        for reason, count in Counter(reason for w in changed for reason in w.reasons).items():
            self._metrics.add(m.DEAD_LETTERS, count, reason=reason)
        for w in changed:
            for metric, amount, labels in w.commit.counts:
                self._metrics.add(metric, amount, **labels)
        self._metrics.set(m.OVER_LIMIT, len(self.limit.exceeded()))


def _judged(commit: Commit) -> int:
    """Give how many fates were told: more than records, where one holds many predictions."""
    return sum(count.amount for count in commit.counts if count.metric is m.FATES)


def _reasons(outputs: Sequence[Produce]) -> list[str]:
    """Give why records were put aside; mostly none was."""
    if TOPIC not in map(_topic, outputs):
        return []
    return [reason_of(output) for output in outputs if output.topic == TOPIC]


def _target(slot: Slot, commit: Commit) -> dict[str, Position]:
    """Give the positions to commit; metadata a task does not renew stays."""
    target = {}
    for topic, handed in slot.next.items():
        offset = commit.offsets.get(topic, handed)
        if offset > handed:
            raise ValueError(f"{topic}: offset {offset} is beyond what was handed over: {handed}")
        former = slot.committed.get(topic)
        metadata = commit.metadata.get(topic, former.metadata if former else "")
        if len(metadata.encode()) > METADATA_BYTES:
            raise ValueError(f"{topic}: metadata of an offset exceeds {METADATA_BYTES} bytes")
        target[topic] = Position(offset, metadata)
    return target
