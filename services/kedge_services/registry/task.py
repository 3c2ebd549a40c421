"""One partition of the registry: all decisions about its models, in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog

from kedge import Candidate, Command, ModelVersion, Monitor, Pane
from kedge.codec import decode, encode
from kedge.errors import DeadLetter
from kedge.topics import model_partition
from kedge_services.core.admission import Policy
from kedge_services.core.deltas import PairDelta
from kedge_services.core.standing import Standing, Step
from kedge_services.core.succession import count_pairs, decide, obey, offer
from kedge_services.runtime.metrics import DECISIONS
from kedge_services.runtime.ports import (
    Batch,
    Commit,
    Count,
    Position,
    Produce,
    Record,
    TaskContext,
)
from kedge_services.runtime.tasks import RecordTask

__all__ = ["RegistryTask"]

SERVICE = "registry"
_log = structlog.get_logger(__name__)


class _Kind(msgspec.Struct):
    """The two fields that tell a pane from progress, and a pair from the rest."""

    type: str = "pane"
    kind: str = ""


_kind = msgspec.json.Decoder(_Kind).decode


class RegistryTask(RecordTask):
    """Decides on candidates, commands and pairs; see :mod:`kedge_services.core.succession`."""

    service = SERVICE

    def __init__(self, context: TaskContext, monitor_of: Callable[[str], Monitor | None]) -> None:
        super().__init__(context)
        self._monitor_of = monitor_of
        self._standings: dict[str, Standing] = {}
        self._restored: dict[str, dict[str, ModelVersion]] = {}
        self._undecided: set[str] = set()
        self._changed: set[str] = set()
        self._versions: list[tuple[bytes, bytes | None]] = []
        self._counts: list[Count] = []

    # ------------------------------------------------------------------- state

    def restore(self, batch: Batch) -> None:
        """Take state back; a model's versions may come before or after its standing."""
        for record in batch.records():
            kind, _, rest = (record.key or b"").decode().partition("/")
            if kind == "version" and record.value is not None:
                version = decode(ModelVersion, record.value)
                self._restored.setdefault(version.model, {})[version.version] = version
            elif kind == "standing" and record.value is not None:
                self._standings[rest] = Standing.decode(rest, json.loads(record.value), {})

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:  # noqa: ARG002
        """Put the restored pieces together; nothing has to be read again."""
        for model, standing in self._standings.items():
            data, versions = standing.encode(), self._restored.get(model, {})
            self._standings[model] = Standing.decode(model, data, versions)
        self._undecided = set(self._standings)
        self._restored = {}
        return {}

    def commit(self) -> Commit:
        """Give versions and references, and the state of what changed."""
        changelog, self._versions = self._versions, []
        for model in sorted(self._changed):
            state = json.dumps(self._standings[model].encode(), separators=(",", ":"))
            changelog.append((f"standing/{model}".encode(), state.encode()))
        self._changed.clear()
        counts, self._counts = self._counts, []
        return Commit(outputs=self._take_outputs(), changelog=changelog, counts=counts)

    # ----------------------------------------------------------------- records

    def process(self, batch: Batch) -> None:
        """Take candidates, commands or panes."""
        if batch.topic == "panes":
            self._panes(batch)
            return
        super().process(batch)

    def _one(self, record: Record) -> None:
        if record.value is None:
            raise DeadLetter("missing-field", f"a record of {record.topic} without a value")
        at_ms = record.timestamp_ms
        if record.topic == "candidates":
            candidate = decode(Candidate, record.value)
            standing = self._standing(candidate.model, record)
            policy = Policy.of(self._monitor(candidate.model))
            step = offer(standing, candidate, policy, at_ms)
        else:
            command = decode(Command, record.value)
            step = obey(self._standing(command.model, record), command, at_ms)
        self._take(step)
        if step.refused is not None:
            raise DeadLetter(*step.refused)

    def _panes(self, batch: Batch) -> None:
        # Most of panes is of no interest here, and some of it is large: the
        # substrings cost a scan at memory speed, decoding a hundred times that.
        for record in batch.records():
            value = record.value or b""
            if b'"pair"' not in value and b'"progress"' not in value:
                continue
            try:
                found = _kind(value)
                if found.type == "progress":
                    self._decide(record.timestamp_ms)
                elif found.kind == "pair":
                    self._pair(decode(Pane, value))
            except (DeadLetter, msgspec.MsgspecError, LookupError, ValueError) as error:
                self._put_aside(record, DeadLetter("undecodable", f"a pane of pairs: {error}"))

    def _pair(self, pane: Pane) -> None:
        standing = self._standings.get(pane.model)
        if standing is None or pane.segment:
            return
        pairs = PairDelta.decode(pane.counts)
        counted = count_pairs(
            standing,
            version=pane.version,
            champion=pairs.champion,
            differences=pairs.differences,
            start_ms=pane.start_ms,
        )
        if counted is not standing:
            self._standings[pane.model] = counted
            self._changed.add(pane.model)
            self._undecided.add(pane.model)

    def _decide(self, at_ms: int) -> None:
        for model in sorted(self._undecided):
            while (step := decide(self._standings[model], at_ms)).written:
                self._take(step)
        # While a pause holds, the evidence has to be looked at again when it ends.
        self._undecided = {m for m in self._undecided if self._standings[m].paused_until_ms > at_ms}

    # ----------------------------------------------------------------- results

    def _standing(self, model: str, record: Record) -> Standing:
        self._require_mine(model, record.topic)
        return self._standings.get(model) or Standing(model)

    def _monitor(self, model: str) -> Monitor | None:
        if self._monitor_of(model) is None:
            self._context.refresh()
        return self._monitor_of(model)

    def _take(self, step: Step) -> None:
        model = step.standing.model
        if step.note:
            warn = step.happened in ("failed", "refused", "rolled-back")
            (_log.warning if warn else _log.info)(step.note, model=model, happened=step.happened)
        if step.standing != self._standings.get(model, Standing(model)):
            self._standings[model] = step.standing
            self._changed.add(model)
            self._undecided.add(model)
        if step.happened != "nothing":
            self._counts.append(Count(DECISIONS, 1, {"decision": step.happened}))
        self._outputs += self._produced(step)
        self._versions += (
            (f"version/{model}/{version.version}".encode(), encode(version))
            for version in step.written
        )

    def _produced(self, step: Step) -> Iterable[Produce]:
        model = step.standing.model
        if step.reference is not None:
            key = f"{model}/{step.reference.reference_id}".encode()
            where = model_partition(model, self._context.partitions("references"))
            yield Produce("references", key, encode(step.reference), where)
        where = model_partition(model, self._context.partitions("model-versions"))
        for version in step.written:
            key = f"{model}/{version.version}".encode()
            yield Produce("model-versions", key, encode(version), where)
