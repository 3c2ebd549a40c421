"""What is taken many at once gives what the join gives record by record."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import Monitor, Reference
from kedge.codec import encode
from kedge.errors import DeadLetter
from kedge_services.core.book import Book
from kedge_services.core.decoding import OutcomeDecoder
from kedge_services.core.entries import Labelled as Label
from kedge_services.core.entries import encode_entry
from kedge_services.core.folding import Fold
from kedge_services.core.intake import hold
from kedge_services.core.join import Join
from kedge_services.core.waiting import Waiting, WaitingOutcome
from kedge_services.panes.claims import claims
from kedge_services.panes.encoding import encode_example, encode_first_examples
from kedge_services.panes.intake import Intake
from kedge_services.panes.lookup import Lookup, TaskWatermarks
from kedge_services.panes.outcomes import OutcomeReader
from kedge_services.panes.predictions import PredictionReader
from kedge_services.panes.state import State
from kedge_services.runtime.ports import Batch, Record
from kedge_services.runtime.stores import MemoryStore
from kedge_services.runtime.tables import MonitorTable, ReferenceTable

FEATURES = {"amount": "numeric", "country": "categorical", "age": "numeric"}
WINDOWS = {"pane": "1s", "grace": "300ms"}
TIMES = {"label_horizon": "10s", "outcome_wait": "2s", "windows": WINDOWS}
MONITORS: dict[str, dict[str, Any]] = {
    "fraud": {
        "task": "binary", "classes": ["ok", "fraud"], "segments": [{"name": "region"}],
        "features": FEATURES,
    },
    "odd": {"task": "binary", "classes": [0, 1], "features": {"amount": "numeric"}},
    "kinds": {"task": "multiclass", "classes": ["a", "b", "c"], "features": FEATURES},
    "price": {"task": "regression", "features": {"age": "numeric"}},
}  # fmt: skip
LABELS: dict[str, list[Any]] = {
    "fraud": ["ok", "fraud"],
    "odd": [0, 1, True, 1.0, "1", "0"],
    "kinds": ["a", "b", "c"],
    "price": [0, 1.5, -3, 1e30, 10**20],
}
OUTPUTS: dict[str, list[Any]] = {
    "fraud": [
        {"label": "ok", "score": 0.25}, {"label": "fraud"}, {"score": 0.5}, None, {},
        {"label": "fraud", "score": 1, "value": 3.0},
    ],
    "odd": [{"label": 1, "score": 0.5}, {"label": "1"}, {"label": "0"}, {"label": 1.0}],
    "kinds": [{"scores": {"a": 0.2, "b": 0.8}}, {"label": "c", "scores": {"c": 1.0}},
              {"label": "a", "score": 0.1}],
    "price": [{"value": 1.25}, {"value": 1e30}, {"label": "x"}, {"value": 2, "score": 0.5}, None],
}  # fmt: skip


class Side:
    """One partition, whose records are taken many at once or each by itself."""

    def __init__(self, *, at_once: bool, lingering: int, examples: bool) -> None:
        self.at_once = at_once
        monitors, references = MonitorTable(), ReferenceTable()
        for name, fields in MONITORS.items():
            monitor = Monitor.model_validate({"model": name} | TIMES | fields)
            monitors.apply(Record("monitors", 0, 0, 0, b"k", encode(monitor), ()))
        reference = Reference.model_validate(
            {"reference_id": "r-1", "model": "price", "version": "1", "effective_ms": 0,
             "origin": "held-out", "features": {}, "loss_cuts": [0.5, 1.0], "rows": 10}
        )  # fmt: skip
        references.apply(Record("references", 0, 0, 0, b"k", encode(reference), ()))
        self.lookup = Lookup(monitors, references, lambda: None, lambda: 0)
        self.lookup.begin()
        self.state, self.put_aside = State(), []  # type: ignore[var-annotated]
        clocks = self.state.clocks
        watermarks = TaskWatermarks(clocks["predictions"], clocks["outcomes"], self.lookup)
        self.book, self.waiting = Book(MemoryStore(), lingering), Waiting()
        self.book.open()
        self.fold = Fold(references.get)
        self.join = Join(self.book, self.fold, self.waiting, watermarks, notes_examples=examples)
        self.intake = Intake(
            partition=0, partitions=1, max_skew_ms=10**9, state=self.state, lookup=self.lookup,
            join=self.join,
            put_aside=lambda record, why: self.put_aside.append((record.offset, why)),
        )  # fmt: skip
        self.predictions, self.outcomes = PredictionReader(self.intake), OutcomeReader(self.intake)

    def read(self, batch: Batch) -> None:
        self.lookup.begin()
        if batch.topic == "outcomes":
            if self.at_once:
                self.outcomes.read(batch)
            else:
                self._label(batch)
        elif self.at_once:
            self.predictions.read(batch)
        else:
            self._predict(batch)

    def _predict(self, batch: Batch) -> None:
        clocks = self.intake.account.clocks["predictions"]
        for i, row in enumerate(self.lookup.decode(batch.values).rows):
            assert not isinstance(row, DeadLetter)
            plan = self.lookup.plan(row.model, row.event_time_ms)
            clocks.tick(batch.timestamps_ms[i])
            time = clocks.of(row.model)
            watermark = time.max_ms - plan.grace_ms
            start_ms = row.event_time_ms - row.event_time_ms % plan.performance_pane_ms
            reference_id = self.lookup.reference_id(row.model, row.version, start_ms)
            held = hold(
                plan, row, offset=batch.offsets[i], reference_id=reference_id,
                for_examples=self.join.notes_examples,
            )  # fmt: skip
            self.book.load([row.prediction_id])
            met = self.join.predict(row.prediction_id, held)
            time.advance(row.event_time_ms, clocks.clock_ms)
            if self.join.rebuilding:
                continue
            for outcome, fate in met or ():
                outcome_clocks = self.state.clocks["outcomes"]
                if outcome.owner is None:
                    at_ms = outcome.labelled.time_ms
                    outcome_clocks.of(row.model).advance(at_ms, outcome_clocks.clock_ms)
                self.state.count("outcomes", fate)
            is_late = row.event_time_ms < watermark
            self.state.count(
                "predictions", "duplicate" if met is None else "late" if is_late else "counted"
            )

    def _label(self, batch: Batch) -> None:
        account = self.intake.account
        clocks = account.clocks["outcomes"]
        for i, row in enumerate(OutcomeDecoder().decode(batch.values)):
            assert not isinstance(row, DeadLetter)
            clocks.tick(batch.timestamps_ms[i])
            found, _ = claims(self.lookup, [row], np.array([row.event_time_ms]))
            owner, wait_ms = found[0].owner, found[0].wait_ms
            if self.join.rebuilding and batch.offsets[i] in self.waiting:
                continue
            if found[0].refused is not None:
                account.count("outcomes", found[0].refused.reason)
                continue
            label = Label(batch.offsets[i], row.event_time_ms, row.label, found[0].models)
            is_late = None
            if owner is not None:
                is_late = label.time_ms < clocks.watermark(owner.model, owner.grace_ms)
            self.book.load([row.prediction_id])
            verdict = self.join.label(row.prediction_id, label, is_late=is_late)
            for model in verdict.models if owner is None else (owner.model,):
                clocks.of(model).advance(label.time_ms, clocks.clock_ms)
            if verdict.fate != "unmatched":
                account.count("outcomes", verdict.fate)
            elif is_late:
                account.count("outcomes", "late")
            elif not self.join.rebuilding:
                self.waiting.add(
                    WaitingOutcome(
                        row.prediction_id, label, label.time_ms + (wait_ms or 0),
                        None if owner is None else owner.model,
                        batch.timestamps_ms[i], batch.keys[i], batch.values[i], [],
                    )
                )  # fmt: skip

    def commit(self, offsets: dict[str, int]) -> Any:
        """Give all that a commit would send, and bring the store up to it."""
        drafts = [encode_example(draft, 0) for draft in self.join.examples.values()]
        first = [o for part in self.join.first_examples for o in encode_first_examples(part, 0)]
        self.join.examples.clear()
        self.join.first_examples.clear()
        found = [json.loads(o.value or b"") for o in first + drafts]
        # Models may have an id in common; each has its own example.
        examples = {(e["prediction_id"], e["model"]): e for e in found}
        after_cell = self.fold.after_cell
        deltas = {
            (delta.kind, *delta[1:4], str(delta.delta.encode().get("champion"))):
                delta.delta.encode()
            for delta in self.fold.take_labels()
        }  # fmt: skip
        self.book.seal(label_wait_ms=2_000, clock_ms=0, expired=lambda _: [])
        self.book.write(offsets)
        state = json.loads(self.state.encode())
        waiting = [outcome.offset for outcome in self.waiting]
        return examples, after_cell, deltas, state, waiting, self.book.lows(offsets)

    def entries(self, ids: Sequence[str]) -> list[Any]:
        self.book.load(ids)
        found = [self.book.get(name) for name in ids]
        return [entry and json.loads(encode_entry(entry)) for entry in found]


@st.composite
def records(draw: st.DrawFn) -> list[tuple[str, dict[str, Any]]]:
    """Give predictions and outcomes in the order they are read; most ids come once."""
    chance = random.Random(draw(st.integers(0, 1 << 30)))
    models = chance.sample(sorted(MONITORS), draw(st.integers(1, len(MONITORS))))
    spread = draw(st.sampled_from([100, 1_000, 20_000]))
    # Then ids come once, and many predictions at a time meet what waits for them.
    is_calm = draw(st.booleans())
    found: list[tuple[str, dict[str, Any]]] = []
    for i in range(draw(st.integers(1, 60))):
        model = chance.choice(models)
        time_ms = 100_000 + 200 * i + chance.randint(-spread, spread) // 2
        name = chance.choice([f"id-{i}", f"id-{i}", f"id-{chance.randint(0, i)}", "r#1"])
        name = f"id-{i}" if is_calm else name
        prediction = {
            "prediction_id": name, "model": model, "version": chance.choice(["1", "1", "2"]),
            "event_time_ms": time_ms,
            "role": chance.choice(["champion", "champion", "shadow"]),
            "features": {
                "amount": chance.choice([1, 2.5, None, 1e22]),
                "country": chance.choice(["NO", 7, True, None]),
                "age": chance.choice([0.1, 3, "odd"]),
            },
            "output": chance.choice(OUTPUTS[model]),
            "segments": chance.choice([{}, {"region": "NO"}, {"region": 1}, {"x": "y"}]),
        }  # fmt: skip
        found.append(("predictions", prediction))
        for _ in range(chance.choice([0, 1, 1, 1] if is_calm else [0, 1, 1, 1, 2])):
            delay_ms = chance.choice([-2_001, -2_000, 0, 500, 3_000, 9_999, 10_000])
            outcome = {
                "prediction_id": name, "label": chance.choice(LABELS[model]),
                "event_time_ms": time_ms + delay_ms,
            } | chance.choice([{}, {"model": model}])  # fmt: skip
            ahead = chance.choice([0, 3, 9, 30] if is_calm else [0, 0, 3, 9])
            found.insert(max(0, len(found) - ahead), ("outcomes", outcome))
    return found


def batches(found: Sequence[tuple[str, dict[str, Any]]], sizes: Sequence[int]) -> list[Batch]:
    """Cut records into batches of one topic, which are read one after the other."""
    cut: list[Batch] = []
    offsets = {"predictions": 0, "outcomes": 0}
    pending: dict[str, list[bytes]] = {"predictions": [], "outcomes": []}

    def end(topic: str) -> None:
        values = pending[topic]
        if not values:
            return
        n, first = len(values), offsets[topic]
        keys = [json.loads(v)["prediction_id"].partition("#")[0].encode() for v in values]
        stamps = [json.loads(v)["event_time_ms"] for v in values]
        cut.append(Batch(topic, 0, range(first, first + n), stamps, keys, values, [()] * n))
        offsets[topic] += n
        pending[topic] = []

    for i, (topic, fields) in enumerate(found):
        pending[topic].append(json.dumps(fields).encode())
        if len(pending[topic]) >= sizes[i % len(sizes)]:
            end(topic)
    end("predictions")
    end("outcomes")
    return cut


@settings(deadline=None, max_examples=100)
@given(
    found=records(),
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=3),
    every=st.integers(1, 4),
    lingering=st.sampled_from([0, 7, 1_000]),
    examples=st.booleans(),
    rebuilt=st.integers(0, 4),
)
def test_many_at_once_give_what_each_gives_by_itself(
    found: list[tuple[str, dict[str, Any]]],
    sizes: list[int],
    *,
    every: int,
    lingering: int,
    examples: bool,
    rebuilt: int,
) -> None:
    one, other = (
        Side(at_once=at_once, lingering=lingering, examples=examples) for at_once in (True, False)
    )
    offsets = {"predictions": 0, "outcomes": 0}
    for i, batch in enumerate(batches(found, sizes)):
        offsets[batch.topic] = batch.offsets[-1] + 1
        for side in (one, other):
            # The first batches are read again, as after a lost store.
            if i < rebuilt:
                side.intake.begin_rebuild()
            else:
                side.intake.end_rebuild()
            side.read(batch)
        if i % every == 0:
            assert one.commit(offsets) == other.commit(offsets)
    assert one.commit(offsets) == other.commit(offsets)
    ids = sorted({fields["prediction_id"] for _, fields in found})
    assert one.entries(ids) == other.entries(ids)
