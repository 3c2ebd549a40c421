"""Connections that stall: nobody knows how a transaction ended, and nothing shows of it.

Everything goes through a :class:`Line`, which holds up requests of one kind, or
their answers, or everything.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Literal

import pytest

from kedge.errors import BrokerUnavailable
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.memory import ManualClock
from kedge_services.runtime.ports import (
    Position,
    Produce,
    Service,
    TopicPartition,
    TransactionAborted,
)
from kedge_services.runtime.settings import KafkaSettings, Settings

if TYPE_CHECKING:
    from tests.kafka.conftest import Driver, KafkaRig, Rig

PRODUCE, LIST_OFFSETS, ADD_OFFSETS, END_TXN, OFFSET_COMMIT = 0, 2, 25, 26, 28
HOST = "127.0.0.1"
PATIENCE_S = 1.5

At = Literal["request", "answer"]

on_kafka = pytest.mark.parametrize(
    "rig", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True
)


class Line:
    """A TCP proxy that reads Kafka's frames and can hold them up, for ever or for a while.

    The broker's address in its answers is replaced by ours (of the same length),
    so that clients stay on the line.
    """

    def __init__(self, port: int) -> None:
        self._broker = (HOST, port)
        self._listener = socket.create_server((HOST, 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        ours = int(self._listener.getsockname()[1])
        self._theirs, self._ours = (HOST.encode() + struct.pack(">i", n) for n in (port, ours))
        self._sockets = [self._listener]
        self._change = threading.Condition()
        self._held: set[tuple[At, int]] = set()
        self._is_frozen = False
        #: How many were held up.
        self.caught = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, kind: int, at: At) -> None:
        """Let no more of this kind through."""
        with self._change:
            self._held.add((at, kind))

    def freeze(self) -> None:
        """Let nothing through."""
        with self._change:
            self._is_frozen = True

    def release(self) -> None:
        """Let everything through, also what was held up."""
        with self._change:
            self._held.clear()
            self._is_frozen = False
            self._change.notify_all()

    def cut(self) -> None:
        """End all connections and take no new ones, as a broker that dies."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def mend(self) -> None:
        """Take connections again, and let everything through."""
        self._listener = socket.create_server((HOST, int(self.address.rpartition(":")[2])))
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()
        self.release()

    def close(self) -> None:
        self.release()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(self._broker)
                self._sockets += [client, broker]
                kinds: dict[int, int] = {}
                for pump in (self._requests, self._answers):
                    threading.Thread(target=pump, args=(client, broker, kinds), daemon=True).start()

    def _requests(
        self, client: socket.socket, broker: socket.socket, kinds: dict[int, int]
    ) -> None:
        with contextlib.suppress(OSError, ValueError), client.makefile("rb") as source:
            for frame in _frames(source):
                kind, _, number = struct.unpack_from(">hhi", frame)
                kinds[number] = kind
                self._pass("request", kind)
                broker.sendall(struct.pack(">i", len(frame)) + frame)
        with contextlib.suppress(OSError):
            broker.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, broker: socket.socket, kinds: dict[int, int]) -> None:
        with contextlib.suppress(OSError, ValueError), broker.makefile("rb") as source:
            for frame in _frames(source):
                self._pass("answer", kinds.pop(struct.unpack_from(">i", frame)[0]))
                client.sendall(
                    struct.pack(">i", len(frame)) + frame.replace(self._theirs, self._ours)
                )
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _pass(self, at: At, kind: int) -> None:
        with self._change:
            self.caught += (at, kind) in self._held
            self._change.wait_for(lambda: not self._is_frozen and (at, kind) not in self._held)


def _frames(source: IO[bytes]) -> Iterator[bytes]:
    while len(head := source.read(4)) == 4:
        yield source.read(struct.unpack(">i", head)[0])


@pytest.fixture
def line(rig: KafkaRig) -> Iterator[Line]:
    # A broker that has just started takes its time for the first transaction.
    rig.backend.producer("warm-up").close()
    address = rig.settings.kafka.bootstrap_servers or ""
    line = Line(int(address.rpartition(":")[2]))
    yield line
    line.close()


