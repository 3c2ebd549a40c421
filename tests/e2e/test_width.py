"""Five models on six partitions, two processes of each service, one of which is away for a while.

All that comes of it is compared with a count of what was sent, with the independent
recount, and with what one process and one partition make of the same records.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from kedge.codec import encode
from kedge.topics import model_partition
from kedge_services.alerts.service import make as make_alerts
from kedge_services.core.deltas import LOSS_STEPS, PairDelta
from kedge_services.local.broker import LocalBroker
from kedge_services.local.catalogue import settings_env
from kedge_services.local.recount.reading import KafkaLog
from kedge_services.local.recount.recount import Report, recount
from kedge_services.panes.service import make as make_panes
from kedge_services.registry.service import make as make_registry
from kedge_services.runtime.admin import create_topics
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.ports import Record
from kedge_services.runtime.settings import KafkaSettings, Settings, TimeSettings
from kedge_services.serving.parts import Serving
from kedge_services.trainer.service import make as make_trainer
from kedge_services.triggers.service import make as make_triggers
from kedge_services.windows.service import make as make_windows
from live import Live, Make, Process, wait_until
from width import HOUR_MS, SERVING, Answer, Counts, Sent, Traffic, half_as_file
from world import OF_THE_MOMENT, World

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

Event = dict[str, Any]
REQUEST_PARTITIONS, MODEL_PARTITIONS = 6, 4
WIDE: dict[str, Make] = {
    "registry": make_registry, "panes": make_panes, "windows": make_windows, "alerts": make_alerts,
}  # fmt: skip
IDLE_MS = 6_000
#: Partitions of panes and of windows that the first process has beside the second, and alone.
HALF, ALL = (REQUEST_PARTITIONS // 2, MODEL_PARTITIONS // 2), (REQUEST_PARTITIONS, MODEL_PARTITIONS)
READ = ("predictions", "outcomes", "monitors", "candidates", "panes", "examples", "windows",
        "alerts", "retrain-requests", "model-versions", "dead-letters")  # fmt: skip
#: Looks at the windows without anything new after which there will be nothing new.
QUIET_LOOKS = 12
#: Where the second processes go away, where the first must have taken over, and where all share.
AWAY, TAKEN_OVER, SHARED = 0.3, 0.65, 0.9


class Second(Protocol):
    """The second process of every service."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass
class SecondThreads:
    """The second processes as threads, which leave as SIGTERM makes them leave."""

    live: Live
    processes: list[Process] = field(default_factory=list)

    def start(self) -> None:
        self.processes = [self.live.start(make, 1) for make in WIDE.values()]

    def stop(self) -> None:
        for process in self.processes:
            process.tell_to_stop()
        for process in self.processes:
            process.stop()


@dataclass
class SecondKilled:
    """The second processes as `kedge run SERVICE --ordinal 1` starts them; they end by SIGKILL."""

    settings: Settings
    directory: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KEDGE_")}
        for name in WIDE:
            with (self.directory / f"{name}-1.log").open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "kedge_services.cli", "run", name, "--ordinal", "1"],
                        cwd=self.directory, env={**environment, **settings_env(self.settings)},
                        stdout=log, stderr=subprocess.STDOUT,
                    )
                )  # fmt: skip

    def stop(self) -> None:
        assert [process.poll() for process in self.processes] == [None] * len(self.processes)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(20)
        self.processes = []


@dataclass
class Width:
    """What was sent, and everything that came of it."""

    traffic: Traffic
    counts: Counts
    topics: dict[str, list[Event]]
    records: dict[str, list[Record]]
    report: Report
    #: Partitions of panes and windows that the first process worked on, again and again.
    shares: list[tuple[int, int]]

    def best(self, topic: str, name: str) -> dict[str, Event]:
        """Give the highest revision of every window or example."""
        found: dict[str, Event] = {}
        for event in self.topics[topic]:
            known = found.get(event[name])
            if known is None or event["revision"] >= known["revision"]:
                found[event[name]] = event
        return found

    def answers(self, window: Event) -> list[Answer]:
        """Give what was sent that belongs into a window."""
        start_ms, end_ms = window["start_ms"], window["end_ms"]
        return self.counts.within(window["model"], window["version"], start_ms, end_ms)

    def panes(self) -> set[tuple[str, str, int]]:
        """Give model, version and start of every pane with traffic."""
        length = {monitor.model: monitor.pane_ms for monitor in self.traffic.monitors()}
        return {
            (model, version, answer.time_ms - answer.time_ms % length[model])
            for (model, version), answers in self.counts.answers.items()
            for answer in answers
            if answer.time_ms < self.traffic.end_ms(model)
        }

    def final(self, kind: str) -> list[Event]:
        windows = self.best("windows", "window_id").values()
        return [w for w in windows if w["is_final"] and w["kind"] == kind]


