"""The training itself: a request and labelled examples in, a candidate and its artefact out.

No Kafka, no clock, no store: the same arguments give the same bytes.  The
trainer's subprocess calls it, ``kedge replay`` and the demo call it directly.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version as library_version
from typing import Any

from kedge.errors import UnsafeArtefact
from kedge.events import Example, Output, RetrainRequest
from kedge.monitor import Monitor, Retrain
from kedge.versions import Artefact, Candidate, FeatureColumn, Lineage, ModelVersion
from kedge_services.core import selection
from kedge_services.core.selection import Choice, Window
from kedge_services.runtime.formats import Predictor, load_predictor
from kedge_services.trainer.evidence import Held, make_reference
from kedge_services.trainer.families import INCREMENTAL, Family, Fitted, Shape, Table, family

__all__ = ["Trained", "shape_of", "train"]

Ranges = Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate, and the bytes its artefact (by now without a place) is to have.

    ``data`` is None when ``candidate.failure`` says why there is no new version.
    """

    candidate: Candidate
    data: bytes | None


def train(
    request: RetrainRequest,
    examples: Sequence[Example],
    *,
    monitor: Monitor,
    parent: ModelVersion | None,
    parent_data: bytes | None,
    seed: int,
    created_ms: int | None = None,
    ranges: Ranges | None = None,
    fresh: Collection[str] | None = None,
) -> Trained:
    """Train what the request asks for and say whether it is better than its parent.

    Without a parent (``request.base_version`` is None) this makes the first
    version, which only has to be as good as a guess without features.

    Parameters
    ----------
    examples
        In any order and revision; those of other models are ignored.
    parent, parent_data
        The version that serves and its artefact, if it has one.
    seed
        The same one gives the same bytes.
    created_ms
        Time of creation; by default that of the request.
    ranges
        Offsets ``[from, to)`` by partition that the examples were read from.
    fresh
        Prediction ids the parent has not learnt from; by default those with a
        label after the last one of its lineage.

    Raises
    ------
    UsageError
        The monitor names a trainer that does not exist.
    """
    run = _Run(
        request=request,
        monitor=monitor,
        shape=shape_of(monitor),
        parent=parent,
        parent_data=parent_data,
        seed=seed,
        created_ms=request.event_time_ms if created_ms is None else created_ms,
        ranges=dict(ranges or {}),
        fresh=fresh,
        examples=examples,
    )
    try:
        return run.result()
    except _NoCandidate as reason:
        return Trained(run.manifest(failure=str(reason)), None)


def shape_of(monitor: Monitor) -> Shape:
    """Give the columns and classes of a monitor's models; the positive class comes last."""
    columns = tuple(
        FeatureColumn(name=name, type=feature.type) for name, feature in monitor.features.items()
    )
    if monitor.task == "regression":
        return Shape(columns, ())
    classes = list(monitor.classes)
    if monitor.task == "binary" and monitor.positive is not None:
        classes.sort(key=lambda label: label == monitor.positive)
    return Shape(columns, tuple(classes))


class _NoCandidate(Exception):
    """No new version, and the sentence that says why."""


@dataclass(frozen=True)
class _Trial:
    """A training to be scored: how it is made, and made again with the held-out rows."""

    choice: Choice
    fitted: Fitted
    family: Family
    window: Window | None = None
    start: bytes | None = None


