"""How much of everything: the whole, a first look, and next to nothing for tests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "TINY", "Sizes"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of records, and of what else the cases are made of.

    Attributes
    ----------
    windows
        Name, models, panes and source partitions of each measurement.
    alerts
        Models and panes.
    latency_s, http_s, overload_s
        How long traffic is sent.
    latency_rate, http_rate
        Predictions and requests a second.
    memory
        Pending predictions of each measurement.
    """

    name: str
    json_records: int
    bad_records: int
    labelled_pairs: int
    arrow_rows: int
    wide_records: int
    windows: tuple[tuple[str, int, int, int], ...]
    alerts: tuple[int, int]
    latency_s: float
    latency_rate: int
    http_s: float
    http_rate: int
    kafka_requests: int
    restored: int
    memory: tuple[int, ...]
    growth_records: int
    overload_s: float


FULL = Sizes(
    "full",
    json_records=3_000_000,
    bad_records=1_000_000,
    labelled_pairs=600_000,
    arrow_rows=20_000_000,
    wide_records=60_000,
    windows=(
        ("models_1", 1, 400, 1),
        ("models_10", 10, 400, 1),
        ("models_100", 100, 100, 1),
        ("series_5000", 5_000, 20, 1),
        ("series_5000_of_8_partitions", 5_000, 4, 8),
    ),
    alerts=(200, 60),
    latency_s=60,
    latency_rate=20_000,
    http_s=60,
    http_rate=300,
    kafka_requests=200_000,
    restored=1_000_000,
    memory=(1_000_000, 10_000_000),
    growth_records=300_000,
    overload_s=30,
)
QUICK = Sizes(
    "quick",
    json_records=800_000,
    bad_records=300_000,
    labelled_pairs=150_000,
    arrow_rows=3_000_000,
    wide_records=15_000,
    windows=(("models_1", 1, 60, 1), ("models_100", 100, 30, 1), ("series_5000", 5_000, 6, 1)),
    alerts=(50, 30),
    latency_s=20,
    latency_rate=20_000,
    http_s=10,
    http_rate=300,
    kafka_requests=30_000,
    restored=200_000,
    memory=(200_000, 1_000_000),
    growth_records=50_000,
    overload_s=10,
)
TINY = Sizes(
    "tiny",
    json_records=2_000,
    bad_records=2_000,
    labelled_pairs=500,
    arrow_rows=4_000,
    wide_records=100,
    windows=(("models_1", 1, 3, 1), ("series_5000", 4, 3, 2)),
    alerts=(2, 10),
    latency_s=6,
    latency_rate=500,
    http_s=1,
    http_rate=50,
    kafka_requests=200,
    restored=500,
    memory=(500,),
    growth_records=200,
    overload_s=1,
)