# ------------------------------------------------------------------ the story


@dataclass
class Flow:
    """Sends at a steady pace; the pace does not depend on what becomes of it."""

    live: Live
    sent: Sequence[Sent]
    seconds: float
    _next: int = 0

    def to(self, place: float, is_done: Callable[[], bool] = lambda: True, what: str = "") -> None:
        """Send up to a place in the traffic, and wait there if something is not done yet."""
        begun, first = time.monotonic(), self.sent[self._next].at
        while self._next < len(self.sent) and self.sent[self._next].at < place:
            reached = first + (time.monotonic() - begun) / self.seconds
            while self._next < len(self.sent) and self.sent[self._next].at < min(place, reached):
                send(self.live, self.sent[self._next])
                self._next += 1
            self.live.check()
            time.sleep(0.02)
        wait_until(lambda: self.live.broken or is_done(), what)
        self.live.check()


def send(live: Live, sent: Sent) -> None:
    live.send_by_request(sent.topic, sent.key, json.dumps(sent.event).encode())


def register(live: Live, traffic: Traffic, serving: Serving) -> None:
    """Declare the models, register their versions, and have `serving` load the challenger."""
    for monitor in traffic.monitors():
        live.send_by_model("monitors", monitor.model, monitor.model, encode(monitor))
    live.flush()
    artefact = ArtefactStore(live.settings.artefacts).put(half_as_file(), "skops")
    offers = [*traffic.offers(), traffic.challenger(artefact)]
    for offer in offers:
        live.send_by_model("candidates", offer.model, offer.request_id, encode(offer))
    live.flush()
    versions = live.tail("model-versions")
    wait_until(lambda: len(versions.read()) >= len(offers), "the registration")

    def is_loaded() -> bool:
        serving.models.settle()
        lineup = serving.models.lineup("claims")
        return lineup is not None and len(lineup.contenders) == 1

    wait_until(is_loaded, "the loading of the challenger")


def finish(live: Live, traffic: Traffic) -> Counts:
    """Move every watermark beyond the traffic; wait until all that has to come has come."""

    def is_followed(part: Sequence[Sent]) -> bool:
        wanted = len([s for s in part if s.event.get("version") == SERVING["claims"]])
        found = [p for p in live.tail("predictions").read() if p["version"] == "k1"]
        return len(found) >= wanted

    # What is late when the last records are read, `serving` adds no more.
    wait_until(lambda: live.broken or is_followed(traffic.main), "the shadow of claims")
    for sent in (sent for end in traffic.ends.values() for sent in end):
        send(live, sent)
    live.flush()
    wait_until(lambda: live.broken or is_followed(traffic.all), "the rest of that shadow")

    def is_given_up() -> bool:
        """Say whether nobody waits; when all models are idle, an outcome of any of them does."""
        letters = live.tail("dead-letters").read()
        if any(letter["prediction_id"] == "anyone" for letter in letters):
            return True
        send(live, traffic.beat())
        return False

    wait_until(lambda: live.broken or is_given_up(), "the end of waiting")
    live.flush()
    counts = Counts(traffic.all)
    wait_until(
        lambda: live.broken or fates(live.tail("panes").read()) == expected_fates(counts),
        "a fate for every record",
        instead=lambda: fates(live.tail("panes").events),
    )
    last = {(model, "drift", traffic.end_ms(model)) for model in SERVING}
    last |= {(model, "performance", end_ms) for model, _, end_ms in last if model != "ads"}

    def is_over() -> bool:
        windows = live.tail("windows").read()
        closed = {(w["model"], w["kind"], w["end_ms"]) for w in windows if w["is_final"]}
        alerts = live.tail("alerts").read()
        return bool(
            closed >= last
            and any(a["rule"] == "no-data" and a["status"] == "firing" for a in alerts)
            and len(live.tail("candidates").read()) > len(traffic.offers()) + 1
            and any(v["version"] == "k1" for v in live.tail("model-versions").read()
                    if v["model"] == "prices")
        )  # fmt: skip

    wait_until(lambda: live.broken or is_over(), "the last windows", seconds=90)
    sizes: list[int] = []

    def is_quiet() -> bool:
        """Say whether no revision of a window has come for a while."""
        sizes.append(len(live.tail("windows").read()))
        return len(sizes) > QUIET_LOOKS and sizes[-1] == sizes[-QUIET_LOOKS]

    wait_until(lambda: live.broken or is_quiet(), "the end of revisions")
    live.check()
    return counts


