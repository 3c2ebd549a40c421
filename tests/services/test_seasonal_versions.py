"""Versions of monitors that compare with the same hour of the week: trained, and registered."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from kedge import Example, Monitor, Reference
from kedge.errors import UsageError
from kedge.events import RetrainCause, RetrainRequest
from kedge_services.cli.monitors import read_monitors
from kedge_services.local.reference_file import (
    Columns,
    beside,
    columns_of,
    make_reference,
    read_reference,
    read_reference_rows,
)
from kedge_services.trainer.training import train

HOUR_MS = 3_600_000
#: A Monday, 0h UTC.
MONDAY_MS = 1_767_571_200_000
PER_HOUR = 30


def monitor(**reference: Any) -> Monitor:
    return Monitor.model_validate(
        {
            "model": "m", "task": "binary", "classes": ["no", "yes"],
            "features": {"x": "numeric"}, "windows": {"pane": "1h"},
            "reference": reference or {"from": "same-hour", "timezone": "Europe/Oslo"},
            "retrain": {"trainer": "sklearn-linear"},
            "replay": {"timestamp": "at", "label": "y", "prediction": "p"},
        }
    )  # fmt: skip


def rows(days: int) -> list[tuple[int, float, str]]:
    """Time, x and label; x is higher by day."""
    chance = random.Random(days)
    found = []
    for number in range(days * 24 * PER_HOUR):
        hour = number // PER_HOUR % 24
        x = chance.gauss(2 if 8 <= hour < 20 else 0, 1)
        label = "yes" if x + chance.gauss(0, 0.3) > 1 else "no"
        found.append((MONDAY_MS + number * HOUR_MS // PER_HOUR, x, label))
    return found


def write(path: Path, days: int, *, shuffled: bool = False) -> Path:
    lines = [(time_ms, x, y, y) for time_ms, x, y in rows(days)]
    if shuffled:
        random.Random(1).shuffle(lines)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at", "x", "y", "p"])
        writer.writerows(lines)
    return path


def trained(declared: Monitor, days: int) -> Reference:
    examples = [
        Example(prediction_id=f"r{i:06}", model="m", features={"x": x}, label=y, outputs={},
                event_time_ms=time_ms, label_time_ms=time_ms)
        for i, (time_ms, x, y) in enumerate(rows(days))
    ]  # fmt: skip
    request = RetrainRequest(
        request_id="q", model="m", mode="batch", cause=RetrainCause(kind="manual"), event_time_ms=1
    )
    made = train(
        request, examples, monitor=declared, parent=None, parent_data=None, seed=1
    ).candidate
    assert made.failure is None
    assert made.reference is not None
    return made.reference


def test_a_trained_version_is_held_to_all_its_rows_by_their_hours() -> None:
    reference = trained(monitor(), 28)
    assert reference.seasons is not None
    assert reference.seasons.timezone == "Europe/Oslo"
    assert reference.rows == 28 * 24 * PER_HOUR
    assert reference.lineage["hours_of_week"]["weekdays or weekend"] == 120
    assert reference.prediction is not None
    assert reference.prediction.seasonal is not None
    plain = trained(monitor(**{"from": "version"}), 28)
    assert plain.seasons is None
    # A few days tell no hour from another; then all of them together are the reference.
    short = trained(monitor(), 5)
    assert short.seasons is not None
    assert set(short.seasons.hours) == {0}


def test_a_file_with_times_is_told_apart_by_hours_in_whatever_order(tmp_path: Path) -> None:
    declared = monitor()
    one, other = write(tmp_path / "a.csv", 28), write(tmp_path / "b.csv", 28, shuffled=True)
    columns = columns_of(one, declared)
    assert columns == Columns("y", "p", None, "at")
    references = [read_reference(path, declared, "1", columns) for path in (one, other)]
    first, second = references
    assert first.seasons is not None
    assert first.features == second.features
    assert first.reference_id == second.reference_id


def test_a_file_that_tells_no_hours_apart_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 5)
    with pytest.raises(UsageError, match=r"so its rows need a column of times \(--timestamp\)"):
        make_reference(read_reference_rows(path, monitor(), Columns("y")), monitor(), "1")
    with pytest.raises(UsageError, match="3600 rows of 5 days are too few to compare"):
        read_reference(path, monitor(), "1", Columns("y", timestamp="at"))
    with pytest.raises(
        UsageError, match=r"a\.csv: row 1: p: expected a time, .* \(got '(yes|no)'\)"
    ):
        read_reference_rows(path, monitor(), Columns("y", timestamp="p"))
    # Whoever compares with everything needs no times.
    plain = monitor(**{"from": "version"})
    assert read_reference(path, plain, "1", Columns("y")).seasons is None


def test_a_path_is_relative_to_the_file_it_stands_in() -> None:
    declared = monitor(**{"from": "file", "path": "data/ref.csv"})
    there = beside(declared, Path("monitors/m.toml"))
    assert there.reference.path == str(Path("monitors/data/ref.csv"))
    assert beside(monitor(), Path("monitors/m.toml")) == monitor()
    absolute = monitor(**{"from": "file", "path": "/data/ref.csv"})
    assert beside(absolute, Path("monitors/m.toml")).reference.path == str(Path("/data/ref.csv"))


KATHMANDU = (
    '5: windows.pane: with from = "same-hour" a pane lies within the hours of Asia/Kathmandu: '
    "15m, or 15m divided by a whole number (got 1h)"
)
TOML = 'model = "m"\ntask = "regression"\nfeatures.x = "numeric"\n[windows]\npane = "{}"\n'


@pytest.mark.parametrize(
    ("pane", "reference", "mistake"),
    [
        ("1h", 'from = "same-hour"', None),
        ("15m", 'from = "same-hour"\ntimezone = "Asia/Kathmandu"', None),
        ("2h", 'from = "same-hour"', "5: windows.pane: with from = "),
        ("7m", 'from = "same-hour"', "5: windows.pane: with from = "),
        (
            "1h", 'from = "same-hour"\ntimezone = "Asia/Kathmandu"',
            KATHMANDU,
        ),
        (
            "1h", 'from = "same-hour"\ntimezone = "Europe/Olso"',
            '8: reference.timezone: "Europe/Olso" is no time zone; did you mean "Europe/Oslo"?',
        ),
        ("1h", 'from = "same-hour"\ntimezone = "../etc"', "8: reference.timezone: "),
        ("1h", 'from = "same-hour"\ntimezone = ""', "8: reference.timezone: "),
        ("1h", 'from = "same-hour"\npath = "ref.csv"', None),
        ("1h", 'path = "ref.csv"', '7: reference.path: only with from = "file" or "same-hour"'),
        ("1h", 'timezone = "Europe/Oslo"', '7: reference.timezone: only with from = "same-hour"'),
    ],
)  # fmt: skip
def test_panes_lie_within_hours_of_a_zone_that_exists(
    tmp_path: Path, pane: str, reference: str, mistake: str | None
) -> None:
    path = tmp_path / "m.toml"
    path.write_text(TOML.format(pane) + f"[reference]\n{reference}\n")
    _, found = read_monitors([path])
    if mistake is None:
        assert found == []
    else:
        (only,) = found
        assert str(only).removeprefix(f"{path}:").startswith(mistake)
