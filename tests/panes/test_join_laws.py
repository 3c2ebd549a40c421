"""The join and the deltas against a naive oracle, whatever the order, batches and crashes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge_services.runtime.stores import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.panes.conftest import Driver

PANE, HORIZON, WAIT, GRACE = 1_000, 10_000, 2_000, 300
CELL = 250  # a sixteenth of the pane would be less than the shortest
MONITOR: dict[str, Any] = {
    "model": "fraud",
    "task": "binary",
    "classes": ["ok", "fraud"],
    "features": {"amount": "numeric"},
    "label_horizon": "10s",
    "outcome_wait": "2s",
    "windows": {"pane": "1s", "grace": "300ms"},
    "segments": [{"name": "region"}],
}


@dataclass(frozen=True)
class Scenario:
    """Records in the order of their topics, none of them late.

    ``seed`` cuts and mixes them.  In a steady scenario all versions of an id have
    its event time, so they match the same outcomes.
    """

    predictions: tuple[dict[str, Any], ...]
    outcomes: tuple[dict[str, Any], ...]
    seed: int
    is_steady: bool


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    chance = random.Random(draw(st.integers(0, 1 << 30)))
    ids = draw(st.integers(1, 6))
    is_steady = draw(st.booleans())
    span_ms = draw(st.sampled_from([1_000, 15_000, 60_000]))
    predictions: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 40))):
        time_ms = 100_000 + chance.randint(0, span_ms)
        number = chance.randint(1, ids)
        if is_steady:
            time_ms += number * 100 - time_ms % 10_000
        predictions.append(
            {
                # An id is used again only while it is held.
                "prediction_id": f"id-{number}@{time_ms // 10_000}",
                "model": "fraud",
                "version": (version := chance.choice(["1", "1", "2", "3"])),
                "role": "champion" if version == "1" else "shadow",
                "event_time_ms": time_ms,
                "features": {"amount": i},
                "output": {"label": chance.choice(["ok", "fraud"])}
                | chance.choice([{}, {"score": 0.25}, {"score": 0.93}]),
                "segments": chance.choice([{}, {"region": "NO"}, {"region": "SE", "x": 1}]),
            }
        )
    for _ in range(draw(st.integers(0, 40))):
        about = chance.choice(predictions)
        delay_ms = chance.choice([-2_001, -2_000, -1_500, 0, 0, 500, 9_999, 10_000, 15_000])
        outcomes.append(
            {
                "prediction_id": about["prediction_id"],
                "label": chance.choice(["ok", "fraud"]),
                "event_time_ms": about["event_time_ms"] + delay_ms,
            }
            | chance.choice([{}, {"model": "fraud"}])
        )
    return Scenario(
        in_time(predictions, chance), in_time(outcomes, chance), chance.randint(0, 99), is_steady
    )


def in_time(records: list[dict[str, Any]], chance: random.Random) -> tuple[dict[str, Any], ...]:
    """Order records by time, off by less than the grace."""
    return tuple(sorted(records, key=lambda r: r["event_time_ms"] + chance.randint(0, GRACE)))


# ------------------------------------------------------------------------ oracle


def pane(time_ms: int, length: int = PANE) -> tuple[int, int]:
    start = time_ms // length * length
    return start, start + length


def judge_duplicates(
    scenario: Scenario,
) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[str, int]]:
    """Give the first prediction of every id and version, and the fates of all."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    fates: dict[str, int] = defaultdict(int)
    for p in scenario.predictions:
        key = (p["prediction_id"], p["version"])
        fates["duplicate" if key in first else "counted"] += 1
        first.setdefault(key, p)
    return first, dict(fates)


@dataclass
class Truth:
    said: str
    answered: str
    said_ms: int
    changes: int
    time_ms: int
    first: dict[str, Any]

    @property
    def loss(self) -> int:
        return int(self.said != self.answered)


