"""``kedge check`` and ``kedge apply``, on the broker in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Monitor
from kedge.codec import decode, encode
from kedge.errors import UsageError
from kedge.topics import model_partition
from kedge_services.cli import main
from kedge_services.cli.monitors import apply_monitors, read_monitors
from kedge_services.core.declarations import planned
from kedge_services.runtime.memory import ManualClock, MemoryBroker
from kedge_services.runtime.tables import MonitorTable

NOW = 1_795_220_224_624
TOML = 'model = "{model}"\ntask = "regression"\nfeatures.x = "numeric"\nwindows.pane = "{pane}"\n'


def monitor(model: str = "m", pane: str = "2s", **fields: object) -> Monitor:
    return Monitor.model_validate(
        {
            "model": model,
            "task": "regression",
            "features": {"x": "numeric"},
            "windows": {"pane": pane},
            **fields,
        }
    )


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(ManualClock(NOW), {"monitors": 4})


def test_a_first_monitor_holds_from_the_beginning(broker: MemoryBroker) -> None:
    done = apply_monitors(broker, [monitor()], NOW)
    assert done == [{"model": "m", "result": "new", "effective_ms": 0}]
    (record,) = broker.records("monitors")
    assert (record.key, record.partition) == (b"m", model_partition("m", 4))
    assert decode(Monitor, record.value or b"") == monitor()


def test_the_same_declaration_is_not_sent_again(broker: MemoryBroker) -> None:
    apply_monitors(broker, [monitor()], NOW)
    done = apply_monitors(broker, [monitor(), monitor("n")], NOW + 1)
    assert [item["result"] for item in done] == ["unchanged", "new"]
    assert len(broker.records("monitors")) == 2


def test_a_change_takes_effect_two_panes_ahead_and_the_old_one_holds_until_then(
    broker: MemoryBroker,
) -> None:
    # panes of 2 s:   |---now---|---------|  <- here: the second boundary after now
    apply_monitors(broker, [monitor()], NOW)
    (done,) = apply_monitors(broker, [monitor(label_horizon="5s")], NOW)
    assert done["result"] == "changed"
    assert done["effective_ms"] == (NOW // 2_000 + 2) * 2_000
    table = MonitorTable()
    for record in broker.records("monitors"):
        table.apply(record)
    before, after = (table.get("m", done["effective_ms"] + shift) for shift in (-2_000, 0))
    assert before is not None
    assert after is not None
    assert (before.horizon_ms, after.horizon_ms) == (86_400_000, 5_000)


def test_nothing_is_sent_when_one_monitor_cannot_be(broker: MemoryBroker) -> None:
    broker.inject("commit", RuntimeError("the process dies"))
    with pytest.raises(RuntimeError):
        apply_monitors(broker, [monitor(), monitor("n")], NOW)
    assert broker.records("monitors") == []


@given(st.integers(1, 10**7), st.integers(1, 10**7), st.integers(0, 2 * 10**12))
def test_a_change_takes_effect_at_a_boundary_more_than_a_pane_ahead(
    old_ms: int, new_ms: int, now_ms: int
) -> None:
    new = monitor(pane=f"{new_ms}ms", label_horizon="5s")
    plan = planned(monitor(pane=f"{old_ms}ms"), new, now_ms)
    assert plan is not None
    assert plan.effective_ms % new_ms == 0
    assert plan.effective_ms - now_ms > max(old_ms, new_ms)
    if max(old_ms, new_ms) % min(old_ms, new_ms) == 0:
        assert plan.effective_ms % old_ms == 0
        assert plan.effective_ms - now_ms <= 2 * max(old_ms, new_ms)


def test_a_monitor_read_back_from_kafka_is_the_one_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(TOML.format(model="m", pane="90s"))
    monitors, _ = read_monitors([file])
    read = decode(Monitor, encode(monitors[file]))
    assert planned(read, monitors[file], NOW) is None


def test_two_files_about_one_model_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for file in files:
        file.write_text(TOML.format(model="m", pane="1s"))
    with pytest.raises(UsageError, match=r"a\.toml and .*b\.toml are both about m"):
        read_monitors(files)


def test_check_shows_what_was_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.toml"
    file.write_text(
        'model = "loans"\ntask = "binary"\nclasses = [false, true]\n'
        '[features]\nage = "numeric"\ncar = "categorical"\nzip = "categorical"\n'
        '[windows]\npane = "90s"\nscales = [1, 4]\n'
        '[[segments]]\nname = "region"\n'
        '[[rules]]\nname = "low"\nmetric = "accuracy"\nbelow = 0.75\nfor = "2 windows"\nscale = 4\n'
        '[retrain]\non = ["low"]\nschedule = "0 3 * * *"\n'
        '[[notify]]\nkind = "slack"\nurl_env = "KEDGE_TEST_NOT_SET"\n'
    )
    assert main(["check", str(file)]) == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "loans: binary (false, true); a score is that of true\n"
        "  features  2 categorical, 1 numeric\n"
        "  windows   90s, 6m; panes of 90s, closed 5s after their end\n"
        "  labels    waited for 1d, for their prediction 10m; performance by 450s\n"
        "  reference from version\n"
        "  drift     false alarms: at most 1 per week\n"
        "  budget    at most 1 false alarms a week are expected: "
        "drift 0.5 + integrity 0.15 + performance 0.25 + fairness 0.1\n"
        "  tests     6,720 panes a week, each at 4 scales: 7 distributions (features, prediction, "
        "score, label, pairs of features) at p < 2.7e-06, 13 counters at p < 4.3e-07\n"
        "  segments  region\n"
        "  rule      low: accuracy below 0.75 for 2 windows, windows of 4 panes (warning)\n"
        '  retrain   on low or at "0 3 * * *" UTC; auto with sklearn-hist-gradient-boosting, '
        "shadow promotion; at most 24 a day, 10m apart\n"
        "  notify    slack at $KEDGE_TEST_NOT_SET (critical, warning, info)\n"
    )
    assert shown.err == "note: $KEDGE_TEST_NOT_SET is not set here; notifier needs it\n"


def test_check_says_that_no_service_reads_a_file_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.toml"
    (tmp_path / "r.csv").write_text("x\n" + "1\n2\n" * 50)
    file.write_text(TOML.format(model="m", pane="1s") + '[reference]\nfrom="file"\npath="r.csv"\n')
    assert main(["check", str(file)]) == 0
    shown = capsys.readouterr()
    assert "  reference from file, r.csv\n" in shown.out
    assert shown.err == (
        "note: m: services read no files; give a version its reference with kedge models register "
        "--model m --version VERSION --reference r.csv\n"
    )
    hours = '[reference]\nfrom="same-hour"\ntimezone="Europe/Oslo"\n'
    file.write_text(TOML.format(model="m", pane="1s") + hours)
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    assert "  reference from same-hour, by the clocks of Europe/Oslo\n" in out


def test_check_tells_the_mistakes_of_all_files_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, cron, good = (tmp_path / f"{name}.toml" for name in ("bad", "cron", "good"))
    bad.write_text('model = "m"\ntask = \n')
    cron.write_text(TOML.format(model="c", pane="1s") + '[retrain]\nschedule = "0 3 * *"\n')
    good.write_text(TOML.format(model="g", pane="1s"))
    assert main(["check", str(bad), str(cron), str(good)]) == 2
    shown = capsys.readouterr()
    why = 'expected five fields of cron (minute hour day month weekday), UTC, like "0 3 * * *"'
    assert shown.err.splitlines() == [
        f"{bad}:2: not valid TOML: Invalid value",
        f'{cron}:6: retrain.schedule: "0 3 * *": 4 fields; {why}',
    ]
    assert shown.out.startswith("g: regression\n")
    assert main(["check", "--json", str(bad), str(good)]) == 2
    data = json.loads(capsys.readouterr().out)
    assert data["mistakes"] == [
        {"file": str(bad), "line": 2, "field": "", "text": "not valid TOML: Invalid value"}
    ]
    assert data["monitors"][str(good)]["model"] == "g"


def test_apply_tells_mistakes_before_it_looks_for_kafka(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(TOML.format(model="m", pane="0s"))
    assert main(["apply", str(bad)]) == 2
    assert f"{bad}:4: windows.pane: expected a duration longer than 0s" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_monitors_of_the_demo_are_valid(task: str) -> None:
    from kedge_services.local import demo

    monitors, mistakes = read_monitors(sorted(Path(demo.__path__[0]).glob("*.toml")))
    assert mistakes == []
    assert task == "regression" or {m.task for m in monitors.values()} == {task}


def test_check_advises_another_reference_where_rows_follow_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The price drifts through the file, the amount has no memory.
    rows = "".join(f"{i},{i * 7_919 % 2_000}\n" for i in range(2_000))
    (tmp_path / "rows.csv").write_text("price,amount\n" + rows)
    file = tmp_path / "m.toml"
    file.write_text(
        'model = "m"\ntask = "regression"\nlabelled = false\n'
        'features = {price = "numeric", amount = "numeric"}\n'
        'reference = {from = "file", path = "rows.csv"}\n'
        'drift = {false_alarms = "1 per 1000 windows"}\nwindows.pane = "1h"\n'
    )
    assert main(["check", str(file)]) == 0
    shown = capsys.readouterr()
    assert (
        "  budget    at most 0.11 false alarms a week are expected: drift 0.084 + integrity 0.025\n"
        "  tests     168 panes a week, each at 4 scales: 4 distributions (features, prediction, "
        "pairs of features) at p < 3.1e-05, 10 counters at p < 3.7e-06\n"
    ) in shown.out
    assert "note: m: rows follow each other so closely" in shown.err
    assert 'a reference from = "same-hour" may see drift earlier' in shown.err
    assert main(["check", "--json", str(file)]) == 0
    facts = json.loads(capsys.readouterr().out)["budgets"][str(file)]
    assert facts["overdispersion"]["price"] > 2 * facts["overdispersion"]["amount"]
    parts = facts["expected_per_week"]
    assert parts["total"] == pytest.approx(parts["drift"] + parts["integrity"])
    assert parts["total"] <= facts["budget_per_week"] == pytest.approx(0.168)


def test_check_says_what_a_file_of_reference_rows_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.toml"
    file.write_text(
        TOML.format(model="m", pane="1s") + 'reference = {from = "file", path = "none.csv"}\n'
    )
    assert main(["check", str(file)]) == 2
    assert "none.csv" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["0 per week", "0.0 per 10 windows", "1 per 0 windows"])
def test_a_budget_of_nothing_is_a_mistake(
    budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.toml"
    file.write_text(TOML.format(model="m", pane="1s") + f'drift.false_alarms = "{budget}"\n')
    assert main(["check", str(file)]) == 2
    assert f'{file}:5: drift.false_alarms: expected more than none, like "1 per week"' in (
        capsys.readouterr().err
    )
