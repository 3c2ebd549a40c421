"""A wrong monitor names its file, line, field, and what was expected."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from kedge.errors import MonitorError, UsageError
from kedge.monitor import Monitor
from kedge.monitor_file import load_monitor, read_monitor

GOOD = """\
model = "loans"
task = "binary"
classes = ["no", "yes"]
positive = "yes"
label_horizon = "1d"

[features]
age = "numeric"
country = { type = "categorical" }

[windows]
pane = "1h"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "monitor.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(MonitorError) as raised:
        load_monitor(path)
    return [line.removeprefix(f"{folder}/") for line in str(raised.value).splitlines()]


def test_a_good_monitor_is_read(tmp_path: Path) -> None:
    monitor = load_monitor(write(tmp_path, GOOD))
    assert isinstance(monitor, Monitor)
    assert (monitor.model, monitor.pane_ms) == ("loans", 3_600_000)
    assert {name: feature.type for name, feature in monitor.features.items()} == {
        "age": "numeric",
        "country": "categorical",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('model = "m"\ntask = \n', ["monitor.toml:2: not valid TOML: Invalid value"]),
        ('model = "m"\nx = [1', ["monitor.toml:2: not valid TOML: Unclosed array"]),
        (
            GOOD.replace('"binary"', '"binry"'),
            ["monitor.toml:2: task: expected 'binary', 'multiclass' or 'regression' (got 'binry')"],
        ),
        (
            GOOD + "size = 1\n\n[window]\n",
            [
                "monitor.toml:13: windows.size: no such field; known: pane, scales, grace",
                'monitor.toml:15: window: no such field; did you mean "windows"?',
            ],
        ),
        (
            GOOD.replace('"1h"', '"0s"'),
            ["monitor.toml:12: windows.pane: expected a duration longer than 0s"],
        ),
        (
            GOOD.replace('"1h"', "10"),
            [
                (
                    "monitor.toml:12: windows.pane: 10 is no duration; write it like "
                    '"500ms", "2s", "10m", "1h" or "1d"'
                )
            ],
        ),
        (
            GOOD.replace('positive = "yes"', 'positive = "YES"'),
            ["monitor.toml:4: positive: `positive` 'YES' is not one of `classes`"],
        ),
        (
            GOOD.replace('age = "numeric"', 'age = "number"'),
            [
                (
                    "monitor.toml:8: features.age.type: "
                    "expected 'numeric', 'categorical' or 'boolean' (got 'number')"
                )
            ],
        ),
        (GOOD.replace('model = "loans"\n', ""), ["monitor.toml:1: model: this field is required"]),
        (
            GOOD.replace('label_horizon = "1d"', 'label_horizon = "31d"'),
            [
                (
                    "monitor.toml:5: label_horizon: 31d + 10m of outcome_wait + 1d is longer than "
                    "predictions are kept (32d)"
                )
            ],
        ),
        (
            "effective_ms = 5\n" + GOOD,
            ["monitor.toml:1: effective_ms: set by `kedge apply`, leave it out"],
        ),
    ],
)
def test_every_mistake_has_its_line_and_field(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    assert mistakes(tmp_path, text) == expected


RULES = """
[[rules]]                   # 14
name = "low"
metric = "accuracy"
below = 0.7

[[rules]]                   # 19
name = "no-data"
metric = "psi"
above = 0.7
scale = 3
feature = "agee"
segment = "region=NO"

[retrain]                   # 27
on = ["lw", "error-rate"]
trainer = "river-logistics"

[[notify]]                  # 31
kind = "webhook"
url_env = "https://example.org/hook"

[replay]                    # 35
label = "y"
start = 1996-05-07T00:00:00
"""


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD + RULES)
    assert [line.split(": ")[:2] for line in found] == [
        ["monitor.toml:20", "rules[1].name"],
        ["monitor.toml:23", "rules[1].scale"],
        ["monitor.toml:24", "rules[1].feature"],
        ["monitor.toml:25", "rules[1].segment"],
        ["monitor.toml:28", "retrain.on[0]"],
        ["monitor.toml:29", "retrain.trainer"],
        ["monitor.toml:33", "notify[0].url_env"],
        ["monitor.toml:35", "replay.every"],
        ["monitor.toml:37", "replay.start"],
    ]
    assert found[4].endswith('"lw" is no rule and no kind of alert; did you mean "low"?')
    assert found[5].endswith('"river-logistics" is no trainer; did you mean "river-logistic"?')


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ('[[rules]]\nname = "a"\nmetric = "m"\n', "rules[0]"),
        ('[[rules]]\nname = "a"\nmetric = "m"\nbelow = 1\nfor = "soon"\n', "rules[0].for"),
        ('[[rules]]\nname = "a"\nmetric = "f1"\nbelow = 1\n' * 2, "rules"),
        ('[[rules]]\nname = "a"\nmetric = "acuracy"\nbelow = 1\n', "rules[0].metric"),
        ('[[rules]]\nname = "a"\nmetric = "mae"\nbelow = 1\n', "rules[0].metric"),
        ('[[rules]]\nname = "a"\nmetric = "psi"\nabove = 1\n', "rules[0].metric"),
        (
            '[[rules]]\nname = "a"\nmetric = "accuracy"\nbelow = 1\nfeature = "age"\n',
            "rules[0].metric",
        ),
        ("labelled = false\n[retrain]\n", "retrain"),
        ('[[segments]]\nname = "a"\n[[segments]]\nname = "a"\n', "segments[1].name"),
        ('[[segments]]\nname = "a"\ndisparate_impact = [2, 1]\n', "segments[0].disparate_impact"),
        (
            '[[rules]]\nname = "a"\nmetric = "disparate_impact"\nbelow = 1\n',
            "rules[0].metric",
        ),
        ('[performance]\ndetectors = ["e-sr", "e-sr"]\n', "performance.detectors[1]"),
        ('[performance]\ndetectors = ["eddm"]\n', "performance.detectors[0]"),
        ("[performance]\ndetectors = []\n", "performance.detectors"),
        ('[reference]\nfrom = "file"\n', "reference.path"),
        ('[retrain]\ntrainer = "my module:f"\n', "retrain.trainer"),
        ('[replay]\nlabel = "y"\n', "replay.start"),
        ('[replay]\ntimestamp = "t"\n', "replay.label"),
    ],
)
def test_rules_over_several_fields_name_one_of_them(tmp_path: Path, extra: str, field: str) -> None:
    text = GOOD + extra
    if extra.startswith("labelled"):
        text = "labelled = false\n" + GOOD + "[retrain]\n"
    (line,) = mistakes(tmp_path, text)
    assert line.split(": ")[1] == field


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('model="m"\ntask="regression"\nclasses=["a"]\nfeatures.x="numeric"\n', "classes"),
        ('model="m"\ntask="binary"\nclasses=["a","a"]\nfeatures.x="numeric"\n', "classes[1]"),
        ('model="m"\ntask="binary"\nclasses=["1", 1]\nfeatures.x="numeric"\n', "classes[1]"),
        (
            'model="m"\ntask="binary"\nclasses=[1, 0]\npositive=1\nfeatures.x="numeric"\n',
            "positive",
        ),
        ('model="m"\ntask="multiclass"\nfeatures.x="numeric"\n', ""),
        ('model="m"\ntask="regression"\n[features]\n', "features"),
        ('model="m"\ntask="regression"\nfeatures.""="numeric"\n', "features."),
        (
            'model="m"\ntask="regression"\nlabel_horizon="0s"\nfeatures.x="numeric"\n',
            "label_horizon",
        ),
        (
            """model="m"\ntask="regression"\nfeatures.x="numeric"
            replay={label="y",timestamp="t",score="s"}\n""",
            "replay.score",
        ),
    ],
)
def test_labels_and_features_must_fit_the_task(tmp_path: Path, text: str, field: str) -> None:
    path = write(tmp_path, text)
    _, found = read_monitor(path)
    assert [mistake.field for mistake in found] == [field]