def play(kafka: LocalBroker, directory: Path, *, rows: int, seconds: float, kills: int) -> Width:
    """Let the traffic flow through two processes of each service, one of which goes and returns."""
    settings = Settings(
        kafka=KafkaSettings(
            bootstrap_servers=kafka.bootstrap_servers, properties={"heartbeat.interval.ms": 500}
        ),
        prefix=f"w{uuid.uuid4().hex[:8]}.",
        request_partitions=REQUEST_PARTITIONS,
        model_partitions=MODEL_PARTITIONS,
        state_dir=directory / "state",
        artefacts=str(directory / "artefacts"),
        time=TimeSettings(idle_after_ms=IDLE_MS, revise_interval_ms=500),
    )
    create_topics(settings)
    start_ms = (time.time_ns() // 1_000_000 // HOUR_MS - 4) * HOUR_MS
    traffic = Traffic(start_ms, rows, REQUEST_PARTITIONS)
    serving = Serving(settings)
    makers = [(make, 0) for make in (*WIDE.values(), make_triggers, make_trainer)]
    shares: list[tuple[int, int]] = []
    with Live(settings, [*makers, (lambda _: serving.service, 0)]) as live:
        first = dict(zip(WIDE, live.processes, strict=False))
        second: Second = SecondKilled(settings, directory) if kills else SecondThreads(live)
        panes, windows = first["panes"], first["windows"]

        def share() -> tuple[int, int]:
            return len(panes.running), len(windows.running)

        def note(wanted: tuple[int, int]) -> bool:
            if share() != wanted:
                return False
            shares.append(wanted)
            return True

        with contextlib.ExitStack() as stack:
            stack.callback(second.stop)
            second.start()
            wait_until(lambda: live.broken or note(HALF), "the sharing of partitions", seconds=90)
            register(live, traffic, serving)
            flow = Flow(live, traffic.main, seconds)
            for turn in range(max(1, kills)):
                begin, length = turn / max(1, kills), 1 / max(1, kills)
                flow.to(begin + AWAY * length)
                second.stop()
                flow.to(begin + TAKEN_OVER * length, lambda: note(ALL), "the takeover")
                second.start()
                flow.to(begin + SHARED * length, lambda: note(HALF), "the sharing again")
            flow.to(2.0)
            counts = finish(live, traffic)
        topics = {name: live.tail(name).read() for name in READ}
        records = {name: list(live.tail(name).records) for name in READ[:4]}
    properties = {"bootstrap.servers": kafka.bootstrap_servers}
    with KafkaLog(properties, prefix=settings.prefix) as log:
        report = recount(log)
    return Width(traffic, counts, topics, records, report, shares)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((3_600, 12.0, 0), id="stopped"),
        pytest.param((20_000, 75.0, 3), id="killed", marks=pytest.mark.long),
    ],
)
def width(
    request: pytest.FixtureRequest, kafka: LocalBroker, tmp_path_factory: pytest.TempPathFactory
) -> Width:
    rows, seconds, kills = request.param
    directory = tmp_path_factory.mktemp("width")
    return play(kafka, directory, rows=rows, seconds=seconds, kills=kills)


# ------------------------------------------------------------------- the laws


def fates(panes: Sequence[Event]) -> dict[str, dict[str, int]]:
    """Add up what the last Progress of every partition says."""
    last: dict[int, Event] = {}
    for event in panes:
        if event["type"] == "progress":
            known = last.get(event["partition"])
            if known is None or event["sequence"] >= known["sequence"]:
                last[event["partition"]] = event
    found = {topic: Counter[str]() for topic in ("predictions", "outcomes")}
    for event in last.values():
        for topic, total in found.items():
            total.update(event["fates"][topic])
    return {topic: dict(+total) for topic, total in found.items()}


def expected_fates(counts: Counts) -> dict[str, dict[str, int]]:
    """Nothing is late, nothing is a duplicate, two outcomes are nobody's."""
    matched, of_ads = len(counts.labelled), sum(name.startswith("ads") for name in counts.labels)
    return {
        "predictions": {"counted": counts.records["predictions"]},
        "outcomes": {"matched": matched, "unlabelled": of_ads, "unmatched-outcome": 2},
    }


