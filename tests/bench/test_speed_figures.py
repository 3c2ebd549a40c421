"""What `kedge bench` says of its runs, and what it makes its traffic of."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Prediction
from kedge.codec import decode
from kedge.errors import DeadLetter, UsageError
from kedge.events import Outcome
from kedge_services.cli import main
from kedge_services.core.decoding import PredictionDecoder
from kedge_services.local.bench.bad_records import BAD, with_bad
from kedge_services.local.bench.catalogue import catalogue
from kedge_services.local.bench.figures import Run, exponents, percentile, summarise
from kedge_services.local.bench.report import Page, markdown, replaced, shown
from kedge_services.local.bench.run import Benchmark, chosen, names
from kedge_services.local.bench.sizes import FULL, QUICK, TINY
from kedge_services.local.bench.targets import TARGETS, Target, judged
from kedge_services.local.bench.workload import Shape, Workload

CASES = {
    "limit", "panes-json", "panes-bad", "panes-labelled", "panes-labelled-late", "panes-arrow",
    "panes-wide", "windows", "alerts", "latency", "score-http", "score-kafka", "restore",
    "scale-out", "memory", "growth", "overload",
}  # fmt: skip


def run(units: float, cpu_s: float, **more: Any) -> Run:
    return Run(units, wall_s=2 * cpu_s, cpu_s=cpu_s, peak_rss_mb=100, **more)


def test_medians_spread_and_ratios_of_neighbours() -> None:
    runs = [run(100, 1), run(100, 2), run(100, 4)]
    limits = [run(100, 0.5), run(100, 0.5), run(100, 1)]
    result = summarise("case", "records", runs, limits)
    assert result.figures["rate_per_cpu_s"] == 50
    assert result.spread["rate_per_cpu_s"] == (25.0, 100.0)
    assert result.figures["rate_wall"] == 25
    # Each run is held to the limit measured just before it: 1/2, 1/4 and 1/4.
    assert result.figures["ratio_to_limit_per_cpu"] == 0.25
    assert result.spread["ratio_to_limit_per_cpu"] == (0.25, 0.5)


def test_what_is_wrong_with_any_run_is_kept() -> None:
    result = summarise("case", "records", [run(1, 1), run(1, 1, problems=("lost",))])
    assert result.problems == ("lost",)


def test_a_result_is_json_with_four_digits() -> None:
    result = summarise("case", "records", [run(100, 3, figures={"p99_ms": 12.3456})], [run(100, 1)])
    found = json.loads(json.dumps(result.encode()))
    assert found["rate_per_cpu_s"] == 33.33
    assert found["p99_ms"] == 12.35
    assert set(found) >= {"rate_wall", "rate_per_cpu_s", "ratio_to_limit_per_cpu", "peak_rss_mb"}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_numpys_inverted_cdf(values: list[float], share: float) -> None:
    expected = np.quantile(values, share, method="inverted_cdf")
    ordered = sorted(values)
    # numpy rounds n * share in another order: next to a step either value is right.
    near = abs(share * len(values) - round(share * len(values))) < 1e-9
    place = ordered.index(percentile(values, share))
    assert near or ordered[place] == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile([], 0.5)


def test_the_exponent_of_a_power_is_its_power() -> None:
    sizes = [1, 8, 64]
    assert exponents(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx([1.5, 1.5])


def test_the_same_seed_gives_the_same_bytes() -> None:
    shape = Shape(models=3, segments=2, labelled=True, distinct=10)

    def made(seed: int) -> list[Any]:
        workload = Workload(shape, seed, 1_000)
        return [
            *workload.predictions(0, 30), *workload.outcomes(0, 30),
            *(reference.model_dump() for reference in workload.references()),
        ]  # fmt: skip

    assert made(7) == made(7)
    assert made(7) != made(8)


def test_events_are_those_a_client_sends() -> None:
    workload = Workload(Shape(models=3, segments=1, rate=100, distinct=10), 1, 60_000)
    found = [decode(Prediction, value) for _, value in workload.predictions(5, 40)]
    outcomes = [decode(Outcome, value) for _, value in workload.outcomes(5, 40, delay_ms=70)]
    assert [event.model for event in found] == [workload.models[n % 3] for n in range(5, 40)]
    assert [event.event_time_ms for event in found] == [60_000 + 10 * n for n in range(5, 40)]
    assert len({event.prediction_id for event in found}) == 35
    for event, outcome in zip(found, outcomes, strict=True):
        assert (outcome.prediction_id, outcome.model) == (event.prediction_id, event.model)
        assert outcome.event_time_ms == event.event_time_ms + 70
    assert found[0].features == found[12].features, "rows come again"


def test_bad_records_are_refused_for_the_reason_given() -> None:
    workload = Workload(Shape(distinct=10, rate=100), 1, 60_000)
    every = list(with_bad(workload.predictions(0, 2_000), 10, 1))
    assert list(with_bad(workload.predictions(0, 2_000), 10, 1)) == every
    found = Counter(reason for _, reason in every)
    assert 120 < 2_000 - found.pop("") < 280
    assert set(found) == {kind.reason for kind in BAD}
    assert max(found.values()) - min(found.values()) <= 1
    decoder = PredictionDecoder({workload.models[0]: workload.features})
    rows = decoder.decode([record.value for record, _ in every])
    for number, (row, (record, reason)) in enumerate(zip(rows, every, strict=True)):
        if isinstance(row, DeadLetter):
            assert row.reason == reason
            continue
        assert reason in {"", "bad-key", "bad-time"}
        assert (record.key != row.prediction_id.encode()) == (reason == "bad-key")
        late_ms = row.event_time_ms - workload.time_ms(number)
        assert late_ms == (30 * 86_400_000 if reason == "bad-time" else 0)


def test_columns_are_the_same_predictions() -> None:
    workload = Workload(Shape(distinct=10, rate=100), 1, 60_000)
    columns = workload.columns(3, 25)
    for place, (_, value) in enumerate(workload.predictions(3, 25)):
        event = decode(Prediction, value)
        assert columns["prediction_id"][place] == event.prediction_id
        assert columns["event_time_ms"][place] == event.event_time_ms
        assert {n: column[place] for n, column in columns["features"].items()} == event.features
        assert event.output is not None
        assert columns["output"]["label"][place] == event.output.label
        assert columns["output"]["score"][place] == event.output.score


def test_only_the_models_that_drift_do() -> None:
    workload = Workload(Shape(models=2, distinct=10), 1, 0)
    usual = [decode(Prediction, v).features for _, v in workload.predictions(0, 10)]
    found = [
        decode(Prediction, v).features for _, v in workload.mixed(0, 10, time_ms=5, drifted={1})
    ]
    assert [a == b for a, b in zip(usual, found, strict=True)] == [True, False] * 5


def test_there_are_all_cases_in_all_sizes() -> None:
    for sizes in (FULL, QUICK, TINY):
        assert set(names(sizes)) == CASES
    assert {target.case for target in TARGETS} <= CASES


def test_quick_leaves_out_what_takes_long_unless_it_is_asked_for() -> None:
    every = [case.name for case in catalogue(QUICK, 1)]
    short = [case.name for case in chosen(QUICK, 1, [], with_long=False)]
    assert set(every) - set(short) == {"memory", "growth", "scale-out"}
    assert [c.name for c in chosen(QUICK, 1, ["memory"], with_long=False)] == ["memory"]
    assert [c.name for c in chosen(QUICK, 1, ["limit"], with_long=False)] == ["panes-json"]


def test_targets_are_judged_by_their_side() -> None:
    least = Target("c", "rate_per_cpu_s", 40, "w", aim=60)
    most = Target("c", "p99_ms", 10, "w", at_least=False)
    assert least.verdict(50) == "met; the aim is 60"
    assert least.verdict(60) == "met, and the aim"
    assert least.verdict(20) == "missed: short by a factor of 2.00"
    assert most.verdict(10) == "met"
    assert most.verdict(15) == "missed: short by a factor of 1.50"
    assert least.verdict(None) == "not measured"
    assert least.held_to == "at least 40"
    assert Target("c", "x", 2_000_000, "w", at_least=False).held_to == "at most 2,000,000"
    result = summarise("panes-json", "records", [run(100_000, 1)])
    found = {t.figure: verdict for t, _, verdict in judged({"panes-json": result})}
    assert found == {
        "rate_per_cpu_s": "missed: short by a factor of 3.50",
        "ratio_to_limit_per_cpu": "not measured",
    }


def test_a_page_keeps_what_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n", encoding="utf-8")
    benchmark = Benchmark(QUICK, seed=1, runs=2, only=["panes-json"])
    benchmark.results.append(
        summarise("panes-json", "records", [run(1e6, 2)] * 2, [run(1e6, 1)] * 2)
    )
    Page(file).write(benchmark)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- speed -->\nMachine: ")
    assert text.endswith("<!-- /speed -->\nafter\n")
    assert "old" not in text
    assert "Quick run" in text
    assert "| `panes-json` | records | 500,000 | 250,000 | 0.50 | 100 |" in text
    assert replaced(text, markdown(benchmark), "speed") == text
    file.write_text("no markers", encoding="utf-8")
    with pytest.raises(UsageError, match="has no markers <!-- speed -->"):
        Page(file)


def test_a_figure_is_shown_with_its_spread() -> None:
    result = summarise("c", "records", [run(1_000, 1), run(3_000, 1), run(2_000, 1)])
    assert shown(result, "rate_per_cpu_s") == "2,000 (1,000-3,000)"
    assert shown(result, "peak_rss_mb") == "100"
    assert shown(result, "p99_ms") == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "panes-jsn"], "there is no case 'panes-jsn'; did you mean \"panes-json\"?"),
        (["nothing-like-it"], "there is no case 'nothing-like-it'"),
        (["--runs", "0"], "--runs 0: a case is run at least once"),
        (["--seed", "-1"], "--seed -1: a seed is no negative number"),
        (["--json", "no/such/dir/x.json"], "--json names a file in a directory that exists"),
        (["--markdown", "no-page.md"], "no-page.md: cannot be read: No such file"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_without_kafka_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(["bench", "--quick", "--only", "limit"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("kedge: ")
    assert said.endswith(": Not a directory\n")


def test_the_cases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in CASES)
