"""What tasks have in common that take records one by one and have no store of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from kedge.errors import DeadLetter
from kedge.topics import model_partition
from kedge_services.runtime.dead_letters import dead_letter
from kedge_services.runtime.ports import Batch, Commit, Position, Produce, Record, TaskContext

__all__ = ["RecordTask"]


class RecordTask(ABC):
    """A :class:`~kedge_services.runtime.ports.Task` whose state lies in the changelog alone.

    Who extends it says what one record does; a record that cannot be processed
    goes to dead-letters.
    """

    service: ClassVar[str]

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._outputs: list[Produce] = []

    @abstractmethod
    def restore(self, batch: Batch) -> None:
        """Take state back."""

    @abstractmethod
    def commit(self) -> Commit:
        """Give what belongs into the transaction."""

    @abstractmethod
    def _one(self, record: Record) -> None:
        """Take one record.

        Raises
        ------
        DeadLetter
            It can never be processed.
        """

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:  # noqa: ARG002
        """Begin; nothing has to be read again."""
        return {}

    def replay(self, batch: Batch) -> None:
        """Take nothing: the state is in the changelog alone."""

    def process(self, batch: Batch) -> None:
        """Take records one by one; put aside what cannot be processed."""
        for record in batch.records():
            self._try(record)

    def _try(self, record: Record) -> None:
        try:
            self._one(record)
        except DeadLetter as error:
            self._put_aside(record, error)

    def _put_aside(self, record: Record, error: DeadLetter) -> None:
        letter = dead_letter(record, error.reason, error.detail, service=self.service)
        self._outputs.append(letter)

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:
        """Do nothing: only records change anything."""

    def paused(self) -> frozenset[str]:
        """Read everything."""
        return frozenset()

    def committed(self) -> None:
        """Do nothing: there is no store beside Kafka."""

    def close(self) -> None:
        """Release nothing."""

    def _take_outputs(self) -> list[Produce]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def _is_mine(self, model: str, topic: str) -> bool:
        """Say whether a model's records of a topic lie in this task's partition."""
        own = model_partition(model, self._context.partitions(topic))
        return own == self._context.partition

    def _require_mine(self, model: str, topic: str) -> None:
        """Refuse a record that lies on another partition than its model's.

        Raises
        ------
        DeadLetter
            ``misrouted``.
        """
        if not self._is_mine(model, topic):
            own = model_partition(model, self._context.partitions(topic))
            raise DeadLetter("misrouted", f"{model} belongs on partition {own}")