def test_the_models_lie_on_all_partitions_and_the_second_process_was_away(width: Width) -> None:
    assert {model_partition(model, MODEL_PARTITIONS) for model in SERVING} == {0, 1, 2, 3}
    assert width.shares[:3] == [HALF, ALL, HALF]


def test_every_record_has_one_fate_and_none_is_late(width: Width) -> None:
    counts = width.counts
    assert len(width.topics["predictions"]) == counts.records["predictions"]
    assert len(width.topics["outcomes"]) == counts.records["outcomes"]
    found = fates(width.topics["panes"])
    assert found == expected_fates(counts)
    assert {topic: sum(of.values()) for topic, of in found.items()} == counts.records
    letters = [letter["prediction_id"] for letter in width.topics["dead-letters"]]
    assert sorted(letters) == ["anyone", "nobody"]


def test_the_independent_recount_finds_no_difference(width: Width) -> None:
    assert width.report.differences == []
    assert width.report.is_right
    assert width.report.compared["windows"] > 300


def test_drift_windows_hold_the_rows_and_nulls_that_were_sent(width: Width) -> None:
    windows = width.final("drift")
    for window in windows:
        rows = width.answers(window)
        assert window["n"] == len(rows), window["window_id"]
        for measure in window["measures"]:
            if (measure["name"], measure.get("feature")) == ("null_share", "x"):
                assert measure["value"] == pytest.approx(sum(a.x is None for a in rows) / len(rows))
    there = {(w["model"], w["version"], w["start_ms"]) for w in windows if w["scale"] == 1}
    assert there >= width.panes()
    judged = [w for w in windows if any(m["name"] == "null_share" for m in w["measures"])]
    assert {w["model"] for w in judged} == {"ads", "credit", "clicks", "prices"}


def test_performance_windows_hold_the_labels_and_accuracies_that_were_sent(width: Width) -> None:
    labels = width.counts.labelled
    windows = width.final("performance")
    for window in windows:
        rows = width.answers(window)
        labelled = [a for a in rows if a.id in labels]
        right = sum(a.label == labels[a.id] for a in labelled)
        assert (window["n"], window["labelled"]) == (len(rows), len(labelled)), window["window_id"]
        [accuracy] = [m["value"] for m in window["measures"] if m["name"] == "accuracy"]
        assert accuracy == pytest.approx(right / len(labelled))
    there = {(w["model"], w["version"], w["start_ms"]) for w in windows if w["scale"] == 1}
    assert there >= {pane for pane in width.panes() if pane[0] != "ads"}
    assert {w["model"] for w in windows} == set(SERVING) - {"ads"}


def test_only_the_drifted_and_the_silent_model_alarm(width: Width) -> None:
    fired = [a for a in width.topics["alerts"] if a["status"] == "firing"]
    assert sorted((a["model"], a["rule"]) for a in fired) == [
        ("ads", "data-drift"), ("clicks", "no-data"),
    ]  # fmt: skip
    [drifted] = [a for a in fired if a["model"] == "ads"]
    middle_ms = width.traffic.first_ms["ads"] + width.traffic.span_ms // 2
    assert middle_ms < drifted["fired_ms"] <= middle_ms + 2 * width.traffic.pane_ms
    windows = width.best("windows", "window_id")
    assert {d["feature"] for d in windows[drifted["window_ids"][0]]["detections"]} == {"x"}


def test_every_labelled_id_has_one_example_with_the_answers_of_all_versions(width: Width) -> None:
    examples = width.best("examples", "prediction_id")
    found = {
        name: (e["label"], {version: output["label"] for version, output in e["outputs"].items()})
        for name, e in examples.items()
    }
    assert found == width.counts.examples()
    assert {e["served_by"] == SERVING[e["model"]] for e in examples.values()} == {True}


