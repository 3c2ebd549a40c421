"""More comes than can be processed: lag grows and is seen, memory is bounded, nothing is lost."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer as KafkaClient
from tests.kafka.conftest import Driver, KafkaRig, Listing

from kedge_services.local.doctor.groups import check_groups
from kedge_services.local.doctor.lag import Lag, judge_lag
from kedge_services.runtime import metrics as m
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.kafka_consumer import KafkaConsumer
from kedge_services.runtime.loop import Loop
from kedge_services.runtime.metrics import Metrics
from kedge_services.runtime.ports import Batch, Produce, Service, TopicPartition
from kedge_services.runtime.settings import LoopSettings, Settings

if TYPE_CHECKING:
    from tests.kafka.conftest import Rig

    from kedge_services.local.broker import LocalBroker

TOPICS = {"values": 1, "listed": 1, "listing-changelog": 1}


def small_polls(settings: Settings, records: int) -> Settings:
    loop = LoopSettings(poll_records=records, commit_interval_ms=100, idle_commit_interval_ms=100)
    return settings.model_copy(update={"loop": loop})


def numbered(start: int, stop: int) -> list[bytes]:
    return [b"%d:%d" % (n, n) for n in range(start, stop)]


def test_lag_grows_while_more_comes_than_is_taken_and_nothing_is_lost(
    rig: Rig, driver: Driver, listing: Service
) -> None:
    rig.create(TOPICS)
    metrics = Metrics("listing")
    loop = Loop(listing, driver.backend, small_polls(rig.settings, 10), wall_clock, metrics)

    def lag() -> float:
        return metrics.value(m.LAG, topic="values", partition="0")

    def taken() -> float:
        return metrics.value(m.CONSUMED, topic="values")

    driver.until(lambda: loop.step(0.02) or loop.running)
    sent, seen = 0, [0.0]
    for _ in range(3):
        driver.write("values", *[b"%d" % n for n in range(sent + 1, sent + 101)])
        sent += 100
        # One poll takes a tenth of what has come.
        driver.until(lambda: loop.step(0.02))
        driver.until(lambda: loop.commit() and lag() > seen[-1] + 50)
        assert taken() < sent
        assert metrics.value(m.LAG_SECONDS, topic="values", partition="0") > 0
        seen.append(lag())
    assert seen[-1] >= sent - taken()
    driver.until(lambda: not loop.step(0.02) and taken() == sent and lag() == 0)
    assert metrics.value(m.LAG_SECONDS, topic="values", partition="0") == 0
    loop.close()
    assert driver.values("listed") == numbered(1, sent + 1)


def filled(address: str, topic: str, values: Iterator[tuple[int, bytes]], age_ms: int = 0) -> None:
    """Send values to partitions, with times of ``age_ms`` ago."""
    client = KafkaClient({"bootstrap.servers": address, "log_level": 2})
    for partition, value in values:
        client.produce(topic, value, partition=partition, timestamp=wall_clock() - age_ms)
    assert client.flush(20) == 0


@pytest.mark.kafka
def test_what_is_queued_is_bounded_however_many_partitions_wait(kafka: LocalBroker) -> None:
    rig = KafkaRig(kafka.bootstrap_servers)
    rig.create({"many": 16})
    size, count, bound = 10_000, 1_600, 1_000_000
    filled(
        kafka.bootstrap_servers,
        rig.settings.prefix + "many",
        ((n % 16, b"%d " % n + b"x" * size) for n in range(count)),
    )
    queued: list[int] = []

    def told(text: str) -> None:
        topics: dict[str, Any] = json.loads(text)["topics"]
        # Of the one queue of all partitions.
        sizes = [p["fetchq_size"] for t in topics.values() for p in t["partitions"].values()]
        queued.append(max(sizes, default=0))

    consumer = KafkaConsumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "queued.max.messages.kbytes": bound // 1_000,
            "fetch.max.bytes": bound,
            "statistics.interval.ms": 10,
            "stats_cb": told,
        },
        prefix=rig.settings.prefix,
        bounds=rig.backend.bounds,
        ends=rig.backend.ends,
        group=None,
        instance=None,
    )
    consumer.assign({TopicPartition("many", partition): 0 for partition in range(16)})
    read: list[int] = []
    deadline = time.monotonic() + rig.deadline_s
    while len(read) < count and time.monotonic() < deadline:
        for batch in consumer.poll(20, 0.1):
            read += [int((value or b"").split()[0]) for value in batch.values]
        # Slower than what arrives, so that there is a queue to be looked at.
        time.sleep(0.02)
    consumer.close()
    rig.close()
    assert sorted(read) == list(range(count))
    # Nearly full, and one answer more, whose first batch may be as large again;
    # without a bound nearly all 16 MB of it would have been there.
    assert 0 < max(queued) <= 3 * bound + bound // 10


def test_a_partition_with_much_does_not_starve_one_with_little(driver: Driver, rig: Rig) -> None:
    rig.create({"uneven": 2})
    much, little = TopicPartition("uneven", 0), TopicPartition("uneven", 1)
    noise = random.Random(1)  # what can be packed well comes at once
    for _ in range(6):
        driver.write("uneven", *[noise.randbytes(1_000) for _ in range(1_000)])
    driver.write("uneven", *[b"%d" % n for n in range(10)], partition=1)
    consumer = driver.consumer()
    consumer.assign({much: 0, little: 0})
    read = {much: 0, little: 0}

    def all_little_is_read() -> bool:
        for batch in consumer.poll(100, 0.05):
            read[TopicPartition(batch.topic, batch.partition)] += len(batch)
        return read[little] == 10

    driver.until(all_little_is_read)
    assert read[much] < 3_000


@pytest.mark.kafka
def test_a_transaction_may_be_larger_than_the_local_queue(kafka: LocalBroker) -> None:
    rig = KafkaRig(kafka.bootstrap_servers)
    rig.create({"large": 1})
    small = rig.with_properties({"queue.buffering.max.messages": 100})
    driver = Driver(rig)
    producer = driver.producer("large", KafkaBackend(small))
    producer.begin()
    for n in range(1_000):
        producer.produce(Produce("large", None, b"%d" % n, 0))
    producer.commit()
    assert driver.values("large") == [b"%d" % n for n in range(1_000)]
    driver.close()


class Slow(Listing):
    """Takes its time over every batch, until it is let go."""

    let_go = threading.Event()

    def process(self, batch: Batch) -> None:
        self.let_go.wait(0.2)
        super().process(batch)


@contextmanager
def running(loop: Loop) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.kafka
def test_doctor_tells_of_a_service_that_falls_behind(kafka: LocalBroker) -> None:
    rig = KafkaRig(kafka.bootstrap_servers)
    rig.create(TOPICS)
    topic = rig.settings.prefix + "values"
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        values = ((0, b"%d" % n) for n in range(sent + 1, sent + count + 1))
        filled(kafka.bootstrap_servers, topic, values, age_ms=600_000)
        sent += count

    Slow.let_go.clear()
    service = Service("listing", ("values",), (), lambda _: Slow())
    metrics = Metrics("listing")
    settings = small_polls(rig.settings, 50)
    loop = Loop(service, KafkaBackend(settings), settings, wall_clock, metrics)
    send(3_000)
    ended = threading.Event()

    def go_on_sending() -> None:
        while not ended.wait(0.05):
            send(100)

    sender = threading.Thread(target=go_on_sending)
    with running(loop):
        while not metrics.value(m.COMMITS):
            time.sleep(0.01)
        sender.start()
        (finding,) = check_groups(settings, rig.backend, ["listing"])
        ended.set()
        sender.join()
        Slow.let_go.set()
        while metrics.value(m.CONSUMED, topic="values") < sent:
            time.sleep(0.01)
    driver = Driver(rig)
    assert driver.values("listed") == numbered(1, sent + 1)
    driver.close()
    assert finding.state == "warning"
    assert finding.detail.startswith("listing: 1 process, ")
    assert "(10 min) behind and falling further behind: " in finding.detail
    assert "each of its 1 partitions has a process" in finding.move


FAR = Lag(records=50_000, age_s=90.0, came=2_000, read=1_000, seconds=2.0, members=1, partitions=4)


@pytest.mark.parametrize(
    ("lag", "state", "words", "move"),
    [
        (
            FAR,
            "warning",
            "falling further behind: 1,000 come a second, 500 are",
            "--ordinal 1",
        ),
        (FAR._replace(members=4), "warning", "further", "more CPU"),
        (FAR._replace(read=2_050), "warning", "not catching up", "up to 4 share"),
        (FAR._replace(read=0), "warning", "reads nothing: 1,000 come", "see the log of panes"),
        (FAR._replace(read=52_000), "ok", "and catching up, in about 2 s", ""),
        (FAR._replace(age_s=3.0), "ok", "50,000 records (3 s) behind", ""),
        (FAR._replace(age_s=None), "warning", "50,000 records behind and falling", "--ordinal 1"),
    ],
)
def test_a_lag_is_judged_by_what_comes_and_what_is_read(
    lag: Lag, state: str, words: str, move: str
) -> None:
    finding = judge_lag("panes", lag)
    assert finding.state == state
    assert words in finding.detail
    assert move in finding.move
    assert bool(finding.move) == (state == "warning")
