"""Bytewax: mean and count of one feature in tumbling windows of 10 s, by model.

``bytewax_peer.py BROKERS TOPIC RECORDS``; runs in an environment of its own, and prints a line of
JSON: the records read, what the windows counted, wall and CPU seconds from the first record on.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any


def main() -> None:
    """Read the topic to its end."""
    import bytewax.operators as op
    import orjson
    from bytewax.connectors.kafka import KafkaSource
    from bytewax.dataflow import Dataflow
    from bytewax.operators import windowing
    from bytewax.testing import TestingSink, run_main

    brokers, name = sys.argv[1], sys.argv[2]
    began: list[tuple[float, float]] = []
    seen = 0

    def decoded(message: Any) -> tuple[str, tuple[datetime, float]]:
        nonlocal seen
        if not began:
            began.append((time.perf_counter(), time.process_time()))
        seen += 1
        event = orjson.loads(message.value)
        when = datetime.fromtimestamp(event["event_time_ms"] / 1000, tz=UTC)
        return event["model"], (when, event["features"]["f000"])

    def add(sums: tuple[int, float], item: tuple[datetime, float]) -> tuple[int, float]:
        return sums[0] + 1, sums[1] + item[1]

    def merged(left: tuple[int, float], right: tuple[int, float]) -> tuple[int, float]:
        return left[0] + right[0], left[1] + right[1]

    found: list[Any] = []
    flow = Dataflow("peer")
    source = KafkaSource([brokers], [name], tail=False, batch_size=10_000)
    rows = op.map("decode", op.input("in", flow, source), decoded)
    clock = windowing.EventClock(
        lambda item: item[0], wait_for_system_duration=timedelta(seconds=5)
    )
    windower = windowing.TumblingWindower(
        length=timedelta(seconds=10), align_to=datetime(2020, 1, 1, tzinfo=UTC)
    )
    windows = windowing.fold_window("windows", rows, clock, windower, lambda: (0, 0.0), add, merged)
    op.output("out", windows.down, TestingSink(found))
    run_main(flow)
    wall_s, cpu_s = time.perf_counter() - began[0][0], time.process_time() - began[0][1]
    counted = sum(count for _, (_, (count, _)) in found)
    answer = {"records": seen, "counted": counted, "wall_s": wall_s, "cpu_s": cpu_s}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