def truth(prediction: dict[str, Any], outcomes: Sequence[dict[str, Any]]) -> Truth | None:
    """Give what the outcomes say of one prediction."""
    t = prediction["event_time_ms"]
    mine = [
        o
        for o in outcomes
        if o["prediction_id"] == prediction["prediction_id"]
        and -WAIT <= o["event_time_ms"] - t < HORIZON
    ]
    found, best_ms = None, -1
    for o in mine:
        if o["event_time_ms"] >= best_ms:
            best_ms = o["event_time_ms"]
            if found is None:
                found = Truth(o["label"], prediction["output"]["label"], best_ms, 0, t, o)
            elif o["label"] != found.said:
                found.said, found.said_ms = o["label"], best_ms
                found.changes += 1
    return found


def oracle(scenario: Scenario) -> tuple[dict[Any, Any], dict[str, Any], dict[str, int]]:
    """Give sums, examples and the fates of predictions, by looking at all records at once."""
    sums: dict[Any, Any] = defaultdict(lambda: defaultdict(int))
    first, fates = judge_duplicates(scenario)
    truths = {key: truth(p, scenario.outcomes) for key, p in first.items()}
    for (name, version), p in first.items():
        t, known = p["event_time_ms"], truths[name, version]
        sums["learning", version, "", *pane(t), ""]["rows"] += 1
        segments = ["", *(f"region={v}" for k, v in p["segments"].items() if k == "region")]
        for segment in segments:
            delta = sums["performance", version, segment, *pane(t), ""]
            delta["predicted"] += 1
            delta["answers", p["output"]["label"]] += 1
            if (score := p["output"].get("score")) is not None:
                delta["offered", int(score * 100)] += 1
            if known:
                delta["labelled"] += 1
                delta["served"] += p.get("role", "champion") == "champion"
                delta["confusion", known.said, known.answered] += 1
                if score is not None:
                    is_fraud = known.said == "fraud"
                    side = "positive" if is_fraud else "negative"
                    delta[side, int(score * 100)] += 1
                    delta["total", int(score * 100)] += round(score * (1 << 30))
                    delta["squares"] += round((score - is_fraud) ** 2 * (1 << 30))
                    delta["fourths"] += round((score - is_fraud) ** 4 * (1 << 30))
        if known:
            at_ms = max(t, known.first["event_time_ms"])
            cell = sums["labels", version, "", *pane(at_ms, CELL), ""]
            cell["labelled"] += 1
            cell["loss"] += (known.first["label"] != known.answered) << 30
            cell["confusion", known.first["label"], known.answered] += 1
        champion = truths.get((name, "1"))
        if version != "1" and champion and known:
            pair = sums["pair", version, "", *pane(champion.time_ms), "1"]
            pair["differences", str(32 * (champion.loss - known.loss))] += 1
    examples = {}
    for name in {name for (name, _), known in truths.items() if known}:
        versions = {v: p for (n, v), p in first.items() if n == name}
        examples[name] = (versions, truths.get((name, "1")))
    return sums, examples, fates


def flat(panes: Driver) -> dict[Any, dict[Any, int]]:
    """Give the driver's sums in the oracle's shape."""
    result: dict[Any, dict[Any, int]] = {}
    for (kind, _, version, segment, _, start, end, champion), data in panes.sums().items():
        counts: dict[Any, int] = {}
        for name, value in data.items():
            if name == "confusion":
                for said, row in value.items():
                    counts |= {(name, said, answered): n for answered, n in row.items()}
            elif name in {"differences", "answers"}:
                counts |= {(name, key): n for key, n in value.items()}
            elif name == "offered":
                counts |= {(name, at): n for at, n in value}
            elif name == "scores":
                bins = value.pop("bins", [])
                for part in ("positive", "negative", "total"):
                    column = zip(bins, value.pop(part, []), strict=True)
                    counts |= {(part, at): n for at, n in column if n}
                counts |= value
            elif name not in {"champion", "sample"}:
                counts[name] = value
        result[kind, version, segment, start, end, champion] = counts
    return result