def beyond(rig: KafkaRig, line: Line, **properties: int) -> Iterator[KafkaBackend]:
    settings = rig.with_properties(
        {name.replace("_", "."): value for name, value in properties.items()}, line.address
    )
    backend = KafkaBackend(settings, patience_s=PATIENCE_S)
    yield backend
    line.release()
    backend.close()


@pytest.fixture
def far(rig: KafkaRig, line: Line) -> Iterator[KafkaBackend]:
    """Give a backend on the other end of the line, that waits for little more than a second."""
    yield from beyond(rig, line)


@pytest.fixture
def hasty_far(rig: KafkaRig, line: Line) -> Iterator[KafkaBackend]:
    """Give one whose transactions may be open for little longer than that.

    A call for offsets waits for as long as the transaction may be open, whatever it is told.
    """
    yield from beyond(rig, line, transaction_timeout_ms=2_000)


# -------------------------------------------------------------------- one transaction


@on_kafka
@pytest.mark.parametrize(("at", "is_committed"), [("request", False), ("answer", True)])
def test_after_a_commit_without_an_answer_the_producer_is_another(
    driver: Driver, rig: Rig, far: KafkaBackend, line: Line, *, at: At, is_committed: bool
) -> None:
    rig.create({"log": 1})
    producer = driver.producer("slot", far)
    producer.begin()
    producer.produce(Produce("log", b"k", b"first", 0))
    line.hold(END_TXN, at)
    with pytest.raises(TransactionAborted, match="Timed out"):
        producer.commit()
    assert line.caught >= 1
    # The slot has a new epoch; what is still on its way reaches nobody's transaction.
    first = [b"first"] if is_committed else []
    producer.begin()
    driver.sent(producer, Produce("log", b"k", b"second", 0))
    line.release()
    for _ in range(3):
        assert driver.values("log") == first
    producer.commit()
    assert driver.values("log") == [*first, b"second"]


@on_kafka
@pytest.mark.parametrize("at", ["request", "answer"])
def test_after_an_abort_without_an_answer_the_producer_goes_on(
    driver: Driver, rig: Rig, far: KafkaBackend, line: Line, at: At
) -> None:
    rig.create({"log": 1})
    producer = driver.producer("slot", far)
    producer.begin()
    driver.sent(producer, Produce("log", b"k", b"gone", 0))
    line.hold(END_TXN, at)
    producer.abort()
    assert line.caught >= 1
    line.release()
    producer.begin()
    producer.produce(Produce("log", b"k", b"kept", 0))
    producer.commit()
    assert driver.values("log") == [b"kept"]


@on_kafka
def test_when_nothing_is_answered_any_more_one_sentence_says_so(
    driver: Driver, rig: Rig, far: KafkaBackend, line: Line
) -> None:
    rig.create({"log": 1})
    producer = driver.producer("slot", far)
    producer.begin()
    driver.sent(producer, Produce("log", b"k", b"gone", 0))
    line.freeze()
    with pytest.raises(BrokerUnavailable, match=f"no Kafka answers at {line.address}"):
        producer.commit()
    line.release()
    # Nobody knew how it would end; for the next producer of the slot it has ended.
    again = driver.producer("slot")
    again.begin()
    again.produce(Produce("log", b"k", b"after", 0))
    again.commit()
    assert driver.values("log") in ([b"after"], [b"gone", b"after"])


def test_without_a_broker_one_sentence_says_what_to_do() -> None:
    nowhere = KafkaSettings(
        bootstrap_servers="127.0.0.1:1", properties={"socket.connection.setup.timeout.ms": 1_000}
    )
    backend = KafkaBackend(Settings(kafka=nowhere), patience_s=0.5)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1.*kedge broker"):
        backend.partitions("monitors")
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        backend.producer("p")


