"""Answers that were given elsewhere: whoever is loaded here predicts in their shadow.

A prediction of a champion that carries no mark of this service was made by
somebody else's server.  Every version that could answer here adds its own, with
the same id and event time, so that versions are compared on the same rows; also
the registry's champion, while another version still answers out there.

Where a shadow's prediction would be late, none is made: after a stand-still the
task first reads on, and begins with what the watermark has not passed yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
from msgspec import MsgspecError, Struct
from msgspec.json import Decoder

from kedge import Monitor, Output, Prediction
from kedge.codec import decode, encode
from kedge.errors import DeadLetter
from kedge.topics import request_id
from kedge_services.core.partitioning import key_partitions
from kedge_services.runtime import metrics as m
from kedge_services.runtime.ports import Batch, Commit, Count, Produce, Record
from kedge_services.serving.models import Loaded, Models
from kedge_services.serving.scoring import ORIGIN, Rows, predict_apart, predictions

__all__ = ["Following"]

TOPIC = "predictions"
#: Answers followed at a time; a request that comes meanwhile waits no longer than that.
SLICE = 256
#: Answers that may wait; beyond, no more are read.
FULL = 20_000
#: A partition is read up to date while the last thing read of it is no older.
CURRENT_MS = 2_000
#: How often at most a position is committed for what concerned nobody here.
SKIPPED_COMMIT_MS = 1_000

_log = structlog.get_logger(__name__)


class _Peek(Struct, gc=False):
    """What tells whether an answer is of interest; the rest is skipped unread."""

    prediction_id: str
    model: str
    version: str
    event_time_ms: int
    role: str = "champion"


class _Waiting(NamedTuple):
    record: Record
    model: str
    version: str
    event_time_ms: int


_peek = Decoder(_Peek).decode


class Following:
    """What one partition of predictions gives versions in shadow to do.

    Parameters
    ----------
    models
        Who is loaded.
    monitor_of
        Says how far a model's watermark trails; a model without is not followed.
    partition, partitions
        Where this is, and how many there are.
    max_skew_ms
        How far event time may lie ahead of append time.
    noticed
        The (model, version, champion) that were reported already, by any partition.
    """

    def __init__(
        self,
        models: Models,
        monitor_of: Callable[[str], Monitor | None],
        *,
        partition: int,
        partitions: int,
        max_skew_ms: int,
        noticed: set[tuple[str, str, str]],
    ) -> None:
        self._models = models
        self._monitor_of = monitor_of
        self._partition = partition
        self._partitions = partitions
        self._max_skew_ms = max_skew_ms
        self._noticed = noticed
        self._queue: deque[_Waiting] = deque()
        self._newest: dict[str, int] = {}
        self._current_ms = 0
        self._next: int | None = None
        self._told: int | None = None
        self._told_ms = 0
        self._pending = Commit()

    @property
    def is_full(self) -> bool:
        """Say whether so much waits that nothing more should be read."""
        return len(self._queue) >= FULL

    def start(self, committed: int | None) -> None:
        """Begin at the committed position, if there is one."""
        self._next = self._told = committed

    def take(self, batch: Batch) -> None:
        """Let those records wait that somebody here has to follow."""
        self._next = batch.offsets[-1] + 1
        self._current_ms = max(self._current_ms, batch.timestamps_ms[-1])
        if not self._models.has_contenders:
            return
        found: list[tuple[Record, _Peek]] = []
        if all(ORIGIN in headers for headers in batch.headers):
            return  # our own, as nearly always
        for record in batch.records():
            if record.value is not None and ORIGIN not in record.headers:
                try:
                    seen = _peek(record.value)
                except (MsgspecError, UnicodeDecodeError, RecursionError):
                    continue  # `panes` puts it aside
                if seen.role == "champion" and self._beside(seen.model, seen.version):
                    found.append((record, seen))
        for record, seen in self._in_place(found):
            newest = self._newest.get(seen.model, 0)
            self._newest[seen.model] = max(newest, seen.event_time_ms)
            self._queue.append(_Waiting(record, seen.model, seen.version, seen.event_time_ms))

    def work(self, now_ms: int, *, at_end: bool) -> None:
        """Follow some of what waits."""
        if at_end:
            self._current_ms = max(self._current_ms, now_ms)
        if not self._queue:
            return
        if now_ms - self._current_ms > CURRENT_MS and not self.is_full:
            # Not before it is known what comes behind them; meanwhile most become late.
            while self._queue and self._is_late(self._queue[0]):
                self._skip(self._queue.popleft())
            return
        by_model: dict[str, list[tuple[int, _Waiting]]] = {}
        for i in range(min(SLICE, len(self._queue))):
            waiting = self._queue.popleft()
            if self._is_late(waiting):
                self._skip(waiting)
            else:
                by_model.setdefault(waiting.model, []).append((i, waiting))
        made: dict[int, list[Produce]] = {}
        for model, group in by_model.items():
            self._follow(model, group, now_ms, made)
        self._pending.outputs += [output for i in sorted(made) for output in made[i]]

    def commit(self, now_ms: int) -> Commit:
        """Give what was made since, and where to go on."""
        commit, self._pending = self._pending, Commit()
        following = self._queue[0].record.offset if self._queue else self._next
        is_idle = not commit.outputs and not commit.counts and self._told is not None
        if not is_idle or not 0 <= now_ms - self._told_ms < SKIPPED_COMMIT_MS:
            self._told, self._told_ms = following, now_ms
        if self._told is not None:
            commit.offsets[TOPIC] = self._told
        return commit

    # ------------------------------------------------------------------ pieces

    def _beside(self, model: str, version: str) -> Sequence[Loaded]:
        lineup = self._models.lineup(model)
        return () if lineup is None else lineup.beside(version)

    def _in_place(self, found: list[tuple[Record, _Peek]]) -> list[tuple[Record, _Peek]]:
        """Leave out what `panes` will refuse."""
        keys = [request_id(seen.prediction_id).encode() for _, seen in found]
        own = key_partitions(keys, self._partitions).tolist()
        return [
            (record, seen)
            for (record, seen), key, partition in zip(found, keys, own, strict=True)
            if record.key == key
            and partition == self._partition
            and seen.event_time_ms <= record.timestamp_ms + self._max_skew_ms
            and self._monitor_of(seen.model) is not None
        ]

    def _is_late(self, waiting: _Waiting) -> bool:
        monitor = self._monitor_of(waiting.model)
        grace_ms = 0 if monitor is None else monitor.grace_ms
        return waiting.event_time_ms < self._newest[waiting.model] - grace_ms

    def _skip(self, waiting: _Waiting) -> None:
        if skipped := len(self._beside(waiting.model, waiting.version)):
            self._pending.counts.append(Count(m.SKIPPED_SHADOWS, skipped, {}))

    def _follow(
        self,
        model: str,
        group: list[tuple[int, _Waiting]],
        now_ms: int,
        made: dict[int, list[Produce]],
    ) -> None:
        rows: dict[int, Rows] = {}
        for i, waiting in group:
            try:
                event = decode(Prediction, waiting.record.value or b"")
            except DeadLetter:
                continue  # `panes` puts it aside
            rows[i] = Rows(
                event.prediction_id, model, [event.features], event.event_time_ms, event.segments
            )
        kept = [(i, waiting) for i, waiting in group if i in rows]
        self._note(model, kept)
        lineup = self._models.lineup(model)
        for loaded in () if lineup is None else lineup.contenders:
            mine = [(i, waiting) for i, waiting in kept if waiting.version != loaded.name]
            answers = predict_apart(loaded, [rows[i] for i, _ in mine]) if mine else []
            for (i, waiting), answer in zip(mine, answers, strict=True):
                if isinstance(answer, DeadLetter):
                    _log.warning("a shadow fails", model=model, detail=answer.detail)
                    self._pending.counts.append(Count(m.SKIPPED_SHADOWS, 1, {}))
                else:
                    latency_ms = float(max(0, now_ms - waiting.record.timestamp_ms))
                    made.setdefault(i, []).append(
                        self._produce(waiting.record.key, rows[i], loaded, answer, latency_ms)
                    )

    def _produce(
        self, key: bytes | None, row: Rows, loaded: Loaded, answer: list[Output], latency_ms: float
    ) -> Produce:
        (event,) = predictions(row, loaded, answer, role="shadow", latency_ms=latency_ms)
        return Produce(TOPIC, key, encode(event), self._partition, (ORIGIN,))

    def _note(self, model: str, group: list[tuple[int, _Waiting]]) -> None:
        """Count who answered, and say once when that is not who should."""
        lineup = self._models.lineup(model)
        champion = None if lineup is None else lineup.appointed
        for version in sorted({waiting.version for _, waiting in group}):
            amount = sum(waiting.version == version for _, waiting in group)
            labels = {"model": model, "version": version}
            self._pending.counts.append(Count(m.ELSEWHERE, amount, labels))
            case = (model, version, champion or version)
            if champion not in (None, version) and case not in self._noticed:
                self._noticed.add(case)
                _log.warning(
                    "another version than the champion answers elsewhere; "
                    "the champion predicts in its shadow",
                    model=model, answers=version, champion=champion,
                )  # fmt: skip
