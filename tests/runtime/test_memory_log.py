"""The columns of the broker in memory against the plainest log there is."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.memory_log import Log, Transaction
from kedge_services.runtime.ports import TopicPartition

KEYS = (b"a", b"b", None)


@dataclass
class Entry:
    offset: int
    key: bytes | None
    value: bytes | None
    transaction: Transaction | None
    is_marker: bool = False


@dataclass
class PlainLog:
    """One entry a record, read one by one."""

    start: int = 0
    end: int = 0
    entries: list[Entry] = field(default_factory=list)
    began: dict[Transaction, int] = field(default_factory=dict)

    def append(
        self, key: bytes | None, value: bytes | None, transaction: Transaction | None
    ) -> None:
        self.entries.append(Entry(self.end, key, value, transaction))
        if transaction is not None:
            self.began.setdefault(transaction, self.end)
        self.end += 1

    def decide(self, transaction: Transaction) -> None:
        self.entries.append(Entry(self.end, None, None, transaction, is_marker=True))
        self.end += 1

    def stable(self) -> int:
        return min((o for t, o in self.began.items() if t.status == "open"), default=self.end)

    def readable(self) -> list[Entry]:
        return [
            entry
            for entry in self.entries
            if entry.offset < self.stable()
            and not entry.is_marker
            and (entry.transaction is None or entry.transaction.status == "committed")
        ]

    def delete_before(self, offset: int) -> None:
        self.start = max(self.start, offset)
        self.entries = [e for e in self.entries if e.offset >= self.start]

    def compact(self, *, keep_tombstones: bool) -> None:
        readable = self.readable()
        last = {e.key: e.offset for e in readable}
        gone = {
            e.offset
            for e in readable
            if e.key is None or last[e.key] != e.offset or (e.value is None and not keep_tombstones)
        }
        self.entries = [e for e in self.entries if e.offset not in gone]

    def read(self, position: int, limit: int) -> list[tuple[int, bytes | None, bytes | None]]:
        found = [(e.offset, e.key, e.value) for e in self.readable() if e.offset >= position]
        return found[:limit]


writer = st.integers(0, 2)
steps = st.one_of(
    st.tuples(st.just("append"), st.none() | writer, st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("append"), writer, st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("extend"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["committed", "aborted"]), writer),
    st.tuples(st.just("delete"), st.integers(0, 20)),
    st.tuples(st.just("compact"), st.booleans()),
)


def play(script: list[tuple[object, ...]]) -> tuple[Log, PlainLog]:
    log, plain = Log("log", 0), PlainLog()
    transactions: dict[object, Transaction] = {}
    for number, (step, *arguments) in enumerate(script):
        match step, arguments:
            case "append", [who, key, is_tombstone]:
                value = None if is_tombstone else b"%d" % number
                transaction = None
                if who is not None:
                    transaction = transactions.setdefault(who, Transaction(str(who), 0))
                assert key is None or isinstance(key, bytes)
                assert log.append(number, key, value, (), transaction) == plain.end
                plain.append(key, value, transaction)
            case "extend", [int(count)]:
                log.extend([0] * count, [b"a"] * count, [b"%d" % number] * count)
                for _ in range(count):
                    plain.append(b"a", b"%d" % number, None)
            case ("committed" | "aborted") as status, [who] if who in transactions:
                transaction = transactions.pop(who)
                transaction.status = status
                log.decide(transaction)
                plain.decide(transaction)
            case "delete", [int(offset)]:
                log.delete_before(min(offset, log.end))
                plain.delete_before(min(offset, plain.end))
            case "compact", [keeps]:
                log.compact(keep_tombstones=bool(keeps))
                plain.compact(keep_tombstones=bool(keeps))
    return log, plain


@given(st.lists(steps, max_size=40))
def test_whatever_is_written_the_same_is_read_as_from_a_plain_log(
    script: list[tuple[object, ...]],
) -> None:
    log, plain = play(script)
    assert (log.start, log.end) == (plain.start, plain.end)
    for limit in (1, 3, 100):
        position, found = log.start, list[tuple[int, bytes | None, bytes | None]]()
        while True:
            batch, following = log.read(position, limit)
            assert following >= position
            position = following
            if batch is None:
                break
            assert len(batch) <= limit
            assert batch.offsets[-1] < following
            found += zip(batch.offsets, batch.keys, batch.values, strict=True)
        assert found == plain.read(log.start, 1_000)
        assert position == max(log.start, log.stable)


@given(st.lists(steps, max_size=40), st.integers(0, 40))
def test_from_any_position_the_rest_is_read(script: list[tuple[object, ...]], start: int) -> None:
    log, plain = play(script)
    position = min(max(start, log.start), log.end)
    batch, following = log.read(position, 1_000)
    found = [] if batch is None else list(zip(batch.offsets, batch.keys, batch.values, strict=True))
    assert found == plain.read(position, 1_000)
    assert following == max(position, log.stable)


@given(
    records=st.lists(st.tuples(st.sampled_from((b"a", b"b", b"c")), st.none() | st.just(b"v"))),
    keep_tombstones=st.booleans(),
)
def test_compaction_keeps_the_last_record_of_a_key_at_its_offset(
    records: list[tuple[bytes, bytes | None]], *, keep_tombstones: bool
) -> None:
    log = Log("log", 0)
    for key, value in records:
        log.append(0, key, value, ())
    log.compact(keep_tombstones=keep_tombstones)
    last = {key: (offset, key, value) for offset, (key, value) in enumerate(records)}
    expected = sorted(r for r in last.values() if keep_tombstones or r[2] is not None)
    batch, following = log.read(0, 1_000)
    found = [] if batch is None else list(zip(batch.offsets, batch.keys, batch.values, strict=True))
    assert found == expected
    assert following == log.end == len(records)


def test_an_open_transaction_keeps_what_lies_behind_it_from_being_compacted() -> None:
    log = Log("log", 0)
    for value in (b"1", b"2"):
        log.append(0, b"k", value, ())
    transaction = Transaction("p", 0)
    log.append(0, b"k", b"3", (), transaction)
    log.append(0, b"k", b"4", ())
    log.compact(keep_tombstones=False)
    batch, _ = log.read(0, 10)
    assert batch is not None
    assert batch.values == [b"2"]
    transaction.status = "committed"
    log.decide(transaction)
    log.compact(keep_tombstones=False)
    batch, _ = log.read(0, 10)
    assert batch is not None
    assert (batch.offsets, batch.values) == ([3], [b"4"])


def test_many_records_are_appended_as_columns() -> None:
    broker = MemoryBroker(ManualClock(), {"log": 2})
    broker.append("log", b"k", b"first", partition=1, timestamp_ms=5)
    broker.append_many("log", 1, [b"a", None], [b"1", None], [7, 6])
    assert [(r.offset, r.timestamp_ms, r.key, r.value) for r in broker.records("log")] == [
        (0, 5, b"k", b"first"), (1, 7, b"a", b"1"), (2, 6, None, None),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="1 keys, 2 values, 2 times"):
        broker.append_many("log", 0, [b"a"], [b"1", b"2"], [7, 6])


def test_what_was_handed_out_does_not_change() -> None:
    broker = MemoryBroker(ManualClock(), {"log": 1})
    consumer = broker.consumer(group=None)
    consumer.assign({TopicPartition("log", 0): 0})
    broker.append_many("log", 0, [b"a", b"a"], [b"1", b"2"], [0, 0])
    (batch,) = consumer.poll(10, 0.0)
    broker.compact("log")
    broker.delete_before("log", 0, 2)
    assert (batch.offsets, batch.values) == ([0, 1], [b"1", b"2"])
