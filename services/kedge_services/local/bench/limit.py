"""Consume and decode, nothing else: the most that any program in Python can do.

``python -m kedge_services.local.bench.limit`` is a process of its own that reads its
task as JSON from standard input, and writes what it measured to standard output.
It takes the fastest reasonable way: large batches, typed structs that the garbage
collector does not look at, and only the fields that panes needs.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kedge.errors import Stop
from kedge_services.local.bench.figures import Run
from kedge_services.runtime.admin import client_properties
from kedge_services.runtime.settings import Settings

__all__ = ["main", "measure_limit"]

_TIMEOUT_S = 600.0
_BATCH = 10_000
_CONSUMER: dict[str, Any] = {
    "group.id": "bench-limit",
    "enable.auto.commit": False,
    "enable.partition.eof": False,
    "isolation.level": "read_committed",
    "check.crcs": False,
    # At its default of 1,000 a full local queue stops fetching for a second.
    "fetch.queue.backoff.ms": 5,
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 65_536,
    "log_level": 2,
}


class _Output(msgspec.Struct, gc=False):
    label: str | None = None
    score: float | None = None


class _Outcome(msgspec.Struct, gc=False):
    prediction_id: str
    model: str
    label: str
    event_time_ms: int


def measure_limit(
    settings: Settings, ends: dict[tuple[str, int], int], features: Sequence[str], *,
    is_arrow: bool = False,
) -> Run:  # fmt: skip
    """Read topics from their beginning to the ends, in a process of its own.

    Parameters
    ----------
    ends
        By topic and partition.
    features
        What is decoded of a prediction beside its id, time, version and answer.
    is_arrow
        Whether the predictions are batches of Arrow, which are opened and not decoded.

    Raises
    ------
    Stop
        It could not.
    """
    task = {
        "properties": client_properties(settings.kafka),
        "prefix": settings.prefix,
        "ends": [[topic, partition, end] for (topic, partition), end in ends.items()],
        "features": list(features),
        "is_arrow": is_arrow,
    }
    done = subprocess.run(  # noqa: S603 -- our own command
        [sys.executable, "-m", __name__],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise Stop(f"consume and decode alone did not work: {' '.join(last)}")
    found = json.loads(done.stdout)
    wanted = sum(ends.values())
    problems = [] if found["units"] == wanted else [f"{found['units']} of {wanted} records read"]
    return Run(**found, problems=tuple(problems))


def main() -> None:
    """Do the task on standard input."""
    task = json.loads(sys.stdin.read())
    decode = _decoder(task["features"], is_arrow=task["is_arrow"])
    gc.collect()
    gc.freeze()
    sys.stdout.write(json.dumps(_read(task, decode)))


def _decoder(features: Sequence[str], *, is_arrow: bool) -> dict[str, Callable[[bytes], Any]]:
    values = msgspec.defstruct(
        "Features",
        [(f"f{i}", float | None, msgspec.field(name=n)) for i, n in enumerate(features)],
        gc=False,
    )
    prediction = msgspec.defstruct(
        "Prediction",
        [("prediction_id", str), ("model", str), ("version", str), ("event_time_ms", int),
         ("features", values), ("output", _Output)],
        gc=False,
    )  # fmt: skip
    if is_arrow:
        import pyarrow as pa

        return {"predictions": lambda value: pa.ipc.open_stream(value).read_all()}
    return {
        "predictions": msgspec.json.Decoder(prediction).decode,
        "outcomes": msgspec.json.Decoder(_Outcome).decode,
    }


def _read(task: dict[str, Any], decoders: dict[str, Callable[[bytes], Any]]) -> dict[str, float]:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

    prefix = task["prefix"]
    left = {(prefix + topic, partition): end for topic, partition, end in task["ends"] if end}
    consumer = Consumer({**task["properties"], **_CONSUMER})
    # Connected before the clock runs, as a service is when it is ready.
    consumer.list_topics(timeout=30)
    value_of: Callable[[Message], Any] = Message.value
    topic_of: Callable[[Message], Any] = Message.topic
    kinds = {prefix + name: decode for name, decode in decoders.items()}
    is_alone = len({topic for topic, _ in left}) == 1
    wanted, units = sum(left.values()), 0
    cpu_s, began_s = time.process_time(), time.perf_counter()
    consumer.assign([TopicPartition(t, p, OFFSET_BEGINNING) for t, p in left])
    while units < wanted:
        messages = consumer.consume(_BATCH, timeout=10)
        if not messages:
            break
        if is_alone:
            decode = kinds[topic_of(messages[0])]
            for value in map(value_of, messages):
                decode(value)
        else:
            for name, value in zip(map(topic_of, messages), map(value_of, messages), strict=True):
                kinds[name](value)
        units += len(messages)
    return {
        "units": units,
        "wall_s": time.perf_counter() - began_s,
        "cpu_s": time.process_time() - cpu_s,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


if __name__ == "__main__":
    main()