@on_kafka
def test_offsets_that_wait_for_a_lost_connection_are_given_up(
    driver: Driver, rig: Rig, far: KafkaBackend, line: Line
) -> None:
    """The call would wait for ever: connected anew, librdkafka does not look for its answer."""
    rig.create({"log": 1})
    member = driver.member("m-0", "log", backend=far)
    driver.until(lambda: member.held, member.consumer)
    producer = driver.producer("slot", far)

    def transact(value: bytes) -> None:
        producer.begin()
        producer.produce(Produce("log", b"k", value, 0))
        offsets = {TopicPartition("log", 0): Position(1)}
        producer.send_offsets(offsets, member.consumer.group_metadata())
        producer.commit()

    def die_when_caught() -> None:
        driver.until(lambda: line.caught)
        line.cut()
        threading.Timer(0.2, line.mend).start()

    transact(b"first")
    line.hold(ADD_OFFSETS, "request")
    death = threading.Thread(target=die_when_caught)
    death.start()
    with pytest.raises(TransactionAborted):
        transact(b"gone")
    death.join()
    transact(b"after")
    assert driver.values("log") == [b"first", b"after"]


# --------------------------------------------------------------------------- the loop


@on_kafka
@pytest.mark.parametrize(
    ("kind", "at"),
    [
        (PRODUCE, "request"), (ADD_OFFSETS, "answer"), (OFFSET_COMMIT, "answer"),
        (END_TXN, "request"), (END_TXN, "answer"),
    ],
)  # fmt: skip
def test_whatever_is_not_answered_in_a_commit_each_record_is_counted_once(
    listing: Service,
    driver: Driver,
    rig: Rig,
    hasty_far: KafkaBackend,
    line: Line,
    kind: int,
    at: At,
) -> None:
    rig.create({"values": 1, "listed": 1, "listing-changelog": 1})
    clock = ManualClock()
    loop = Loop(listing, hasty_far, rig.settings, clock)

    def until_listed(count: int) -> None:
        def step() -> bool:
            clock.advance(1_000)
            loop.step(0.02)
            if line.caught:
                line.release()
            return len(driver.values("listed")) >= count

        driver.until(step)

    driver.write("values", b"a", b"b")
    until_listed(2)
    line.hold(kind, at)
    driver.write("values", b"c")
    driver.until(lambda: loop.step(0.02) or line.caught)
    driver.write("values", b"d")
    until_listed(4)
    loop.close()
    assert driver.values("listed") == [b"1:a", b"2:b", b"3:c", b"4:d"]


# -------------------------------------------------------------------------- the group


@pytest.mark.memory_gap("a member in memory that died keeps its place until it is expelled")
def test_who_is_not_heard_of_for_a_session_loses_its_place(
    driver: Driver, rig: Rig, request: pytest.FixtureRequest
) -> None:
    rig.create({"log": 2})
    is_kafka = hasattr(rig, "with_properties")
    backend = request.getfixturevalue("far") if is_kafka else driver.backend
    zombie = driver.member("m-0", "log", backend=backend)
    two = driver.member("m-1", "log")
    driver.until(
        lambda: len(zombie.held) == len(two.held) == 1, zombie.consumer, two.consumer
    )  # fmt: skip
    if is_kafka:
        request.getfixturevalue("line").freeze()
    rig.let_pass(6_001)
    driver.until(lambda: len(two.held) == 2, two.consumer)
    if is_kafka:
        request.getfixturevalue("line").release()
    producer = driver.producer("p")
    producer.begin()
    with pytest.raises(TransactionAborted):
        producer.send_offsets(
            {TopicPartition("log", 0): Position(1)}, zombie.consumer.group_metadata()
        )
    driver.until(lambda: "lost" in zombie.told, zombie.consumer)


@on_kafka
def test_where_a_partition_begins_is_an_answer_that_takes_no_seek_back(
    driver: Driver, rig: Rig, far: KafkaBackend, line: Line
) -> None:
    rig.create({"log": 1})
    place = TopicPartition("log", 0)
    driver.write("log", *(b"%d" % i for i in range(10)))
    line.hold(LIST_OFFSETS, "answer")
    member = driver.member("m", "log", backend=far)
    driver.until(lambda: member.held and line.caught, member.consumer)
    member.consumer.seek(place, 7)
    # What wakes a paused consumer asks for offsets, too, and does not wait for long.
    member.consumer.resume([place])
    line.release()
    batches = driver.until(lambda: member.consumer.at_end(place), member.consumer)
    assert [offset for batch in batches for offset in batch.offsets] == [7, 8, 9]
