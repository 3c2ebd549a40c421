"""``kedge test``: what it says of good tests, of failed ones, and of files that are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
MONITOR = """
model = "m"
task = "binary"
classes = ["no", "yes"]
label_horizon = "30m"
segments = [{ name = "region" }]
features = { x = "numeric", y = "categorical" }
windows = { pane = "1m", scales = [1, 4] }

[[rules]]
name = "low"
metric = "accuracy"
below = 0.8
for = "2 windows"

[[rules]]
name = "north-low"
metric = "accuracy"
segment = "region=north"
scale = 4
below = 0.8

[[rules]]
name = "nulls"
metric = "null_share"
feature = "x"
above = 0.1
keep_firing_for = "2m"

[retrain]
on = ["low"]
min_labels = 1000
cooldown = "5m"
"""
Run = Callable[..., Any]


@pytest.fixture
def run(kedge: Run, tmp_path: Path) -> Run:
    """Run ``kedge test`` on the text of a file beside its monitor."""
    (tmp_path / "m.toml").write_text(MONITOR)

    def tested(text: str, *options: str) -> Any:
        (tmp_path / "t.toml").write_text('monitor = "m.toml"\n' + text)
        return kedge("test", str(tmp_path / "t.toml"), *options)

    return tested


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*-tests.toml")), ids=lambda p: p.stem)
def test_the_examples_of_the_documentation_pass(path: Path, kedge: Run) -> None:
    told = kedge("test", str(path))
    assert (told.status, told.error) == (0, "")
    assert told.out.endswith("none failed\n")


def expect(at: str, alert: str, status: str, more: str = "") -> str:
    return f'[[tests.expect]]\nat = "{at}"\nalert = "{alert}"\nstatus = "{status}"\n{more}\n'


def test_a_rule_is_followed_through_its_life(run: Run) -> None:
    #  accuracy  .9 .9 .7 .7  _ .9      below .8 for 2 windows
    #             -  -  p  F  F  R
    text = '[[tests]]\nname = "t"\nseries.accuracy = "0.9x2 0.7x2 _ 0.9"\nfires = ["low"]\n'
    states = ["none", "none", "pending", "firing", "firing", "resolved"]
    text += "".join(expect(f"{i} panes", "low", s) for i, s in enumerate(states, 1))
    assert run(text).out.splitlines()[-1] == "1 test, none failed"


def test_a_feature_a_segment_and_longer_windows_have_series_of_their_own(run: Run) -> None:
    text = """
    [[tests]]
    name = "t"
    fires = ["north-low", "nulls"]
    [tests.series]
    accuracy = "0.9x8"
    null_share.x = "0 0.05 0.2 0x5"
    null_share.y = "0.9x8"
    [[tests.windows]]
    scale = 4
    segment = "region=north"
    series.accuracy = "0.9x3 0.85..0.7x4 0.9"
    """
    text += expect("3m", "nulls", "firing", 'feature = "x"')
    text += expect("4 panes", "nulls", "firing")  # keep_firing_for is two minutes
    text += expect("5 panes", "nulls", "resolved")
    # .85 .80 .75 .70: the third value is the first below .8.
    text += expect("5 panes", "north-low", "none", 'segment = "region=north"')
    text += expect("6 panes", "north-low", "firing", 'segment = "region=north"')
    text += expect("6 panes", "north-low", "none", 'segment = "region=south"')
    told = run(text)
    assert told.status == 0, told.out


def test_retrain_requests_wait_for_labels_and_cooldown(run: Run) -> None:
    #  250 labels a pane; it fires at the 4th, 1,000 labels later is the 8th, then every 5 panes.
    text = '[[tests]]\nname = "t"\nrows = "500"\nlabel_coverage = "0.5"\n'
    text += 'series.accuracy = "0.9x2 0.7x20"\n'
    for panes, count in ((7, "false"), (8, "true"), (12, "1"), (13, "2"), (18, "3")):
        text += f'[[tests.expect]]\nat = "{panes} panes"\nretrain = {count}\n'
    told = run(text)
    assert told.status == 0, told.out


def test_lost_data_and_lost_labels_fire_the_built_in_rules(run: Run) -> None:
    text = '[[tests]]\nname = "t"\nrows = "500x4 0x3 500x2"\nlabel_coverage = "1 0.2x2 1"\n'
    text += expect("2 panes", "low-coverage", "firing") + expect(
        "4 panes", "low-coverage", "resolved"
    )
    text += expect("6 panes", "no-data", "none") + expect("7 panes", "no-data", "firing")
    text += expect("8 panes", "no-data", "resolved")
    told = run(text)
    assert told.status == 0, told.out


def test_a_failed_test_says_where_it_stands_and_what_came_instead(run: Run) -> None:
    text = '[[tests]]\nname = "too soon"\nseries.accuracy = "0.7x3"\nfires = []\n'
    text += expect("1 pane", "low", "firing")
    told = run(text)
    assert told.status == 1
    lines = [line.strip() for line in told.out.splitlines()]
    assert lines[0].startswith("FAIL")
    assert lines[0].endswith("t.toml:2: too soon")
    assert lines[1].endswith("t.toml:9: at 1 pane, low")
    assert lines[2:4] == ["expected: firing", "got:      pending"]
    assert lines[4].endswith("t.toml:5: alerts that fire")
    assert lines[5:7] == ["expected: none", "got:      low"]
    assert lines[7:] == ["what happened:", "at 1 panes (1m): low pending",
                         "at 2 panes (2m): low firing", "1 test, 1 failed"]  # fmt: skip
    data = json.loads(run(text, "--json").out)
    assert (data["passed"], data["failed"], data["mistakes"]) == (0, 1, [])
    (test,) = data["tests"]
    assert test["failures"][0] == {
        "line": 9, "what": "at 1 pane, low", "expected": "firing", "got": "pending"
    }  # fmt: skip


def test_a_monitor_can_be_written_into_the_file(kedge: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(
        '[monitor]\nmodel = "m"\ntask = "regression"\nfeatures.a = "numeric"\n'
        '[[monitor.rules]]\nname = "off"\nmetric = "mae"\nabove = 2\n'
        '[[tests]]\nname = "t"\nseries.mae = "1 3"\nfires = ["off"]\n'
    )
    assert kedge("test", str(path)).status == 0
    path.write_text(path.read_text().replace("above = 2", "above = 2\nbelow = 1"))
    told = kedge("test", str(path))
    assert told.status == 2
    assert "t.toml:9: monitor.rules[0]" in told.error


HEAD = '[[tests]]\nname = "a"\n'
GOOD = 'series.accuracy = "1x9"\nfires = []\n'


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("", 1, "tests: this field is required"),
        (HEAD, 2, "needs series, detections or rows: nothing happens in it"),
        (HEAD + 'rows = "5"\n', 2, "expects nothing; add [[tests.expect]]"),
        (HEAD + 'series.acuracy = "1"\n', 4, 'is not measured; did you mean "accuracy"?'),
        (HEAD + 'series.psi = "1"\n', 4, 'is measured by feature; write psi.NAME = "..."'),
        (HEAD + 'series.psi.z = "1"\n', 4, "no such feature; known: x, y"),
        (HEAD + 'series.accuracy.x = "1"\n', 4, "is not measured by feature"),
        (HEAD + 'series.accuracy = "0.9 y3"\n', 4, '"y3" is no part of a series'),
        (HEAD + 'series.accuracy = "0.9..0.8"\n', 4, "say in how many panes"),
        (HEAD + 'series.accuracy = "0.9x0"\n', 4, "a series has 1 to 100,000 panes"),
        (HEAD + 'series.accuracy = "0.9x999999999999"\n', 4, "a series has 1 to 100,000 panes"),
        (HEAD + 'series.accuracy = "1e999"\n', 4, "is too large a number"),
        (HEAD + "series.accuracy = [1]\n", 4, "expected a series like"),
        (HEAD + 'rows = "-5"\nfires = []\n', 4, "numbers of rows, 0 or more"),
        (HEAD + 'label_coverage = "1.5"\nfires = []\n', 4, "shares from 0 to 1"),
        (HEAD + GOOD + '[[tests.windows]]\nscale = 2\nseries.accuracy = "1"\n', 7,
         "2 is not one of windows.scales [1, 4]"),
        (HEAD + GOOD + '[[tests.windows]]\nsegment = "city=A"\nseries.accuracy = "1"\n', 7,
         '"city=A" is of no segment of the monitor; known: region'),
        (HEAD + GOOD + '[[tests.detections]]\nkind = "data-drift"\npanes = "2"\n', 8,
         "1 where it alarms, 0 where it is quiet"),
        (HEAD + GOOD + '[[tests.detections]]\nkind = "drift"\npanes = "1"\n', 7,
         "expected 'data-drift', 'prediction-drift'"),
        (HEAD + 'series.accuracy = "1"\nfires = ["lo"]\n', 5, '"lo" is no rule; did you mean'),
        (HEAD + GOOD + expect("10 panes", "low", "none"), 7, "is after the series, which end"),
        (HEAD + GOOD + expect("soon", "low", "none"), 7, 'or in panes, like "12 panes"'),
        (HEAD + GOOD + expect("1 pane", "lo", "none"), 8, '"lo" is no rule; did you mean "low"?'),
        (HEAD + GOOD + expect("1 pane", "low", "on"), 9, "expected 'none', 'pending', 'firing'"),
        (HEAD + GOOD + '[[tests.expect]]\nat = "1 pane"\nalert = "low"\n', 6,
         "`alert` and `status` go together"),
        (HEAD + GOOD + '[[tests.expect]]\nat = "1 pane"\n', 6, "expects nothing; give `alert`"),
        (HEAD + GOOD + "wat = 1\n", 6, "no such field"),
        (HEAD + GOOD + HEAD + GOOD, 7, 'two tests are called "a"'),
    ],
)  # fmt: skip
def test_a_mistake_is_shown_with_its_line(text: str, line: int, complaint: str, run: Run) -> None:
    told = run(text)
    assert (told.status, told.out) == (2, "")
    assert f"t.toml:{line}: " in told.error
    assert complaint in told.error


def test_mistakes_of_the_monitor_are_those_of_its_own_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(MONITOR.replace("below = 0.8\nfor", "for"))
    told = run(HEAD + GOOD)
    assert told.status == 2
    assert "m.toml:10: rules[0]: a rule needs exactly one of" in told.error


@pytest.mark.parametrize(
    ("monitor", "complaint"),
    [
        ('monitor = "none.toml"', "t.toml:1: monitor: there is no file"),
        ("monitor = 3", "t.toml:1: monitor: expected a path"),
        ("", "t.toml:1: monitor: this field is required"),
        ("monitor = ", "t.toml:1: not valid TOML"),
    ],
)
def test_a_monitor_that_is_none_is_named(
    monitor: str, complaint: str, kedge: Run, tmp_path: Path
) -> None:
    path = tmp_path / "t.toml"
    path.write_text(f"{monitor}\n{HEAD}{GOOD}")
    told = kedge("test", str(path))
    assert told.status == 2
    assert complaint in told.error
