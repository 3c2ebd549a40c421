"""Quix Streams: mean and count of one feature in tumbling windows of 10 s, by model.

``quix_peer.py BROKERS TOPIC RECORDS``; runs in an environment of its own, and prints a line of
JSON: the records read, what the windows counted, wall and CPU seconds from the first record on.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from typing import Any


def main() -> None:
    """Read the topic to its end."""
    from quixstreams import Application
    from quixstreams.dataframe.windows import Count, Mean

    brokers, name, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
    logging.disable(logging.WARNING)
    began: list[tuple[float, float]] = []
    counted: dict[tuple[Any, int], int] = {}
    seen = 0

    def feature(event: dict[str, Any]) -> float:
        nonlocal seen
        if not began:
            began.append((time.perf_counter(), time.process_time()))
        seen += 1
        return float(event["features"]["f000"])

    def note(window: dict[str, Any], key: Any, *_: Any) -> None:
        counted[key, window["start"]] = window["n"]

    with tempfile.TemporaryDirectory(prefix="quix-") as state:
        app = Application(
            broker_address=brokers,
            consumer_group=f"peer-{time.time_ns()}",
            auto_offset_reset="earliest",
            state_dir=state,
            loglevel=None,
        )
        topic = app.topic(
            name,
            value_deserializer="json",
            timestamp_extractor=lambda value, *_: value["event_time_ms"],
        )
        stream = app.dataframe(topic).apply(feature)
        stream.tumbling_window(10_000).agg(n=Count(), mean=Mean()).current().update(
            note, metadata=True
        )
        app.run(count=wanted, timeout=60)
        wall_s = time.perf_counter() - began[0][0]
        cpu_s = time.process_time() - began[0][1]
    answer = {
        "records": seen,
        "counted": sum(counted.values()),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
