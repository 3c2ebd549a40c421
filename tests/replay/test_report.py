"""The report: one page that opens offline, says what happened, and obeys nothing it shows."""

from __future__ import annotations

import json
import random
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest

from kedge import Monitor
from kedge_services.local.replay.report_words import control_text
from kedge_services.local.replay.run import Options, Source, replay
from kedge_services.runtime.settings import Settings

#: A name that would run, if it were not escaped.
EVIL = "<script>alert('x')</script>"
T0 = 1_700_000_000_000
ROWS, DRIFT_FROM = 2_600, 1_900
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Reads a page: its texts, and every tag that is not closed as it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.shown: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown.append(data)

    def says(self, text: str) -> bool:
        return text in " ".join(self.shown)


def monitor(task: str, **changes: Any) -> Monitor:
    declared: dict[str, Any] = {
        "model": "loans & more",
        "task": task,
        "features": {EVIL: "numeric", "region": "categorical"},
        "label_horizon": "2h",
        "windows": {"pane": "2h", "scales": [1, 2]},
        "segments": [{"name": "region"}],
        "replay": {"timestamp": "time", "label": "truth", "prediction": "answer", "warm_up": 1_000},
    }
    if task != "regression":
        declared["classes"] = ["no", "yes"] if task == "binary" else ["no", "yes", "<i>"]
    return Monitor.model_validate({**declared, **changes})


def write_rows(path: Path, task: str, *, rows: int = ROWS, keys: tuple[str, ...] = ()) -> Path:
    chance = random.Random(4)
    lines = []
    for number in range(rows):
        drifted = number >= DRIFT_FROM
        x = chance.gauss(1.5 if drifted else 0, 1)
        truth: Any = "yes" if x + chance.gauss(0, 1) > 0 else "no"
        answer: Any = "no" if drifted else "yes" if x > 0 else "no"
        if task == "multiclass" and chance.random() < 0.2:
            truth = "<i>"
        if task == "regression":
            truth, answer = 3 * x + chance.gauss(0, 1), 3 * x + 4 * drifted
        row = {"time": T0 + number * 60_000, EVIL: x, "region": chance.choice("ns"),
               "truth": truth, "answer": answer,
               # What the truth of a binary task really has, so it is calibrated.
               "score": NormalDist().cdf(x)}  # fmt: skip
        lines.append(json.dumps({k: v for k, v in row.items() if k not in keys}))
    path.write_text("\n".join(lines))
    return path


def page_of(out: Path, data: Path, declared: Monitor, **options: Any) -> Page:
    replay(Source(data), declared, Settings(), Options(**options), out)
    return Page((out / "report.html").read_text(encoding="utf-8"))


