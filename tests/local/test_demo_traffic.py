"""A file as live traffic: its times moved to now and divided, nothing else changed."""

from __future__ import annotations

from kedge_services.local.demo.traffic import arrivals_from_file
from kedge_services.local.files import FileRow


def test_rows_of_a_file_arrive_in_their_rhythm_with_all_they_have() -> None:
    rows = [
        FileRow(1_000, {"x": 1.0}),  # without a label there is no outcome to send
        FileRow(61_000, {"x": 2.0}, "UP", segments={"region": "NO"}),
        FileRow(121_000, {"x": 3.0}, "DOWN"),
    ]
    first, second = arrivals_from_file(rows, start_ms=500, speed_up=60, rate=4)
    assert (first.identity, first.event_ms, first.label_ms) == ("row-1", 500, 500)
    assert (second.identity, second.event_ms, second.delay_s) == ("row-2", 1_500, 0.25)
    assert first.row == ({"x": 2.0}, "UP", {"region": "NO"})
    assert second.row.segments == {}
