"""One partition of panes: reads predictions and outcomes, gives what belongs into a commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from kedge.errors import DeadLetter, Reason
from kedge.topics import TOPICS
from kedge_services.core.book import Book, JoinStore
from kedge_services.core.folding import Fold
from kedge_services.core.join import Join
from kedge_services.core.known_ids import KnownIds
from kedge_services.core.segments import Segments
from kedge_services.core.waiting import KEY_PREFIX, Waiting, WaitingOutcome
from kedge_services.panes.encoding import (
    encode_example,
    encode_first_examples,
    encode_pane,
    encode_progress,
)
from kedge_services.panes.intake import Intake, waiting_record
from kedge_services.panes.lookup import Lookup, MonitorSource, ReferenceSource, TaskWatermarks
from kedge_services.panes.reading import Reader
from kedge_services.panes.state import INPUTS, STATE_KEY, State
from kedge_services.runtime.dead_letters import dead_letter
from kedge_services.runtime.metrics import FATES
from kedge_services.runtime.ports import (
    Batch,
    Commit,
    Count,
    Position,
    Produce,
    Record,
    TaskContext,
)
from kedge_services.runtime.settings import TimeSettings

__all__ = ["SERVICE", "PanesTask"]

SERVICE = "panes"
#: Entries that are written at once while a store is built anew.
REBUILD_ENTRIES = 50_000
LINGERING_ENTRIES = 200_000
#: Outcomes that may wait in a partition; beyond, the oldest are given up.
WAITING_LIMIT = 100_000
#: So many, of all partitions, are read while their predictions are yet to be read.
WAITING_TOGETHER = 200_000
#: How far one input's append time may run ahead of the other's while that has more to read.
LEAD_MS = 10_000
#: An outcome that comes before its prediction waits, and is written and deleted for it.
#: So where predictions are behind the present by the first, outcomes must not run ahead at
#: all, and are let go on at the distance of the second: what is held back is fetched again.
BEHIND_MS, OUTCOMES_FOLLOW_MS = 2_000, 8_000
#: They are let go earlier where more predictions than these would wait for them in memory.
FEWEST_AHEAD = 1_000
#: Where predictions are read as they come, outcomes may be ahead by this.
OUTCOMES_LEAD_MS = 1_000
IDLE_PROGRESS_MS = 1_000

_RETENTION_MS = TOPICS["predictions"].retention_ms or 0


class PanesTask:
    """One partition of ``panes``.

    Parameters
    ----------
    context
        Partition, clock and tables' refresh.
    monitors, references
        The tables.
    store
        The partition's join store.
    times
        Skew and idleness.
    examples
        Whether they are written.
    lingering
        Entries of all partitions that may be durable in Kafka and not in their store
        yet; they take about 400 bytes each, and are read again after a kill.
    """

    def __init__(
        self,
        context: TaskContext,
        *,
        monitors: MonitorSource,
        references: ReferenceSource,
        store: JoinStore,
        times: TimeSettings,
        examples: bool = True,
        lingering: int = LINGERING_ENTRIES,
    ) -> None:
        self._context = context
        self._times = times
        self._writes_examples = examples
        self._state = State()
        self._waiting = Waiting()
        self._waiting_most = WAITING_TOGETHER // context.partitions("predictions")
        self._lookup = Lookup(monitors, references, context.refresh, context.clock)
        self._lingering = lingering // context.partitions("predictions")
        self._book = Book(store, self._lingering)
        self._outputs: list[Produce] = []
        self._first_examples: list[Produce] = []
        self._next: dict[str, int] = {}
        self._from: dict[str, int] = {}
        self._stored: dict[str, int] = {}
        self._at_end: dict[str, bool] = dict.fromkeys(INPUTS, False)
        self._now_ms = 0
        self._progress_ms: int | None = None
        self._is_sealed = False
        self._is_holding = False
        #: The offset of predictions from which outcomes have been held back.
        self._held_from: int | None = None
        self._told: dict[tuple[str, str], int] = {}
        self._make_reader()

    # ------------------------------------------------------------- restoring

    def restore(self, batch: Batch) -> None:
        """Take a batch of the changelog, in order; the last value of a key counts."""
        for key, value in zip(batch.keys, batch.values, strict=True):
            if key is not None and key.startswith(KEY_PREFIX):
                self._waiting.restore(key, value)
            elif key == STATE_KEY and value is not None:
                self._state = State.decode(value)

    def start(self, positions: Mapping[str, Position]) -> Mapping[str, int]:
        """Compare the store with what is committed; give what has to be read again."""
        self._make_reader()
        self._state.fates_since(self._told)  # told by whoever counted them
        self._next = {topic: position.offset for topic, position in positions.items()}
        self._from = dict(self._next)
        low = {t: self._low(t, position) for t, position in positions.items()}
        stored = self._book.open()
        if any(offset > self._next.get(topic, 0) for topic, offset in stored.items()):
            self._book.clear()
            stored = {}
        # Before low there is nothing that anybody needs, be the store there or lost.
        self._stored = {topic: max(stored.get(topic, 0), low[topic]) for topic in low}
        replays = {t: o for t, o in self._stored.items() if o < self._next[t]}
        if "predictions" in low:
            # Ids live in memory only; they mostly reach back further than the store does.
            ids_low = low["predictions"] if self._state.ids_low is None else self._state.ids_low
            first = min(ids_low, self._stored["predictions"])
            if first < self._next["predictions"]:
                replays["predictions"] = first
        if replays:
            self._reader.begin_rebuild()
        return replays

    def replay(self, batch: Batch) -> None:
        """Take records again that were committed before: rebuild, send nothing."""
        stored = self._stored[batch.topic]
        self._reader.read_again(batch, stored)
        self._stored[batch.topic] = max(stored, batch.offsets[-1] + 1)
        if self._book.pending >= REBUILD_ENTRIES:
            self._seal(lambda _: [])
            self._is_sealed = False
            self._book.write(self._stored)

    # ------------------------------------------------------------ processing

    def process(self, batch: Batch) -> None:
        """Take new records of one input topic."""
        self._reader.end_rebuild()
        self._reader.read(batch)
        # Now, while what they are made of is near the processor.
        for first in self._join.first_examples:
            self._first_examples += encode_first_examples(first, self._context.partition)
        self._join.first_examples.clear()
        self._from.setdefault(batch.topic, batch.offsets[0])
        self._next[batch.topic] = batch.offsets[-1] + 1

    def tick(self, now_ms: int, at_end: Mapping[str, bool]) -> None:
        """Learn the time, and which inputs have been read to their end."""
        self._now_ms = now_ms
        self._at_end = dict(at_end)

    def paused(self) -> frozenset[str]:
        """Hold back the input that runs ahead in append time while the other has more."""
        clocks = self._state.clocks
        predictions_ms, outcomes_ms = (clocks[topic].clock_ms for topic in INPUTS)
        if outcomes_ms and predictions_ms > outcomes_ms + LEAD_MS and not self._at_end["outcomes"]:
            self._is_holding = False
            return frozenset({"predictions"})
        is_held = not self._at_end["predictions"] and self._is_ahead(outcomes_ms)
        if is_held and not self._is_holding:
            self._held_from = self._next.get("predictions", 0)
        self._is_holding = is_held
        if self._is_holding:
            return frozenset({"outcomes"})
        if len(self._waiting) >= self._waiting_most and not self._at_end.get("predictions"):
            return frozenset({"outcomes"})
        return frozenset()

    # ------------------------------------------------------------ committing

    def commit(self) -> Commit:
        """Give examples, dead letters and deltas; after them the Progress."""
        is_quiet = self._next == self._from and not self._outputs
        if is_quiet and not self._is_progress_due():
            return Commit()
        self._reader.end_rebuild()
        self._lookup.begin()
        for topic, is_at_end in self._at_end.items():
            if is_at_end:
                self._state.clocks[topic].tick(self._now_ms)
        self._expire()
        outputs, self._outputs = self._outputs, []
        outputs += self._examples()
        outputs += self._deltas()
        self._seal(self._expired_segments)
        self._state.low = self._book.lows(self._next)
        self._ids.forget(self._watermarks.predictions)
        low = self._ids.low
        self._state.ids_low = self._next.get("predictions", 0) if low is None else low
        self._state.sequence += 1
        outputs += self._progress()
        self._from = dict(self._next)
        return Commit(
            outputs=outputs,
            changelog=[*self._waiting.changes(), (STATE_KEY, self._state.encode())],
            metadata={topic: self._metadata(topic) for topic in self._next},
            counts=[
                Count(FATES, number, {"topic": topic, "fate": fate})
                for topic, fate, number in self._state.fates_since(self._told)
            ],
        )

    def committed(self) -> None:
        """Bring the store up to the offsets that are durable now."""
        if self._is_sealed:
            self._is_sealed = False
            # What waits is in no entry yet: a store that falls behind begins with it.
            oldest = self._waiting.oldest
            reached = {} if oldest is None else {"outcomes": oldest}
            self._book.write(self._next | reached)

    def close(self) -> None:
        """Release the store, with what is durable in it."""
        self._book.close()

    # --------------------------------------------------------------- details

    def _is_ahead(self, outcomes_ms: int) -> bool:
        """Say whether outcomes, read up to this append time, have to let predictions go first."""
        clock = self._state.clocks["predictions"]
        # What waits for its label should still be in memory when that comes.
        read = self._next.get("predictions", 0) - (self._held_from or 0)
        is_far = self._is_holding and read > max(FEWEST_AHEAD, self._lingering // 2)
        if not outcomes_ms:
            # Where they begin is not known before they are read; let go, they are on their way.
            is_first = self._is_holding or self._held_from is None
            return is_first and not is_far and clock.clock_ms <= clock.since_ms + LEAD_MS
        if self._now_ms - clock.clock_ms <= BEHIND_MS:
            return outcomes_ms > clock.clock_ms + OUTCOMES_LEAD_MS
        is_close = self._is_holding and not is_far
        return outcomes_ms > clock.clock_ms - (OUTCOMES_FOLLOW_MS if is_close else 0)

    def _make_reader(self) -> None:
        clocks = self._state.clocks
        self._ids = KnownIds()
        self._watermarks = TaskWatermarks(clocks["predictions"], clocks["outcomes"], self._lookup)
        self._fold = Fold(self._lookup.references.get)
        self._join = Join(
            self._book,
            self._fold,
            self._waiting,
            self._watermarks,
            notes_examples=self._writes_examples,
            is_unlabelled=lambda name: self._ids.holds(name, self._watermarks.predictions),
        )
        intake = Intake(
            partition=self._context.partition,
            partitions=self._context.partitions("predictions"),
            max_skew_ms=self._times.max_skew_ms,
            state=self._state,
            lookup=self._lookup,
            join=self._join,
            put_aside=self._put_aside,
            ids=self._ids,
        )
        self._reader = Reader(intake)

    def _put_aside(self, record: Record, refused: DeadLetter) -> None:
        self._outputs.append(dead_letter(record, refused.reason, refused.detail, service=SERVICE))

    def _is_progress_due(self) -> bool:
        if not any(self._at_end.values()):
            return False
        last_ms = self._progress_ms
        return last_ms is None or not 0 <= self._now_ms - last_ms < IDLE_PROGRESS_MS

    def _expire(self) -> None:
        """Put aside the outcomes whose prediction can no longer come."""
        read_ms = self._state.clocks["predictions"].clock_ms - self._times.idle_after_ms
        for outcome in self._waiting.expired(self._outcome_boundary, read_ms=read_ms):
            self._give_up(outcome, "no prediction of this id came within outcome_wait")
        if self._at_end.get("predictions"):
            for outcome in self._waiting.overflow(WAITING_LIMIT):
                self._give_up(outcome, f"more than {WAITING_LIMIT} outcomes wait for a prediction")

    def _give_up(self, outcome: WaitingOutcome, detail: str) -> None:
        reason: Reason = "unmatched-outcome"
        self._state.count("outcomes", reason)
        record = waiting_record(outcome, self._context.partition)
        self._put_aside(record, DeadLetter(reason, detail))

    def _outcome_boundary(self, owner: str | None) -> int:
        """Give up to where the predictions have come that an outcome may wait for.

        An outcome of no known model waits for all that are not idle.
        """
        if owner is not None:
            return self._watermarks.predictions(owner)
        clocks = self._state.clocks["predictions"]
        return min(
            (
                self._watermarks.predictions(model)
                for model, plan in self._lookup.newest.items()
                if plan.labelled and not clocks.is_idle(model, self._times.idle_after_ms)
            ),
            default=0,
        )

    def _expired_segments(self, segments: Segments) -> list[str]:
        oldest_ms = self._state.clocks["predictions"].clock_ms - _RETENTION_MS
        return segments.expired(self._watermarks.both, oldest_ms)

    def _seal(self, expired: Callable[[Segments], list[str]]) -> None:
        waits = [plan.wait_ms for plan in self._lookup.newest.values()]
        self._book.seal(
            label_wait_ms=max(waits, default=0),
            clock_ms=self._state.clocks["predictions"].clock_ms,
            expired=expired,
        )
        self._is_sealed = True

    def _examples(self) -> list[Produce]:
        outputs, self._first_examples = self._first_examples, []
        drafts = self._join.examples.values()
        outputs += [encode_example(draft, self._context.partition) for draft in drafts]
        self._join.examples.clear()
        return outputs

    def _deltas(self) -> list[Produce]:
        self._state.after_cell += self._fold.after_cell
        offsets = {topic: (self._from.get(topic, 0), self._next.get(topic, 0)) for topic in INPUTS}
        partitions = self._context.partitions("panes")
        return [
            encode_pane(
                pane, partition=self._context.partition, offsets=offsets, partitions=partitions
            )
            for pane in self._fold.take()
        ]

    def _progress(self) -> list[Produce]:
        self._progress_ms = self._now_ms
        fates = {topic: dict(counts) for topic, counts in self._state.fates.items()}
        fates["outcomes"]["waiting"] = len(self._waiting)
        fates["labels"] = {"after-cell": self._state.after_cell}
        value = encode_progress(
            partition=self._context.partition,
            partitions=self._context.partitions("predictions"),
            sequence=self._state.sequence,
            offsets={topic: self._next.get(topic, 0) for topic in INPUTS},
            clocks=self._state.clocks,
            fates=fates,
        )
        key = f"progress/{self._context.partition}".encode()
        count = self._context.partitions("panes")
        return [Produce("panes", key, value, partition) for partition in range(count)]

    def _low(self, topic: str, position: Position) -> int:
        """Give the offset from which a lost store is built anew."""
        low = self._state.low.get(topic)
        if low is None and position.metadata:
            low = msgspec.json.decode(position.metadata).get("low")
        if isinstance(low, int):
            return low
        # State without a word of this topic: nothing of it has ever been read.
        return position.offset if self._state.sequence else 0

    def _metadata(self, topic: str) -> str:
        clocks = self._state.clocks[topic]
        largest = [time.max_ms for time in clocks.models.values()]
        return msgspec.json.encode(
            {
                "wm": min(largest, default=None),
                "clock": clocks.clock_ms,
                "low": self._state.low.get(topic, 0),
            }
        ).decode()
