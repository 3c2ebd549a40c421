"""Five models that share all partitions: what is sent, and what must come of it.

======= =====================================================================
ads     without labels; from its middle on feature x is distributed otherwise
credit  scored in batch: its event times lie an hour behind, it comes in bursts
clicks  some traffic at the beginning, then nothing
prices  two versions in shadow at once: v2 a little better than v1, v3 hopeless
claims  served elsewhere; its challenger k1 is a file, so `serving` runs it
======= =====================================================================

What must come of it is counted from what was sent, in plain dictionaries.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from kedge import Artefact, Candidate, FeatureColumn, Monitor
from kedge.topics import request_partition
from kedge_services.core.references import build_reference
from kedge_services.runtime.formats.skops_files import dump

__all__ = ["HOUR_MS", "SERVING", "Answer", "Counts", "Sent", "Traffic", "half_as_file"]

Event = dict[str, Any]

SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000
CLASSES = ("no", "yes")
#: How far records of a model are out of order, and labels behind their predictions.
DISORDER_MS, LABEL_DELAY_MS = 10 * SECOND_MS, 3 * MINUTE_MS
HORIZON_MS = 20 * MINUTE_MS
#: One in ten is never labelled.
UNLABELLED = 9
BURSTS = 2
#: Event time of `clicks`, whose traffic takes as long as its event time says.
CLICKS_MS = 3 * SECOND_MS
CLICKS_ROWS = 180
#: Share of right answers by version.
RIGHT = {
    ("ads", "a1"): 0.5,
    ("credit", "c1"): 0.85,
    ("clicks", "s1"): 0.85,
    ("prices", "v1"): 0.8,
    ("prices", "v2"): 0.9,
    ("prices", "v3"): 0.1,
    ("claims", "2024-07.rc1+eu"): 0.7,
}
SERVING = {"ads": "a1", "credit": "c1", "clicks": "s1", "prices": "v1", "claims": "2024-07.rc1+eu"}


class Sent(NamedTuple):
    """A record, and where in the traffic it is sent: 0 to 1, labels a little after."""

    at: float
    topic: str
    event: Event

    @property
    def key(self) -> str:
        return str(self.event["prediction_id"])


def turned(label: str) -> str:
    return CLASSES[1 - CLASSES.index(label)]


def half(x: float) -> str:
    """Answer as the file k1 of `claims` does."""
    return "yes" if x > 0.5 else "no"


def half_as_file() -> bytes:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline

    x = np.linspace(0, 1, 200).reshape(-1, 1)
    model = HistGradientBoostingClassifier(max_iter=5, early_stopping=False, random_state=0)
    pipeline = Pipeline([("encode", "passthrough"), ("model", model)])
    pipeline.fit(x, (x[:, 0] > 0.5).astype(int))
    return dump(pipeline)


def row(model: str, label: str, chance: random.Random, *, has_drifted: bool = False) -> Event:
    if model == "claims":
        x: float | None = round(chance.choice([0.2, 0.8]) + chance.uniform(-0.1, 0.1), 4)
    else:
        middle = {"yes": 3.0, "no": -3.0}[label] if model == "prices" else 0.0
        x = None if chance.random() < 0.05 else round(chance.gauss(middle, 1), 4)
        # Another distribution, but no value that has not been there before.
        x = abs(x) if x and has_drifted else x
    return {"x": x, "c": chance.choice("abc")}


@dataclass
class Traffic:
    """All that is sent.

    Parameters
    ----------
    start_ms
        Event time of the first record, but for the two models that lie behind; a full hour.
    rows
        Of each model but `clicks`, in an hour of event time.
    partitions
        Of requests; each gets the records that end the traffic.
    """

    start_ms: int
    rows: int
    partitions: int
    pane_ms: int = 2 * MINUTE_MS
    grace_ms: int = 90 * SECOND_MS
    span_ms: int = HOUR_MS

    def __post_init__(self) -> None:
        self.first_ms = {
            "ads": self.start_ms,
            "credit": self.start_ms - HOUR_MS,
            "clicks": self.start_ms - 2 * HOUR_MS,
            "prices": self.start_ms,
            "claims": self.start_ms,
        }
        self.main: list[Sent] = []
        for model in ("ads", "prices", "claims"):
            self.main += self._steady(model)
        self.main += [*self._clicks(), *self._credit(), *self._odd()]
        self.main.sort(key=lambda sent: sent.at)
        #: The last records of each model move its watermarks beyond all the others.
        self.ends = {model: self._ends(model) for model in ("ads", "credit", "prices", "claims")}
        #: What was sent only so that a model is not idle.
        self.beats: list[Sent] = []

    # ------------------------------------------------------------ declarations

    def monitors(self) -> list[Monitor]:
        labels = sum(
            sent.topic == "outcomes" and sent.key.startswith("prices")
            for sent in [*self.main, *self.ends["prices"]]
        )
        retrain = {
            "every_labels": labels, "on": [], "trainer": "river-logistic", "min_labels": 100,
        }  # fmt: skip
        return [
            self._monitor("ads", labelled=False),
            self._monitor("credit"),
            self._monitor("clicks", label_horizon="4s", windows={"pane": "1s", "grace": "500ms"}),
            self._monitor("prices", retrain=retrain),
            # What k1 says comes whenever `serving` gets to it: it is never late.
            self._monitor("claims", windows={"pane": "1h", "grace": "59m"}),
        ]

    def _monitor(self, model: str, **fields: Any) -> Monitor:
        windows = {"pane": f"{self.pane_ms}ms", "grace": f"{self.grace_ms}ms", "scales": [1, 2, 4]}
        declared = {
            "model": model, "task": "binary", "classes": list(CLASSES),
            "features": {"x": "numeric", "c": "categorical"},
            "label_horizon": f"{HORIZON_MS}ms", "windows": windows,
        }  # fmt: skip
        return Monitor.model_validate(declared | fields)

    def offers(self) -> list[Candidate]:
        """Give the versions, champions first; v3 before v2, so that it is judged first."""
        return [
            *(self._offer(model, version, as_champion=True) for model, version in SERVING.items()),
            self._offer("prices", "v3"),
            self._offer("prices", "v2"),
        ]

    def _offer(self, model: str, version: str, *, as_champion: bool = False) -> Candidate:
        reference = None
        if model != "claims":
            chance = random.Random(f"{model}/{version}")
            labels = [chance.choice(CLASSES) for _ in range(2_000)]
            rows = [row(model, label, chance) for label in labels]
            right = [chance.random() < RIGHT[model, version] for _ in labels]
            reference = build_reference(
                model=model, version=version,
                columns={name: [r[name] for r in rows] for name in ("x", "c")},
                kinds={"x": "numeric", "c": "categorical"},
                predictions=[n if ok else turned(n) for n, ok in zip(labels, right, strict=True)],
                labels=labels, losses=[float(not ok) for ok in right],
            )  # fmt: skip
        return Candidate(
            request_id=f"register-{model}-{version}", model=model, version=version,
            as_champion=as_champion, reference=reference, created_ms=self.start_ms,
        )  # fmt: skip

    def challenger(self, artefact: Artefact) -> Candidate:
        """Offer what :func:`half_as_file` gave, for `claims`; the registry calls it k1."""
        return Candidate(
            request_id="challenge", model="claims", parent=SERVING["claims"], artefact=artefact,
            feature_schema=[FeatureColumn(name="x", type="numeric")], classes=list(CLASSES),
            created_ms=self.start_ms,
        )  # fmt: skip

    # ----------------------------------------------------------------- records

    def _rows(
        self, model: str, number: int, span_ms: int, versions: Sequence[str]
    ) -> Iterable[tuple[list[Event], Event | None]]:
        """Give the predictions of each id, the champion's first, and its outcome."""
        chance = random.Random(model)
        for i in range(number):
            at_ms = self.first_ms[model] + i * span_ms // number
            name, label = f"{model}-{i}", chance.choice(CLASSES)
            features = row(model, label, chance, has_drifted=model == "ads" and 2 * i >= number)
            if model == "claims":
                right = half(features["x"])
                label = right if chance.random() < 0.95 else turned(right)
            predictions = []
            for version in versions:
                answer = label if chance.random() < RIGHT[model, version] else turned(label)
                predictions.append(
                    {"prediction_id": name, "model": model, "version": version,
                     "event_time_ms": at_ms, "features": features, "output": {"label": answer},
                     "role": "champion" if version == SERVING[model] else "shadow"}
                )  # fmt: skip
            delay_ms = chance.randrange(1, min(LABEL_DELAY_MS, span_ms // 4))
            outcome = {"prediction_id": name, "label": label, "event_time_ms": at_ms + delay_ms}
            # Every other model's outcomes name it; the others' are found by their id.
            if model in ("clicks", "prices"):
                outcome["model"] = model
            yield predictions, None if i % 10 == UNLABELLED or model == "ads" else outcome

    def _steady(self, model: str) -> Iterable[Sent]:
        """Send in the order of event time, but for a little disorder."""
        chance = random.Random(f"order of {model}")
        versions = ("v1", "v2", "v3") if model == "prices" else (SERVING[model],)
        for predictions, outcome in self._rows(model, self._number(), self.span_ms, versions):
            events = [("predictions", p) for p in predictions]
            events += [] if outcome is None else [("outcomes", outcome)]
            for topic, event in events:
                behind_ms = chance.uniform(0, DISORDER_MS)
                at_ms = event["event_time_ms"] - self.start_ms + behind_ms
                yield Sent(at_ms / self.span_ms, topic, event)

    def _credit(self) -> Iterable[Sent]:
        """Send a half at a time: predictions at once, after them the outcomes due by then."""
        bursts: dict[int, list[Sent]] = defaultdict(list)
        for predictions, outcome in self._rows("credit", self._number(), self.span_ms, ("c1",)):
            events = [("predictions", p) for p in predictions]
            events += [] if outcome is None else [("outcomes", outcome)]
            for topic, event in events:
                after_ms = event["event_time_ms"] - self.first_ms["credit"]
                burst = min(BURSTS, after_ms * BURSTS // self.span_ms)
                bursts[burst].append(Sent(min(1.05, (burst + 0.5) / BURSTS), topic, event))
        for burst in bursts.values():
            burst.sort(key=lambda sent: (sent.topic != "predictions", sent.event["event_time_ms"]))
            yield from burst

    def _clicks(self) -> Iterable[Sent]:
        for predictions, outcome in self._rows("clicks", CLICKS_ROWS, CLICKS_MS, ("s1",)):
            events = [("predictions", p) for p in predictions]
            events += [] if outcome is None else [("outcomes", outcome)]
            for topic, event in events:
                at_ms = event["event_time_ms"] - self.first_ms["clicks"]
                yield Sent(0.25 * at_ms / CLICKS_MS, topic, event)

    def _odd(self) -> Iterable[Sent]:
        """Send outcomes of a model without labels, and two that no prediction asked for."""
        for i in range(20):
            at_ms = self.start_ms + i * MINUTE_MS
            outcome = {"label": "no", "event_time_ms": at_ms, "model": "ads"}
            yield Sent(i / 40, "outcomes", {"prediction_id": f"ads-{i}", **outcome})
        nobody = {"label": "no", "event_time_ms": self.start_ms + MINUTE_MS, "model": "prices"}
        yield Sent(0.02, "outcomes", {"prediction_id": "nobody", **nobody})
        # No model is named, so it waits for all; `clicks` would hold it for ever, were it not idle.
        anyone = {"label": "no", "event_time_ms": self.start_ms - HOUR_MS - 15 * MINUTE_MS}
        yield Sent(0.03, "outcomes", {"prediction_id": "anyone", **anyone})

    def _ends(self, model: str) -> list[Sent]:
        grace_ms = 59 * MINUTE_MS if model == "claims" else self.grace_ms
        end_ms = self.first_ms[model] + self.span_ms
        at_ms = end_ms + grace_ms + 5 * SECOND_MS
        found: dict[int, list[Sent]] = {}
        number = 0
        while len(found) < self.partitions:
            name = f"{model}-end-{number}"
            prediction = {
                "prediction_id": name, "model": model, "version": SERVING[model],
                "event_time_ms": at_ms, "features": {"x": 0.2, "c": "a"},
                "output": {"label": "no"}, "role": "champion",
            }  # fmt: skip
            outcome = {
                "prediction_id": name, "label": "no", "event_time_ms": at_ms + HORIZON_MS - 1,
                "model": model,
            }  # fmt: skip
            pair = [Sent(2.0, "predictions", prediction)]
            pair += [] if model == "ads" else [Sent(2.0, "outcomes", outcome)]
            found.setdefault(request_partition(name, self.partitions), pair)
            number += 1
        return [sent for pair in found.values() for sent in pair]

    def beat(self) -> Sent:
        """Give one more record of `prices`, where the outcome waits that is nobody's."""
        wanted = request_partition("anyone", self.partitions)
        last = next(s for s in self.ends["prices"] if s.topic == "predictions")
        number = int(self.beats[-1].key.rpartition("-")[2]) + 1 if self.beats else 0
        while request_partition(f"prices-beat-{number}", self.partitions) != wanted:
            number += 1
        event = last.event | {"prediction_id": f"prices-beat-{number}"}
        self.beats.append(Sent(3.0, "predictions", event))
        return self.beats[-1]

    def _number(self) -> int:
        return self.rows * self.span_ms // HOUR_MS

    @property
    def all(self) -> list[Sent]:
        ends = (sent for end in self.ends.values() for sent in end)
        return [*self.main, *ends, *self.beats]

    def end_ms(self, model: str) -> int:
        """Give the end of a model's traffic."""
        return self.first_ms[model] + (CLICKS_MS if model == "clicks" else self.span_ms)


class Answer(NamedTuple):
    """A prediction, as far as it is counted."""

    id: str
    time_ms: int
    label: str
    x: float | None


@dataclass
class Counts:
    """What was sent, with what `serving` must have added, counted the simple way."""

    sent: Sequence[Sent]
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[str, str] = field(default_factory=dict)
    records: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for _, topic, event in self.sent:
            self.records[topic] += 1
            if topic == "outcomes":
                self.labels[event["prediction_id"]] = event["label"]
                continue
            name, at_ms, x = event["prediction_id"], event["event_time_ms"], event["features"]["x"]
            answer = Answer(name, at_ms, event["output"]["label"], x)
            self.answers[event["model"], event["version"]].append(answer)
            if event["model"] == "claims":
                self.records["predictions"] += 1
                self.answers["claims", "k1"].append(answer._replace(label=half(x)))
        ids = {answer.id for model, _ in self.answers for answer in self._of(model)}
        self.labelled = {
            name: label
            for name, label in self.labels.items()
            if name in ids and not name.startswith("ads")
        }

    def _of(self, model: str) -> list[Answer]:
        return self.answers[model, SERVING[model]]

    def within(self, model: str, version: str, start_ms: int, end_ms: int) -> list[Answer]:
        """Give the answers of a version in ``[start_ms, end_ms)``."""
        return [a for a in self.answers[model, version] if start_ms <= a.time_ms < end_ms]

    def examples(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Give label and answers by version of every labelled id."""
        outputs: dict[str, dict[str, str]] = defaultdict(dict)
        for (_, version), answers in self.answers.items():
            for answer in answers:
                outputs[answer.id][version] = answer.label
        return {name: (label, outputs[name]) for name, label in self.labelled.items()}

    def pairs(self) -> dict[tuple[str, str, str], Counter[int]]:
        """Give wins (+1) and losses (-1) of every version against the one that answers."""
        found: dict[tuple[str, str, str], Counter[int]] = {}
        for (model, version), answers in self.answers.items():
            champion = SERVING[model]
            if version == champion:
                continue
            theirs = {answer.id: answer.label for answer in self._of(model)}
            found[model, champion, version] = Counter(
                (theirs[a.id] != self.labelled[a.id]) - (a.label != self.labelled[a.id])
                for a in answers
                if a.id in self.labelled and a.id in theirs
            )
        return found