def loaded(driver: type[Driver], scenario: Scenario, partitions: int = 1, **kind: Any) -> Driver:
    lingering = partitions * scenario.seed % 7 * 5
    panes = driver(partitions=partitions, lingering=lingering, **kind)
    panes.monitor(**MONITOR)
    for topic in ("predictions", "outcomes"):
        for record in getattr(scenario, topic):
            panes.send(topic, record)
    return panes


def run_anyhow(panes: Driver, seed: int, *, crashes: bool) -> Driver:
    """Read in small batches of either topic, commit now and then, crash if wanted."""
    chance = random.Random(seed)
    for partition in range(panes.partitions):
        left = {t for t in ("predictions", "outcomes") if (t, partition) in panes.logs}
        while left:
            topic = chance.choice(sorted(left))
            if not panes.step(topic, partition, chance.randint(1, 6)):
                left.discard(topic)
            if chance.random() < 0.4:
                crash = chance.choice([None, "before", "durable"]) if crashes else None
                panes.commit(partition, crash)  # type: ignore[arg-type]
                if crash is not None:
                    if chance.random() < 0.3:
                        panes.stores[partition] = MemoryStore()  # the disk is lost, too
                    panes.start(partition, seed=chance.randint(0, 99))
                    left = {t for t in ("predictions", "outcomes") if (t, partition) in panes.logs}
        panes.commit(partition)
    return panes


def result(panes: Driver, scenario: Scenario) -> tuple[Any, ...]:
    """Give all that must not depend on how the records were read."""
    examples = {
        key: example.model_dump(exclude={"outputs"}) | {"versions": sorted(example.outputs)}
        for key, example in panes.examples().items()
    }
    if not scenario.is_steady:
        examples = {}
    return panes.sums(), examples, panes.fates("predictions"), panes.fates("outcomes"), \
        panes.dead_letters()  # fmt: skip


# -------------------------------------------------------------------------- laws


@settings(deadline=None, max_examples=20)
@given(scenario=scenarios())
def test_without_examples_everything_else_is_the_same(
    driver: type[Driver], scenario: Scenario
) -> None:
    one = run_anyhow(loaded(driver, scenario), scenario.seed, crashes=True)
    other = run_anyhow(loaded(driver, scenario, writes_examples=False), scenario.seed, crashes=True)
    assert not other.examples()
    assert flat(other) == flat(one)
    assert other.fates("predictions") == one.fates("predictions")


@settings(deadline=None, max_examples=60)
@given(scenario=scenarios())
def test_sums_examples_and_fates_are_those_of_the_oracle(
    driver: type[Driver], scenario: Scenario
) -> None:
    panes = run_anyhow(loaded(driver, scenario), scenario.seed, crashes=False)
    sums, examples, fates = oracle(scenario)
    assert flat(panes) == {k: {n: c for n, c in v.items() if c} for k, v in sums.items()}
    assert panes.fates("predictions") == fates
    assert sum(panes.fates("outcomes").values()) == len(scenario.outcomes)
    found = panes.examples() if scenario.is_steady else {}
    assert not scenario.is_steady or {name for _, name in found} == set(examples)
    for (_, name), example in found.items():
        versions, champion = examples[name]
        assert set(example.outputs) == set(versions)
        assert example.served_by == ("1" if "1" in versions else None)
        if champion:
            assert (example.label, example.label_time_ms) == (champion.said, champion.said_ms)
            assert (example.revision, example.event_time_ms) == (
                champion.changes, champion.time_ms,
            )  # fmt: skip
            assert example.features == versions["1"]["features"]


@settings(deadline=None, max_examples=60)
@given(scenario=scenarios())
def test_nothing_depends_on_batches_commits_and_the_order_of_topics(
    driver: type[Driver], scenario: Scenario
) -> None:
    plain = loaded(driver, scenario).run()
    outcomes_first = loaded(driver, scenario).run(topics=("outcomes", "predictions"))
    assert result(
        run_anyhow(loaded(driver, scenario), scenario.seed, crashes=False), scenario
    ) == result(plain, scenario)
    assert result(outcomes_first, scenario) == result(plain, scenario)