def test_segments_have_a_base_limits_and_metrics_of_fairness(tmp_path: Path) -> None:
    text = """
    [performance]
    detectors = ["e-sr", "adwin"]
    [[segments]]
    name = "region"
    base = "NO"
    disparate_impact = [0.7, 1.4]
    [[rules]]
    name = "parity"
    metric = "statistical_parity_difference"
    segment = "region=SE"
    above = 0.05
    """
    monitor = load_monitor(write(tmp_path, GOOD + text))
    assert monitor.performance.detectors == ["e-sr", "adwin"]
    [segment] = monitor.segments
    assert (segment.base, segment.disparate_impact) == ("NO", (0.7, 1.4))
    assert (segment.alarm, segment.equal_opportunity_difference) == (True, 0.1)


def test_a_regression_model_has_no_detector_of_errors_only(tmp_path: Path) -> None:
    text = 'model="m"\ntask="regression"\nfeatures.x="numeric"\nperformance.detectors=["ddm"]\n'
    _, found = read_monitor(write(tmp_path, text))
    assert [mistake.field for mistake in found] == ["performance.detectors[0]"]


def test_an_unquoted_time_of_toml_is_taken_as_text(tmp_path: Path) -> None:
    replay = '[replay]\nlabel = "y"\nstart = 1996-05-07T00:00:00Z\nevery = "30m"\n'
    monitor = load_monitor(write(tmp_path, GOOD + replay))
    assert monitor.replay is not None
    assert monitor.replay.start == "1996-05-07T00:00:00+00:00"
    assert monitor.replay.every == timedelta(minutes=30)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert load_monitor(write(tmp_path, "\N{ZERO WIDTH NO-BREAK SPACE}" + GOOD)).model == "loans"