def test_pairs_are_counted_for_every_shadow(width: Width) -> None:
    found: dict[tuple[str, str, str], Counter[int]] = defaultdict(Counter)
    for pane in width.topics["panes"]:
        if pane.get("kind") == "pair":
            delta = PairDelta.decode(pane["counts"])
            for difference, number in delta.differences.items():
                who = (pane["model"], delta.champion, pane["version"])
                found[who][difference // LOSS_STEPS] += number
    expected = width.counts.pairs()
    assert {who: dict(pairs) for who, pairs in found.items()} == {
        who: dict(pairs) for who, pairs in expected.items()
    }
    assert len(expected) == 3


def test_each_shadow_is_judged_by_a_test_of_its_own(width: Width) -> None:
    """v3 goes and v2 is promoted; k1 is promoted over the one that is served elsewhere."""
    story = defaultdict(list)
    for version in width.topics["model-versions"]:
        said = (version["version"], version["status"], version["evidence"]["decision"])
        story[version["model"]].append(said)
    assert story["prices"][:7] == [
        ("v1", "champion", "first"), ("v3", "shadow", "shadow"), ("v2", "shadow", "shadow"),
        ("v3", "rejected", "worse"), ("v2", "champion", "paired-test"), ("v1", "shadow", "watch"),
        ("k1", "shadow", "shadow"),
    ]  # fmt: skip
    elsewhere = SERVING["claims"]
    assert story["claims"] == [
        (elsewhere, "champion", "first"), ("k1", "shadow", "shadow"),
        ("k1", "champion", "paired-test"), (elsewhere, "shadow", "watch"),
    ]  # fmt: skip
    assert [story[m] for m in ("ads", "credit", "clicks")] == [
        [(SERVING[m], "champion", "first")] for m in ("ads", "credit", "clicks")
    ]


def test_serving_adds_one_shadow_to_every_answer_given_elsewhere(width: Width) -> None:
    added = [p for p in width.topics["predictions"] if p["version"] == "k1"]
    assert {(p["model"], p["role"]) for p in added} == {("claims", "shadow")}
    assert Counter((p["prediction_id"], p["output"]["label"]) for p in added) == Counter(
        (a.id, a.label) for a in width.counts.answers["claims", "k1"]
    )


def test_the_last_label_asks_for_a_retrain_which_gives_a_version(width: Width) -> None:
    [request] = width.topics["retrain-requests"]
    labels = sum(name.startswith("prices") for name in width.counts.labelled)
    assert (request["model"], request["cause"]["kind"]) == ("prices", "labels")
    assert request["cause"]["labelled"] == labels
    [answer] = [c for c in width.topics["candidates"] if c["request_id"] == request["request_id"]]
    assert answer.get("failure") is None
    assert answer["lineage"]["rows"] <= labels


def test_one_process_and_one_partition_give_the_same(width: Width, tmp_path: Path) -> None:
    narrow = on_one_partition(width, tmp_path)
    ends = {model: width.traffic.end_ms(model) for model in SERVING}

    def told(windows: Iterable[Event]) -> dict[str, Event]:
        """Leave out what came after the traffic, when only time passed."""
        return {
            w["window_id"]: {name: w[name] for name in w.keys() - set(OF_THE_MOMENT)}
            for w in windows
            if w["is_final"] and w["end_ms"] <= ends[w["model"]]
        }

    mine = told(width.best("windows", "window_id").values())
    assert len(mine) > 300
    assert mine == told(narrow.final_windows().values())
    assert width.best("examples", "prediction_id") == narrow.examples()
    assert fates(width.topics["panes"]) == fates(narrow.events("panes"))


def on_one_partition(width: Width, directory: Path) -> World:
    """Give the same records, in the order in which they were sent, to services on one partition.

    What `serving` added comes behind the answer it was added to.
    """
    settings = Settings(request_partitions=1, model_partitions=1, state_dir=directory / "state")
    place = {
        (sent.topic, sent.key, sent.event.get("version", "")): i
        for i, sent in enumerate(width.traffic.all)
    }
    inputs = []
    for topic in ("predictions", "outcomes"):
        for record, event in zip(width.records[topic], width.topics[topic], strict=True):
            name, version = event["prediction_id"], event.get("version", "")
            told = SERVING["claims"] if version == "k1" else version
            inputs.append((place[topic, name, told], version == "k1", record, event))
    inputs.sort(key=lambda i: i[:2])
    begin_ms = min(record.timestamp_ms for *_, record, _ in inputs)
    world = World(settings, start_ms=begin_ms - 60_000)
    for topic in ("monitors", "candidates"):
        for record, event in zip(width.records[topic], width.topics[topic], strict=True):
            if not event.get("trainer"):
                world.send(topic, key_of(record), event, append_ms=begin_ms - 60_000)
    world.run(8)
    world.clock.advance(begin_ms - world.clock())
    append_ms = begin_ms
    for *_, record, event in inputs:
        append_ms = max(append_ms, record.timestamp_ms)
        while append_ms > world.clock():
            world.run(1)
        world.send(record.topic, key_of(record), event, append_ms=append_ms)
    world.run(60)
    world.close()
    return world


def key_of(record: Record) -> str:
    return (record.key or b"").decode()
