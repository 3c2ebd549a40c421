"""One partition of requests: every request becomes predictions on the same partition.

The same partition of predictions is read beside it, see
:mod:`kedge_services.serving.following`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from kedge import Monitor, Output
from kedge.base import Role
from kedge.errors import DeadLetter
from kedge.topics import request_id
from kedge_services.core.partitioning import key_partitions
from kedge_services.core.tensors import LONGEST_ID
from kedge_services.runtime.dead_letters import dead_letter
from kedge_services.runtime.ports import Batch, Commit, Position, Produce, Record, TaskContext
from kedge_services.serving.following import Following
from kedge_services.serving.models import Loaded, Models
from kedge_services.serving.scoring import ORIGIN, Rows, no_champion, predict_apart
from kedge_services.serving.wire import read_request, write_predictions

__all__ = ["ServingTask"]

_Part = tuple[Role, Loaded, list[Output]]
_Answer = list[_Part] | DeadLetter

SERVICE = "serving"
#: How often at most the tables are read again for a model nobody has heard of.
REFRESH_MS = 1_000
_log = structlog.get_logger(__name__)


class ServingTask:
    """Answers requests with the champion, and beside it with every shadow."""

    def __init__(
        self,
        context: TaskContext,
        models: Models,
        monitor_of: Callable[[str], Monitor | None],
        following: Following,
    ) -> None:
        self._context = context
        self._models = models
        self._monitor_of = monitor_of
        self._following = following
        self._partitions = context.partitions("requests")
        self._refreshed_ms = -REFRESH_MS
        self._outputs: list[Produce] = []

    def restore(self, batch: Batch) -> None:
        """Take nothing: there is no state."""

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:
        """Ask for nothing again, but wait until the champions are loaded.

        Whoever had this partition before may have known of a later promotion than
        this process does: the versions in its answers must not go back.
        """
        self._context.refresh()
        self._models.settle()
        position = positions.get("predictions")
        self._following.start(None if position is None else position.offset)
        return {}

    def replay(self, batch: Batch) -> None:
        """Take nothing."""

    def process(self, batch: Batch) -> None:
        """Answer a batch of requests with one call a version; let answers from elsewhere wait."""
        if not self._models.in_background:
            self._models.settle()
        if batch.topic == "predictions":
            self._following.take(batch)
            return
        fates = self._requests(batch)
        by_model: dict[str, list[int]] = {}
        for i, fate in enumerate(fates):
            if isinstance(fate, Rows):
                by_model.setdefault(fate.model, []).append(i)
        answers: dict[int, _Answer] = {}
        for model, places in by_model.items():
            requests = [fate for i in places if isinstance(fate := fates[i], Rows)]
            answers |= zip(places, self._answer(model, requests), strict=True)
        # In the order of the requests, champion and shadows together: a shadow's
        # prediction behind a whole batch of the champion's would be late.
        for i, (record, fate) in enumerate(zip(batch.records(), fates, strict=True)):
            if isinstance(fate, DeadLetter):
                self._refuse(record, fate)
            elif isinstance(answer := answers[i], DeadLetter):
                self._refuse(record, answer)
            else:
                self._send(record, fate, answer)

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:
        """Follow some of the answers from elsewhere."""
        self._following.work(now_ms, at_end=at_end.get("predictions", False))

    def paused(self) -> frozenset[str]:
        """Read no answers from elsewhere while too many wait."""
        return frozenset({"predictions"}) if self._following.is_full else frozenset()

    def commit(self) -> Commit:
        """Give the predictions made since."""
        commit = self._following.commit(self._context.clock())
        commit.outputs, self._outputs = [*self._outputs, *commit.outputs], []
        return commit

    def committed(self) -> None:
        """Do nothing: there is no store."""

    def close(self) -> None:
        """Release nothing."""

    # ----------------------------------------------------------- one request

    def _requests(self, batch: Batch) -> list[Rows | DeadLetter]:
        """Read requests, each in its place or what is wrong with it."""
        found = [_read(value) for value in batch.values]
        keys = [_key(request) for request in found]
        partitions = key_partitions(keys, self._partitions).tolist()
        return [
            _judged(request, batch.partition, key, given, partition)
            for request, key, given, partition in zip(
                found, keys, batch.keys, partitions, strict=True
            )
        ]

    def _answer(self, model: str, requests: list[Rows]) -> list[_Answer]:
        lineup = self._lineup(model)
        if isinstance(lineup, DeadLetter):
            return [lineup] * len(requests)
        champion, *shadows = lineup
        found = [_one("champion", champion, o) for o in predict_apart(champion, requests)]
        answered = [(i, done) for i, done in enumerate(found) if not isinstance(done, DeadLetter)]
        for shadow in shadows if answered else ():
            outputs = predict_apart(shadow, [requests[i] for i, _ in answered])
            for (_, done), output in zip(answered, outputs, strict=True):
                if isinstance(output, DeadLetter):
                    _log.warning("a shadow fails", model=model, detail=output.detail)
                else:
                    done.append(("shadow", shadow, output))
        return found

    def _lineup(self, model: str) -> list[Loaded] | DeadLetter:
        lineup = self._models.lineup(model)
        if lineup is None or lineup.champion is None:
            # Perhaps its version is younger than the last look at the tables.
            now_ms = self._context.clock()
            if now_ms - self._refreshed_ms >= REFRESH_MS:
                self._refreshed_ms = now_ms
                self._context.refresh()
            self._models.settle()
            lineup = self._models.lineup(model)
        if lineup is not None and lineup.champion is not None:
            return [lineup.champion, *lineup.shadows]
        if lineup is None and self._monitor_of(model) is None:
            return DeadLetter("unknown-model", f"there is no model {model!r}")
        return DeadLetter("unknown-version", no_champion(model, lineup))

    def _send(self, record: Record, request: Rows, answer: list[_Part]) -> None:
        latency_ms = float(max(0, self._context.clock() - record.timestamp_ms))
        for role, loaded, outputs in answer:
            values = write_predictions(request, loaded, outputs, role=role, latency_ms=latency_ms)
            self._outputs += [
                Produce("predictions", record.key, value, record.partition, (ORIGIN,))
                for value in values
            ]

    def _refuse(self, record: Record, error: DeadLetter) -> None:
        letter = dead_letter(record, error.reason, error.detail, service=SERVICE)
        self._outputs.append(letter)


def _one(role: Role, loaded: Loaded, output: list[Output] | DeadLetter) -> _Answer:
    return output if isinstance(output, DeadLetter) else [(role, loaded, output)]


def _read(value: bytes | None) -> Rows | DeadLetter:
    if value is None:
        return DeadLetter("missing-field", "a request without a value")
    try:
        return read_request(value)
    except DeadLetter as error:
        return error


def _key(request: Rows | DeadLetter) -> bytes:
    return b"" if isinstance(request, DeadLetter) else request_id(request.request_id).encode()


def _judged(
    request: Rows | DeadLetter, here: int, key: bytes, given: bytes | None, partition: int
) -> Rows | DeadLetter:
    """Refuse a request that lies elsewhere than where its answer has to be looked for."""
    if isinstance(request, DeadLetter):
        return request
    if given != key:
        return DeadLetter("bad-key", f"the key is not the request id {key.decode()!r}")
    if partition != here:
        return DeadLetter("misrouted", f"request {key.decode()!r} belongs on partition {partition}")
    if len(request.rows) > 1 and len(request.request_id) > LONGEST_ID:
        return DeadLetter("bad-value", f"the id leaves no room for `#<row>` ({LONGEST_ID})")
    return request
