"""The local Kafka: its life, and what it says when it cannot live."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from kedge.errors import BrokerUnavailable, UsageError
from kedge_services.local.broker import LocalBroker, announce, announced, withdraw
from kedge_services.runtime.admin import (
    check_topics,
    create_topics,
    require_topics,
    wait_for_kafka,
)
from kedge_services.runtime.settings import KafkaSettings, Settings

pytestmark = pytest.mark.kafka


def gone(pid: int, timeout_s: float = 20.0) -> bool:
    """Wait until a process that is not our child has ended."""
    try:
        psutil.Process(pid).wait(timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_data_survives_a_restart_on_another_port(tmp_path: Path) -> None:
    def end(broker: LocalBroker) -> int:
        consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "g"})
        try:
            return int(
                consumer.get_watermark_offsets(TopicPartition("kedge.monitors", 0), timeout=10)[1]
            )
        finally:
            consumer.close()

    broker = LocalBroker(tmp_path)
    with broker:
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        create_topics(Settings(kafka=kafka), ["monitors"])
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        producer.produce("kedge.monitors", b"v" * 900_000, b"k", partition=0)
        assert producer.flush(10) == 0
        assert end(broker) == 1
        assert broker.rss_bytes() > 50_000_000
        pid = broker.pid
    assert not psutil.pid_exists(pid)
    with LocalBroker(tmp_path) as again:
        assert end(again) == 1


def test_dies_with_its_parent_and_the_next_one_takes_over(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from kedge_services.local.broker import LocalBroker\n"
        "broker = LocalBroker(Path(sys.argv[1])); broker.start()\n"
        "print(broker.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        with pytest.raises(UsageError, match=f"in use by another local Kafka .process {pid}"):
            LocalBroker(tmp_path).start()
        parent.send_signal(signal.SIGKILL)
    with LocalBroker(tmp_path) as successor:
        assert gone(pid)
        assert successor.is_running()


def test_a_taken_port_is_one_sentence(kafka: LocalBroker, tmp_path: Path) -> None:
    port = int(kafka.bootstrap_servers.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"port {port} .*choose another port"):
        LocalBroker(tmp_path, port=port).start()


def test_a_broken_data_directory_is_one_sentence(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "meta.properties").write_text("version=1\nnode.id=77\ncluster.id=somebody-elses\n")
    with pytest.raises(BrokerUnavailable, match=r"stopped at its start: .*node.id"):
        LocalBroker(tmp_path).start()


def test_nobody_answers_is_one_sentence_with_the_ways_out() -> None:
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1 .*kedge up.*--bootstrap-servers"):
        wait_for_kafka(kafka, timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_announcement_counts_only_while_the_broker_lives(
    kafka: LocalBroker, tmp_path: Path
) -> None:
    file = tmp_path / "kedge" / "broker.json"
    assert announced(file) is None
    announce(kafka, file)
    assert announced(file) == kafka.bootstrap_servers
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    file.write_text(f'{{"bootstrap_servers": "127.0.0.1:1", "pid": {dead.stdout}}}')
    assert announced(file) is None
    withdraw(file)
    assert not file.exists()


def test_topics_are_created_once_and_differences_are_named(kafka_settings: Settings) -> None:
    assert create_topics(kafka_settings) == []
    assert check_topics(kafka_settings) == []
    prefix = kafka_settings.prefix
    other = kafka_settings.model_copy(update={"request_partitions": 3})
    assert f"{prefix}predictions has 2 partitions, must have 3" in check_topics(other)
    elsewhere = kafka_settings.model_copy(update={"prefix": f"{prefix}x."})
    assert f"{prefix}x.alerts is missing" in check_topics(elsewhere)
    with pytest.raises(Exception, match=f"{prefix}x.alerts is missing.*kedge topics create"):
        require_topics(elsewhere)