def assert_is_sealed(page: Page) -> None:
    """Nothing is loaded, nothing is run, and the policy allows the page's own style alone."""
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert "style" not in names
    assert not {name for name in names if name.startswith("on")}
    for name, value in page.attributes:
        if name in ("href", "src", "xlink:href"):
            assert (value or "").startswith("#")
    assert "url(" not in page.text
    style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert style is not None
    digest = b64encode(sha256(style[1].encode()).digest()).decode()
    (policy,) = [v for n, v in page.attributes if n == "content" and "default-src" in (v or "")]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_drift_is_told_with_its_evidence_for_every_task(task: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", task)
    page = page_of(tmp_path / "out", data, monitor(task))
    assert_is_sealed(page)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    alarms, verdicts = summary["verdicts_with_alarm"], summary["verdicts"]
    assert alarms >= 2
    assert page.says(f"{alarms} of {verdicts} tested panes alarmed; by chance at most ")
    assert page.says("This is a change, not noise.")
    assert page.says(f"alarm in {alarms} of ")
    quality = "mean absolute error" if task == "regression" else "accuracy"
    assert page.says(f"{quality} of the answers given, with 95 %")
    assert page.says("data-drift")
    assert page.says(f"{'mae' if task == 'regression' else 'accuracy'} (region=n)")
    assert page.says(EVIL)
    # Every plot says what it is to those who do not see it.
    assert page.tags.count("svg") == sum(
        name == "aria-label" and bool(value) for name, value in page.attributes
    )


def test_an_estimate_is_shown_where_it_is_valid_and_else_why_not(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", "binary", rows=4_000)
    plain = monitor("binary", windows={"pane": "6h", "scales": [1]}).declaration()
    plain["replay"] |= {"score": "score", "warm_up": 1_200}
    page = page_of(tmp_path / "out", data, Monitor.model_validate(plain))
    windows = [
        json.loads(line) for line in (tmp_path / "out" / "windows.ndjson").read_text().splitlines()
    ]
    found = [
        m
        for w in windows
        if w["kind"] == "drift" and not w.get("segment")
        for m in w["measures"]
        if m["name"] == "estimated_accuracy"
    ]
    valid = [m for m in found if m.get("value") is not None]
    assert 0 < len(valid) < len(found)
    told = f"Without labels accuracy could be estimated in {len(valid)} of {len(found)} panes"
    assert page.says(f"{told}; elsewhere not, e.g.: ")
    assert page.says("estimated without labels, where that is valid")


def test_of_many_features_the_loudest_are_named_and_the_silent_counted(tmp_path: Path) -> None:
    chance = random.Random(6)
    names = [f"f{number:02}" for number in range(70)]
    rows = []
    for number in range(2_200):
        values = {name: chance.gauss(0, 1) for name in names}
        values["f42"] += 3 * (number > 1_600)
        rows.append(json.dumps({"time": T0 + number * 60_000, "truth": "yes", **values}))
    (tmp_path / "rows.ndjson").write_text("\n".join(rows))
    declared = monitor("binary").declaration() | {
        "features": dict.fromkeys(names, "numeric"), "segments": [],
        "replay": {"timestamp": "time", "label": "truth", "warm_up": 1_000},
    }  # fmt: skip
    page = page_of(tmp_path / "out", tmp_path / "rows.ndjson", Monitor.model_validate(declared))
    # The map names 40 rows: of those in which nothing stood out the rest is only counted.
    (told,) = re.findall(r"In (\d+) more nothing stood out", page.text)
    (thin,) = re.findall(r"The other (\d+), a thin row", page.text) or ["0"]
    assert 40 + int(told) + int(thin) == len(names)
    drift = page.text.index("id='drift'")
    assert page.text.index(">f42<", drift) < page.text.index(">f", drift) + 1


def test_two_runs_write_the_same_page(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", "binary")
    one, two = (page_of(tmp_path / name, data, monitor("binary")) for name in ("one", "two"))
    assert one.text == two.text


def test_the_page_of_a_closed_loop_tells_of_versions(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", "binary", rows=3_200)
    retrain = {"on": ["data-drift"], "every_labels": 400, "promotion": "fast",
               "trainer": "river-logistic"}  # fmt: skip
    page = page_of(tmp_path / "out", data, monitor("binary", retrain=retrain), closed_loop=True)
    assert_is_sealed(page)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["trainings"] >= 1
    assert page.says(f"promotions, of {summary['trainings']} trainings")
    assert page.says("had the first version stayed")
    assert page.says("A retrain was asked for")


@pytest.mark.parametrize(
    ("changes", "keys", "told"),
    [
        ({"labelled": False}, (), "The monitor says that no labels come."),
        ({}, ("answer",), "The data holds no answers of a model"),
        ({"windows": {"pane": "30m", "scales": [1]}}, (), "A verdict needs 100 rows in the pane"),
    ],
    ids=["no labels", "no answers", "no verdict"],
)
def test_what_there_is_not_is_said(
    changes: dict[str, Any], keys: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.ndjson", "binary", rows=1_400, keys=keys)
    declared = monitor("binary", **changes)
    if keys:
        plain = declared.declaration()
        del plain["replay"]["prediction"]
        declared = Monitor.model_validate(plain)
    page = page_of(tmp_path / "out", data, declared)
    assert_is_sealed(page)
    assert page.says(told)
    assert page.says("No alert fired.")


def test_a_page_can_be_made_of_a_single_row(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", "binary", rows=1_001)
    page = page_of(tmp_path / "out", data, monitor("binary"))
    assert_is_sealed(page)
    assert page.says("No pane was tested for drift: 1 with too few rows.")


def test_the_control_says_that_it_is_one_and_what_it_showed(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.ndjson", "binary")
    page = page_of(tmp_path / "out", data, monitor("binary"), permute=2)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    verdicts, by_chance = summary["verdicts"], summary["alarms_by_chance"]
    assert verdicts >= 10
    assert page.says("This is the control: the rows were shuffled over time (seed 2)")
    assert page.says(f"0 of {verdicts} tested panes alarmed; by chance at most {by_chance:.2g}")
    assert page.says("the budget held.")
    assert not page.says("This is a change")


def control(alarms: int, by_chance: float, verdicts: int = 100) -> Mapping[str, Any]:
    return {"permuted": 1, "verdicts": verdicts, "verdicts_with_alarm": alarms,
            "alarms_by_chance": by_chance}  # fmt: skip


@pytest.mark.parametrize(
    ("summary", "kind", "told"),
    [
        (control(0, 0.1), "good", "the budget held"),
        (control(1, 0.1), "note", "as many come in up to 10% of such controls"),
        (control(3, 0.1), "bad", "as many come in at most 3.3% of such controls"),
        (control(0, 0.0, verdicts=0), "note", "it shows nothing"),
    ],
)
def test_a_control_is_judged_by_how_often_chance_alone_does_as_much(
    summary: Mapping[str, Any], kind: str, told: str
) -> None:
    found = control_text(summary, "1 per week")
    assert found is not None
    assert found.kind == kind
    assert told in found.text
    assert control_text({**summary, "permuted": None}, "1 per week") is None


def test_a_control_tells_what_more_data_alone_is_worth() -> None:
    loop = {"alerts": 1, "alerts_by_rule": {"error-rate": 1}, "promotions": 3,
            "accuracy": 0.8469, "accuracy_static": 0.8294}  # fmt: skip
    found = control_text({**control(0, 0.03), **loop}, "1 per week")
    assert found is not None
    assert found.text.endswith(
        "the budget held. Alerts that fired: error-rate 1. 3 versions were promoted (accuracy "
        "0.8469, of the first version 0.8294): what more data is worth here, without any drift."
    )