@settings(deadline=None, max_examples=80)
@given(scenario=scenarios())
def test_a_crash_at_any_step_changes_nothing(driver: type[Driver], scenario: Scenario) -> None:
    crashed = run_anyhow(loaded(driver, scenario), scenario.seed, crashes=True)
    assert result(crashed, scenario) == result(loaded(driver, scenario).run(), scenario)


@settings(deadline=None, max_examples=40)
@given(scenario=scenarios())
def test_sums_do_not_depend_on_the_number_of_partitions(
    driver: type[Driver], scenario: Scenario
) -> None:
    one = loaded(driver, scenario).run()
    four = run_anyhow(loaded(driver, scenario, partitions=4), scenario.seed, crashes=False)
    assert four.sums() == one.sums()
    assert not scenario.is_steady or four.examples() == one.examples()
    assert four.fates("predictions") == one.fates("predictions")
    joined = [{f: n for f, n in p.fates("outcomes").items() if f in {"matched", "duplicate"}}
              for p in (one, four)]  # fmt: skip
    assert joined[0] == joined[1]


@settings(deadline=None, max_examples=10)
@given(scenario=scenarios())
def test_rocksdb_gives_what_memory_gives(
    driver: type[Driver], scenario: Scenario, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from kedge_services.runtime.stores import RocksStore

    root: Path = tmp_path_factory.mktemp("join")
    on_disk = loaded(driver, scenario, make_store=lambda p: RocksStore(root / str(p)))
    run_anyhow(on_disk, scenario.seed, crashes=False)
    for task in on_disk.tasks.values():
        task.close()
    assert result(on_disk, scenario) == result(loaded(driver, scenario).run(), scenario)


@pytest.mark.parametrize("seed", range(5))
def test_fates_balance_at_every_commit(driver: type[Driver], seed: int) -> None:
    chance = random.Random(seed)
    panes = driver()
    panes.monitor(**MONITOR)
    for i in range(200):
        fields = {"prediction_id": f"r-{chance.randint(0, 60)}", "event_time_ms": 10_000 + 97 * i}
        kind = {"model": "fraud", "version": "1", "features": {}}
        panes.send("predictions", fields | kind)
        panes.send("outcomes", fields | {"label": chance.choice(["ok", "fraud", "?"])})
    while panes.step("predictions", 0, 9) + panes.step("outcomes", 0, 14):
        panes.commit(0)
        for topic in ("predictions", "outcomes"):
            assert sum(panes.fates(topic).values()) == panes.read[topic, 0]


def test_a_repetition_that_outlives_its_prediction_is_none_after_a_lost_disk(
    driver: type[Driver],
) -> None:
    panes = driver()
    panes.monitor(**MONITOR)
    kind = {"model": "fraud", "version": "1", "features": {}, "output": {"label": "ok"}}
    first_ms, again_ms = 100_000, 109_000
    others = [("older", again_ms - 1_000), ("a", again_ms), ("b", first_ms + 17_000)]
    for name, time_ms in [("a", first_ms), *others]:
        panes.send("predictions", {"prediction_id": name, "event_time_ms": time_ms} | kind)
    panes.send("outcomes", {"prediction_id": "b", "label": "ok", "event_time_ms": 117_000})
    for topic in ("predictions", "outcomes"):
        panes.step(topic, 0, 10)
    panes.commit(0)  # by both watermarks the first has expired, the repetition has not
    panes.commit(0, "durable")
    panes.stores[0] = MemoryStore()
    late = {"prediction_id": "a", "label": "ok", "event_time_ms": again_ms + HORIZON - 1}
    panes.send("outcomes", late, at_ms=again_ms + HORIZON)
    panes.send("predictions", {"prediction_id": "c", "event_time_ms": 140_000} | kind)
    panes.run()
    assert panes.fates("predictions") == {"counted": 4, "duplicate": 1}
    assert panes.fates("outcomes") == {"matched": 1, "unmatched-outcome": 1}