@dataclass
class _Run:
    """One call of :func:`train`."""

    request: RetrainRequest
    monitor: Monitor
    shape: Shape
    parent: ModelVersion | None
    parent_data: bytes | None
    seed: int
    created_ms: int
    ranges: dict[int, tuple[int, int]]
    fresh: Collection[str] | None
    examples: Sequence[Example]
    considered: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    rival: dict[str, float] = field(default_factory=dict)

    # ---------------------------------------------------------------- the rows

    @cached_property
    def rows(self) -> list[Example]:
        """Give the usable rows of the model, in the order of training."""
        model, classes = self.request.model, self.shape.classes
        rows = [
            example
            for example in selection.ordered(e for e in self.examples if e.model == model)
            if selection.target(example.label, classes) is not None
        ]
        if self.request.mode == "incremental" and self.start is not None:
            return [example for example in rows if self.is_fresh(example)]
        return rows

    @cached_property
    def table(self) -> Table:
        """Give the rows as a table."""
        return _table(self.rows, self.shape)

    @cached_property
    def held(self) -> int:
        """Give the number of rows held out."""
        return selection.hold_out(len(self.rows))

    def is_fresh(self, example: Example) -> bool:
        """Say whether the parent has not learnt from this example."""
        if self.fresh is not None:
            return example.prediction_id in self.fresh
        last_ms = self.parent.lineage.last_label_time_ms if self.parent else None
        return last_ms is None or example.label_time_ms > last_ms

    # ------------------------------------------------------------- the families

    @cached_property
    def chosen(self) -> Family:
        """Give the monitor's own family."""
        return family((self.monitor.retrain or Retrain()).trainer)

    @cached_property
    def incremental(self) -> Family:
        """Give the family that learns on."""
        return self.chosen if self.chosen.is_incremental else family(INCREMENTAL)

    @cached_property
    def start(self) -> bytes | None:
        """Give the parent's artefact if learning can go on from it."""
        parent = self.parent
        continues = (
            parent is not None
            and parent.artefact is not None
            and parent.artefact.format == self.incremental.format
            and tuple(parent.feature_schema) == self.shape.columns
            and tuple(parent.classes) == self.shape.classes
        )
        return self.parent_data if continues else None

    # ----------------------------------------------------------------- the work

    def result(self) -> Trained:
        """Try, choose, train again with the held-out rows, and describe."""
        if len(self.rows) < selection.MINIMUM:
            new = "new " if self.request.mode == "incremental" and self.start is not None else ""
            raise _NoCandidate(
                f"{len(self.rows)} {new}labelled rows are too few, {selection.MINIMUM} are needed"
            )
        before = len(self.rows) - self.held
        scored, champion = self._champion(before)
        trials = self._trials(before, scored)
        if not trials:
            raise _NoCandidate(f"nothing could be learnt from {before} labelled rows")
        # Of a first version nobody believes that its data has changed: more rows are better.
        slack = selection.MARGIN if self.request.base_version is None else 0.0
        winner = selection.choose([trial.choice for trial in trials], slack=slack)
        trial = next(trial for trial in trials if trial.choice is winner)
        self.best, self.rival = winner.metrics, champion or {}
        self._gate(winner, before, scored)
        return self._nominate(trial, before)

    def _champion(self, before: int) -> tuple[list[int], dict[str, float] | None]:
        """Give the held-out rows both sides are scored on, and the parent's metrics there.

        The outputs it gave when it served are taken where the examples have
        them: nothing it learnt later can be in them.
        """
        held = list(range(before, len(self.rows)))
        version = self.request.base_version
        if version is None:
            return held, None
        outputs: dict[int, Output | None] = {i: self.rows[i].outputs.get(version) for i in held}
        classes = self.shape.classes
        silent = [i for i in held if selection.answer(outputs[i], classes) is None]
        predictor = self._parent_predictor() if silent else None
        if predictor is not None:
            answers = predictor.predict([self.rows[i].features for i in silent])
            outputs.update(zip(silent, answers, strict=True))
        found = {i: selection.answer(outputs[i], classes) for i in held}
        known = [i for i in held if found[i] is not None]
        if 2 * len(known) < len(held):
            return held, None
        said = [value for i in known if (value := found[i]) is not None]
        return known, selection.metrics(said, [self.table.targets[i] for i in known], classes)

    def _parent_predictor(self) -> Predictor | None:
        if self.parent is None or self.parent_data is None:
            return None
        try:
            return load_predictor(self.parent, self.parent_data)
        except UnsafeArtefact:
            # A parent of a format that only its own server reads is compared in shadow.
            return None

    def _trials(self, before: int, scored: Sequence[int]) -> list[_Trial]:
        trials: list[_Trial] = []
        earlier = self.table.part(0, before)
        if self.request.mode != "incremental":
            times = [example.event_time_ms for example in self.rows[:before]]
            for window in selection.windows(times, self.request.since_ms):
                part = _take(earlier, window.of(times))
                trials += self._try(self.chosen, window.name, part, scored, window=window)
        if self.request.mode != "batch":
            fresh = [self.start is None or self.is_fresh(example) for example in self.rows]
            # Rows the parent has learnt from would flatter whoever goes on from it.
            if all(fresh[before:]):
                part = _take(earlier, [i for i in range(before) if fresh[i]])
                name = "from scratch" if self.start is None else "learning on"
                trials += self._try(self.incremental, name, part, scored, start=self.start)
        return trials

    def _try(
        self,
        kind: Family,
        name: str,
        part: Table,
        scored: Sequence[int],
        *,
        window: Window | None = None,
        start: bytes | None = None,
    ) -> list[_Trial]:
        if not len(part):
            return []
        try:
            fitted = kind.fit(part, self.shape, seed=self.seed, start=start)
        except ValueError:
            return []  # too few labels of a class, or diverged: this one cannot win
        outputs = fitted.predictor.predict([self.table.rows[i] for i in scored])
        said = [_must(selection.answer(output, self.shape.classes)) for output in outputs]
        targets = [self.table.targets[i] for i in scored]
        measured = selection.metrics(said, targets, self.shape.classes)
        choice = Choice(f"{kind.name}, {name}", measured, len(part))
        self.considered[choice.name] = measured.get("accuracy", measured.get("mae", math.nan))
        return [_Trial(choice, fitted, kind, window, start)]

    def _gate(self, winner: Choice, before: int, scored: Sequence[int]) -> None:
        if self.rival:
            better = selection.gain(winner.metrics, self.rival)
            if not better > selection.MARGIN:
                raise _NoCandidate(
                    f"nothing was better than version {self.request.base_version} by more than "
                    f"{selection.MARGIN}: the best, {winner.name}, had {_shown(winner.metrics)} "
                    f"against {_shown(self.rival)} on the newest {len(scored)} labelled rows"
                )
            return
        guess = selection.naive(self.table.targets[:before], self.shape.classes)
        targets = [self.table.targets[i] for i in scored]
        plain = selection.metrics([guess] * len(scored), targets, self.shape.classes)
        if selection.gain(winner.metrics, plain) < 0:
            raise _NoCandidate(
                f"the best, {winner.name}, had {_shown(winner.metrics)} on the newest "
                f"{len(scored)} labelled rows, where guessing without features has {_shown(plain)}"
            )

    def _nominate(self, trial: _Trial, before: int) -> Trained:
        times = [example.event_time_ms for example in self.rows]
        if trial.window is None:
            taken = [i for i in range(before) if self.start is None or self.is_fresh(self.rows[i])]
            taken += range(before, len(self.rows))
            rest = self.table.part(before, len(self.rows))
            fitted = trial.family.fit(rest, self.shape, seed=self.seed, start=trial.fitted.dump())
            # A model that began with nothing has to warm up before its answers count.
            skip = len(taken) // 2 if trial.start is None else 0
            outputs = [*trial.fitted.outputs, *fitted.outputs]
            held = Held(taken[skip:], outputs[skip:])
        else:
            is_all = trial.window.length == before and trial.window.since_ms is None
            window = Window(len(self.rows)) if is_all else trial.window
            taken = window.of(times)
            part = _take(self.table, taken)
            fitted = trial.family.fit(part, self.shape, seed=self.seed)
            held = Held.of(trial.family, part, taken, self.shape, seed=self.seed)
        data = fitted.dump()
        rows = [self.rows[i] for i in taken]
        reference = make_reference(
            request=self.request,
            rows=self.rows,
            taken=taken,
            held=held,
            shape=self.shape,
            is_window=trial.window is not None and trial.window.since_ms is not None,
        )
        artefact = Artefact(
            uri=f"sha256:{hashlib.sha256(data).hexdigest()}",
            sha256=hashlib.sha256(data).hexdigest(),
            format=trial.family.format,
            size=len(data),
        )
        candidate = self.manifest(
            trainer=trial.family.name,
            artefact=artefact,
            feature_schema=list(self.shape.columns),
            classes=list(self.shape.classes),
            reference=reference,
            lineage=self._lineage(trial, rows),
        )
        return Trained(candidate, data)

    def _lineage(self, trial: _Trial, rows: Sequence[Example]) -> Lineage:
        parameters: dict[str, Any] = {
            **trial.family.parameters(),
            "window": trial.choice.name.partition(", ")[2],
            "hold_out": self.held,
            "considered": self.considered,
        }
        versions = {name: library_version(name) for name in trial.family.libraries}
        return Lineage(
            examples=self.ranges,
            rows=len(rows),
            data_sha256=selection.digest(rows),
            first_label_time_ms=rows[0].label_time_ms,
            last_label_time_ms=rows[-1].label_time_ms,
            parameters=parameters,
            seed=self.seed,
            libraries={"python": platform.python_version(), **versions},
            request_id=self.request.request_id,
            alert_ids=self.request.cause.alert_ids,
        )

    def manifest(self, **parts: Any) -> Candidate:
        """Give the candidate with these parts."""
        lineage = Lineage(
            examples=self.ranges,
            parameters={"considered": self.considered},
            seed=self.seed,
            request_id=self.request.request_id,
            alert_ids=self.request.cause.alert_ids,
        )
        return Candidate(
            **{
                "request_id": self.request.request_id,
                "model": self.request.model,
                "parent": self.request.base_version,
                "lineage": lineage,
                "metrics": self.best,
                "parent_metrics": self.rival,
                "created_ms": self.created_ms,
                **parts,
            }
        )


def _table(rows: Sequence[Example], shape: Shape) -> Table:
    targets = [_must(selection.target(example.label, shape.classes)) for example in rows]
    return Table([example.features for example in rows], targets)


def _take(table: Table, indices: Sequence[int]) -> Table:
    return Table([table.rows[i] for i in indices], [table.targets[i] for i in indices])


def _must(value: float | None) -> float:
    if value is None:
        raise ValueError("a model of ours gave an answer outside its classes")
    return value


def _shown(metrics: Mapping[str, float]) -> str:
    name = "accuracy" if "accuracy" in metrics else "mae"
    return f"{name} {metrics[name]:.4g}"