def test_a_file_that_is_missing_or_no_text_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.toml: No such file or directory"):
        load_monitor(tmp_path / "nothing.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b'model = "m"\nx = "\xff"\n')
    with pytest.raises(MonitorError, match=r"binary\.toml:2: not UTF-8 text"):
        load_monitor(path)


EXECUTORS = """
[retrain]                   # 14
executor = "pipline"

[[executors]]               # 17
name = "pipeline"
kind = "webhook"
url_env = "https://hooks.example/x"
secret_env = "a secret"

[[executors]]               # 23
name = "local"
kind = "webhook"
url_env = "URL"
poll = "2h"
origins = ["https://a.example:8443", "models.example"]

[[executors]]               # 30
name = "pipeline"
kind = "webhok"
"""


def test_mistakes_in_executors_are_explained_and_no_url_is_repeated(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GOOD + EXECUTORS) == [
        "monitor.toml:30: executors[2].url_env: this field is required",
        "monitor.toml:32: executors[2].kind: expected 'webhook' (got 'webhok')",
    ]
    found = mistakes(tmp_path, GOOD + EXECUTORS.replace("webhok", 'webhook"\nurl_env = "A'))
    assert found == [
        (
            'monitor.toml:15: retrain.executor: "pipline" is none of the executors; '
            'did you mean "pipeline"?'
        ),
        (
            "monitor.toml:20: executors[0].url_env: the name of an environment variable that holds "
            "the URL, not the URL itself"
        ),
        (
            "monitor.toml:21: executors[0].secret_env: the name of an environment variable that "
            "holds the secret, not the secret itself"
        ),
        'monitor.toml:24: executors[1].name: "local" is Kedge\'s own trainer, choose another name',
        "monitor.toml:27: executors[1].poll: 2h is longer than the deadline of 1h",
        (
            'monitor.toml:28: executors[1].origins[1]: "models.example" is no origin, write it '
            'like "https://models.example:8443"'
        ),
        'monitor.toml:31: executors[2].name: "pipeline" is declared twice',
    ]
