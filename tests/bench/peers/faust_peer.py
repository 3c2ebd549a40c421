"""Faust: mean and count of one feature in tumbling windows of 10 s, by model.

``faust_peer.py BROKERS TOPIC RECORDS``; runs in an environment of its own, and prints a line of
JSON: the records read, what the windows counted, wall and CPU seconds from the first record on.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from typing import Any


def main() -> None:
    """Read the topic to its end."""
    import faust
    import orjson

    brokers, name, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
    app = faust.App(
        f"peer-{time.time_ns()}",
        broker=f"kafka://{brokers}",
        store="memory://",
        datadir=tempfile.mkdtemp(prefix="faust-"),
        web_enabled=False,
        topic_partitions=4,
        topic_replication_factor=1,
        table_standby_replicas=0,
        broker_max_poll_records=5_000,
        consumer_auto_offset_reset="earliest",
    )
    events = app.topic(name, value_serializer="raw", key_serializer="raw", partitions=4)
    # Records carry their event time as the time of the message, which a stream is relative to.
    table = app.Table("sums", default=_nothing, partitions=4)
    windowed = table.tumbling(10.0, expires=3600.0).relative_to_stream()
    began: list[tuple[float, float]] = []
    seen = 0

    async def follow(stream: Any) -> None:
        nonlocal seen
        async for value in stream:
            if not began:
                began.append((time.perf_counter(), time.process_time()))
            event = orjson.loads(value)
            model = event["model"]
            count, total = windowed[model].current()
            windowed[model] = (count + 1, total + event["features"]["f000"])
            seen += 1
            if seen == wanted:
                tell()

    def tell() -> None:
        wall_s, cpu_s = time.perf_counter() - began[0][0], time.process_time() - began[0][1]
        counted = sum(count for count, _ in table.values())
        answer = {"records": seen, "counted": counted, "wall_s": wall_s, "cpu_s": cpu_s}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        # Faust's own shutdown takes many seconds, and nothing of it is measured.
        os._exit(0)

    app.agent(events)(follow)
    logging.disable(logging.CRITICAL)
    faust.Worker(app, loglevel="critical", redirect_stdouts=False).execute_from_commandline()


def _nothing() -> tuple[int, float]:
    return 0, 0.0


if __name__ == "__main__":
    main()
