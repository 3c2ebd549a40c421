"""The trainings of a request against its parent, on labelled rows that none has learnt from."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kedge.base import label_text
from kedge.errors import Misconfigured, UnsafeArtefact
from kedge.events import Example, Output, RetrainRequest
from kedge.versions import ModelVersion
from kedge_services.core import selection
from kedge_services.core.selection import Choice, Window
from kedge_services.runtime.formats import Predictor, Row, load_predictor
from kedge_services.runtime.formats.river_json import kind_of
from kedge_services.trainer.examples import Examples
from kedge_services.trainer.families import Family, Fitted, Shape, Table, family, learns_on

__all__ = ["Contest", "Trial"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A training that was scored, and how it is made again with the held-out rows.

    Of a batch family ``window`` says which rows it takes; an incremental one
    went on from the artefact ``start``, or began with nothing.
    """

    choice: Choice
    fitted: Fitted
    family: Family
    window: Window | None = None
    start: bytes | None = None


@dataclass
class Contest:
    """All trainings that a request asks for; nothing is trained before :meth:`trials`.

    Parameters
    ----------
    request, examples, parent, parent_data, seed, fresh, allow
        As in :func:`kedge_services.trainer.training.train`.
    trainer
        The family the monitor names.
    shape
        Columns and classes of the monitor.
    """

    request: RetrainRequest
    trainer: str
    shape: Shape
    parent: ModelVersion | None
    parent_data: bytes | None
    seed: int
    fresh: Collection[str] | None
    examples: Examples | Sequence[Example]
    allow: Collection[str] = ()
    #: Accuracy or absolute error of every training that was scored, by its name.
    considered: dict[str, float] = field(default_factory=dict)

    # ---------------------------------------------------------------- the rows

    @cached_property
    def rows(self) -> Examples:
        """Give the usable rows of the model, in the order of training."""
        given = self.examples
        if not isinstance(given, Examples):
            version = self.request.base_version
            given = Examples.of(given, model=self.request.model, version=version)
        rows = Examples.chosen([given])
        known = [target is not None for target in self._targets(rows)]
        rows = rows if all(known) else rows.take(np.flatnonzero(known))
        if self.is_continued:
            rows = rows.take(np.flatnonzero(self._fresh(rows)))
        return rows

    @cached_property
    def table(self) -> Table:
        """Give the rows as a table."""
        return Table(self.rows.features, list(map(must, self._targets(self.rows))))

    def _targets(self, rows: Examples) -> list[float | None]:
        labels, classes = rows.labels.values(), self.shape.classes
        if not classes:
            return [selection.target(label, classes) for label in labels]
        # There are few labels; 1, 1.0 and true are told apart by their texts only.
        known = {label_text(label): label for label in labels}
        targets = {text: selection.target(label, classes) for text, label in known.items()}
        return [targets[label_text(label)] for label in labels]

    @property
    def before(self) -> int:
        """Give the number of rows before the held-out ones."""
        return len(self.rows) - selection.hold_out(len(self.rows))

    @property
    def is_continued(self) -> bool:
        """Whether nothing but learning on from the parent is asked for."""
        return self.request.mode == "incremental" and self.start is not None

    @cached_property
    def fresh_rows(self) -> list[bool]:
        """Say of each row whether the parent has not learnt from it."""
        return self._fresh(self.rows)

    def _fresh(self, rows: Examples) -> list[bool]:
        if self.fresh is not None:
            return [name in self.fresh for name in rows.ids]
        last_ms = self.parent.lineage.last_label_time_ms if self.parent else None
        if last_ms is None:
            return [True] * len(rows)
        newer: list[bool] = (rows.label_times_ms > last_ms).tolist()
        return newer

    # ------------------------------------------------------------- the families

    @cached_property
    def chosen(self) -> Family:
        """Give the monitor's own family."""
        return family(self.trainer, self.shape.task, allow=self.allow)

    @cached_property
    def incremental(self) -> Family:
        """Give the family that learns on."""
        return learns_on(self.chosen, self.shape.task)

    @cached_property
    def start(self) -> bytes | None:
        """Give the parent's artefact if learning can go on from it.

        A parent of another kind than the family's, a tree say where the monitor
        has changed to a linear model, is none: the family then starts anew.
        """
        parent, data = self.parent, self.parent_data
        continues = (
            parent is not None
            and data is not None
            and parent.artefact is not None
            and parent.artefact.format == "river-json"
            and tuple(parent.feature_schema) == self.shape.columns
            and tuple(parent.classes) == self.shape.classes
            and kind_of(data) in self.incremental.kinds
        )
        return data if continues else None

    # ---------------------------------------------------------------- the scores

    def champion(self) -> tuple[list[int], Choice | None]:
        """Give the held-out rows both sides are scored on, and the parent's standing there.

        The outputs it gave when it served are taken where the examples have
        them: nothing it learnt later can be in them.  A parent that answers
        less than half of the rows is not compared, its standing is None.
        """
        held = list(range(self.before, len(self.rows)))
        version = self.request.base_version
        if version is None:
            return held, None
        outputs: dict[int, Output | None] = {i: self.rows.outputs[i] for i in held}
        classes = self.shape.classes
        silent = [i for i in held if selection.answer(outputs[i], classes) is None]
        predictor = self._parent_predictor() if silent else None
        if predictor is not None:
            outputs.update((i, _answer(predictor, self.rows.features[i])) for i in silent)
        found = {i: selection.answer(outputs[i], classes) for i in held}
        known = [i for i in held if found[i] is not None]
        if 2 * len(known) < len(held):
            return held, None
        said = [must(found[i]) for i in known]
        return known, self._standing(version, said, known, rows=0)

    def _standing(
        self, name: str, said: Sequence[float], scored: Sequence[int], *, rows: int
    ) -> Choice:
        targets, classes = [self.table.targets[i] for i in scored], self.shape.classes
        measured = selection.metrics(said, targets, classes)
        return Choice(name, measured, rows, selection.losses(said, targets, classes))

    def trials(self, scored: Sequence[int]) -> list[Trial]:
        """Train everything asked for on the rows before, and score it on these rows."""
        trials: list[Trial] = []
        earlier = self.table.part(0, self.before)
        if self.request.mode != "incremental":
            times = self.rows.event_times_ms[: self.before].tolist()
            for window in selection.windows(times, self.request.since_ms):
                part = earlier.take(window.of(times))
                trials += self._try(self.chosen, window.name, part, scored, window=window)
        if self.request.mode != "batch":
            fresh = self.fresh_rows if self.start is not None else [True] * len(self.rows)
            # Rows the parent has learnt from would flatter whoever goes on from it.
            if all(fresh[self.before :]):
                part = earlier.take([i for i in range(self.before) if fresh[i]])
                name = "from scratch" if self.start is None else "learning on"
                trials += self._try(self.incremental, name, part, scored, start=self.start)
        return trials

    def _parent_predictor(self) -> Predictor | None:
        if self.parent is None or self.parent_data is None:
            return None
        try:
            return load_predictor(self.parent, self.parent_data)
        except (UnsafeArtefact, Misconfigured):
            # A parent of a format that only its own server reads is compared in shadow.
            return None

    def _try(
        self,
        kind: Family,
        name: str,
        part: Table,
        scored: Sequence[int],
        *,
        window: Window | None = None,
        start: bytes | None = None,
    ) -> list[Trial]:
        if not len(part):
            return []
        try:
            fitted = kind.fit(part, self.shape, seed=self.seed, start=start)
            outputs = fitted.predictor.predict([self.table.rows[i] for i in scored])
            said = [must(selection.answer(output, self.shape.classes)) for output in outputs]
        except ValueError:
            # Too few labels of a class, diverged, or without an answer: it cannot win.
            return []
        choice = self._standing(f"{kind.name}, {name}", said, scored, rows=len(part))
        measured = choice.metrics
        self.considered[choice.name] = measured.get("accuracy", measured.get("mae", math.nan))
        return [Trial(choice, fitted, kind, window, start)]


def must(value: float | None) -> float:
    """Give the value; None would be an answer of our own model outside its classes."""
    if value is None:
        raise ValueError("a model of ours gave an answer outside its classes")
    return value


def _answer(predictor: Predictor, row: Row) -> Output | None:
    """Ask about one row; None: it has no answer, as of a foreign model about a missing value."""
    try:
        (output,) = predictor.predict([row])
    except ValueError:
        return None
    return output
